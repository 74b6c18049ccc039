"""The voice library: voices that clients keep in the bucket, under `<voices prefix><id>/`.

    reference.wav     the prepared recording: mono, 24 kHz, edges trimmed
    original.<ext>    what the client sent
    voice.json        written last and deleted first

A voice exists when its voice.json does and reference.wav has the sha256 that stands in it: whatever a worker that died left behind reads as
absent. There are no conditional writes (docs/decisions/0005): of two workers that create one id at once the last wins.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

from f5_worker import audio, reference, voice_record
from f5_worker.delivery import signed
from f5_worker.errors import RequestError, StoreCorrupt, StoreError, StoreNotFound, VoiceExists, VoiceNotFound
from f5_worker.guard import GuardedStore
from f5_worker.reference import Voice
from f5_worker.settings import Settings
from f5_worker.voice_record import Record

log = logging.getLogger(__name__)

BUILT_IN = "default"
MAX_CACHE_BYTES = 64_000_000  # 12 s of 24 kHz float32 are 1.2 MB: some fifty voices
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MAX_RECORD_BYTES = 64_000
_MAX_REFERENCE_BYTES = 4_000_000
_READERS = 8
_OVERWRITE_S = 0.4  # between reference.wav and voice.json of a voice that is being overwritten lies one request
_TRIES = 4


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
        except VoiceNotFound:
            self._forget(voice_id)
            raise
        except StoreError as error:
            if cached is None:
                raise
            log.warning("voice outcome=not_checked error=%r", str(error))
            warning = ("VOICE_NOT_CHECKED", "the bucket did not answer: the voice is the one that this worker has in memory")
            return replace(cached.voice, warnings=(*cached.voice.warnings, warning))

    def check_new(self, voice_id: str, *, overwrite: bool) -> GuardedStore:
        """The store to write a voice of this id to. Raises what `create` raises."""
        store = self._writable(voice_id)
        if not overwrite and store.head(self._key(voice_id, "voice.json")):
            raise VoiceExists("a voice of that id exists: choose another id, or send overwrite: true")
        return store

    def create(
        self, voice_id: str, voice: Voice, original: bytes, *, overwrite: bool = False, notes: Mapping[str, str | None] | None = None
    ) -> Record:
        """Keep a prepared voice; its voice.json comes last.

        Args:
            notes: What the client says about it: consent, language, description.
        Raises:
            VoiceExists: the id is taken and overwrite is not asked for.
            RequestError: the id is not one; there is no bucket.
        """
        store = self.check_new(voice_id, overwrite=overwrite)
        data = audio.encode(voice.samples, voice.sample_rate_hz, "wav")
        record = voice_record.of(voice_id, voice, data, original, notes or {})
        store.put(self._key(voice_id, record["original"]["name"]), original, content_type="application/octet-stream")
        store.put(self._key(voice_id, "reference.wav"), data, content_type="audio/wav", filename=f"{voice_id}.wav")
        self._write(store, record)
        self._drop_others(store, record)
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
        return voice_record.parse(self._raw(self._readable(voice_id), voice_id))

    def link(self, voice_id: str, expires_s: int) -> Record:
        """Where the prepared recording can be heard; nowhere for the built-in voice."""
        if voice_id == BUILT_IN:
            return {}
        return signed(self._readable(voice_id), self._key(voice_id, "reference.wav"), expires_s)

    def list(self) -> list[Record]:
        """Every voice, the built-in one first."""
        return [self.read(BUILT_IN), *self._stored()]

    def update(self, voice_id: str, changes: Mapping[str, str | None]) -> Record:
        """Change the notes or the text of a voice; what is None stays."""
        store = self._writable(voice_id)
        record = self.read(voice_id)
        given = {name: value for name, value in changes.items() if value is not None}
        if "text" in given:  # checked and ended as at the creation
            data = store.get(self._key(voice_id, "reference.wav"), max_bytes=_MAX_REFERENCE_BYTES)
            given |= {"text": reference.prepare(data, given["text"]).text}
            record["transcribed"] = False
        record |= given | {"updated_at": voice_record.now()}
        self._write(store, record)
        return record

    def delete(self, voice_id: str) -> None:
        """Remove a voice, first what makes it one. Raises VoiceNotFound."""
        store = self._writable(voice_id)
        self._raw(store, voice_id)
        self._forget(voice_id)
        store.delete(self._key(voice_id, "voice.json"))
        for key in list_of(store, self._key(voice_id, "")):
            store.delete(key)
        log.info("voice outcome=deleted")

    # --- the bucket ---

    def _current(self, voice_id: str, cached: _Cached | None) -> Voice:
        store = self._readable(voice_id)
        for attempt in range(_TRIES):
            raw = self._raw(store, voice_id)
            stamp = hashlib.sha256(raw).hexdigest()
            if cached and cached.stamp == stamp:
                self._keep(voice_id, cached)
                return cached.voice
            record = voice_record.parse(raw)
            if (data := self._reference(store, voice_id, record)) is not None:
                voice = voice_record.to_voice(record, data)
                self._keep(voice_id, _Cached(stamp, voice))
                return voice
            if attempt + 1 < _TRIES:
                time.sleep(_OVERWRITE_S)
        raise VoiceNotFound("the voice was left half-written: create it again with overwrite: true")

    def _reference(self, store: GuardedStore, voice_id: str, record: Record) -> bytes | None:
        """The recording that belongs to the record; None while another one is being put in its place."""
        try:
            data = store.get(self._key(voice_id, "reference.wav"), max_bytes=_MAX_REFERENCE_BYTES)
        except (StoreNotFound, StoreCorrupt):
            return None
        return data if hashlib.sha256(data).hexdigest() == record["reference"]["sha256"] else None

    def _raw(self, store: GuardedStore, voice_id: str) -> bytes:
        try:
            return store.get(self._key(voice_id, "voice.json"), max_bytes=_MAX_RECORD_BYTES)
        except StoreNotFound as exc:
            raise _unknown() from exc

    def _write(self, store: GuardedStore, record: Record) -> None:
        text = json.dumps(record, ensure_ascii=False, indent=2)
        store.put(self._key(record["id"], "voice.json"), text.encode(), content_type="application/json")

    def _drop_others(self, store: GuardedStore, record: Record) -> None:
        """The original of the voice that was overwritten may have had another extension."""
        own = {self._key(record["id"], name) for name in ("voice.json", "reference.wav", record["original"]["name"])}
        for key in set(list_of(store, self._key(record["id"], ""))) - own:
            store.delete(key)

    def _stored(self) -> Iterator[Record]:
        if self._store is None:
            return
        keys = [key for key in list_of(self._store, self._prefix) if key.endswith("/voice.json")]
        ids = [voice_id for key in keys if _ID.fullmatch(voice_id := key.removeprefix(self._prefix).partition("/")[0])]
        with ThreadPoolExecutor(_READERS) as readers:
            yield from (record for record in readers.map(self._read_if_whole, ids) if record)

    def _read_if_whole(self, voice_id: str) -> Record | None:
        try:
            return self.read(voice_id)
        except (VoiceNotFound, StoreCorrupt) as error:
            log.warning("voice outcome=skipped error=%r", str(error))
            return None

    def _readable(self, voice_id: str) -> GuardedStore:
        if self._store is None or not _ID.fullmatch(voice_id):
            raise _unknown()
        return self._store

    def _writable(self, voice_id: str) -> GuardedStore:
        if not _ID.fullmatch(voice_id):
            raise RequestError("id: must be 1 to 64 letters, digits, '-' or '_', the first a letter or a digit")
        if voice_id == BUILT_IN:
            raise RequestError(f"id: '{BUILT_IN}' is the built-in voice, which cannot be changed")
        if self._store is None:
            raise RequestError("voices are kept in the bucket and this worker has none: set S3_BUCKET")
        return self._store

    def _key(self, voice_id: str, name: str) -> str:
        return f"{self._prefix}{voice_id}/{name}"

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


def list_of(store: GuardedStore, prefix: str) -> list[str]:
    return [info.key for info in store.list(prefix)]


def _unknown() -> VoiceNotFound:
    return VoiceNotFound(f"there is no voice of that name: voices.list shows all; use '{BUILT_IN}', or send ref_audio with ref_text")
