"""Encoding: every format is what its content type says, holds the samples, and can be decoded while it arrives."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterable
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from f5_worker import audio
from f5_worker.errors import RequestError

Wave = np.ndarray[Any, np.dtype[np.float32]]

RATE_HZ = 24_000
TONE: Wave = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ)).astype(np.float32)
FORMATS = sorted(audio.CONTENT_TYPES)
LOSSLESS, LOSSY = ["flac", "pcm", "wav"], ["aac", "mp3", "opus"]
MAGIC = {"wav": b"RIFF", "flac": b"fLaC", "opus": b"OggS", "aac": b"\xff\xf1", "mp3": b"\xff\xf3"}
DELAY_S = {"mp3": 0.11, "aac": 0.1}  # a stream without a header says nothing of the encoder's delay and padding: three frames at 24 kHz


def speech(seconds: float, seed: int = 0) -> Wave:
    """Noise that swells and fades like syllables: harder to encode than a tone."""
    count = int(seconds * RATE_HZ)
    noise = np.random.default_rng(seed).standard_normal(count) * np.sin(np.arange(count) / 3_000) ** 2
    return np.convolve(noise, np.ones(8) / 40, "same").astype(np.float32)


def decoded(data: bytes, fmt: str, rate_hz: int = RATE_HZ) -> tuple[Wave, int]:
    """What a client hears: libsndfile reads the formats it knows, FFmpeg the others."""
    if fmt == "pcm":
        return np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2").astype(np.float32) / 32_767, rate_hz
    if fmt in {"aac", "flac"}:  # soundfile cannot read a FLAC of unknown length to its end: it seeks after reading
        return with_ffmpeg(data, fmt)
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        return sound.read(100 * RATE_HZ, dtype="float32"), int(sound.samplerate)


def with_ffmpeg(data: bytes, container: str) -> tuple[Wave, int]:
    with av.open(io.BytesIO(data), format=container) as opened:
        resampler = av.AudioResampler(format="flt")
        frames = [packed for frame in opened.decode(audio=0) for packed in resampler.resample(frame)]
        return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]), frames[0].sample_rate


def pitch_hz(samples: Wave, rate_hz: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * rate_hz / len(samples)


def streamed(fmt: str, pieces: Iterable[Wave], **options: Any) -> list[bytes]:
    encoder = audio.Encoder(fmt, RATE_HZ, **options)
    return [*(encoder.write(piece) for piece in pieces), encoder.close()]


def test_wav_is_16_bit_pcm_with_the_samples() -> None:
    data = audio.encode(TONE, RATE_HZ)
    samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
    assert soundfile.info(io.BytesIO(data)).subtype == "PCM_16"
    assert rate_hz == RATE_HZ
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    assert struct.unpack("<I", data[40:44])[0] == 2 * len(TONE)
    np.testing.assert_allclose(samples, TONE, atol=1 / 32_000)


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_keeps_the_tone(fmt: str) -> None:
    data = audio.encode(TONE, RATE_HZ, fmt)
    samples, rate_hz = decoded(data, fmt)
    assert data.startswith(MAGIC.get(fmt, b""))
    assert len(samples) / rate_hz == pytest.approx(1.0, abs=DELAY_S.get(fmt, 0.0001))
    assert pitch_hz(samples, rate_hz) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("fmt", LOSSLESS)
def test_lossless_formats_keep_every_16_bit_value(fmt: str) -> None:
    samples, _ = decoded(audio.encode(speech(3), RATE_HZ, fmt), fmt)
    np.testing.assert_allclose(samples, np.clip(speech(3), -1, 1), atol=1 / 32_000)


@pytest.mark.parametrize("fmt", FORMATS)
def test_same_samples_give_the_same_bytes(fmt: str) -> None:
    assert audio.encode(speech(3), RATE_HZ, fmt) == audio.encode(speech(3), RATE_HZ, fmt)


@pytest.mark.parametrize("fmt", FORMATS)
def test_other_samples_give_other_bytes(fmt: str) -> None:
    assert audio.encode(speech(1), RATE_HZ, fmt) != audio.encode(speech(1, seed=1), RATE_HZ, fmt)


@pytest.mark.parametrize("fmt", ["wav", "pcm"])
def test_samples_outside_the_range_are_clipped_not_wrapped(fmt: str) -> None:
    data = audio.encode(np.array([2.0, -2.0, 0.0], dtype=np.float32), RATE_HZ, fmt)[-6:]
    first, second, third = np.frombuffer(data, dtype="<i2")
    assert (first > 32_000, second < -32_000, third) == (True, True, 0)


@pytest.mark.parametrize("fmt", LOSSY)
def test_samples_outside_the_range_do_not_break_lossy_formats(fmt: str) -> None:
    samples, rate_hz = decoded(audio.encode(TONE * 100, RATE_HZ, fmt), fmt)
    assert pitch_hz(samples, rate_hz) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("fmt", FORMATS)
def test_minutes_of_audio_are_encoded(fmt: str) -> None:
    assert len(audio.encode(np.tile(TONE, 120), RATE_HZ, fmt)) > 100_000


@pytest.mark.parametrize("fmt", FORMATS)
def test_no_samples_give_an_almost_empty_file(fmt: str) -> None:
    assert len(audio.encode(np.zeros(0, dtype=np.float32), RATE_HZ, fmt)) < 1_000


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("out_rate_hz", [8_000, 16_000, 48_000])
def test_the_rate_asked_for_is_the_rate_of_the_file(fmt: str, out_rate_hz: int) -> None:
    data = audio.encode(TONE, RATE_HZ, fmt, out_rate_hz=out_rate_hz)
    samples, rate_hz = decoded(data, fmt, out_rate_hz)
    assert rate_hz == out_rate_hz
    assert len(samples) / rate_hz == pytest.approx(1.0, abs=3 * DELAY_S.get(fmt, 0.0001))
    assert pitch_hz(samples, rate_hz) == pytest.approx(440, abs=3)


@pytest.mark.parametrize(("fmt", "kbps"), [("mp3", 32), ("mp3", 128), ("aac", 32), ("aac", 128), ("opus", 16), ("opus", 96)])
def test_the_bit_rate_asked_for_is_that_of_the_file(fmt: str, kbps: int) -> None:
    data = audio.encode(speech(10), RATE_HZ, fmt, bitrate_kbps=kbps)
    assert len(data) * 8 / 10_000 == pytest.approx(kbps, rel=0.15)


@pytest.mark.parametrize(
    ("fmt", "out_rate_hz", "bitrate_kbps", "message"),
    [("opus", 44_100, None, "opus cannot have a sample_rate of 44100: use 8000, 12000, 16000, 24000, 48000"),
     ("mp3", 9_000, None, "use 8000, 11025"),
     ("wav", 96_000, None, "wav cannot have a sample_rate of 96000: use 8000 to 48000"),
     ("pcm", 1, None, "use 8000 to 48000"),
     ("wav", None, 64, "wav has no bit rate: leave bitrate_kbps out"),
     ("flac", None, 64, "flac has no bit rate"),
     ("mp3", None, 100, "mp3 at 24000 Hz cannot have a bitrate_kbps of 100: use 8, 16,"),
     ("mp3", None, 320, "mp3 at 24000 Hz"),
     ("mp3", 8_000, 128, "mp3 at 8000 Hz"),
     ("aac", None, 500, "aac at 24000 Hz cannot have a bitrate_kbps of 500: use 16 to 144"),
     ("opus", None, 500, "use 6 to 256")],
)  # fmt: skip
def test_what_a_format_cannot_have_is_refused(fmt: str, out_rate_hz: int | None, bitrate_kbps: int | None, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        audio.check_format(fmt, out_rate_hz, bitrate_kbps)
    with pytest.raises(RequestError, match=message):
        audio.encode(TONE, RATE_HZ, fmt, out_rate_hz=out_rate_hz, bitrate_kbps=bitrate_kbps)


@pytest.mark.parametrize("fmt", LOSSY)
def test_every_rate_and_bit_rate_that_is_allowed_can_be_encoded(fmt: str) -> None:
    short = TONE[:4_800]
    for rate_hz in audio._rates_hz(fmt):
        possible = audio._bit_rates_kbps(fmt, rate_hz)
        for kbps in {possible[0], possible[-1]}:
            audio.check_format(fmt, rate_hz, kbps)
            samples, got_hz = decoded(audio.encode(short, RATE_HZ, fmt, out_rate_hz=rate_hz, bitrate_kbps=kbps), fmt)
            assert got_hz == rate_hz
            assert np.abs(samples).max() > 0.2


def test_unknown_format_is_a_defect_of_the_caller() -> None:
    with pytest.raises(KeyError):
        audio.check_format("wma", None, None)
    with pytest.raises(KeyError):
        audio.Encoder("wma", RATE_HZ)


def test_opus_takes_the_nearest_rate_it_has() -> None:
    assert audio.nearest_rate_hz("opus", 22_050) == 24_000
    assert audio.nearest_rate_hz("wav", 22_050) == 22_050
    assert decoded(audio.encode(audio.resample(TONE, RATE_HZ, 44_100), 44_100, "opus"), "opus")[1] == 48_000


CUTS = {
    "one sample at a time, then all": [1, 1, 1, 70_000],
    "odd": [777, 12_345, 6_001],
    "long": [60_000],
    "empty between": [500, 0, 0, 30_000],
}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("out_rate_hz", [None, 16_000])
def test_all_pieces_together_are_the_file(fmt: str, cuts: str, out_rate_hz: int | None) -> None:
    wave = speech(3)
    pieces = np.split(wave, [at for at in itertools.accumulate(CUTS[cuts]) if at < len(wave)])
    whole, stream = audio.encode(wave, RATE_HZ, fmt, out_rate_hz=out_rate_hz), b"".join(streamed(fmt, pieces, out_rate_hz=out_rate_hz))
    if fmt == "wav":  # the lengths
        assert stream[:4] + stream[8:40] + stream[44:] == whole[:4] + whole[8:40] + whole[44:]
        assert {stream[4:8], stream[40:44]} == {b"\xff" * 4}
    elif fmt == "flac":  # the first block of metadata: length, checksum, sizes of frames
        assert stream[:8] + stream[42:] == whole[:8] + whole[42:]
    else:
        assert stream == whole


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_piece_can_be_heard_when_it_arrives(fmt: str) -> None:
    """After each second sent, all but the last 0.35 s of it can be decoded, and it is the same as in the end."""
    pieces = streamed(fmt, [speech(1, seed) for seed in range(5)])
    whole, rate_hz = decoded(b"".join(pieces), fmt)
    for count in range(1, 6):
        heard, heard_hz = decoded(b"".join(pieces[:count]), fmt)
        assert heard_hz == rate_hz
        assert count - 0.35 <= len(heard) / rate_hz <= count + 0.35
        settled = len(heard) - rate_hz // 10  # a decoder's last frame waits for its overlap with the next
        np.testing.assert_allclose(heard[:settled], whole[:settled], atol=1e-3)


@pytest.mark.parametrize(("fmt", "container"), [("mp3", "mp3"), ("opus", "ogg"), ("flac", "flac"), ("wav", "wav")])
def test_a_second_decoder_hears_the_first_piece_too(fmt: str, container: str) -> None:
    heard, rate_hz = with_ffmpeg(streamed(fmt, [TONE])[0], container)
    assert len(heard) / rate_hz > 0.65
    assert pitch_hz(heard, rate_hz) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_stream_in_which_nothing_was_written_can_be_closed(fmt: str) -> None:
    assert len(b"".join(streamed(fmt, []))) < 1_000


def test_encoders_at_work_together_do_not_disturb_each_other() -> None:
    encoders = [audio.Encoder(fmt, RATE_HZ) for fmt in FORMATS]
    parts = [b""] * len(encoders)
    for piece in np.array_split(speech(2), 7):
        parts = [part + encoder.write(piece) for part, encoder in zip(parts, encoders, strict=True)]
    parts = [part + encoder.close() for part, encoder in zip(parts, encoders, strict=True)]
    assert parts == [b"".join(streamed(fmt, [speech(2)])) for fmt in FORMATS]


def test_resampling_keeps_pitch_and_length() -> None:
    half = audio.resample(TONE, RATE_HZ, 12_000)
    assert half.dtype == np.float32
    assert len(half) == 12_000
    assert int(np.argmax(np.abs(np.fft.rfft(half)))) == 440
    assert audio.resample(TONE, RATE_HZ, RATE_HZ) is TONE
