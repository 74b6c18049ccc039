"""What a job may ask for. `parse` turns a job's input into a typed request or names everything that is wrong with it.

OpenAI's names come first, F5-TTS's own are accepted as aliases. Unknown fields are refused: a typing error must not be
mistaken for a setting. A new action is a new model in `ACTIONS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from f5_worker import deprecated
from f5_worker.actions import (
    Batch,
    Health,
    ModelsList,
    OutputsDelete,
    OutputsGet,
    Transcribe,
    VoicesCreate,
    VoicesDelete,
    VoicesGet,
    VoicesList,
    VoicesUpdate,
)
from f5_worker.errors import RequestError, TextEmpty, TextTooLong
from f5_worker.fields import SHAPES, Model, Problem, ReferenceAudio, S3Config, VoiceSource, Worker, shown
from f5_worker.speech_request import Passage, Segment, Speech

__all__ = [
    "ACTIONS",
    "Batch",
    "Health",
    "ModelsList",
    "OutputsDelete",
    "OutputsGet",
    "Passage",
    "ReferenceAudio",
    "Request",
    "S3Config",
    "Segment",
    "Speech",
    "Transcribe",
    "VoiceSource",
    "VoicesCreate",
    "VoicesDelete",
    "VoicesGet",
    "VoicesList",
    "VoicesUpdate",
    "Worker",
    "each",
    "parse",
]

MAX_PROBLEMS = 20  # a request with more is not a typing error

Request = (
    Speech
    | Batch
    | Transcribe
    | VoicesCreate
    | VoicesGet
    | VoicesList
    | VoicesUpdate
    | VoicesDelete
    | OutputsGet
    | OutputsDelete
    | ModelsList
    | Health
)
ACTIONS: dict[str, type[Request]] = {
    "speech": Speech,
    "batch": Batch,
    "transcribe": Transcribe,
    "voices.create": VoicesCreate,
    "voices.get": VoicesGet,
    "voices.list": VoicesList,
    "voices.update": VoicesUpdate,
    "voices.delete": VoicesDelete,
    "outputs.get": OutputsGet,
    "outputs.delete": OutputsDelete,
    "models.list": ModelsList,
    "health": Health,
}
_PARTS: dict[str, type[Model]] = {
    "ref_audio": ReferenceAudio,
    "segments": Segment,
    "voices": VoiceSource,
    "s3Config": S3Config,
}
_CODES: dict[str, type[RequestError]] = {"text_empty": TextEmpty, "text_too_long": TextTooLong}


def parse(job_input: object, worker: Worker = Worker()) -> Request:  # noqa: B008 - frozen
    """The typed request. A field that is null counts as not given.

    Raises:
        RequestError: names every problem in one message, never the values; TextEmpty or TextTooLong when that is all.
    """
    if not isinstance(job_input, dict):
        raise RequestError('the job\'s input must be an object such as {"input": {"input": "Hello."}}')
    translated, warnings, problems = deprecated.translate(job_input)
    action = translated.get("action") or "speech"
    model = ACTIONS.get(action) if isinstance(action, str) else None
    if model is None:
        raise _refusal([*problems, (RequestError, f"action: must be one of {', '.join(ACTIONS)}{_similar(str(action), ACTIONS)}")])
    fields, misnamed = _canonical(translated, model)
    problems += [*misnamed, *model.conflicts(fields, worker)]
    request: Request | None = None
    try:
        request = model.model_validate(fields, context=worker)
    except ValidationError as exc:
        problems += _problems(exc, model)
    if problems or request is None:
        raise _refusal(problems)
    request._warnings = tuple(warnings)  # noqa: SLF001 - told by the raw fields, which the model does not see
    return request


def each(batch: Batch, worker: Worker = Worker()) -> list[Speech | RequestError]:  # noqa: B008 - frozen
    """The requests of a batch; in the place of one that is wrong stands its error."""
    return [_one_of_a_batch(item, worker) for item in batch.requests]


def _one_of_a_batch(item: object, worker: Worker) -> Speech | RequestError:
    try:
        request = parse(item, worker)
    except RequestError as error:
        return error
    if not isinstance(request, Speech):
        return RequestError("action: a batch holds requests of the action 'speech' and no others")
    if request.stream_format != "none":
        return RequestError("stream_format: a batch is not streamed; leave it out")
    return request


def _canonical(job_input: dict[Any, Any], model: type[Request]) -> tuple[dict[Any, Any], list[Problem]]:
    """The fields that are given, by their first names, and what is wrong with the names themselves."""
    fields: dict[Any, Any] = {}
    problems: list[Problem] = []
    known = model.names()
    for name_given, value in job_input.items():
        name = model.other_names.get(name_given, name_given)
        if value is None and name in known:
            continue
        if name in fields:
            problems.append((RequestError, f"{name_given}: the same as another field of this request; give '{name}' alone"))
        fields.setdefault(name, value)
    return fields, problems


def _problems(exc: ValidationError, model: type[Request]) -> list[Problem]:
    errors = exc.errors(include_url=False, include_input=False)
    shown = [_problem(error, model) for error in errors[:MAX_PROBLEMS]]
    return shown + [(RequestError, "")] * (len(errors) - len(shown))  # only counted


def _problem(error: ErrorDetails, model: type[Request]) -> Problem:
    field = ".".join(shown(part) for part in error["loc"] if part != "[key]") or "request"
    message = _MESSAGES.get(error["type"], "{msg}").format(msg=error["msg"], **error.get("ctx", {}))
    if error["type"] == "string_pattern_mismatch":
        message = SHAPES[error["ctx"]["pattern"]]
    if error["type"] == "extra_forbidden":
        message += _nearest(error["loc"], model)
    return _CODES.get(error["type"], RequestError), f"{field}: {message}"


def _nearest(loc: tuple[int | str, ...], model: type[Request]) -> str:
    """The known name that an unknown one looks like."""
    part = next((_PARTS[name] for name in reversed(loc[:-1]) if name in _PARTS), None)
    known = part.names() if part else {*model.names(), *model.other_names}
    return _similar(str(loc[-1]), known)


def _similar(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:40].lower(), sorted(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


# By pydantic's error types (https://docs.pydantic.dev/latest/errors/validation_errors/), in words that say what to do.
_MESSAGES = {
    "extra_forbidden": "unknown field",
    "missing": "is missing",
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "int_parsing_size": "must be a smaller integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_unicode": "holds characters that are not valid Unicode",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} items",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "invalid_key": "field names must be strings",
}


def _refusal(problems: list[Problem]) -> RequestError:
    kinds = {kind for kind, _ in problems}
    kind = kinds.pop() if len(kinds) == 1 else RequestError
    shown = [message for _, message in problems[:MAX_PROBLEMS]]
    more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
    return kind("; ".join(shown + more))
