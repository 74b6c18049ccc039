"""Speech to text with the pinned Whisper, which is restored, loaded and published when it is first needed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from f5_worker import hub
from f5_worker.audio import Samples
from f5_worker.errors import CacheError, Cancelled, RequestError, TranscriberMissing, TranscriberUnavailable
from f5_worker.levels import loud_windows, quietest_cut
from f5_worker.manifest import PinnedFile, TranscriberSpec
from f5_worker.placement import choose
from f5_worker.publish import Publisher
from f5_worker.report import Timeline
from f5_worker.restore import restore
from f5_worker.settings import Settings
from f5_worker.store import Store

if TYPE_CHECKING:
    from f5_worker.backend import Backend
    from f5_worker.whisper_model import Whisper

log = logging.getLogger(__name__)

INSTEAD = "pass ref_text and at most 12 s of reference audio, and ask for no word timestamps"
RETRY_S = 60.0  # a dead hub costs 24 s of its client's retries: jobs that come meanwhile are told at once
_CUT_FROM_SHARE = 0.7  # a long recording is cut at its quietest place in the last 30 % of each window
_UNSPACED = {"zh", "ja", "th", "lo", "my", "yue", "km"}  # written without spaces between words


@dataclass(frozen=True)
class Transcript:
    text: str = field(repr=False)
    language: str | None  # code, given or detected; None: nothing is heard


class Transcriber:
    """A Whisper that is there when it is needed. Safe from any thread; one at a time computes."""

    def __init__(
        self, spec: TranscriberSpec, restore: Callable[[Sequence[PinnedFile]], Mapping[PinnedFile, Path]], backend: Backend
    ) -> None:
        """Nothing is imported, fetched or loaded yet.

        Args:
            restore: Brings the files, verified, or raises TranscriberUnavailable.
        """
        self._spec, self._restore, self._backend = spec, restore, backend
        self._lock = threading.Lock()
        self._whisper: Whisper | None = None
        self._failure: TranscriberUnavailable | None = None
        self._retry_at = 0.0

    def transcribe(
        self, samples: Samples, rate_hz: int, language: str | None = None, cancelled: Callable[[], bool] = lambda: False
    ) -> Transcript:
        """The words of a mono recording of any length.

        Args:
            language: Code such as `en` or `pt-BR`; None: told by the beginning of the speech.
            cancelled: Asked before every window.
        Raises:
            RequestError: no language that the model knows.
            TranscriberUnavailable, OutOfMemory, Cancelled
        """
        code = self.code(language)
        texts: list[str] = []
        with self.loaded() as whisper:
            for window in _windows(samples, rate_hz, whisper.window_s):
                if cancelled():
                    raise Cancelled("the job was stopped")
                heard = whisper.listen(window, rate_hz)
                code = code or whisper.detect_language(heard)
                texts.append(whisper.tokens.decode(whisper.recognise(heard, code)).strip())
        return Transcript(("" if code in _UNSPACED else " ").join(filter(None, texts)), code)

    def code(self, language: str | None) -> str | None:
        """The model's code of a language tag, None for None. Raises RequestError."""
        if language is None:
            return None
        code = language.lower().replace("_", "-").partition("-")[0]
        if code not in self._spec.languages:
            raise RequestError(f"language: the transcriber does not know {language[:20]!r}; it knows {', '.join(self._spec.languages)}")
        return code

    @contextmanager
    def loaded(self) -> Iterator[Whisper]:
        """The model for this thread alone.

        Raises:
            TranscriberUnavailable: what it needs is not installed or cannot be had.
        """
        with self._lock:
            if self._failure is not None and time.monotonic() < self._retry_at:
                raise self._failure
            try:
                self._whisper = self._whisper or self._load()
            except TranscriberUnavailable as error:
                self._failure, self._retry_at = error, time.monotonic() + RETRY_S
                raise
            yield self._whisper

    def _load(self) -> Whisper:
        start = time.monotonic()
        try:
            from f5_worker.whisper_model import Whisper  # noqa: PLC0415 - torch, and transformers: only on first need

            whisper = Whisper(self._spec)  # before a byte is fetched: without the packages the weights are of no use
        except ImportError as exc:
            log.warning("transcriber outcome=not_installed module=%s", exc.name)
            raise TranscriberMissing(f"speech recognition is not installed in this worker ({exc.name}): {INSTEAD}") from exc
        weights = self._restore(self._spec.files)[self._spec.weights]
        whisper.load(weights, self._backend)
        log.info("transcriber outcome=loaded name=%s seconds=%.1f", self._spec.name, time.monotonic() - start)
        return whisper


class WeightsOnDemand:
    """The restore of a Transcriber: from the disk, the bucket, else the hub; what the bucket lacks is then published."""

    def __init__(self, settings: Settings, store: Store | None, *, ask_hub: bool = True) -> None:
        """Nothing is fetched yet.

        Args:
            store: The bucket as a source of weights, None when that is off.
            ask_hub: Whether the hub may be asked although HF_HUB_OFFLINE is set: true when the boot has set it, not the user.
        """
        self._settings, self._store, self._ask_hub = settings, store, ask_hub
        self._stop = threading.Event()
        self.publisher: Publisher | None = None

    def restore(self, files: Sequence[PinnedFile]) -> Mapping[PinnedFile, Path]:
        """Every file's verified path. Raises TranscriberUnavailable."""
        try:
            caches = choose(self._settings, files)
        except CacheError as exc:
            raise TranscriberUnavailable(f"there is no room for speech recognition: {INSTEAD}") from exc
        with hub.online() if self._ask_hub else nullcontext():
            report = restore(files, caches, self._settings, self._store, timeline=Timeline(time.time()), stop=self._stop)
        if report.missing:
            log.warning("transcriber outcome=no_weights error=%r", "; ".join(dict.fromkeys(report.missing.values())))
            raise TranscriberUnavailable(f"the weights of speech recognition could not be had: {INSTEAD}, or try again later")
        if self._store is not None and not self._stop.is_set():
            self.publisher = Publisher(self._store, self._settings, files, report).start()
        return report.paths

    def stop(self) -> None:
        """End a restore or an upload under way, soon and without leaving parts."""
        self._stop.set()
        if self.publisher is not None:
            self.publisher.stop()


def _windows(samples: Samples, rate_hz: int, window_s: int) -> Iterator[Samples]:
    """Pieces of at most window_s, cut where it is quiet; silent ones are left out: in silence Whisper hears words that nobody said."""
    rest = samples
    while len(rest):
        length = len(rest)
        if length > window_s * rate_hz:
            length = quietest_cut(rest, rate_hz, from_s=window_s * _CUT_FROM_SHARE, to_s=window_s)
        if loud_windows(rest[:length], rate_hz):
            yield rest[:length]
        rest = rest[length:]
