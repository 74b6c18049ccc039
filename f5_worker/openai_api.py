"""OpenAI's shapes around the job API: what RunPod's `/openai/v1/…` route hands to a worker, and what it gets back.

A queue worker's results are JSON, so audio comes as base64 inside the result and never as the bare bytes of OpenAI's own API. The route
passes no HTTP method and no query.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from f5_worker.errors import RequestError, VoiceNotFound

SPEECH, MODELS, VOICES = "/v1/audio/speech", "/v1/models", "/v1/audio/voices"
ROUTES = (SPEECH, MODELS, VOICES)
# OpenAI's names for its own models stand for the one that this worker has: many clients cannot send another.
OPENAI_MODELS = re.compile(r"(tts-1|gpt-4o-mini-tts|gpt-4o-audio)[a-z0-9-]*")
_UNSUPPORTED = {
    "instructions": "F5-TTS takes no instructions; choose a voice whose recording sounds as you want it",
    "stream_format": "results of this route are JSON; leave it out, or stream a job of RunPod's own API with 'stream_format' 'events'",
}
_MODEL_NOT_FOUND = "model_not_found"
_FIELD = re.compile(r"([A-Za-z_][\w.]*): ")

Object = dict[str, Any]


def to_request(openai_route: object, openai_input: object, s3_config: object = None) -> Object:
    """The job input, for request.parse, that stands for a call of the route.

    Fields of the job API that OpenAI does not know are passed through. The defaults are OpenAI's: mp3, inline.

    Args:
        s3_config: RunPod's, out of the job and not of the call. Speech goes to that bucket then, and is not inline.
    Raises:
        RequestError: the route is unknown, or the call asks for what a queue worker cannot do.
    """
    route, item = _split(openai_route)
    given: Object = dict(openai_input) if isinstance(openai_input, Mapping) else {}
    if not isinstance(openai_input, Mapping | None):
        raise RequestError("openai_input: must be an object")
    if route == MODELS:
        return {"action": "models.list"}
    if route == VOICES:
        return _voices(item, given)
    return _speech({"s3Config": s3_config} | given)


def reply(openai_route: object, result: Object) -> Object:
    """The result of the action that stands for a call of the route, in OpenAI's shape."""
    route, item = _split(openai_route)
    if route == MODELS:
        models = [_model(model) for model in result["models"]]
        return _only(models, item) if item else {"object": "list", "data": models}
    if route == VOICES:
        voices = result.get("voices")
        return {"object": "audio.voice"} | result if voices is None else {"object": "list", "data": voices}
    return {"object": "audio.speech"} | result


def error(text: str, details: Object) -> Object:
    """The payload of an error: `error` is the string that fails the job; what is left as its output is OpenAI's error object.

    Args:
        text: "CODE: message".
        details: Of the job API's error: code and retryable.
    """
    message = text.partition(": ")[2] or text
    field = _FIELD.match(message)
    for_caller = details["code"] in _callers_codes() and not details["retryable"]
    return {
        "error": text,
        "details": details,
        "object": "error",
        "message": message,
        "type": "invalid_request_error" if for_caller else "server_error",
        "param": field[1] if field else None,
        "code": str(details["code"]).lower(),
    }


def status(output: Object) -> int:
    """The HTTP status of OpenAI's API for a failed job's output. For bridges; the worker sends none."""
    if output.get("code") in {_MODEL_NOT_FOUND, VoiceNotFound.code.lower()}:
        return 404
    if output.get("type") == "invalid_request_error":
        return 400
    return 503 if output.get("details", {}).get("retryable") else 500


def _split(openai_route: object) -> tuple[str, str]:
    """(route, what follows it)."""
    text = openai_route.split("?")[0].rstrip("/") if isinstance(openai_route, str) else ""
    for route in ROUTES:
        if text == route:
            return route, ""
        if text.startswith(f"{route}/") and route != SPEECH:
            return route, text.removeprefix(f"{route}/")
    raise RequestError(f"openai_route: this worker serves {', '.join(ROUTES)}")


def _speech(given: Object) -> Object:
    # OpenAI's stream_format "audio" means the whole file, which is what a result holds.
    fields = {name: value for name, value in given.items() if value not in ("", None) and (name, value) != ("stream_format", "audio")}
    refused = [f"{name}: {why}" for name, why in _UNSUPPORTED.items() if name in fields]
    if refused:
        raise RequestError("; ".join(refused))
    voice, model = fields.get("voice"), fields.get("model")
    if isinstance(voice, Mapping) and set(voice) == {"id"}:  # the newer clients' form
        fields["voice"] = voice["id"]
    if isinstance(model, str) and OPENAI_MODELS.fullmatch(model):
        del fields["model"]
    return {"response_format": "mp3", "delivery": "auto" if "s3Config" in fields else "inline"} | fields | {"action": "speech"}


def _voices(item: str, given: Object) -> Object:
    if item:
        return given | {"action": "voices.get", "id": item}
    return given | {"action": "voices.create"} if given else {"action": "voices.list"}


def _model(described: Object) -> Object:
    return {"id": described["id"], "object": "model", "created": 0, "owned_by": described.get("owned_by", "f5-tts")}


def _only(models: list[Object], name: str) -> Object:
    found = next((model for model in models if model["id"] == name), None)
    if found:
        return found
    has = " and ".join(model["id"] for model in models)
    wrong = error(f"{RequestError.code}: model: this worker has {has}", {"code": RequestError.code, "retryable": False})
    return wrong | {"code": _MODEL_NOT_FOUND}


def _callers_codes() -> set[str]:
    """The codes of errors that the caller can mend."""
    kinds = [RequestError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.code for kind in kinds}
