"""Writes docs/job-api.md, job-schema.json, errors.md and settings.md from the code that they are about: `python -m f5_worker.docs`.

Nothing of it is written by hand twice: descriptions stand at the fields, meanings at the errors; what no model can tell stands below.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from f5_worker import deprecated, endpoint_errors, errors, settings_docs
from f5_worker.fields import Model, ReferenceAudio, S3Config, VoiceSource
from f5_worker.request import ACTIONS, Segment

Schema = dict[str, Any]

_PARTS: dict[str, type[Model]] = {
    "`ref_audio`: a recording": ReferenceAudio,
    "an item of `segments`": Segment,
    "a value of `voices`": VoiceSource,
    "`s3Config`": S3Config,
}
_TOP = """# Job API

Written by `python -m f5_worker.docs` from f5_worker/request.py; [job-schema.json](job-schema.json) is the same as a JSON Schema.

A job is `{"input": {…}}`, sent to RunPod's `/run` or `/runsync`. `action` says what is done; without it a text is spoken. Unknown fields
are refused by name, all problems of a request are reported in one message, and no value is guessed: `"1.0"` is no number and `true` is
no integer. `null` counts as not given.

    {"input": {"input": "Hello. This is my voice.", "seed": 42}}
    {"input": {"input": "Hello.", "ref_audio": "https://example.com/me.wav", "response_format": "mp3"}}
    {"input": {"segments": [{"text": "Who is it?", "pause_after": 0.5}, {"text": "Me.", "voice": "anna"}], "voices": {"anna": "my-voice"}}}
    {"input": {"action": "voices.create", "voice": "my-voice", "ref_audio": {"base64": "…"}, "consent": "my own, 2026-01-02"}}
"""
_BELOW_PARTS = """
Instead of the object a string may stand for a recording (a URL or base64) and for a value of `voices` (an id of the library). A reference
has 3 to 12 s of clear speech; of a longer one the first 12 s are used, cut at a pause and transcribed.

`s3Config` may also stand beside the job's `input`, where RunPod's clients put it, when the job is a `speech`. In a `batch` it belongs into
each of the `requests`; the other actions refuse it.
"""
_RESULT = """
## The result of `speech`

    {"id": "…", "model": "F5TTS_v1_Base", "voice": "default", "seed": 42, "format": "wav", "sample_rate": 24000, "duration_s": 4.213,
     "size_bytes": 202268, "sha256": "…", "audio": {"url": "https://…", "expires_at": "2026-01-02T03:04:05Z"},
     "segments": [{"text": "…", "start_s": 0.0, "end_s": 4.213}], "subtitles": {"srt": {"url": "…"}}, "rtf": 0.19, "cold_start": true,
     "timings_ms": {"reference": 9, "gpu_wait": 0, "synthesis": 812, "encode": 2, "delivery": 95, "total": 921},
     "warnings": [{"code": "…", "message": "…"}]}

With `timestamps` `word` there are also `"words": [{"text": "$3.50", "start_s": 0.41, "end_s": 1.32}]`, in the words as they were sent.
`audio` is `{"base64": "…"}` when it travels inline: without a bucket, with `delivery` `inline`, or with a warning when the upload failed.
Audio over `MAX_INLINE_BYTES` never travels inline; with `inline` and a bucket it comes by URL, with a warning.

A job that is repeated with its `idempotency_key` gets the stored result with `"repeated": true`: everything in it, `id` included, is the
first job's, and only the URLs are new. Of such jobs at once a worker computes one; on two workers each may compute its own. `action`,
`model`, `url_expires_in`, `s3Config` and defaults that are written out make no other request of it.
A job without a `seed` gets one made of its id: when the platform starts a job again, it makes the same audio.

`stream_format` `audio` sends `{"index": 0, "audio": "<base64>"}` over `/stream`, `events` the same with `"type": "speech.audio.delta"` and
at the end `{"type": "speech.audio.done", "index": …, "parts": …, "size_bytes": …, "sha256": "…"}`. The result comes as without a stream,
with `stream`: `parts`, `size_bytes` and `sha256` of the whole stream.
A part comes with each chunk of the text. A text that takes more than one pass of the model, some 15 s of speech, begins with a short chunk,
with and without a stream: with a `seed` the same job has the same pcm both ways. What the device's memory does not hold is computed in
parts, with the warning `MEMORY_HALVED`: it sounds different from the same job where it fits.

## The results of the other actions

| action | result |
|---|---|
| `batch` | `{"id", "results": [{"index": 0, "output": {…}}, {"index": 1, "error": "CODE: …", "details": {…}}], "failed": 1}` |
| `transcribe` | `{"id", "text", "language", "duration_s", "timings_ms"}` |
| `voices.create`, `voices.update` | the voice: `{"id", "text", "seconds", "sample_rate", "transcribed", "quality", "warnings", …}` |
| `voices.get` | the same, with `url` and `expires_at` of the prepared recording |
| `voices.list` | `{"voices": […]}`; with `next` when there are more: the `after` of the next job |
| `voices.delete` | `{"id", "deleted": true}` |
| `outputs.get` | `{"id", "files": {"wav": {"url", "expires_at"}, …}}` |
| `outputs.delete` | `{"id", "deleted": ["wav", …]}` |
| `models.list` | `{"models": [{"id", "device", …}]}` |
| `health` | `{"status", "versions", "engine", "boot", "jobs_served"}` |

## Failed jobs

A job that fails is FAILED for RunPod, with `error` = `"CODE: what is wrong and what to do"` and
`output` = `{"details": {"code": "CODE", "retryable": false}}`; the codes are in [errors.md](errors.md).
"""
_OPENAI = """
## OpenAI-shaped calls

RunPod hands a call of `https://api.runpod.ai/v2/<endpoint id>/openai/v1/…` to the worker as
`{"input": {"openai_route": "/v1/…", "openai_input": {…}}}`.

| route | what is done |
|---|---|
| `/v1/audio/speech` | `speech`; defaults: `mp3`, `inline` (`auto` with `s3Config`); other fields of the job API may stand beside OpenAI's |
| `/v1/models`, `/v1/models/<id>` | `models.list` |
| `/v1/audio/voices` | `voices.list`; with a body `voices.create`, whose fields are those above |
| `/v1/audio/voices/<id>` | `voices.get` |

The result of a queue worker is JSON: `/v1/audio/speech` answers the result above with `"object": "audio.speech"` and the audio in
`audio.base64`, not bare bytes. With the official client:

    answer = client.audio.speech.create(model="tts-1", voice="default", input="Hello.").json()
    audio = base64.b64decode(answer["audio"]["base64"])

OpenAI's names of models (`tts-1`, `gpt-4o-mini-tts` and so on) stand for the worker's own; a voice must be one that the worker has.
`instructions` and `stream_format` `sse` are refused, multipart uploads do not pass the route, and the HTTP method is not passed on, so
voices are deleted by RunPod's own API. A call that fails is a failed job whose output is OpenAI's error object
(`message`, `type`, `param`, `code`); which HTTP status the platform makes of it has not been seen.
"""


def render() -> dict[str, str]:
    """The content of every generated file by its name in docs/."""
    return {
        "job-api.md": "".join(_job_api()),
        "job-schema.json": json.dumps(schema(), indent=1, ensure_ascii=False) + "\n",
        "errors.md": _errors(),
        "settings.md": settings_docs.render(),
    }


def schema() -> Schema:
    """The JSON Schema of a job's input. It does not say which fields exclude each other."""
    definitions: Schema = {}
    for action, model in ACTIONS.items():
        described = _untitled(model.model_json_schema())
        definitions |= described.pop("$defs", {})
        definitions[action] = _with_other_names(described, model)
    speech = definitions["speech"]
    speech["properties"] |= {name: {"description": f"now: {meaning}", "deprecated": True} for name, meaning in deprecated.FIELDS.items()}
    speech["anyOf"] = [{"required": [name]} for name in ("input", *ACTIONS["speech"].other_names, "segments")]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Input of a job",
        "anyOf": [{"$ref": f"#/$defs/{action}"} for action in ACTIONS],
        "$defs": definitions,
    }


def _with_other_names(described: Schema, model: type[Model]) -> Schema:
    properties, required = described["properties"], described.get("required", [])
    for other, name in model.other_names.items():
        properties[other] = {**properties[name], "description": f"the same as `{name}`"}
        if name in required:
            required.remove(name)
            described.setdefault("allOf", []).append({"anyOf": [{"required": [name]}, {"required": [other]}]})
    return described


def _untitled(value: Any) -> Any:
    """Without the titles that pydantic makes of names."""
    if isinstance(value, dict):
        return {name: _untitled(inner) for name, inner in value.items() if not (name == "title" and isinstance(inner, str))}
    return [_untitled(inner) for inner in value] if isinstance(value, list) else value


def _job_api() -> Iterator[str]:
    yield _TOP
    for action, model in ACTIONS.items():
        yield f"\n## action `{action}`\n\n{model.__doc__}\n"
        yield from _table(model)
    yield "\n## Parts\n"
    for title, part in _PARTS.items():
        yield f"\n### {title}\n\n{part.__doc__}\n"
        yield from _table(part)
    yield _BELOW_PARTS
    yield "\n## Fields of the previous worker\n\nAccepted, with a warning `DEPRECATED_FIELD` in the result.\n\n| field | now |\n|---|---|\n"
    yield from (f"| `{name}` | {meaning} |\n" for name, meaning in deprecated.FIELDS.items())
    yield _RESULT
    yield _OPENAI


def _table(model: type[Model]) -> Iterator[str]:
    described = model.model_json_schema()
    rows = {name: field for name, field in described["properties"].items() if name != "action"}
    if not rows:
        return
    yield "\n| field | type | default | meaning |\n|---|---|---|---|\n"
    for name, field in rows.items():
        others = ", ".join(f"`{other}`" for other, first in model.other_names.items() if first == name)
        default = "required" if name in described.get("required", []) else _default(field.get("default"))
        yield f"| `{name}`{f' ({others})' if others else ''} | {_type(field)} | {default} | {field.get('description', '')} |\n"


def _default(value: object) -> str:
    return "" if value is None else f"`{value}`" if isinstance(value, str) else json.dumps(value)


def _type(field: Schema) -> str:
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    return " or ".join(dict.fromkeys(_one_type(kind) for kind in kinds))


def _one_type(kind: Schema) -> str:
    if "anyOf" in kind:
        return _type(kind)
    if "enum" in kind:
        return " ".join(f"`{value}`" for value in kind["enum"])
    if "$ref" in kind or kind["type"] == "object":
        return "object"
    if kind["type"] == "array":
        items = f": {_type(kind['items'])}" if kind["items"] else ""
        return f"list of up to {kind['maxItems']}{items}"
    if kind["type"] == "boolean":
        return "boolean"
    return _string(kind) if kind["type"] == "string" else _number(kind)


def _string(kind: Schema) -> str:
    return f"string, up to {kind['maxLength']:,} characters" if "maxLength" in kind else "string"


def _number(kind: Schema) -> str:
    name = "integer" if kind["type"] == "integer" else "number"
    low, high = (int(bound) if bound == int(bound) else bound for bound in (kind["minimum"], kind["maximum"]))
    return f"{name}, {low:,} to {high:,}"


def _errors() -> str:
    lines = [
        "# Errors\n",
        "Written by `python -m f5_worker.docs` from f5_worker/errors.py. A failed job's `error` is `CODE: message`; its `output` is",
        '`{"details": {"code": "CODE", "retryable": true}}`. Retryable: the same job can succeed later without a change.\n',
        "| code | meaning | retryable | what to do |",
        "|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_error_row(kind) for kind in _kinds(errors.WorkerError) if kind is not errors.StoreError)]) + "\n"


def _kinds(base: type[errors.WorkerError]) -> Iterator[type[errors.WorkerError]]:
    for kind in base.__subclasses__():
        if kind.__module__ in {errors.__name__, endpoint_errors.__name__}:
            yield kind
            yield from _kinds(kind)


def _error_row(kind: type[errors.WorkerError]) -> str:
    meaning, _, remedy = (kind.__doc__ or "").partition("\n\n")
    return f"| `{kind.code}` | {' '.join(meaning.split())} | {'yes' if kind.retryable else 'no'} | {' '.join(remedy.split())} |"


def main(folder: Path) -> None:
    for name, content in render().items():
        (folder / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
