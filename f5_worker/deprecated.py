"""Fields of the previous worker's requests: accepted, done by what took their place, and named in the result's warnings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from f5_worker.errors import RequestError
from f5_worker.fields import Problem

CODE = "DEPRECATED_FIELD"
# name -> what it means now, for docs/job-api.md
FIELDS = {
    "endpoint": "`tts`: the action `speech`; `list_voices`: the action `voices.list`; `upload` and `download` are refused",
    "local_voice": "`voice`, without the file name's `.wav`",
    "return_word_timings": "`true`: `timestamps` `word`, and `subtitles` in `timing_format`",
    "timing_format": "`subtitles`, when `return_word_timings` is true: `srt` (the default), `vtt`, `ass` or `json`",
}
_ENDPOINTS = {"tts": "speech", "list_voices": "voices.list"}
_GONE = {"upload": "voices.create", "download": "outputs.get"}
_TIMINGS = ("srt", "vtt", "ass", "json")

Fields = dict[Any, Any]


def translate(job_input: Fields) -> tuple[Fields, list[tuple[str, str]], list[Problem]]:
    """The request without deprecated fields, warnings (code, message), and what is wrong with those fields."""
    fields = {name: value for name, value in job_input.items() if name not in FIELDS}
    old = {name: job_input[name] for name in FIELDS if job_input.get(name) is not None}
    steps: tuple[Callable[[Fields, Fields], str | None], ...] = (_endpoint, _local_voice, _timings)
    problems: list[Problem] = [(RequestError, problem) for step in steps if (problem := step(old, fields))]
    return fields, [(CODE, f"{name} is deprecated, now: {FIELDS[name]}") for name in old], problems


def _endpoint(old: Fields, fields: Fields) -> str | None:
    if "endpoint" not in old:
        return None
    value = old["endpoint"] if isinstance(old["endpoint"], str) else ""
    if value in _GONE:
        return f"endpoint: '{value}' is now the action '{_GONE[value]}'"
    if value not in _ENDPOINTS:
        return "endpoint: must be 'tts' or 'list_voices'; it is deprecated, use 'action'"
    return _set(fields, "action", _ENDPOINTS[value], "endpoint")


def _local_voice(old: Fields, fields: Fields) -> str | None:
    if "local_voice" not in old:
        return None
    value = old["local_voice"]
    return _set(fields, "voice", value.removesuffix(".wav") if isinstance(value, str) else value, "local_voice")


def _timings(old: Fields, fields: Fields) -> str | None:
    name = next((name for name in ("return_word_timings", "timing_format") if name in old), None)
    if name and (fields.get("action") or "speech") != "speech":
        return f"{name}: is for the action 'speech'; leave it out"
    wanted, fmt = old.get("return_word_timings", False), old.get("timing_format", "srt")
    if not isinstance(wanted, bool):
        return "return_word_timings: must be true or false"
    if fmt not in _TIMINGS:
        return f"timing_format: must be one of {', '.join(_TIMINGS)}"
    if not wanted:
        return None
    return _set(fields, "timestamps", "word", "return_word_timings") or _set(fields, "subtitles", [fmt], "timing_format")


def _set(fields: Fields, name: str, value: object, instead_of: str) -> str | None:
    if fields.get(name) is not None:
        return f"{instead_of}: the same as '{name}'; give '{name}' alone"
    fields[name] = value
    return None
