"""The parts that requests are made of: checked texts and names, recordings, voices, a caller's own bucket."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, SecretStr, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from f5_worker.errors import RequestError

MAX_TEXT_CHARS = 50_000  # about an hour of speech; the platform ends a job after 10 minutes by default
MAX_REFERENCE_BYTES = 10_000_000  # the platform takes at most 10 MB a request
MAX_REFERENCE_TEXT_CHARS = 2_000  # a reference lasts seconds, not minutes
MAX_URL_CHARS = 4_096  # a presigned URL with a session token has about 2,000
MAX_KEY_CHARS = 1_024  # S3's own limit is 1,024 bytes
MAX_BASE64_CHARS = MAX_REFERENCE_BYTES * 4 // 3 + 4
_PIECE_CHARS = 1 << 20  # of base64: one call to decode it holds up every thread of the process
AUDIO_SOURCES = ("url", "base64", "s3_key")
BUILT_IN_VOICE = "default"

_VOICE_ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
_PLAIN_ID = r"^[!-~]{1,200}$"
_LANGUAGE = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$"
_BUCKET_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{1,62}$"
# What to say of a string that does not match.
SHAPES = {
    _VOICE_ID: "must be 1 to 64 letters, digits, '_' and '-', and begin with a letter or a digit",
    _PLAIN_ID: "must be 1 to 200 printable ASCII characters without spaces",
    _LANGUAGE: "must be a language code such as 'en' or 'zh-CN'",
    _BUCKET_NAME: "must be the name of a bucket",
}

Problem = tuple[type[RequestError], str]


@dataclass(frozen=True)
class Worker:
    """What of this worker a request is checked against.

    Args:
        model: The one that is loaded; None: any name passes.
        s3_prefixes: Where `s3_key` may read; empty without a bucket.
    """

    model: str | None = None
    s3_prefixes: tuple[str, ...] = ()


class Model(BaseModel):
    """A part of a request. Unknown fields are refused, null counts as not given, nothing is coerced."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    other_names: ClassVar[Mapping[str, str]] = {}  # accepted name -> the field's name
    _warnings: tuple[tuple[str, str], ...] = PrivateAttr(())

    @property
    def warnings(self) -> tuple[tuple[str, str], ...]:
        """(code, message) of what works and is not meant to be used any more."""
        return self._warnings

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        known = cls.names()
        return {name: given for name, given in value.items() if given is not None or name not in known}

    @classmethod
    def names(cls) -> set[str]:
        """Every field by the name that a request has for it."""
        return {field.alias or name for name, field in cls.model_fields.items()}

    @classmethod
    def conflicts(cls, raw: Mapping[Any, Any], worker: Worker) -> Iterator[Problem]:  # noqa: ARG003 - for those that have some
        """What does not fit together, told by the raw fields, so that it is reported along with every wrong value."""
        return iter(())


def _valid_unicode(text: str) -> str:
    # JSON can carry half of a surrogate pair; it cannot be written as UTF-8, so the SDK would lose the result.
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise PydanticCustomError("unicode", "holds characters that are not valid Unicode")
    return text


def _speakable(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("text_empty", "there is no text to speak")
    if len(text) > MAX_TEXT_CHARS:
        raise PydanticCustomError("text_too_long", f"{len(text)} characters, at most {MAX_TEXT_CHARS} fit in one job: send several jobs")
    return text


def _blank_is_none(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


def _audio_bytes(value: object) -> object:
    """Base64 text, with or without a `data:` header, as bytes; capped before it is decoded."""
    if not isinstance(value, str):
        raise PydanticCustomError("base64", "must be a string of base64")
    body = value.partition(",")[2] if value.startswith("data:") else value
    if len(body) > MAX_BASE64_CHARS:
        raise PydanticCustomError("base64", f"more than {MAX_REFERENCE_BYTES} bytes of audio: send a few seconds of speech")
    try:
        data = _decoded("".join(body.split()))
    except (binascii.Error, ValueError):
        raise PydanticCustomError("base64", "is not valid base64") from None
    if not data:
        raise PydanticCustomError("base64", "holds no audio")
    return data


def _decoded(text: str) -> bytes:
    if text.find("=", 0, len(text) - 2) >= 0:  # would be taken for the end of a piece
        raise ValueError("padding before the end")
    starts = range(0, len(text), _PIECE_CHARS)
    return b"".join(base64.b64decode(text[start : start + _PIECE_CHARS], validate=True) for start in starts)


def _object_key(key: str) -> str:
    if any(part in {"", ".", ".."} for part in key.split("/")) or not key.isprintable() or "\\" in key:
        raise PydanticCustomError("s3_key", "must be the key of an object, such as 'voices/anna.wav', without '..', '//' or a leading '/'")
    return key


def _readable_key(key: str, info: ValidationInfo) -> str:
    prefixes = info.context.s3_prefixes if isinstance(info.context, Worker) else ()
    if not prefixes:
        raise PydanticCustomError("s3_key", "this worker has no bucket: send the audio as 'base64' or by 'url'")
    if not key.startswith(prefixes):
        raise PydanticCustomError("s3_key", f"must begin with {' or '.join(prefixes)}: no other objects are read")
    return key


def _as_audio(value: object) -> object:
    if not isinstance(value, str):
        return value
    return {"url": value} if value.lower().startswith(("http://", "https://")) else {"base64": value}


def _as_source(value: object) -> object:
    return {"voice": value} if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_valid_unicode)]
Note = Annotated[str, Field(max_length=1_000), AfterValidator(_valid_unicode)]
Url = Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARS), AfterValidator(_valid_unicode)]
Speakable = Annotated[
    str, AfterValidator(_valid_unicode), AfterValidator(_speakable), Field(json_schema_extra={"maxLength": MAX_TEXT_CHARS})
]
ObjectKey = Annotated[str, Field(min_length=1, max_length=MAX_KEY_CHARS), AfterValidator(_object_key), AfterValidator(_readable_key)]
VoiceId = Annotated[str, Field(pattern=_VOICE_ID)]
PlainId = Annotated[str, Field(pattern=_PLAIN_ID)]
Language = Annotated[str, Field(pattern=_LANGUAGE)]
Secret = Annotated[SecretStr, Field(min_length=1, max_length=256)]
BucketName = Annotated[str, Field(pattern=_BUCKET_NAME)]
_Words = Annotated[str, Field(max_length=MAX_REFERENCE_TEXT_CHARS), AfterValidator(_valid_unicode)]
RefText = Annotated[_Words | None, BeforeValidator(_blank_is_none, json_schema_input_type=_Words | None)]


class ReferenceAudio(Model):
    """A recording, by exactly one of three ways."""

    url: Url | None = Field(
        default=None,
        repr=False,
        description="where it is downloaded from: `https` only, on a public address, at most 10 MB; up to 3 redirects are followed",
    )
    data: Annotated[bytes, BeforeValidator(_audio_bytes, json_schema_input_type=str)] | None = Field(
        default=None, alias="base64", repr=False, description="the file itself in base64, with or without a `data:` header, at most 10 MB"
    )
    s3_key: ObjectKey | None = Field(
        default=None,
        repr=False,
        description="an object of the worker's bucket, under its prefix of voices or of outputs",
    )


Audio = Annotated[ReferenceAudio, BeforeValidator(_as_audio, json_schema_input_type=str | ReferenceAudio)]


class VoiceSource(Model):
    """A voice of the library, or a recording to clone."""

    voice: VoiceId | None = Field(default=None, description="its id in the library")
    ref_audio: Audio | None = Field(default=None, description="the recording whose voice is cloned; excludes `voice`")
    ref_text: RefText = Field(default=None, repr=False, description="the exact words spoken in `ref_audio`; transcribed when not given")

    @classmethod
    def conflicts(cls, raw: Mapping[Any, Any], worker: Worker) -> Iterator[Problem]:  # noqa: ARG003
        yield from voice_conflicts(raw)


Source = Annotated[VoiceSource, BeforeValidator(_as_source, json_schema_input_type=str | VoiceSource)]


class S3Config(Model):
    """The caller's own bucket, as RunPod's `s3Config` describes it. Nothing of it is logged, stored or repeated."""

    access_id: Secret = Field(alias="accessId", description="its key id")
    access_secret: Secret = Field(alias="accessSecret", description="the key's secret")
    bucket_name: BucketName = Field(alias="bucketName", repr=False, description="its name")
    endpoint_url: Url = Field(alias="endpointUrl", repr=False, description="of its store: `https` only, on a public address")


def given(raw: Mapping[Any, Any], name: str) -> bool:
    """Whether a raw request has the field; a blank text is none."""
    return _blank_is_none(raw.get(name)) is not None


def shown(part: object) -> str:
    """A name that came from outside, short and printable: it goes into messages that are sent as JSON."""
    text = ascii(str(part))[1:-1]
    return text if len(text) <= 40 else text[:40] + "…"


def voice_conflicts(raw: Mapping[Any, Any], where: str = "") -> Iterator[Problem]:
    """What is wrong with `voice`, `ref_audio` and `ref_text` together.

    Args:
        where: The place in the request, ending in a dot, "" for its top.
    """
    if given(raw, "ref_audio") and given(raw, "voice"):
        yield RequestError, f"{where}voice: excludes 'ref_audio'; give one of them"
    if given(raw, "ref_text") and not given(raw, "ref_audio"):
        yield RequestError, f"{where}ref_audio: is missing; 'ref_text' says what is spoken in it"
    yield from audio_conflicts(raw.get("ref_audio"), f"{where}ref_audio")


def audio_conflicts(raw: object, where: str) -> Iterator[Problem]:
    if isinstance(raw, Mapping) and sum(raw.get(source) is not None for source in AUDIO_SOURCES) != 1:
        yield RequestError, f"{where}: give exactly one of 'url', 'base64' and 's3_key'"
