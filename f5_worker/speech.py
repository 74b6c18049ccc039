"""What the engine is asked for and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field

from f5_worker.audio import Samples
from f5_worker.script import Chunk

Warnings = list[tuple[str, str]]  # (code, message)


@dataclass(frozen=True)
class Passage:
    """A text by one speaker. What is None is the request's."""

    text: str = field(repr=False)
    voice: str | None = None  # alias
    speed: float | None = None
    seed: int | None = None
    pause_after_s: float = 0.0


@dataclass(frozen=True)
class Options:
    """How to speak. Defaults are upstream's."""

    seed: int
    nfe_step: int = 32
    cfg_strength: float = 2.0
    sway_sampling_coef: float = -1.0
    speed: float = 1.0
    duration_s: float | None = None  # of the whole output, instead of a speed
    target_rms: float = 0.1
    cross_fade_s: float = 0.15
    normalize: bool = True  # numbers, dates, amounts as words
    language: str | None = None  # of the text; None: told by the text
    tags: bool = False  # [pause:1.5s] is a silence, [voice:alias] another speaker
    longest_silence_s: float | None = None  # of the speech; pauses that were asked for stay
    loudness_lufs: float | None = None
    fade_s: float = 0.0  # at both ends of the speech


@dataclass(frozen=True)
class Segment:
    """One chunk in the output; neighbours touch in the middle of their cross-fade."""

    text: str = field(repr=False)  # as written
    voice: str | None
    start: int  # samples of the whole
    end: int
    chunk: Chunk = field(repr=False)
    passage: int


@dataclass(frozen=True)
class Part:
    """Audio that does not change any more. All parts one after the other are the whole."""

    samples: Samples  # mono; may be empty
    segments: list[Segment]  # whose audio is complete with this part
    warnings: Warnings  # what is known before the first sample in the first part, the rest when it is known


@dataclass(frozen=True)
class Speech:
    """The whole."""

    samples: Samples
    sample_rate_hz: int
    segments: list[Segment]
    warnings: Warnings
