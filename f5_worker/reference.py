"""A voice to clone: the reference recording, decoded, cut and checked, and the words spoken in it."""

from __future__ import annotations

import importlib.util
import threading
import tomllib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

import numpy as np

from f5_worker import audio, characters, quality
from f5_worker import text as texts
from f5_worker.audio import Samples
from f5_worker.decode import PADDING_S, downmix, is_cut, is_truncated
from f5_worker.errors import InternalError, ReferenceInvalid
from f5_worker.levels import WINDOWS_PER_S, loud_windows, quietest_cut
from f5_worker.quality import Quality, Warnings

__all__ = ["Quality", "Voice", "VoiceCache", "default_voice", "prepare"]

SAMPLE_RATE_HZ = 24_000
MIN_SECONDS = 0.5
MAX_SECONDS = 12.0  # F5-TTS was trained on clips of up to 30 s, reference and output together
_CUT_FROM_S = 6.0  # a longer recording is cut at its quietest place between this and MAX_SECONDS
_MAX_DECODE_SECONDS = 60.0 + PADDING_S  # bounds time and memory; what comes after is not looked at
_TAIL = SAMPLE_RATE_HZ // 20  # upstream appends 50 ms of silence
_CHARS_PER_S = (3.0, 35.0)
_SENTENCE_END = ".!?。！？…؟۔।"  # noqa: RUF001 - the marks of other scripts are meant
_Key = tuple[bytes, str, str | None]  # the recording, its text as given, the language


class Recogniser(Protocol):
    """What prepare needs of transcribe.Transcriber."""

    def transcribe(self, samples: Samples, rate_hz: int, language: str | None = None) -> Recognised: ...


class Recognised(Protocol):
    @property
    def text(self) -> str: ...


@dataclass(frozen=True)
class Voice:
    """A prepared reference. `text` ends as F5-TTS expects it."""

    samples: Samples  # mono, 24 kHz, edges trimmed
    sample_rate_hz: int
    text: str
    seconds: float
    warnings: Warnings = ()
    quality: Quality | None = None  # None: not made by prepare
    transcribed: bool = False  # whether the text was recognised and not given


def prepare(data: bytes, text: str | None, *, transcriber: Recogniser | None = None, language: str | None = None) -> Voice:
    """Decode, cut and check a recording of any common format, and its words.

    A recording of more than 12 s is cut at a silence; its text then no longer fits, so the cut is transcribed, as is one without text.

    Args:
        language: of the recording, for the transcriber; None: detected.
    Raises:
        ReferenceInvalid: the recording cannot be cloned from, or the text cannot be what is spoken in it; the message says what to change.
        TranscriberUnavailable: it has to be transcribed, and that cannot be done.
    """
    given = _one_line(text or "")
    words = given if any(char.isalnum() for char in given) else ""
    if not words and transcriber is None:
        raise ReferenceInvalid("ref_text is empty: pass the words that are spoken in the reference audio")
    recorded, recorded_hz = audio.decode(data, max_seconds=_MAX_DECODE_SECONDS)
    whole = _trim(audio.resample(downmix(recorded), recorded_hz, SAMPLE_RATE_HZ))
    used = _cut(whole, transcriber)
    if not words or len(used) < len(whole):
        words = _recognise(used, transcriber, language)
        transcribed = True
    else:
        _check_rate(words, len(used) / SAMPLE_RATE_HZ)
        transcribed = False
    measured = quality.measure(used, SAMPLE_RATE_HZ, recorded=recorded, recorded_hz=recorded_hz)
    samples = np.concatenate([used, np.zeros(_TAIL, dtype=np.float32)])
    return Voice(
        samples,
        SAMPLE_RATE_HZ,
        _ended(words),
        len(samples) / SAMPLE_RATE_HZ,
        (
            *characters.left_out_warnings(characters.unsayable("" if transcribed else text or ""), where="ref_text: "),
            *_truncated_warning(data),
            *_cut_warning(recorded, recorded_hz, whole, used, words_given=bool(given)),
            *_digits_warning(words),
            *quality.warnings(measured),
        ),
        measured,
        transcribed,
    )


class VoiceCache:
    """Prepared voices, the least recently used dropped first. Safe from any thread."""

    def __init__(self, max_bytes: int) -> None:
        """Keep voices that take at most max_bytes together: their samples, and the recordings by which they are found again."""
        self._max_bytes = max_bytes
        self._voices: OrderedDict[_Key, Voice] = OrderedDict()
        self._lock = threading.Lock()
        self._preparing: WeakValueDictionary[_Key, threading.Lock] = WeakValueDictionary()

    @property
    def size_bytes(self) -> int:
        with self._lock:
            return self._size_bytes()

    def prepare(self, data: bytes, text: str | None, *, transcriber: Recogniser | None = None, language: str | None = None) -> Voice:
        """The same as the function `prepare`, whose errors it raises; an equal voice is prepared once."""
        key = (data, text or "", language)  # itself: no digest of that strength takes less than a millisecond everywhere
        hash(data)  # kept in it, and made outside of the lock
        with self._lock:
            preparing = self._preparing.setdefault(key, threading.Lock())
        with preparing:
            return self._known(key) or self._keep(key, prepare(data, text, transcriber=transcriber, language=language))

    def _known(self, key: _Key) -> Voice | None:
        with self._lock:
            voice = self._voices.get(key)
            if voice:
                self._voices.move_to_end(key)
            return voice

    def _keep(self, key: _Key, voice: Voice) -> Voice:
        with self._lock:
            self._voices[key] = voice
            while self._size_bytes() > self._max_bytes:
                self._voices.popitem(last=False)
        return voice

    def _size_bytes(self) -> int:
        return sum(len(key[0]) + voice.samples.nbytes for key, voice in self._voices.items())


def default_voice() -> Voice:
    """The English example voice that f5_tts ships, and its text."""
    spec = importlib.util.find_spec("f5_tts")
    if spec is None or not spec.submodule_search_locations:
        raise InternalError("f5_tts is not installed")
    folder = Path(next(iter(spec.submodule_search_locations))) / "infer" / "examples" / "basic"
    example = tomllib.loads((folder / "basic.toml").read_text(encoding="utf-8"))
    return prepare((folder / "basic_ref_en.wav").read_bytes(), example["ref_text"])


def _trim(samples: Samples) -> Samples:
    loud = loud_windows(samples, SAMPLE_RATE_HZ)
    if not loud:
        raise ReferenceInvalid("the reference audio is silent: send a recording of a voice")
    window = SAMPLE_RATE_HZ // WINDOWS_PER_S
    kept = samples[loud[0] * window : (loud[-1] + 1) * window]
    if len(kept) < MIN_SECONDS * SAMPLE_RATE_HZ:
        raise ReferenceInvalid(f"the reference audio holds {len(kept) / SAMPLE_RATE_HZ:.2f} s of sound: send 3 to 12 s of speech")
    return kept


def _cut(samples: Samples, transcriber: Recogniser | None) -> Samples:
    """At most 12 s of the recording, from its beginning."""
    if len(samples) <= MAX_SECONDS * SAMPLE_RATE_HZ:
        return samples
    if transcriber is None:
        seconds = len(samples) / SAMPLE_RATE_HZ
        length = f"{seconds:.1f} s" if seconds < _MAX_DECODE_SECONDS - 1 else "a minute or more"
        raise ReferenceInvalid(f"the reference audio has {length} of sound: cut it to at most 12 s and pass the text of that part")
    return _trim(samples[: quietest_cut(samples, SAMPLE_RATE_HZ, from_s=_CUT_FROM_S, to_s=MAX_SECONDS)])


def _cut_warning(recorded: Samples, recorded_hz: int, whole: Samples, used: Samples, *, words_given: bool) -> Warnings:
    if len(used) < len(whole):
        instead = " in place of ref_text" if words_given else ""
        message = (
            f"the first {len(used) / SAMPLE_RATE_HZ:.1f} s of the reference audio are used, with the words recognised in them{instead}"
        )
    elif is_cut(recorded, recorded_hz, _MAX_DECODE_SECONDS):
        then = ": let ref_text end there" if words_given else ""
        message = f"only the first {len(recorded) / recorded_hz:.0f} s of the reference audio were looked at{then}"
    else:
        return ()
    return (("REFERENCE_CUT", message),)


def _truncated_warning(data: bytes) -> Warnings:
    message = "the reference audio ends before its header says it does: send it again, or ref_text may not fit what is left"
    return (("REFERENCE_TRUNCATED", message),) if is_truncated(data) else ()


def _digits_warning(words: str) -> Warnings:
    message = "the words of the reference audio hold digits, which the model guesses at: pass ref_text with numbers as words"
    return (("REFERENCE_DIGITS", message),) if any(char.isdecimal() for char in words) else ()


def _recognise(samples: Samples, transcriber: Recogniser | None, language: str | None) -> str:
    assert transcriber is not None  # noqa: S101 - the callers refused before; mypy cannot see it
    words = _one_line(transcriber.transcribe(samples, SAMPLE_RATE_HZ, language).text)
    if not any(char.isalnum() for char in words) or not _is_speakable(words, len(samples) / SAMPLE_RATE_HZ):
        raise ReferenceInvalid("the words of the reference audio could not be recognised: pass ref_text and at most 12 s of audio")
    return words


def _one_line(text: str) -> str:
    """The text as the model's other text is cleaned."""
    return " ".join(texts.tidied(text).text.split())


def _is_speakable(words: str, seconds: float) -> bool:
    return _CHARS_PER_S[0] <= len(words) / seconds <= _CHARS_PER_S[1]


def _check_rate(words: str, seconds: float) -> None:
    if not _is_speakable(words, seconds):
        raise ReferenceInvalid(
            f"ref_text has {len(words)} characters for {seconds:.1f} s of audio, {len(words) / seconds:.1f} a second; speech has 3 to 35: "
            "pass exactly the words that are spoken in the reference audio"
        )


def _ended(words: str) -> str:
    """Upstream ends the reference text with a full stop and a space; other ends of a sentence are kept here."""
    if words[-1] not in _SENTENCE_END:
        words += "."
    return words if len(words[-1].encode()) > 1 else words + " "
