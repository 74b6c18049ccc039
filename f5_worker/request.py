"""What a job may ask for. `parse` turns a job's input into a typed request or names everything that is wrong with it.

OpenAI's names come first, F5-TTS's own are accepted as aliases. Unknown fields are refused: a typing error must not be
mistaken for a setting. A new action is a new model in `ACTIONS`.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from f5_worker.errors import RequestError, TextEmpty, TextTooLong

MAX_TEXT_CHARS = 50_000  # about an hour of speech; the platform ends a job after 10 minutes by default
MAX_REFERENCE_BYTES = 10_000_000  # the platform takes at most 10 MB a request
MAX_REFERENCE_TEXT_CHARS = 2_000  # a reference lasts seconds, not minutes
MAX_SEED = 2**53 - 1  # the largest integer that every JSON reader keeps exact
MAX_PROBLEMS = 20  # a request with more is not a typing error
ALIASES = {"text": "input", "gen_text": "input"}


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


def _audio_bytes(value: object) -> object:
    """Base64 text, with or without a `data:` header, as bytes; capped before it is decoded."""
    if not isinstance(value, str):
        raise PydanticCustomError("base64", "must be a string of base64")
    body = value.partition(",")[2] if value.startswith("data:") else value
    if len(body) > MAX_REFERENCE_BYTES * 4 // 3 + 4:
        raise PydanticCustomError("base64", f"more than {MAX_REFERENCE_BYTES} bytes of audio: send a few seconds of speech")
    try:
        data = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise PydanticCustomError("base64", "is not valid base64") from None
    if not data:
        raise PydanticCustomError("base64", "holds no audio")
    return data


def _as_reference(value: object) -> object:
    if not isinstance(value, str):
        return value
    return {"url": value} if value.startswith(("http://", "https://")) else {"base64": value}


Text = Annotated[str, AfterValidator(_valid_unicode)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class ReferenceAudio(_Model):
    """The recording whose voice is cloned."""

    data: Annotated[bytes, BeforeValidator(_audio_bytes)] = Field(alias="base64", repr=False)

    @model_validator(mode="before")
    @classmethod
    def _no_url_yet(cls, value: object) -> object:
        if isinstance(value, dict) and "url" in value:
            raise PydanticCustomError("unsupported", "a URL cannot be used yet: send the audio itself as {'base64': '…'}")
        return value


class Health(_Model):
    """Versions, device and how this worker got its weights. Needs no GPU time."""

    action: Literal["health"]


class Speech(_Model):
    """Speak a text with a voice."""

    action: Literal["speech"] = "speech"
    input: Annotated[Text, AfterValidator(_speakable)] = Field(repr=False)
    voice: Text | None = Field(default=None, min_length=1, max_length=100)
    ref_audio: Annotated[ReferenceAudio, BeforeValidator(_as_reference)] | None = None
    ref_text: Text | None = Field(default=None, min_length=1, max_length=MAX_REFERENCE_TEXT_CHARS, repr=False)
    response_format: Literal["wav", "flac", "mp3", "opus", "pcm"] = "wav"
    speed: float = Field(default=1.0, ge=0.25, le=4.0)
    seed: int = Field(default_factory=lambda: secrets.randbelow(2**31), ge=0, le=MAX_SEED)
    nfe_step: int = Field(default=32, ge=1, le=64)
    cfg_strength: float = Field(default=2.0, ge=0.0, le=10.0)
    sway_sampling_coef: float = Field(default=-1.0, ge=-1.0, le=1.0)
    target_rms: float = Field(default=0.1, ge=0.001, le=1.0)
    cross_fade_duration: float = Field(default=0.15, ge=0.0, le=1.0, description="seconds")
    delivery: Literal["auto", "url", "inline"] = "auto"
    url_expires_in: int | None = Field(default=None, ge=60, le=604_800, description="seconds; SigV4 allows at most 7 days")


ACTIONS: dict[str, type[Speech | Health]] = {"speech": Speech, "health": Health}
_CODES: dict[str, type[RequestError]] = {"text_empty": TextEmpty, "text_too_long": TextTooLong}


def parse(job_input: object) -> Speech | Health:
    """The typed request. A field that is null counts as not given.

    Raises:
        RequestError: names every problem in one message, never the values; TextEmpty or TextTooLong when that is all.
    """
    if not isinstance(job_input, dict):
        raise RequestError('the job\'s input must be an object such as {"input": {"input": "Hello."}}')
    action = job_input.get("action") or "speech"
    model = ACTIONS.get(action) if isinstance(action, str) else None
    if model is None:
        raise RequestError(f"action: must be one of {', '.join(ACTIONS)}")
    fields, problems = _canonical(job_input, model)
    problems += _reference_problems(fields)
    request: Speech | Health | None = None
    try:
        request = model.model_validate(fields)
    except ValidationError as exc:
        problems += [_problem(error) for error in exc.errors(include_url=False, include_input=False)]
    if problems or request is None:
        raise _refusal(problems)
    return request


Problem = tuple[type[RequestError], str]


def _canonical(job_input: dict[Any, Any], model: type[_Model]) -> tuple[dict[Any, Any], list[Problem]]:
    """The fields that are given, by their first names, and what is wrong with the names themselves."""
    fields: dict[Any, Any] = {}
    problems: list[Problem] = []
    for given, value in job_input.items():
        name = ALIASES.get(given, given)
        if value is None and name in model.model_fields:
            continue
        if name in fields:
            problems.append((RequestError, f"{given}: the same as another field of this request; give '{name}' alone"))
        fields.setdefault(name, value)
    return fields, problems


def _reference_problems(fields: dict[Any, Any]) -> list[Problem]:
    """What does not fit together. Checked on the raw fields, so that it is reported along with every other problem."""
    audio, text = "ref_audio" in fields, str(fields.get("ref_text", "")).strip() != ""
    found = {
        "voice: excludes 'ref_audio'; give one of them": audio and "voice" in fields,
        "ref_text: is missing; give the exact words that are spoken in 'ref_audio'": audio and not text,
        "ref_audio: is missing; 'ref_text' says what is spoken in it": "ref_text" in fields and not audio,
    }
    return [(RequestError, message) for message, wrong in found.items() if wrong]


def _problem(error: ErrorDetails) -> Problem:
    field = ".".join(_shown(part) for part in error["loc"]) or "request"
    message = _MESSAGES.get(error["type"], "{msg}").format(msg=error["msg"], **error.get("ctx", {}))
    kind = "text_empty" if error["type"] == "missing" and error["loc"] == ("input",) else error["type"]
    return _CODES.get(kind, RequestError), f"{field}: {message}"


def _shown(part: object) -> str:
    """A name that came from outside, short and printable: it goes into messages that are sent as JSON."""
    text = ascii(str(part))[1:-1]
    return text if len(text) <= 40 else text[:40] + "…"


# By pydantic's error types (https://docs.pydantic.dev/latest/errors/validation_errors/), in words that say what to do.
_MESSAGES = {
    "extra_forbidden": "unknown field",
    "missing": "is missing",
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_unicode": "holds characters that are not valid Unicode",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} characters",
    "model_type": "must be an object such as {{'base64': '…'}} or a string of base64",
    "model_attributes_type": "must be an object such as {{'base64': '…'}} or a string of base64",
    "invalid_key": "field names must be strings",
}


def _refusal(problems: list[Problem]) -> RequestError:
    kinds = {kind for kind, _ in problems}
    kind = kinds.pop() if len(kinds) == 1 else RequestError
    shown = [message for _, message in problems[:MAX_PROBLEMS]]
    more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
    return kind("; ".join(shown + more))
