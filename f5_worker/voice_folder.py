"""The objects of one voice in the bucket, under `<voices prefix><id>/`.

    original-<version>.<ext>    what the client sent
    reference-<version>.wav     the prepared recording: mono, 24 kHz, edges trimmed
    voice.json                  names both; written last and deleted first

The voice is what its voice.json names. A version is a random id that every attempt to write the voice draws anew, so no worker writes over
or deletes the recordings of an attempt that it has not seen: an overwrite that breaks off leaves the old voice or the new one. Recordings
that it had put before its voice.json are then named by nobody, and lie there until the voice is deleted.

There are no conditional writes (docs/decisions/0005): of workers that change one voice at once the last wins, and each looks afterwards
whether what stands is whole and no version that it has replaced. One gap is left: an update that hangs between reading and writing the
voice.json until another worker has overwritten the voice and looked for the last time; the update finds the old recordings gone, takes the
voice away, and says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from f5_worker import reference, voice_record
from f5_worker.errors import StoreCorrupt, StoreNotFound, StoreUnavailable, VoiceNotFound
from f5_worker.guard import GuardedStore
from f5_worker.voice_record import Record

_TRIES = 10  # when another worker changes the same voice meanwhile
_MAX_RECORD_BYTES = 64_000
_MAX_REFERENCE_BYTES = 4_000_000


@dataclass(frozen=True)
class VoiceFolder:
    """One worker's view of a voice. Every method may raise StoreError.

    Attributes:
        path: What the keys of its objects begin with.
    """

    store: GuardedStore
    voice_id: str
    path: str

    def exists(self) -> bool:
        return self.store.head(self.path + "voice.json") is not None

    def holds_other(self, original: bytes) -> bool:
        """Whether a voice is here that was made of another recording."""
        if not self.exists():
            return False
        standing = self._standing()
        return standing is None or standing["original"].get("sha256") != hashlib.sha256(original).hexdigest()

    def raw(self) -> bytes:
        """The voice.json as it stands. Raises VoiceNotFound."""
        try:
            return self.store.get(self.path + "voice.json", max_bytes=_MAX_RECORD_BYTES)
        except StoreNotFound as exc:
            raise unknown() from exc

    def record(self) -> Record:
        """What voice.json says. Raises VoiceNotFound, StoreCorrupt."""
        return voice_record.parse(self.raw(), self.voice_id)

    def recording(self, record: Record) -> bytes | None:
        """The prepared recording; None when it is gone, as it is when the voice was overwritten after the record was read."""
        try:
            data = self.store.get(self.path + record["reference"]["name"], max_bytes=_MAX_REFERENCE_BYTES)
        except (StoreNotFound, StoreCorrupt):
            return None
        return data if hashlib.sha256(data).hexdigest() == record["reference"]["sha256"] else None

    def replace(self, record: Record, original: bytes, data: bytes) -> Record:
        """Put a version in the place of what is there, and drop that.

        Args:
            data: The prepared recording of the record.
        """
        for _ in range(_TRIES):
            self._put(record["original"]["name"], original, "application/octet-stream")
            self._put(record["reference"]["name"], data, "audio/wav", filename=f"{self.voice_id}.wav")
            record = voice_record.replacing(record, self._standing())
            self._write(record)
            self._tidy(record)
            if self._is_settled(record):
                return record
            record = voice_record.renamed(record)
        raise _contended()

    def finish(self, record: Record) -> Record | None:
        """The voice that stands, tidied up, when the record describes nothing else; else None."""
        standing = self._standing()
        if standing is None or not voice_record.is_repeated(record, standing):
            return None
        self._tidy(standing)
        return standing

    def update(self, changes: Mapping[str, str]) -> Record:
        """Change the notes or the text. Raises VoiceNotFound, StoreCorrupt, ReferenceInvalid."""
        for _ in range(_TRIES):
            raw = self.raw()
            record = voice_record.parse(raw, self.voice_id)
            changed = record | dict(changes) | {"updated_at": voice_record.now()}
            if "text" in changes:  # checked and ended as at the creation
                if (data := self.recording(record)) is None:
                    continue
                changed |= {"text": reference.prepare(data, changes["text"]).text, "transcribed": False}
            if self.raw() != raw:
                continue
            self._write(changed)
            standing = self._standing()
            if standing is None or self._is_whole(standing):
                return changed
            self.store.delete(self.path + "voice.json")  # it was deleted in that moment, and stays so
        raise gone()

    def remove(self) -> None:
        """Delete whatever lies here; a removal that broke off is finished by the next. Raises VoiceNotFound when there is nothing."""
        if not (keys := self._keys()):
            raise unknown()
        for _ in range(_TRIES):
            for key in keys:
                self.store.delete(key)
            if not (keys := self._keys()):  # else another worker wrote meanwhile
                return
        raise _contended()

    def _keys(self) -> list[str]:
        """Of everything that lies here, voice.json first."""
        return sorted((info.key for info in self.store.list(self.path)), key=lambda key: key != self.path + "voice.json")

    def _standing(self) -> Record | None:
        """What the bucket holds at this moment; None when that is no voice."""
        try:
            return self.record()
        except (VoiceNotFound, StoreCorrupt):
            return None

    def _write(self, record: Record) -> None:
        self._put("voice.json", json.dumps(record, ensure_ascii=False, indent=2).encode(), "application/json")

    def _put(self, name: str, data: bytes, content_type: str, *, filename: str | None = None) -> None:
        self.store.put(self.path + name, data, content_type=content_type, filename=filename)

    def _tidy(self, written: Record) -> None:
        """Of the recordings that a record names or replaced, drop those that the voice which stands now does not name.

        None while a replaced version stands, which a late update has put back: whoever replaced it goes on.
        """
        standing = self._standing()
        if standing and voice_record.has_replaced(written, standing):
            return
        needed = voice_record.files(standing) if standing else []
        for name in (*written["replaced"], *voice_record.files(written)):
            if name not in needed:
                self.store.delete(self.path + name)

    def _is_settled(self, written: Record) -> bool:
        """Whether a whole voice stands that is no older than what was written. Else another worker was late, or removed it."""
        standing = self._standing()
        return standing is not None and not voice_record.has_replaced(written, standing) and self._is_whole(standing)

    def _is_whole(self, record: Record) -> bool:
        return all(self.store.head(self.path + name) for name in voice_record.files(record))


def unknown() -> VoiceNotFound:
    return VoiceNotFound("there is no voice of that name: voices.list shows all; use 'default', or send ref_audio with ref_text")


def gone() -> VoiceNotFound:
    return VoiceNotFound("the recording of the voice is gone: create it again with overwrite: true")


def _contended() -> StoreUnavailable:
    return StoreUnavailable("other workers change the same voice at this moment: try again")
