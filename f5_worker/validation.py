"""The requests that an endpoint is validated with, and what must be true of their results."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from f5_worker import results
from f5_worker.endpoint import RunpodEndpoint, Status, run
from f5_worker.endpoint_errors import EndpointUnreachable, JobFailed
from f5_worker.results import Result

TEXT = "This recording shows that the endpoint speaks, and says the same twice."  # some 5 s: enough to be cloned
PLAIN: dict[str, Any] = {"input": TEXT, "seed": 7, "quality": "fast"}
LAST_READS = 100  # of a stream whose job has ended: the platform hands the parts out piece by piece
FORMATS = ("mp3", "opus", "aac", "flac", "pcm")
SUBTITLES = {"srt": "1", "vtt": "WEBVTT", "ass": "[Script Info]", "json": ""}  # what each begins with
_OTHER_WORKER = "not comparable: another worker answered, and bytes are promised equal on one machine only"


@dataclass(frozen=True)
class Check:
    """What was looked at, `ok`, `failed` or `not seen`, and what was seen."""

    name: str
    state: str
    seen: str


@dataclass(frozen=True)
class Answer:
    """A finished job: its result, its audio, who answered, and seconds in the queue and at work."""

    result: Result
    audio: bytes
    worker: str
    waited_s: float
    took_s: float


def examine(endpoint: RunpodEndpoint, on_check: Callable[[Check], object]) -> set[str]:
    """Send one request of each kind and check the results; the ids of the workers that answered.

    Left out are those that need speech recognition's weights (words, `transcribe`) and those that write voices into the bucket.

    Raises:
        EndpointError: the endpoint failed; what a job fails of is a failed check.
    """
    statuses = dict(run(endpoint, {"plain": PLAIN}))
    plain = _answer(statuses["plain"], "a plain request", on_check)
    if plain is not None:
        on_check(Check("a plain request", "ok", f"{plain.result['duration_s']:.2f} s of audio, {_times(plain)}, {_sound(plain.audio)}"))
        statuses |= run(endpoint, _requests(plain))
        statuses["stream"], parts = _streamed(endpoint)
        for name, (title, told) in _TOLD.items():
            on_check(_listed(statuses[name], title, told))
        for name, (title, check) in _CHECKS.items():
            answer = _answer(statuses[name], title, on_check)
            if answer is not None:
                on_check(_checked(title, answer, lambda a, check=check: check(plain, a)))  # type: ignore[misc]
        if (stream := _answer(statuses["stream"], "a stream", on_check)) is not None:
            on_check(_checked("a stream", stream, lambda a: _stream(a, parts)))
        on_check(_refusal(statuses["wrong"]))
    return {str(status["workerId"]) for status in statuses.values() if status.get("workerId")}


def _requests(plain: Answer) -> dict[str, dict[str, Any]]:
    own_voice = {"ref_audio": {"base64": base64.b64encode(plain.audio).decode()}, "ref_text": TEXT}
    lines = [{"text": "Who is there?", "pause_after": 0.3}, {"text": "It is me.", "voice": "second"}]
    return {
        "again": PLAIN,
        "cloned": PLAIN | own_voice,
        "dialogue": {"segments": lines, "voices": {"second": own_voice}, "seed": 7, "quality": "fast"},
        "subtitles": PLAIN | {"subtitles": list(SUBTITLES)},
        **{fmt: PLAIN | {"response_format": fmt} for fmt in FORMATS},
        "wrong": {"inptu": "a misspelt field"},
        "batch": {"action": "batch", "requests": [PLAIN, {"inptu": "a misspelt field"}]},
        "voices": {"action": "voices.list"},
        "openai": {"openai_route": "/v1/models", "openai_input": {}},
    }


def _answer(status: Status, title: str, on_check: Callable[[Check], object]) -> Answer | None:
    """The answer, or None and a failed check."""
    try:
        result = results.result_of(status)
        audio = results.file_of(result.get("audio", {}), sha256=result.get("sha256"))
    except (JobFailed, EndpointUnreachable) as exc:
        on_check(Check(title, "failed", str(exc)))
        return None
    return Answer(result, audio, str(status.get("workerId", "")), status.get("delayTime", 0) / 1000, status.get("executionTime", 0) / 1000)


def _checked(title: str, answer: Answer, check: Callable[[Answer], tuple[str, str]]) -> Check:
    try:
        state, seen = check(answer)
    except (KeyError, TypeError, ValueError, RuntimeError) as exc:  # soundfile's errors are RuntimeErrors
        state, seen = "failed", f"the result cannot be read: {type(exc).__name__} {exc}"
    return Check(title, state, f"{seen} ({_times(answer)})")


def _listed(status: Status, title: str, told: Callable[[Result], list[str]]) -> Check:
    """The check of a result without audio: what it lists."""
    try:
        names = told(results.result_of(status))
    except JobFailed as exc:
        return Check(title, "failed", str(exc))
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        return Check(title, "failed", f"the result cannot be read: {type(exc).__name__} {exc}")
    return Check(title, "ok" if names else "failed", ", ".join(names) or "nothing")


def _times(answer: Answer) -> str:
    return f"{answer.waited_s:.2f} s in the queue, {answer.took_s:.2f} s at work"


# --- what must be true ---


def _again(plain: Answer, answer: Answer) -> tuple[str, str]:
    if answer.result["sha256"] == plain.result["sha256"]:
        return "ok", f"the same {len(answer.audio)} bytes, sha256 {answer.result['sha256'][:12]}…"
    if answer.worker != plain.worker:
        return "not seen", _OTHER_WORKER
    return "failed", "the same request and seed gave other bytes on the same worker"


def _same_length(plain: Answer, answer: Answer) -> tuple[str, str]:
    same = answer.result["duration_s"] == plain.result["duration_s"]
    return "ok" if same else "failed", f"{len(answer.audio)} bytes, {answer.result['duration_s']} s, plain {plain.result['duration_s']} s"


def _lossless(plain: Answer, answer: Answer) -> tuple[str, str]:
    state, seen = _same_length(plain, answer)
    if state != "ok" or _samples(plain.audio) == _samples(answer.audio):
        return state, f"{seen}, sample for sample as plain" if state == "ok" else seen
    return ("not seen", _OTHER_WORKER) if answer.worker != plain.worker else ("failed", f"{seen}, other samples than plain")


def _dialogue(_plain: Answer, answer: Answer) -> tuple[str, str]:
    ends = [segment["end_s"] for segment in answer.result["segments"]]
    in_order = len(ends) >= 2 and ends == sorted(ends)
    return "ok" if in_order else "failed", f"{len(ends)} segments, {answer.result['duration_s']} s"


def _spoken(_plain: Answer, answer: Answer) -> tuple[str, str]:
    return "ok" if answer.result["duration_s"] > 0 else "failed", f"{answer.result['duration_s']} s, {_sound(answer.audio)}"


def _subtitles(_plain: Answer, answer: Answer) -> tuple[str, str]:
    files = {fmt: results.file_of(delivered).decode() for fmt, delivered in answer.result["subtitles"].items()}
    json.loads(files["json"])
    wrong = [fmt for fmt, begins in SUBTITLES.items() if not files[fmt].removeprefix("\ufeff").startswith(begins)]
    return "failed" if wrong else "ok", ", ".join(f"{fmt} {len(text)} characters" for fmt, text in files.items())


def _stream(answer: Answer, parts: list[Mapping[str, Any]]) -> tuple[str, str]:
    heard = b"".join(base64.b64decode(part["audio"]) for part in parts)
    same = hashlib.sha256(heard).hexdigest() == answer.result["stream"]["sha256"] and heard == answer.audio
    first_ms = answer.result["timings_ms"].get("first_audio")
    return "ok" if same else "failed", f"{len(parts)} parts{'' if same else ' are not the audio'}, the first one after {first_ms} ms"


def _refusal(status: Status) -> Check:
    said = str(status.get("error", ""))
    state = "ok" if said.startswith("INVALID_REQUEST: ") and "inptu" in said else "failed"
    return Check("a wrong request is refused with its code", state, said or str(status.get("status")))


def _batched(result: Result) -> list[str]:
    """The outcomes of a batch whose second request is wrong."""
    spoken, refused = result["results"]
    return [f"{spoken['output']['duration_s']:.2f} s of audio", f"the other one {refused['error'].partition(':')[0]}"]


_TOLD: dict[str, tuple[str, Callable[[Result], list[str]]]] = {
    "batch": ("a batch, one of it wrong", _batched),
    "voices": ("the list of voices", lambda result: [voice["id"] for voice in result["voices"]]),
    "openai": ("an OpenAI-shaped call", lambda result: [model["id"] for model in result["data"]]),
}
_CHECKS: dict[str, tuple[str, Callable[[Answer, Answer], tuple[str, str]]]] = {
    "again": ("the same request again", _again),
    "cloned": ("a cloned voice", _spoken),
    "dialogue": ("a dialogue", _dialogue),
    "subtitles": ("subtitles", _subtitles),
    **{fmt: (f"format {fmt}", _lossless if fmt == "flac" else _same_length) for fmt in FORMATS},
}


def _streamed(endpoint: RunpodEndpoint) -> tuple[Status, list[Mapping[str, Any]]]:
    """The final status of a streamed job and its parts, which are taken while it runs."""
    parts: list[Mapping[str, Any]] = []

    def take(_name: str, status: Status) -> None:
        parts.extend(endpoint.parts(status["id"]))

    [(_, status)] = run(endpoint, {"stream": PLAIN | {"stream_format": "audio", "response_format": "pcm"}}, on_status=take)
    for _ in range(LAST_READS):
        before = len(parts)
        take("", status)
        if len(parts) == before:
            break
    return status, parts


def _sound(audio: bytes) -> str:
    import soundfile  # noqa: PLC0415

    found = soundfile.info(io.BytesIO(audio))
    return f"{found.format} {found.samplerate} Hz"


def _samples(audio: bytes) -> bytes:
    import soundfile  # noqa: PLC0415

    return bytes(soundfile.read(io.BytesIO(audio), dtype="int16")[0].tobytes())
