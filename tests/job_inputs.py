"""Job inputs of every shape, for property tests and for `python -m tests.fuzz_request`. Every text that is a value holds MARK."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from f5_worker import deprecated, request
from f5_worker.errors import RequestError
from f5_worker.fields import Model, ReferenceAudio, S3Config, VoiceSource

MARK = "m4rk3d"
MAX_REFUSAL_CHARS = 10_000
_MODELS: tuple[type[Model], ...] = (*request.ACTIONS.values(), request.Segment, ReferenceAudio, VoiceSource, S3Config)
NAMES = sorted({*deprecated.FIELDS, *(name for model in _MODELS for name in (*model.names(), *model.other_names))})
_WORDS = [
    "wav",
    "mp3",
    "opus",
    "aac",
    "flac",
    "pcm",
    "none",
    "segment",
    "word",
    "srt",
    "vtt",
    "ass",
    "json",
    "url",
    "inline",
    "auto",
    "audio",
]
_WORDS += ["events", "fast", "high", "default", "en", "tts", "list_voices", "upload", "anna", *request.ACTIONS]
_AUDIO = base64.b64encode(b"RIFF....WAVE").decode()
_TEXTS = [
    f"{MARK} text",
    "",
    " ",
    f"https://{MARK}.example/a.wav",
    f"voices/{MARK}.wav",
    f"voices/../{MARK}",
    _AUDIO,
    f"data:audio/wav;base64,{_AUDIO}",
]
_TEXTS += [f"\ud800{MARK}", f"{MARK}\x00\n\x1b[31m", f"[pause:{MARK}]", MARK * 700, f"../../{MARK}"]
_NUMBERS = [0, 1, -1, 7, 32, 0.5, 1.0, 2**31, 2**53, -(2**63), 10**40, 1e308, -0.0, float("nan"), float("inf"), 24_000, 44_100, 64]

_leaf = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters()).map(lambda text: text + MARK)
    | st.sampled_from(_WORDS + _TEXTS)
)
_name = st.sampled_from(NAMES) | st.text(st.characters(), max_size=60)
_json = st.recursive(_leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_name, inner, max_size=5), max_leaves=12)


def refusal_of(job_input: Any, worker: request.Worker) -> str:
    """What the parser refuses the input with, "" when it takes it; any other exception is a defect and passes through."""
    try:
        request.parse(job_input, worker)
    except RequestError as error:
        return str(error)
    return ""


def job_inputs() -> st.SearchStrategy[Any]:
    """Objects of known and unknown fields, half of them with something to speak, and any JSON at all."""
    fields = st.dictionaries(_name, _json, max_size=8)
    return fields | fields.map(lambda given: {"input": "a"} | given) | _json


def marked_inputs() -> Iterator[Any]:
    """Every field of every action and of every part of a request, with every text of the list as its value."""
    for text in (text for text in _TEXTS if MARK in text):
        for action, model in request.ACTIONS.items():
            base = {"action": action} | ({"input": "a"} if action == "speech" else {})
            yield from (base | {name: text} for name in (*model.names(), *model.other_names, *deprecated.FIELDS))
        for name in NAMES:
            yield {"input": "a", "ref_audio": {name: text}}
            yield {"segments": [{"text": "a", name: text}]}
            yield {"input": "a", "allow_tags": True, "voices": {"anna": {name: text}}}
            yield {"input": "a", "allow_tags": True, "voices": {"anna": {"ref_audio": {name: text}}}}
            yield {"input": "a", "s3Config": {name: text}}


class Drawing:
    """The same kind of inputs a hundred times as fast, for a million of them: by a seeded generator, without shrinking."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def job_input(self) -> Any:
        draw = self._random
        if draw.random() < 0.02:
            return self._value(0)
        action = draw.choice(list(request.ACTIONS)) if draw.random() < 0.5 else "speech"
        model = request.ACTIONS[action]
        known = sorted({*model.names(), *model.other_names} - {"action"})
        names = [draw.choice(known) if known and draw.random() < 0.9 else self._name() for _ in range(draw.randrange(6))]
        given = {name: self._value(0) for name in names}
        if action == "speech" and draw.random() < 0.8:
            given.setdefault("input", "a")
        return given | ({"action": action} if action != "speech" or draw.random() < 0.5 else {})

    def _name(self) -> str:
        draw = self._random
        if draw.random() < 0.9:
            return draw.choice(NAMES)
        return "".join(chr(draw.choice((draw.randrange(128), draw.randrange(0x110000)))) for _ in range(draw.randrange(50)))

    def _value(self, depth: int) -> Any:
        draw = self._random
        kind = draw.randrange(8 if depth < 4 else 6)
        if kind < 2:
            return draw.choice(_WORDS)
        if kind < 6:
            return draw.choice((draw.choice(_NUMBERS), draw.choice(_TEXTS), True, False, None, draw.random() * 10, draw.randrange(100)))
        if kind == 6:
            return [self._value(depth + 1) for _ in range(draw.randrange(4))]
        return {self._name(): self._value(depth + 1) for _ in range(draw.randrange(5))}
