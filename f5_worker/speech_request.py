"""The action `speech`: what may be asked of a text that is spoken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import Field

from f5_worker.errors import RequestError, TextEmpty, TextTooLong
from f5_worker.fields import (
    BUILT_IN_VOICE,
    MAX_TEXT_CHARS,
    Audio,
    Language,
    Model,
    PlainId,
    Problem,
    RefText,
    S3Config,
    Source,
    Speakable,
    Text,
    VoiceId,
    VoiceSource,
    Worker,
    given,
    shown,
    voice_conflicts,
)

MAX_SEED = 2**53 - 1  # the largest integer that every JSON reader keeps exact
MAX_SEGMENTS = 500
MAX_VOICES = 20
RATES_HZ = (8_000, 48_000)
BITRATES_KBPS = (8, 512)
QUALITY_STEPS = {"fast": 7, "balanced": 16, "high": 32}  # the first two have pruned schedules in F5-TTS
LONGEST_SILENCE_S = 0.5  # what remove_silence leaves of a pause, as upstream does

Format = Literal["wav", "mp3", "opus", "aac", "flac", "pcm"]
Subtitles = Literal["srt", "vtt", "ass", "json"]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Speed = Annotated[float, Field(ge=0.25, le=4.0)]
SampleRate = Annotated[int, Field(ge=RATES_HZ[0], le=RATES_HZ[1])]
Bitrate = Annotated[int, Field(ge=BITRATES_KBPS[0], le=BITRATES_KBPS[1])]
Expiry = Annotated[int, Field(ge=60, le=604_800)]  # SigV4 allows at most 7 days


class Passage(NamedTuple):
    """One stretch of a speech: the whole `input`, or one of `segments`. None: as the request says for all."""

    text: str
    voice: str | None = None
    speed: float | None = None
    seed: int | None = None
    pause_after_s: float = 0.0


class Segment(Model):
    """One stretch of a speech that is put together from several."""

    text: Speakable = Field(repr=False, description="what is spoken")
    voice: VoiceId | None = Field(default=None, description="a name out of `voices` or an id of the library; default: the request's voice")
    speed: Speed | None = Field(default=None, description="default: the request's")
    seed: Seed | None = Field(default=None, description="default: the request's")
    pause_after: float = Field(default=0.0, ge=0.0, le=30.0, description="seconds of silence after it")


class Speech(Model):
    """Speak a text with a voice. The default action."""

    other_names: ClassVar[Mapping[str, str]] = {"text": "input", "gen_text": "input"}

    action: Literal["speech"] = "speech"
    input: Speakable | None = Field(default=None, repr=False, description="what is spoken; either this or `segments` is required")
    segments: Annotated[list[Segment], Field(min_length=1, max_length=MAX_SEGMENTS)] | None = Field(
        default=None, repr=False, description="stretches with a voice, speed and seed of their own"
    )
    voice: VoiceId | None = Field(default=None, description="an id of the voice library; default: the worker's `DEFAULT_VOICE`")
    ref_audio: Audio | None = Field(default=None, description="the recording whose voice is cloned; excludes `voice`")
    ref_text: RefText = Field(
        default=None,
        repr=False,
        description="the exact words spoken in `ref_audio`; transcribed when not given, or when the recording is over 12 s long",
    )
    voices: Annotated[dict[VoiceId, Source], Field(min_length=1, max_length=MAX_VOICES)] | None = Field(
        default=None,
        description="further voices of a dialogue by the names that `segments` or `[voice:name]` tags give them: "
        "an id of the library, or `ref_audio` with `ref_text`",
    )
    allow_tags: bool = Field(
        default=False, description="`[pause:1.5s]` is a silence, `[voice:name]` changes the voice, `[voice:default]` changes it back"
    )
    model: Text | None = Field(default=None, description="the model of this worker; another one is refused")
    language: Language | None = Field(default=None, description="what the text is in, for numbers and the like; default: told by the text")
    response_format: Format = Field(default="wav", description="`pcm`: 16 bit little-endian, mono, no header; `opus`: Ogg; `aac`: ADTS")
    sample_rate: SampleRate | None = Field(default=None, description="Hz; default: the model's, 24,000")
    bitrate_kbps: int | None = Field(
        default=None, ge=BITRATES_KBPS[0], le=BITRATES_KBPS[1], description="of `mp3`, `opus` and `aac`; which ones depends on the format"
    )
    speed: Speed = Field(default=1.0, description="over 1: faster")
    duration: Annotated[float, Field(ge=0.1, le=3_600.0)] | None = Field(
        default=None, description="seconds that the speech takes; excludes `speed` and `remove_silence`"
    )
    seed: Seed | None = Field(
        default=None, description="same request, seed and machine: same audio; always in the result; default: made of the job's id"
    )
    quality: Literal["fast", "balanced", "high"] | None = Field(default=None, description="`nfe_step` 7, 16 or 32; excludes `nfe_step`")
    nfe_step: int = Field(default=32, ge=1, le=64, description="solver steps: quality against time; 7 and 16 have tuned schedules")
    cfg_strength: float = Field(default=2.0, ge=0.0, le=10.0, description="how closely text and voice are followed")
    sway_sampling_coef: float = Field(default=-1.0, ge=-1.0, le=1.0, description="where the solver's steps lie")
    target_rms: float = Field(default=0.1, ge=0.001, le=1.0, description="loudness that a quiet reference is brought to for the model")
    cross_fade_duration: float = Field(default=0.15, ge=0.0, le=1.0, description="seconds, between the chunks of a long text")
    remove_silence: bool = Field(default=False, description="pauses of more than 0.5 s are cut to 0.5 s; those that were asked for stay")
    fade: float = Field(default=0.0, ge=0.0, le=1.0, description="seconds, at both ends of the speech")
    normalize_text: bool = Field(default=True, description="numbers, dates, amounts and the like are spoken as words")
    loudness: Annotated[float, Field(ge=-50.0, le=-5.0)] | None = Field(
        default=None, description="LUFS that the speech is brought to; default: as the voice"
    )
    timestamps: Literal["none", "segment", "word"] = Field(
        default="segment", description="`word`: also every word, aligned with the audio; never estimated"
    )
    subtitles: Annotated[list[Subtitles], Field(min_length=1, max_length=4)] | None = Field(
        default=None, description="files, delivered like the audio"
    )
    delivery: Literal["auto", "url", "inline"] = Field(
        default="auto", description="`auto`: a URL when the worker has a bucket, else inline; `inline`: base64 up to `MAX_INLINE_BYTES`"
    )
    url_expires_in: Expiry | None = Field(default=None, description="seconds that the URL works; default: `URL_EXPIRES_S`")
    stream_format: Literal["none", "audio", "events"] = Field(
        default="none",
        description="`audio`: parts of the audio in base64 over `/stream`, each decodable on arrival; "
        "`events`: the same as `speech.audio.delta` and `speech.audio.done`",
    )
    idempotency_key: PlainId | None = Field(default=None, description="a repeated job with this key gets the stored result")
    s3_config: S3Config | None = Field(
        default=None, alias="s3Config", repr=False, description="a bucket of yours that the result is uploaded to instead of the worker's"
    )

    def passages(self) -> list[Passage]:
        """What is spoken, in order."""
        if self.segments is None:
            return [Passage(self.input or "")]
        return [Passage(part.text, part.voice, part.speed, part.seed, part.pause_after) for part in self.segments]

    def sources(self) -> dict[str | None, VoiceSource]:
        """Every voice that the passages and tags may name; None is the request's own, an empty VoiceSource the worker's default."""
        own = VoiceSource.model_construct(voice=self.voice, ref_audio=self.ref_audio, ref_text=self.ref_text)
        found: dict[str | None, VoiceSource] = {None: own}
        found.update(self.voices or {})
        for part in self.segments or []:
            if part.voice is not None:
                found.setdefault(part.voice, VoiceSource.model_construct(voice=part.voice, ref_audio=None, ref_text=None))
        return found

    @property
    def steps(self) -> int:
        """`quality` or `nfe_step`, whichever was given, as solver steps."""
        return QUALITY_STEPS[self.quality] if self.quality else self.nfe_step

    @property
    def longest_silence_s(self) -> float | None:
        return LONGEST_SILENCE_S if self.remove_silence else None

    @classmethod
    def conflicts(cls, raw: Mapping[Any, Any], worker: Worker) -> Iterator[Problem]:
        yield from _text_conflicts(raw)
        yield from voice_conflicts(raw)
        yield from _dialogue_conflicts(raw)
        parts = objects_in(raw.get("segments"))
        streamed = given(raw, "stream_format") and raw["stream_format"] != "none"
        own_bucket = raw.get("s3Config") is not None and raw.get("delivery") == "inline"
        found = {
            "quality: excludes 'nfe_step'; give one of them": given(raw, "quality") and given(raw, "nfe_step"),
            "duration: excludes 'speed'; give one of them": given(raw, "duration") and given(raw, "speed"),
            "duration: excludes 'remove_silence'; give one of them": given(raw, "duration") and raw.get("remove_silence") is True,
            "duration: is for one text; leave it out, or send one of the 'segments' a job": given(raw, "duration") and len(parts) > 1,
            "duration: excludes the 'speed' of a segment; give one of them": given(raw, "duration")
            and any(given(p, "speed") for p in parts),
            "idempotency_key: excludes 'stream_format': a stored result is not streamed again": given(raw, "idempotency_key") and streamed,
            "s3Config: is not used with 'delivery' 'inline'; leave one of them out": own_bucket,
            f"model: this worker has '{worker.model}' and no other": worker.model and given(raw, "model") and raw["model"] != worker.model,
        }
        yield from ((RequestError, message) for message, wrong in found.items() if wrong)
        yield from _format_conflicts(raw)


def _text_conflicts(raw: Mapping[Any, Any]) -> Iterator[Problem]:
    if "input" in raw and "segments" in raw:
        yield RequestError, "segments: excludes 'input'; give one of them"
    if "input" not in raw and "segments" not in raw:
        yield TextEmpty, "input: is missing"
    chars = sum(chars_of(part.get("text")) for part in objects_in(raw.get("segments")))
    if chars > MAX_TEXT_CHARS:
        yield TextTooLong, f"segments: {chars} characters in all, at most {MAX_TEXT_CHARS} fit in one job: send several jobs"


def _dialogue_conflicts(raw: Mapping[Any, Any]) -> Iterator[Problem]:
    voices = raw.get("voices")
    named = {str(part["voice"]) for part in objects_in(raw.get("segments")) if given(part, "voice")}
    if len(named) > MAX_VOICES:
        yield RequestError, f"segments: {len(named)} voices, at most {MAX_VOICES} fit in one job"
    if not isinstance(voices, Mapping):
        return
    if raw.get("allow_tags") is not True and not any(given(part, "voice") for part in objects_in(raw.get("segments"))):
        yield RequestError, "voices: nothing names them; give 'segments' with 'voice', or 'allow_tags': true and write [voice:name]"
    if BUILT_IN_VOICE in voices:
        yield RequestError, f"voices.{BUILT_IN_VOICE}: this name stands for the request's own voice; choose another"
    for name, source in list(voices.items())[:MAX_VOICES]:
        if isinstance(source, Mapping):
            yield from voice_conflicts(source, f"voices.{shown(name)}.")
            if not given(source, "voice") and not given(source, "ref_audio"):
                yield RequestError, f"voices.{shown(name)}: give 'voice' or 'ref_audio'"


def _format_conflicts(raw: Mapping[Any, Any]) -> Iterator[Problem]:
    """A rate or bitrate that the format cannot have, when the three are right on their own."""
    fmt, rate_hz, kbps = raw.get("response_format", "wav"), raw.get("sample_rate"), raw.get("bitrate_kbps")
    if fmt not in get_args(Format) or not _within(rate_hz, RATES_HZ) or not _within(kbps, BITRATES_KBPS):
        return
    from f5_worker.audio import check_format  # noqa: PLC0415 - the encoders are not needed to describe the requests

    try:
        check_format(fmt, rate_hz, kbps)
    except RequestError as error:
        yield RequestError, f"response_format: {error.message}"


def _within(value: object, bounds: tuple[int, int]) -> bool:
    return value is None or (type(value) is int and bounds[0] <= value <= bounds[1])


def objects_in(value: object) -> list[Mapping[Any, Any]]:
    return [part for part in value if isinstance(part, Mapping)] if isinstance(value, list) else []


def chars_of(value: object) -> int:
    return len(value) if isinstance(value, str) else 0
