"""Audio to the client while it is spoken: ordered parts, each decodable when it arrives. See docs/decisions/0010-streaming.md."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from f5_worker import audio
from f5_worker.audio import Samples
from f5_worker.errors import DeliveryError, WorkerError
from f5_worker.jobs import Channel, Result, in_thread

if TYPE_CHECKING:
    from f5_worker.request import Speech

PART_BYTES = 680_000  # RunPod takes 1 MB a part; base64 makes 907 kB of it


class Stream:
    """The parts of one job. Without a channel, in local runs, they are kept and become part of the result."""

    def __init__(self, asked: Speech, rate_hz: int, channel: Channel | None) -> None:
        self.kept: list[Result] = []
        self._shape, self._channel = asked.stream_format, channel
        self._encoder = audio.Encoder(asked.response_format, rate_hz, asked.sample_rate, asked.bitrate_kbps)
        # A piece of samples has no more bytes in any format than as 16 bit PCM, so no part has to be cut where it cannot be decoded.
        self._piece = PART_BYTES // 2 * rate_hz // (asked.sample_rate or rate_hz)
        self._index, self._size_bytes, self._digest = 0, 0, hashlib.sha256()

    async def write(self, samples: Samples) -> None:
        """Send samples that do not change any more. Raises DeliveryError."""
        for start in range(0, len(samples), self._piece):
            await self._send_audio(await in_thread(self._encoder.write, samples[start : start + self._piece]))

    async def close(self) -> Result:
        """Send what the encoder holds back, and the end; what the result says of the stream."""
        await self._send_audio(await in_thread(self._encoder.close))
        whole = {"parts": self._index, "size_bytes": self._size_bytes, "sha256": self._digest.hexdigest()}
        if self._shape == "events":
            await self._send({"type": "speech.audio.done", "index": self._index, **whole})
        return whole | ({"output": self.kept} if self._channel is None else {})

    async def fail(self, error: WorkerError) -> None:
        """Tell who listens to the stream alone; the job's own error says the same."""
        wrong: dict[str, Any] = {"index": self._index, "error": {"code": error.code, "message": error.message}}
        with suppress(DeliveryError):
            await self._send({"type": "error", **wrong} if self._shape == "events" else wrong)

    async def _send_audio(self, data: bytes) -> None:
        if not data:
            return
        self._digest.update(data)
        self._size_bytes += len(data)
        typed = {"type": "speech.audio.delta"} if self._shape == "events" else {}
        await self._send({**typed, "index": self._index, "audio": base64.b64encode(data).decode()})
        self._index += 1

    async def _send(self, part: Result) -> None:
        if self._channel is None:
            self.kept.append(part)
        else:
            await self._channel.part(part)


class Progress:
    """Tells the platform how many chunks are spoken: in order, never two at once, nothing after `close`."""

    def __init__(self, channel: Channel | None) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._latest: Result | None = None
        self._closed = False
        self._task = asyncio.create_task(self._run()) if channel else None

    def report(self, done: int, total: int) -> None:
        """From any thread. The last chunk is not reported: the result follows it."""
        if done < total:
            self._loop.call_soon_threadsafe(self._set, {"chunks_done": done, "chunks_total": total})

    async def close(self) -> None:
        """What is being sent is waited for, what is not is dropped."""
        self._closed = True
        self._news.set()
        if self._task:
            await self._task

    def _set(self, latest: Result) -> None:
        self._latest = latest
        self._news.set()

    async def _run(self) -> None:
        assert self._channel is not None  # noqa: S101 - only then there is a task
        while not self._closed:
            await self._news.wait()
            self._news.clear()
            if self._latest and not self._closed:
                latest, self._latest = self._latest, None
                await self._channel.progress(latest)
