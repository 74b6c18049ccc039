"""From passages to passes of the model: who says what, in how many frames, with which seed, and which run together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from f5_worker import script
from f5_worker import text as texts
from f5_worker.errors import RequestError, VoiceNotFound
from f5_worker.reference import Voice
from f5_worker.script import Chunk, Script
from f5_worker.speech import Options, Passage, Warnings

PASS_SECONDS = 22.0  # reference and output of one pass; the model was trained on up to 30 s, upstream leaves this margin
MODEL_SPEEDS = (0.7, 1.3)  # what the model does well; the rest is time-stretched
SPEEDS = (0.25, 4.0)
MAX_PAUSES_S = 3_600.0  # of a job
MAX_SPEECH_S = 6 * 3_600.0  # of a job: the longest text takes less at speed 1, by the slowest reference too
_SHORT_SPEED = 0.3  # upstream's speed for a chunk of fewer than texts.SHORT_BYTES
_MOST_IN_BATCH = 8  # with guidance 16 sequences, 33,000 frames of 22 s: a larger batch fills no device better
_NEAR_EQUAL = 0.8  # shortest to longest pass of a batch: at most a fifth of the work is padding

Voices = Mapping[str | None, Voice]


@dataclass(frozen=True)
class Pass:
    """What the model says at once."""

    chunk: Chunk
    voice: Voice
    seed: int
    reference_frames: int
    frames: int  # of the output
    stretch: float = 1.0  # speed that is left to do afterwards
    pause_before_s: float = 0.0
    alias: str | None = None
    passage: int = 0


@dataclass(frozen=True)
class Plan:
    passes: list[Pass]
    pause_after_s: float
    warnings: Warnings


def plan(passages: Sequence[Passage], voices: Voices, options: Options, *, hop: int) -> Plan:
    """Cut every passage into what one pass can speak in its voice.

    When the first takes more than one pass, its first chunk is short, to be heard soon.

    Args:
        hop: Samples of a frame.
    Raises:
        TextEmpty, TextTooLong: a text cannot be spoken.
        VoiceNotFound: a passage names a voice that is not there.
        RequestError: a tag is wrong; the duration cannot be met; pauses or speech are longer than a job may be.
    """
    if options.duration_s is None:
        return _plan(passages, voices, options, hop)
    if len(passages) != 1:
        raise RequestError("duration: works with one text; give each segment a speed instead")
    passages = [replace(passages[0], speed=None)]
    speed = _speed_for(options.duration_s, _plan(passages, voices, replace(options, speed=1.0), hop), options)
    return _fitted(_plan(passages, voices, replace(options, speed=speed), hop), options.duration_s, options, hop)


def max_chunk_bytes(voice: Voice, speed: float) -> int:
    """How much text one pass can speak after this reference, by the reference's own rate of speech."""
    return int(len(voice.text.encode()) / voice.seconds * (PASS_SECONDS - voice.seconds) * _model_speed(speed))


def chunk_seed(seed: int, index: int) -> int:
    """The passage's seed for its first chunk, for the others a hash of both."""
    return seed if index == 0 else _hashed(f"{seed}:{index}")


def passage_seed(seed: int, index: int) -> int:
    """The request's seed for its first passage, for the others a hash of both, whatever is said before them."""
    return seed if index == 0 else _hashed(f"{seed}/{index}")


def reference_text(voice: Voice) -> str:
    """The reference's words as upstream puts them before the text."""
    return voice.text + " " if len(voice.text[-1].encode()) == 1 else voice.text


def batches(passes: Sequence[Pass], *, together: bool) -> list[list[Pass]]:
    """Passes that run at once: neighbours of near-equal length in one voice where the backend gains by it, else one by one.

    No batch is larger than all that was said before it, because somebody may be listening.

    Args:
        together: The backend computes several sequences faster than one after the other.
    """
    groups: list[list[Pass]] = []
    for said, one in enumerate(passes):
        if together and groups and len(groups[-1]) < min(_MOST_IN_BATCH, said - len(groups[-1])) and _fits(groups[-1], one):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def halves(one: Pass, fade_frames: int) -> list[Pass]:
    """The same said in two passes or three; the pass alone when its text cannot be cut.

    Args:
        fade_frames: Of the cross-fade that joins them; the whole is as long as the pass.
    """
    spoken = one.chunk.spoken
    pieces = texts.chunk(spoken, len(spoken.encode()) * 3 // 5)
    ends = list(accumulate((len(piece.encode()) for piece in pieces), initial=0))
    frames = one.frames + (len(pieces) - 1) * (fade_frames + 1)  # n frames are n - 1 hops of samples
    bounds = [frames * end // ends[-1] for end in ends]
    return [
        replace(one, chunk=replace(one.chunk, spoken=piece, spans=()), seed=_half_seed(one.seed, index), frames=end - start)
        for index, (piece, (start, end)) in enumerate(zip(pieces, pairwise(bounds), strict=True))
    ]


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def _half_seed(seed: int, index: int) -> int:
    return seed if index == 0 else _hashed(f"{seed}+{index}")


def _model_speed(speed: float) -> float:
    return min(max(speed, MODEL_SPEEDS[0]), MODEL_SPEEDS[1])


def _fits(group: list[Pass], one: Pass) -> bool:
    lengths = [each.reference_frames + each.frames for each in (*group, one)]
    return one.voice is group[0].voice and min(lengths) >= _NEAR_EQUAL * max(lengths)


def _plan(passages: Sequence[Passage], voices: Voices, options: Options, hop: int) -> Plan:
    passes: list[Pass] = []
    warnings: Warnings = []
    pause_s = 0.0
    for number, passage in enumerate(passages):
        speed = options.speed if passage.speed is None else passage.speed
        seed = passage_seed(options.seed, number) if passage.seed is None else passage.seed
        where = f"segments.{number}: " if len(passages) > 1 else ""
        said = _script(passage, voices, options, speed, short_start=number == 0, where=where)
        for index, chunk in enumerate(said.chunks):
            alias = passage.voice if chunk.voice is None else chunk.voice
            one = _pass(chunk, voices[alias], chunk_seed(seed, index), speed, hop)
            passes.append(replace(one, pause_before_s=pause_s + chunk.pause_before_s, alias=alias, passage=number))
            pause_s = 0.0
        pause_s += said.pause_after_s + passage.pause_after_s
        warnings += said.warnings
    found = Plan(passes, pause_s, warnings)
    _check_length(found, hop)
    return found


def _check_length(planned: Plan, hop: int) -> None:
    pauses_s = _pauses_s(planned)
    if pauses_s > MAX_PAUSES_S:
        raise RequestError(f"{pauses_s:.0f} s of pauses, at most {MAX_PAUSES_S:.0f} s fit in one job: ask for less silence")
    speech_s = sum(one.frames * hop / one.voice.sample_rate_hz / one.stretch for one in planned.passes)
    if speech_s > MAX_SPEECH_S:
        raise RequestError(
            f"{speech_s / 3_600:.1f} hours of speech, at most {MAX_SPEECH_S / 3_600:g} fit in one job: send several jobs, or speak faster"
        )


def _pauses_s(planned: Plan) -> float:
    return planned.pause_after_s + sum(one.pause_before_s for one in planned.passes)


def _script(passage: Passage, voices: Voices, options: Options, speed: float, *, short_start: bool, where: str) -> Script:
    """The passage's chunks. Errors and warnings begin with where."""
    if passage.voice not in voices:
        raise VoiceNotFound(f"{where}there is no voice '{passage.voice}'; known are {', '.join(filter(None, voices))}")
    try:
        said = script.plan(
            passage.text,
            lambda alias: max_chunk_bytes(voices[passage.voice if alias is None else alias], speed),
            normalize=options.normalize,
            language=options.language,
            tags=options.tags,
            voices=[alias for alias in voices if alias is not None],
            short_start=short_start,
        )
    except RequestError as exc:
        if not where:
            raise
        raise type(exc)(where + exc.message) from exc
    return replace(said, warnings=[(code, where + message) for code, message in said.warnings])


def _pass(chunk: Chunk, voice: Voice, seed: int, speed: float, hop: int) -> Pass:
    """As long as upstream makes it: per byte what the reference takes."""
    reference_frames = len(voice.samples) // hop
    length = len(chunk.spoken.encode())
    frames = int(reference_frames / len(reference_text(voice).encode()) * length / (_own_speed(chunk) * _model_speed(speed)))
    return Pass(chunk, voice, seed, reference_frames, frames, speed / _model_speed(speed))


def _own_speed(chunk: Chunk) -> float:
    """How fast the chunk is said at speed 1, to the reference."""
    return _SHORT_SPEED if len(chunk.spoken.encode()) < texts.SHORT_BYTES else 1.0


def _natural_s(one: Pass) -> float:
    return one.voice.seconds * len(one.chunk.spoken.encode()) / len(reference_text(one.voice).encode()) / _own_speed(one.chunk)


def _speed_for(duration_s: float, planned: Plan, options: Options) -> float:
    """The speed at which the plan's speech, pauses and cross-fades together take that long."""
    pauses_s = _pauses_s(planned)
    fades_s = options.cross_fade_s * sum(one.pause_before_s == 0 for one in planned.passes[1:])
    natural_s = sum(map(_natural_s, planned.passes))
    speech_s = duration_s - pauses_s + fades_s
    if not natural_s / SPEEDS[1] <= speech_s <= natural_s / SPEEDS[0]:
        around_s = pauses_s - fades_s
        shortest_s, longest_s = natural_s / SPEEDS[1] + around_s, natural_s / SPEEDS[0] + around_s
        raise RequestError(f"duration: {duration_s:g} s; this text can be spoken in {shortest_s:.1f} to {longest_s:.1f} s")
    return natural_s / speech_s


def _fitted(planned: Plan, duration_s: float, options: Options, hop: int) -> Plan:
    """The plan with the frames that make the whole that long, spread over its passes as they would be without."""
    speed = _speed_for(duration_s, planned, options)
    stretch = speed / _model_speed(speed)
    hop_s = hop / planned.passes[0].voice.sample_rate_hz
    ends = [round(end_s / _model_speed(speed) / hop_s) for end_s in accumulate(map(_natural_s, planned.passes), initial=0.0)]
    frames = [max(2, end - start + 1) for start, end in pairwise(ends)]  # n frames are n - 1 hops of samples
    return replace(planned, passes=[replace(one, frames=n, stretch=stretch) for one, n in zip(planned.passes, frames, strict=True)])
