"""A run on a terminal: one job, whose result is read by a person."""

from __future__ import annotations

import base64
import functools
import json
import signal
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from f5_worker.errors import RequestError
from f5_worker.jobs import Result
from f5_worker.subtitles import CONTENT_TYPES

_SHOWN_CHARS = 40
# Of the SDK (serverless.start), which passes over what it does not know and would speak test_input.json instead.
_OPTIONS = ("--test_input", "--rp_serve_api", "--rp_api_host", "--rp_api_port", "--rp_api_concurrency", "--rp_log_level", "--rp_debugger")


def check_arguments(argv: Sequence[str]) -> None:
    """Refuse an option that the SDK does not know, and a --test_input that is no JSON object, before anything is loaded.

    Raises:
        RequestError
    """
    given_options = [arg.partition("=")[0] for arg in argv[1:] if arg.startswith("--")]
    if unknown := [option for option in given_options if option not in _OPTIONS]:
        raise RequestError(f"{unknown[0]}: unknown option; there are {', '.join(_OPTIONS)}")
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
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the SDK's own ends with 0, as if the job were done
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
