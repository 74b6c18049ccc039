"""The voice library: voices that clients keep in the bucket, one folder each (f5_worker/voice_folder.py)."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from weakref import WeakValueDictionary

from f5_worker import audio, reference, voice_folder, voice_record
from f5_worker.delivery import signed
from f5_worker.errors import RequestError, StoreCorrupt, StoreUnavailable, VoiceExists, VoiceNotFound
from f5_worker.guard import GuardedStore
from f5_worker.jobs import in_context
from f5_worker.reference import Voice
from f5_worker.settings import Settings
from f5_worker.voice_folder import VoiceFolder
from f5_worker.voice_record import Record

log = logging.getLogger(__name__)

BUILT_IN = "default"
MAX_CACHE_BYTES = 64_000_000  # 12 s of 24 kHz float32 are 1.2 MB: some fifty voices
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MAX_LISTED = 1_000  # at once: each is read
_READERS = 8


@dataclass(frozen=True)
class _Cached:
    stamp: str  # sha256 of the voice.json that it was made from
    voice: Voice


class VoiceLibrary:
    """Thread-safe. Every use asks the bucket for the voice.json, so that what another worker changed is seen at once."""

    def __init__(self, store: GuardedStore | None, settings: Settings, *, max_cache_bytes: int = MAX_CACHE_BYTES) -> None:
        self._store, self._prefix, self._max_cache_bytes = store, settings.voices_prefix, max_cache_bytes
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        self._lock = threading.Lock()
        self._changes: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    @cached_property
    def built_in(self) -> Voice:
        """The packaged recording: the first call needs no set-up."""
        return reference.default_voice()

    def use(self, voice_id: str) -> Voice:
        """The prepared voice. While the bucket cannot be asked, a voice that is in memory is used with a warning.

        Raises:
            VoiceNotFound, StoreError
        """
        if voice_id == BUILT_IN:
            return self.built_in
        cached = self._cache.get(voice_id)
        try:
            return self._current(voice_id, cached)
        except (VoiceNotFound, StoreCorrupt):
            self._forget(voice_id)
            raise
        except StoreUnavailable as error:
            if cached is None:
                raise
            log.warning("voice outcome=not_checked error=%r", str(error))
            warning = ("VOICE_NOT_CHECKED", "the bucket did not answer: the voice is the one that this worker has in memory")
            return replace(cached.voice, warnings=(*cached.voice.warnings, warning))

    def check_new(self, voice_id: str, original: bytes, *, overwrite: bool) -> None:
        """Raise what `create` raises, as far as the recording alone tells it."""
        folder = self._writable(voice_id)
        if not overwrite and folder.holds_other(original):
            raise _taken()

    def create(
        self, voice_id: str, voice: Voice, original: bytes, *, overwrite: bool = False, notes: Mapping[str, str | None] | None = None
    ) -> Record:
        """Keep a prepared voice. Repeated, it gives what the first time gave.

        Args:
            notes: What the client says about it: consent, language, description.
        Raises:
            VoiceExists: the id is taken and overwrite is not asked for.
            RequestError: the id is not one; there is no bucket.
        """
        data = audio.encode(voice.samples, voice.sample_rate_hz, "wav")
        record = voice_record.of(voice_id, voice, data, original, notes or {})
        folder = self._writable(voice_id)
        with self._changing(voice_id):
            if overwrite or not folder.exists():
                record = folder.replace(record, original, data)
            elif (standing := folder.finish(record)) is None:
                raise _taken()
            else:
                record = standing
        log.info("voice outcome=created seconds=%.1f overwrite=%s", voice.seconds, overwrite)
        return record

    def read(self, voice_id: str) -> Record:
        """What voice.json says."""
        if voice_id == BUILT_IN:
            voice = self.built_in
            return {
                "id": BUILT_IN,
                "built_in": True,
                "text": voice.text,
                "seconds": round(voice.seconds, 3),
                "sample_rate": voice.sample_rate_hz,
            }
        return self._readable(voice_id).record()

    def link(self, record: Record, expires_s: int) -> Record:
        """Where the prepared recording can be heard; nowhere for the built-in voice."""
        if record["id"] == BUILT_IN:
            return {}
        folder = self._readable(record["id"])
        return signed(folder.store, folder.path + record["reference"]["name"], expires_s)

    def list(self, *, limit: int = MAX_LISTED, after: str | None = None) -> tuple[list[Record], str | None]:
        """The voices by their ids, the built-in one first.

        Args:
            limit: Of the stored voices; those that cannot be read count too.
            after: The id that the list goes on behind; None: it begins.
        Returns:
            The voices, and what to go on after; None when that was all.
        """
        ids = [voice_id for voice_id in self._ids() if after is None or voice_id > after]
        built_in = [self.read(BUILT_IN)] if after is None else []
        return [*built_in, *self._readable_of(ids[:limit])], ids[limit - 1] if len(ids) > limit else None

    def update(self, voice_id: str, changes: Mapping[str, str | None]) -> Record:
        """Change the notes or the text of a voice; what is None stays. Raises VoiceNotFound, ReferenceInvalid."""
        folder = self._writable(voice_id)
        with self._changing(voice_id):
            return folder.update({name: value for name, value in changes.items() if value is not None})

    def delete(self, voice_id: str) -> None:
        """Remove a voice, and what is left of one whose creation or removal broke off. Raises VoiceNotFound."""
        folder = self._writable(voice_id)
        with self._changing(voice_id):
            try:
                folder.remove()
            finally:  # not before: a job that speaks with it meanwhile would put it back
                self._forget(voice_id)
        log.info("voice outcome=deleted")

    def _changing(self, voice_id: str) -> threading.Lock:
        """Held while a voice is changed: within one worker changes come one after the other."""
        with self._lock:
            return self._changes.setdefault(voice_id, threading.Lock())

    # --- the bucket ---

    def _current(self, voice_id: str, cached: _Cached | None) -> Voice:
        folder = self._readable(voice_id)
        seen = None
        while (raw := folder.raw()) != seen:  # a recording that is gone has been replaced, or the voice has none
            seen = raw
            stamp = hashlib.sha256(raw).hexdigest()
            if cached and cached.stamp == stamp:
                self._keep(voice_id, cached)
                return cached.voice
            record = voice_record.parse(raw, voice_id)
            if (data := folder.recording(record)) is not None:
                voice = voice_record.to_voice(record, data)
                self._keep(voice_id, _Cached(stamp, voice))
                return voice
        raise voice_folder.gone()

    def _ids(self) -> Sequence[str]:
        if self._store is None:
            return []
        keys = [info.key for info in self._store.list(self._prefix) if info.key.endswith("/voice.json")]
        return sorted(voice_id for key in keys if _ID.fullmatch(voice_id := key.removeprefix(self._prefix).partition("/")[0]))

    def _readable_of(self, ids: Sequence[str]) -> Iterator[Record]:
        with ThreadPoolExecutor(_READERS) as readers:
            yield from (record for record in readers.map(in_context(self._read_if_whole), ids) if record)

    def _read_if_whole(self, voice_id: str) -> Record | None:
        try:
            return self.read(voice_id)
        except (VoiceNotFound, StoreCorrupt) as error:
            log.warning("voice outcome=skipped error=%r", str(error))
            return None

    def _readable(self, voice_id: str) -> VoiceFolder:
        if self._store is None or not _ID.fullmatch(voice_id):
            raise voice_folder.unknown()
        return VoiceFolder(self._store, voice_id, f"{self._prefix}{voice_id}/")

    def _writable(self, voice_id: str) -> VoiceFolder:
        if not _ID.fullmatch(voice_id):
            raise RequestError("id: must be 1 to 64 letters, digits, '-' or '_', the first a letter or a digit")
        if voice_id == BUILT_IN:
            raise RequestError(f"id: '{BUILT_IN}' is the built-in voice, which cannot be changed")
        if self._store is None:
            raise RequestError("voices are kept in the bucket and this worker has none: set S3_BUCKET")
        return self._readable(voice_id)

    # --- the memory ---

    def _keep(self, voice_id: str, cached: _Cached) -> None:
        with self._lock:
            self._cache[voice_id] = cached
            self._cache.move_to_end(voice_id)
            while len(self._cache) > 1 and sum(kept.voice.samples.nbytes for kept in self._cache.values()) > self._max_cache_bytes:
                self._cache.popitem(last=False)

    def _forget(self, voice_id: str) -> None:
        with self._lock:
            self._cache.pop(voice_id, None)


def _taken() -> VoiceExists:
    return VoiceExists("a voice of that id exists: choose another id, or send overwrite: true")
