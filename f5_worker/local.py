"""A run on a terminal: one job, whose result is read by a person."""

from __future__ import annotations

import base64
import functools
import json
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from f5_worker.errors import RequestError
from f5_worker.jobs import Result
from f5_worker.subtitles import CONTENT_TYPES

_SHOWN_CHARS = 40


def check_arguments(argv: Sequence[str]) -> None:
    """Refuse a --test_input that is no JSON object, before anything is loaded. Raises RequestError."""
    for flag, text in zip(argv, [*argv[1:], ""], strict=True):
        given = flag.partition("=")[2] if flag.startswith("--test_input=") else text
        if flag == "--test_input" or flag.startswith("--test_input="):
            _check(given)


def _check(text: str) -> None:
    try:
        job = json.loads(text)
    except ValueError as exc:
        raise RequestError(f'--test_input is not JSON ({exc}): pass \'{{"input": {{"input": "Hello."}}}}\'') from exc
    if not isinstance(job, dict):
        raise RequestError('--test_input must be an object: pass \'{"input": {"input": "Hello."}}\'')


def readable(handle: Callable[[Result], Awaitable[Result]]) -> Callable[[Result], Awaitable[Result]]:
    """The same handler, with inline audio written to files: a terminal is no place for base64."""

    async def handle_locally(job: Result) -> Result:
        result = await handle(job)
        folder = functools.cache(lambda: Path(tempfile.mkdtemp(prefix="f5-result-")))
        shown: Result = _shown(result, folder, "bin")
        return shown

    return handle_locally


def _shown(value: Any, folder: Callable[[], Path], extension: str) -> Any:
    if isinstance(value, list):
        return [_shown(part, folder, extension) for part in value]
    if not isinstance(value, dict):
        return value
    if isinstance(data := value.get("base64"), str):
        file = folder() / f"{len(list(folder().iterdir()))}.{extension}"
        file.write_bytes(base64.b64decode(data))
        return {"base64": _cut(data), "file": str(file)}
    if isinstance(value.get("audio"), str):  # a part of a stream
        return value | {"audio": _cut(value["audio"])}
    extension = value.get("format", extension)  # in the result of a speech
    return {name: _shown(part, folder, name if name in CONTENT_TYPES else extension) for name, part in value.items()}


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}… ({len(text)} characters)"
