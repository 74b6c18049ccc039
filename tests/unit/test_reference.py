"""Reference recordings: what can be cloned is prepared, everything else is refused with what to change."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import soundfile

from f5_worker import reference
from f5_worker.errors import ReferenceInvalid

TEXT = "Some words that fit three seconds of speech."


def tone(seconds: float, rate_hz: int = 24_000, level: float = 0.3) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (level * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def file_of(samples: np.ndarray[Any, Any], rate_hz: int = 24_000, fmt: str = "WAV", subtype: str | None = None) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, samples, rate_hz, format=fmt, subtype=subtype)
    return data.getvalue()


def silence(seconds: float, rate_hz: int = 24_000) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.zeros(int(seconds * rate_hz), dtype=np.float32)


@pytest.mark.parametrize(
    ("fmt", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "PCM_U8"), ("FLAC", None), ("MP3", None), ("OGG", "VORBIS"),
     ("OGG", "OPUS"), ("AIFF", None)],
)  # fmt: skip
def test_common_formats_are_decoded(fmt: str, subtype: str | None) -> None:
    voice = reference.prepare(file_of(tone(3), fmt=fmt, subtype=subtype), TEXT)
    assert voice.sample_rate_hz == 24_000
    assert voice.samples.dtype == np.float32
    assert voice.samples.ndim == 1
    assert voice.seconds == pytest.approx(3.05, abs=0.15)
    assert voice.seconds == len(voice.samples) / 24_000


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_any_rate_becomes_24_khz_at_the_same_pitch(rate_hz: int) -> None:
    voice = reference.prepare(file_of(tone(3, rate_hz), rate_hz), TEXT)
    spectrum = np.abs(np.fft.rfft(voice.samples))
    assert int(np.argmax(spectrum)) / len(voice.samples) * 24_000 == pytest.approx(220, abs=2)
    assert [code for code, _ in voice.warnings] == (["REFERENCE_NARROWBAND"] if rate_hz < 16_000 else [])


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_channels_are_mixed_to_one(channels: int) -> None:
    voice = reference.prepare(file_of(np.tile(tone(3)[:, None], (1, channels))), TEXT)
    assert np.abs(voice.samples).max() == pytest.approx(0.3, abs=0.02)


def test_silent_edges_are_trimmed_and_50_ms_stay_at_the_end() -> None:
    voice = reference.prepare(file_of(np.concatenate([silence(2), tone(3), silence(5)])), TEXT)
    assert voice.seconds == pytest.approx(3.05, abs=0.02)
    assert not voice.samples[-1_200:].any()
    assert np.abs(voice.samples[:240]).max() > 0.1


def test_pauses_inside_are_kept() -> None:
    assert reference.prepare(file_of(np.concatenate([tone(1), silence(1), tone(1)])), TEXT).seconds == pytest.approx(3.05, abs=0.02)


def test_quiet_recording_is_kept_whole_and_warned_about() -> None:
    voice = reference.prepare(file_of(tone(3, level=0.004), subtype="PCM_24"), TEXT)
    assert voice.seconds == pytest.approx(3.05, abs=0.02)
    assert [code for code, _ in voice.warnings] == ["REFERENCE_QUIET"]


def test_clipped_recording_is_warned_about() -> None:
    voice = reference.prepare(file_of(np.clip(tone(3, level=3.0), -1, 1)), TEXT)
    assert [code for code, _ in voice.warnings] == ["REFERENCE_CLIPPED"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("Eight words are here, and a few more", "Eight words are here, and a few more. "),
     ("  Eight words\n are here, and more. ", "Eight words are here, and more. "),
     ("Are eight words here, and a few more?", "Are eight words here, and a few more? "),
     ("\u8fd9\u91cc\u6709\u4e00\u4e9b\u8bcd\u8bed\u53ef\u8bf4\u3002", "\u8fd9\u91cc\u6709\u4e00\u4e9b\u8bcd\u8bed\u53ef\u8bf4\u3002")],
)  # fmt: skip
def test_text_ends_as_the_model_expects(given: str, kept: str) -> None:
    assert reference.prepare(file_of(tone(3)), given).text == kept


def header_only() -> bytes:
    return b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 24_000, 48_000, 2, 16) + b"data" + bytes(4)


BAD: dict[str, tuple[bytes, str, str]] = {
    "0 bytes": (b"", TEXT, "0 bytes"),
    "text named .wav": (b"this is no audio at all" * 50, TEXT, "not audio"),
    "one byte": (b"\0", TEXT, "not audio"),
    "truncated header": (file_of(tone(3))[:20], TEXT, "not audio"),
    "header without samples": (header_only(), TEXT, "silent"),
    "0.2 s": (file_of(tone(0.2)), "Hey.", r"0\.25 s of sound"),
    "silence": (file_of(silence(3)), TEXT, "silent"),
    "hiss far below speech": (file_of(tone(3, level=0.0005), subtype="PCM_24"), TEXT, "silent"),
    "NaN": (file_of(np.full(48_000, np.nan, dtype=np.float32), subtype="FLOAT"), TEXT, "not numbers"),
    "infinity": (file_of(np.array([0.1, np.inf] * 24_000, dtype=np.float32), subtype="FLOAT"), TEXT, "not numbers"),
    "13 s": (file_of(tone(13)), "word " * 30, "cut it to at most 12 s"),
    "10 minutes": (file_of(tone(600, 8_000), 8_000), "word " * 500, "cut it to at most 12 s"),
    "text too short": (file_of(tone(5)), "Yes, so.", r"1\.6 a second"),
    "text too long": (file_of(tone(1)), "word " * 20, "speech has 3 to 35"),
    "empty text": (file_of(tone(3)), "", "ref_text is empty"),
    "blank text": (file_of(tone(3)), " \n\t", "ref_text is empty"),
    "text without a word": (file_of(tone(3)), "...?!", "ref_text is empty"),
    "absurd rate": (file_of(tone(3, 1_000), 1_000), TEXT, "1000 Hz"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_cloned_is_refused_with_the_reason(case: str) -> None:
    data, text, message = BAD[case]
    with pytest.raises(ReferenceInvalid, match=message):
        reference.prepare(data, text)


def test_wrong_extension_does_not_matter_because_the_content_decides() -> None:
    assert reference.prepare(file_of(tone(3), fmt="FLAC"), TEXT).seconds > 3


def test_default_voice_is_the_packaged_example() -> None:
    voice = reference.default_voice()
    assert voice.text == "Some call me nature, others call me mother nature. "
    assert 4.5 < voice.seconds < 6
    assert voice.warnings == ()
