"""The actions of the job API. docs/job-api.md and docs/job-schema.json are written from these models (f5_worker/docs.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from f5_worker.errors import RequestError, TextTooLong
from f5_worker.fields import (
    BUILT_IN_VOICE,
    MAX_TEXT_CHARS,
    Audio,
    Language,
    Model,
    Note,
    PlainId,
    Problem,
    RefText,
    VoiceId,
    Worker,
    audio_conflicts,
    given,
)
from f5_worker.speech_request import Expiry, Speech, chars_of, objects_in

__all__ = [
    "Batch",
    "Health",
    "ModelsList",
    "OutputsDelete",
    "OutputsGet",
    "Speech",
    "Transcribe",
    "VoicesCreate",
    "VoicesDelete",
    "VoicesGet",
    "VoicesList",
    "VoicesUpdate",
]

MAX_BATCH = 100


class Batch(Model):
    """Several speeches in one job, spoken one after the other; results and errors come one by one, in their order."""

    action: Literal["batch"]
    requests: list[Any] = Field(
        min_length=1, max_length=MAX_BATCH, repr=False, description="each as in the action `speech`, without `stream_format`"
    )

    @classmethod
    def conflicts(cls, raw: Mapping[Any, Any], worker: Worker) -> Iterator[Problem]:  # noqa: ARG003
        texts = [chars_of(item.get(name)) for item in objects_in(raw.get("requests")) for name in ("input", *Speech.other_names)]
        parts = [chars_of(part.get("text")) for item in objects_in(raw.get("requests")) for part in objects_in(item.get("segments"))]
        if (chars := sum(texts + parts)) > MAX_TEXT_CHARS:
            yield TextTooLong, f"requests: {chars} characters in all, at most {MAX_TEXT_CHARS} fit in one job: send several jobs"


class Transcribe(Model):
    """Write down what is spoken in a recording."""

    other_names: ClassVar[Mapping[str, str]] = {"audio": "ref_audio"}

    action: Literal["transcribe"]
    ref_audio: Audio = Field(description="the recording, of at most 600 s")
    language: Language | None = Field(default=None, description="what is spoken; default: told by the recording")

    @classmethod
    def conflicts(cls, raw: Mapping[Any, Any], worker: Worker) -> Iterator[Problem]:  # noqa: ARG003
        return audio_conflicts(raw.get("ref_audio"), "ref_audio")


class _OneVoice(Model):
    other_names: ClassVar[Mapping[str, str]] = {"id": "voice"}

    voice: VoiceId = Field(description="its id")


class _OwnVoice(_OneVoice):
    @classmethod
    def conflicts(cls, raw: Mapping[Any, Any], worker: Worker) -> Iterator[Problem]:  # noqa: ARG003
        if raw.get("voice") == BUILT_IN_VOICE:
            yield RequestError, f"voice: '{BUILT_IN_VOICE}' is built in; choose another id"


class VoicesCreate(_OwnVoice):
    """Prepare a recording once and keep it as a voice that every worker with this bucket knows."""

    other_names: ClassVar[Mapping[str, str]] = {"id": "voice", "audio": "ref_audio"}

    action: Literal["voices.create"]
    ref_audio: Audio = Field(description="the recording")
    ref_text: RefText = Field(default=None, repr=False, description="the exact words spoken in it; transcribed when not given")
    name: Note | None = Field(default=None, repr=False, description="for people")
    language: Language | None = Field(default=None, description="what is spoken in the recording")
    consent: Note | None = Field(default=None, repr=False, description="whose voice it is and how they agreed; kept with the voice")
    overwrite: bool = Field(default=False, description="replace a voice of this id; else that is an error")

    @classmethod
    def conflicts(cls, raw: Mapping[Any, Any], worker: Worker) -> Iterator[Problem]:
        yield from super().conflicts(raw, worker)
        yield from audio_conflicts(raw.get("ref_audio"), "ref_audio")


class VoicesUpdate(_OwnVoice):
    """Change what is written about a voice; its recording stays."""

    action: Literal["voices.update"]
    name: Note | None = Field(default=None, repr=False, description="for people")
    ref_text: RefText = Field(default=None, repr=False, description="the exact words spoken in its recording")
    language: Language | None = Field(default=None, description="what is spoken in the recording")
    consent: Note | None = Field(default=None, repr=False, description="whose voice it is and how they agreed")

    @classmethod
    def conflicts(cls, raw: Mapping[Any, Any], worker: Worker) -> Iterator[Problem]:
        yield from super().conflicts(raw, worker)
        if not any(given(raw, name) for name in ("name", "ref_text", "language", "consent")):
            yield RequestError, "voices.update: nothing to change; give 'name', 'ref_text', 'language' or 'consent'"


class VoicesGet(_OneVoice):
    """One voice: its text, quality report, note of consent, and a URL of its recording."""

    action: Literal["voices.get"]
    url_expires_in: Expiry | None = Field(default=None, description="seconds that the URL works; default: `URL_EXPIRES_S`")


class VoicesList(Model):
    """Every voice of the library, the built-in one included."""

    action: Literal["voices.list"]
    limit: int = Field(default=1_000, ge=1, le=1_000, description="how many of the library's; the built-in one comes besides")
    after: VoiceId | None = Field(default=None, description="the `next` of a result that did not hold all: the list goes on there")


class VoicesDelete(_OwnVoice):
    """Remove a voice from the library."""

    action: Literal["voices.delete"]


class OutputsGet(Model):
    """New URLs of the files that a job has left in the bucket."""

    other_names: ClassVar[Mapping[str, str]] = {"job_id": "id"}

    action: Literal["outputs.get"]
    id: PlainId = Field(description="the job's id, as in its result")
    url_expires_in: Expiry | None = Field(default=None, description="seconds that the URLs work; default: `URL_EXPIRES_S`")


class OutputsDelete(Model):
    """Remove the files that a job has left in the bucket, and the result that was stored for its `idempotency_key`."""

    other_names: ClassVar[Mapping[str, str]] = {"job_id": "id"}

    action: Literal["outputs.delete"]
    id: PlainId = Field(description="the job's id, as in its result")


class ModelsList(Model):
    """The models that this worker speaks with."""

    action: Literal["models.list"]


class Health(Model):
    """Versions, device and how this worker got its weights. Needs no GPU time."""

    action: Literal["health"]
