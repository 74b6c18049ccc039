"""An engine without a model: it speaks noise of the seed, a chunk for each sentence."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from f5_worker import logs
from f5_worker.errors import Cancelled
from f5_worker.script import Chunk, Span
from f5_worker.speech import Part, Segment

RATE = 24_000
CHUNK = RATE // 2


class FakeEngine:
    """Knobs: `gate` holds every chunk but the first `ungated` ones until it is set; `error` is raised instead of a result.

    `seen` lists what was asked; `rested` counts the rests, each after a job.
    """

    sample_rate_hz = RATE

    def __init__(self, *, error: BaseException | None = None, chunk: int = CHUNK, ungated: int = 0) -> None:
        self.error, self.chunk, self.ungated = error, chunk, ungated
        self.gate = threading.Event()
        self.gate.set()
        self.running, self.most_running, self.rested, self.seen = 0, 0, 0, []
        self.started, self.ended = threading.Semaphore(0), threading.Semaphore(0)
        self._lock = threading.Lock()

    def describe(self):
        return {"device": "cpu", "model": "fake"}

    def rest(self) -> None:
        assert not self.running
        self.rested += 1

    def stream(self, passages, voices, options, *, cancelled, on_chunk=lambda _done, _total: None) -> Iterator[Part]:
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            self.seen.append((passages, voices, options, logs.job_id.get()))
        self.started.release()
        try:
            yield from self._parts(passages, options, cancelled, on_chunk)
        finally:
            with self._lock:
                self.running -= 1
            self.ended.release()

    def _parts(self, passages, options, cancelled, on_chunk):
        noise = np.random.default_rng(options.seed)
        said = [(index, passage, written) for index, passage in enumerate(passages) for written in passage.text.split("|")]
        for number, (index, passage, written) in enumerate(said):
            while number >= self.ungated and not self.gate.wait(0.01):
                if cancelled():
                    raise Cancelled("stopped")
            if self.error:
                raise self.error
            samples = noise.uniform(-0.1, 0.1, self.chunk).astype(np.float32)
            chunk = Chunk(written, written, spans_of(written, passage.text))
            segment = Segment(written, passage.voice, number * self.chunk, (number + 1) * self.chunk, chunk, index)
            on_chunk(number + 1, len(said))
            yield Part(samples, [segment], [("CHARACTERS_UNKNOWN", "1 character is not spoken")] if number == 0 else [])


def spans_of(written: str, text: str) -> tuple[Span, ...]:
    """A span for each word."""
    spans, at, offset = [], 0, text.index(written)
    for word in written.split():
        start = written.index(word, at)
        at = start + len(word)
        spans.append(Span(start, at, offset + start, offset + at))
    return tuple(spans)
