"""Decoding what clients send: every common format, and files made to harm, in bounded memory and time."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from f5_worker import audio, decode
from f5_worker.errors import ReferenceInvalid
from tests.fuzz_decoder import RECORDINGS, damaged, is_decoded

Wave = np.ndarray[Any, np.dtype[np.float32]]


def tone(seconds: float, rate_hz: int = 24_000, channels: int = 1) -> Wave:
    wave = (0.3 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)
    return np.tile(wave[:, None], (1, channels))


def with_soundfile(samples: Wave, rate_hz: int = 24_000, fmt: str = "WAV", subtype: str | None = None) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, samples, rate_hz, format=fmt, subtype=subtype)
    return data.getvalue()


def with_ffmpeg(samples: Wave, rate_hz: int, container: str, codec: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
        stream = output.add_stream(codec, rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.reshape(1, -1)), format="flt", layout=layout)
        frame.sample_rate = rate_hz
        for given in (frame, None):
            output.mux(stream.encode(given))
    return file.getvalue()


def pitch_hz(samples: Wave, rate_hz: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples[:, 0])))) * rate_hz / len(samples)


@pytest.mark.parametrize(
    ("fmt", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "PCM_U8"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("FLAC", None),
     ("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("AIFF", None), ("AU", None), ("CAF", None)],
)  # fmt: skip
def test_formats_of_libsndfile(fmt: str, subtype: str | None) -> None:
    samples, rate_hz = audio.decode(with_soundfile(tone(2, channels=2), fmt=fmt, subtype=subtype), max_seconds=60)
    assert samples.dtype == np.float32
    assert samples.shape[1] == 2
    assert len(samples) / rate_hz == pytest.approx(2, abs=0.1)
    assert pitch_hz(samples, rate_hz) == pytest.approx(220, abs=1)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("container", "codec"),
    [("ipod", "aac"), ("mp4", "aac"), ("mov", "pcm_s16le"), ("ipod", "alac"), ("webm", "libopus"), ("matroska", "aac"), ("adts", "aac"),
     ("mp4", "libmp3lame")],
)  # fmt: skip
def test_formats_of_ffmpeg(container: str, codec: str, channels: int) -> None:
    samples, rate_hz = audio.decode(with_ffmpeg(tone(2, 48_000, channels), 48_000, container, codec), max_seconds=60)
    assert samples.shape[1] == channels
    assert rate_hz == 48_000
    assert len(samples) / rate_hz == pytest.approx(2, abs=0.1)
    assert pitch_hz(samples, rate_hz) == pytest.approx(220, abs=1)
    assert np.sqrt(np.mean(np.square(samples))) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("fmt", sorted(set(audio.CONTENT_TYPES) - {"pcm"}))
def test_what_the_worker_delivers_can_be_a_reference_whole_or_streamed(fmt: str) -> None:
    encoder = audio.Encoder(fmt, 24_000)
    stream = encoder.write(tone(2)[:, 0]) + encoder.close()
    for data in (audio.encode(tone(2)[:, 0], 24_000, fmt), stream):
        samples, rate_hz = audio.decode(data, max_seconds=60)
        assert len(samples) / rate_hz == pytest.approx(2, abs=0.15)
        assert pitch_hz(samples, rate_hz) == pytest.approx(220, abs=1)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 44_100, 96_000, 192_000])
@pytest.mark.parametrize("channels", [1, 8])
def test_8_to_192_khz_and_eight_channels(rate_hz: int, channels: int) -> None:
    samples, got_hz = audio.decode(with_soundfile(tone(1, rate_hz, channels), rate_hz), max_seconds=60)
    assert (samples.shape, got_hz) == ((rate_hz, channels), rate_hz)


def test_values_beyond_full_scale_are_clipped() -> None:
    samples, _ = audio.decode(with_soundfile(tone(1) * 1e30, subtype="FLOAT"), max_seconds=60)
    assert (samples.min(), samples.max()) == (-1, 1)


LONG: dict[str, Callable[[], bytes]] = {
    "wav": lambda: with_soundfile(tone(30)),
    "mp3": lambda: with_soundfile(tone(30), fmt="MP3"),
    "opus": lambda: with_soundfile(tone(30), fmt="OGG", subtype="OPUS"),
    "m4a": lambda: with_ffmpeg(tone(30, 48_000), 48_000, "ipod", "aac"),
}


@pytest.mark.parametrize("case", LONG)
def test_of_a_long_recording_the_beginning_is_decoded(case: str) -> None:
    samples, rate_hz = audio.decode(LONG[case](), max_seconds=12.5)
    assert len(samples) == int(12.5 * rate_hz)


@pytest.mark.parametrize("fmt", ["WAV", "MP3", "OGG"])
def test_a_truncated_file_gives_what_is_there(fmt: str) -> None:
    data = with_soundfile(tone(4) + 0.01 * np.random.default_rng(0).standard_normal((96_000, 1)).astype(np.float32), fmt=fmt)
    samples, rate_hz = audio.decode(data[: len(data) // 2], max_seconds=60)
    assert 0.5 < len(samples) / rate_hz < 3.5


def test_a_truncated_webm_gives_what_is_there() -> None:
    data = with_ffmpeg(tone(4, 48_000), 48_000, "webm", "libopus")
    samples, rate_hz = audio.decode(data[: len(data) // 2], max_seconds=60)
    assert 0.5 < len(samples) / rate_hz < 3.5


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("speech.wav", bytes(50_000_000))
    return file.getvalue()


def wav_header(rate_hz: int, channels: int) -> bytes:
    head = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 4_036, b"WAVE", b"fmt ", 16, 1, channels, rate_hz, rate_hz * 2 * channels, 2 * channels, 16
    )
    return head + struct.pack("<4sI", b"data", 4_000) + bytes(4_000)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "0 bytes": (lambda: b"", "0 bytes"),
    "one byte": (lambda: b"\0", "not audio"),
    "one byte of ADTS": (lambda: b"\xff", "not audio"),
    "text named .wav": (lambda: b"this is no audio at all\n" * 50, "not audio"),
    "zip of 50 MB of zeros": (zipped, "not audio"),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(500), "not audio"),
    "playlist that names a file": (lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not audio"),
    "list for FFmpeg's concat": (lambda: b"ffconcat version 1.0\nfile /etc/passwd\n", "not audio"),
    "PNG": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(500), "not audio"),
    "random bytes": (lambda: np.random.default_rng(0).bytes(5_000), "not audio"),
    "ADTS and then random bytes": (lambda: b"\xff\xf1" + np.random.default_rng(0).bytes(5_000), "not audio"),
    "m4a without its index": (lambda: with_ffmpeg(tone(2, 48_000), 48_000, "ipod", "aac")[:9_000], "not audio"),
    "truncated FLAC": (
        lambda: with_soundfile(np.random.default_rng(0).random(96_000).astype(np.float32), fmt="FLAC")[:50_000],
        "not audio",
    ),
    "mp4 without audio": (
        lambda: video(),  # noqa: PLW0108 - defined below
        "not audio",
    ),
    "NaN": (lambda: with_soundfile(np.full(48_000, np.nan, dtype=np.float32), subtype="FLOAT"), "not numbers"),
    "infinity": (lambda: with_soundfile(np.array([0.1, np.inf] * 24_000, dtype=np.float32), subtype="FLOAT"), "not numbers"),
    "1 kHz": (lambda: with_soundfile(tone(3, 1_000), 1_000), "1000 Hz"),
    "4 GHz": (lambda: wav_header(4_000_000_000 // 2, 1), "Hz|not audio"),
    "200 channels": (lambda: wav_header(24_000, 200), "200 channels|not audio"),
    "no channels": (lambda: wav_header(24_000, 0), "not audio"),
}


def video() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", 25, width=64, height=64)
        for frame in (av.VideoFrame(64, 64, "yuv420p"), None):
            output.mux(stream.encode(frame))
    return file.getvalue()


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_recording_is_refused_with_the_reason(case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(ReferenceInvalid, match=message):
        audio.decode(make(), max_seconds=60)


def flac_bomb() -> bytes:
    """Hours of silence in frames of a dozen bytes."""
    data = with_soundfile(np.zeros((50_000_000, 1), dtype=np.float32), 8_000, fmt="FLAC")
    return with_total_of(data, (1 << 36) - 1)


def with_total_of(flac: bytes, count: int) -> bytes:
    """A FLAC whose header claims so many samples."""
    return flac[:21] + bytes([flac[21] & 0xF0 | count >> 32]) + struct.pack(">I", count & 0xFFFFFFFF) + flac[26:]


def ogg_bomb() -> bytes:
    """A minute of silence in Opus, its pages repeated as one stream after the other."""
    page = with_soundfile(np.zeros((60 * 48_000, 1), dtype=np.float32), 48_000, fmt="OGG", subtype="OPUS")
    return page * (1_000_000 // len(page))


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def mp4_bomb() -> bytes:
    """Less than a kilobyte whose tables claim 80 million samples in one chunk: FFmpeg builds an index of 2 GB of them."""
    count = 80_000_000
    full = bytes(4)
    entry = box(b"mp4a", bytes(6), struct.pack(">H", 1), bytes(8), struct.pack(">HHHHI", 1, 16, 0, 0, 48_000 << 16))
    table = box(
        b"stbl",
        box(b"stsd", full, struct.pack(">I", 1), entry),
        box(b"stts", full, struct.pack(">III", 1, count, 1024)),
        box(b"stsc", full, struct.pack(">IIII", 1, 1, count, 1)),
        box(b"stsz", full, struct.pack(">II", 1, count)),
        box(b"stco", full, struct.pack(">II", 1, 40)),
    )
    handler = box(b"hdlr", full, bytes(4), b"soun", bytes(13))
    header = box(b"mdhd", full, struct.pack(">IIIIHH", 0, 0, 48_000, 0xFFFFFFFF, 0x55C4, 0))
    track = box(b"tkhd", full, struct.pack(">IIIII", 0, 0, 1, 0, 0xFFFFFFFF), bytes(60))
    movie = box(b"moov", box(b"trak", track, box(b"mdia", header, handler, box(b"minf", table))))
    return box(b"ftyp", b"M4A ", bytes(4), b"M4A mp42") + box(b"mdat", bytes(64)) + movie


BOMBS: dict[str, Callable[[], bytes]] = {
    "FLAC of hours of silence": flac_bomb,
    "Opus of hours of silence": ogg_bomb,
    "MP4 of 80 million samples": mp4_bomb,
    "WAV of 8 bits, 32 channels": lambda: with_soundfile(np.zeros((31_000, 32), dtype=np.float32), 4_000, subtype="PCM_U8"),
    "FLAC that claims 2^36 samples": lambda: with_total_of(with_soundfile(tone(1, 192_000, 8), 192_000, fmt="FLAC"), (1 << 36) - 1),
}
_CHILD = """
import resource, sys, time
from f5_worker import audio
from f5_worker.errors import ReferenceInvalid
data = sys.stdin.buffer.read()
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
try:
    said = len(audio.decode(data, max_seconds=60)[0])
except ReferenceInvalid:
    said = "refused"
seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(said, seconds, (after - before) / 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


@pytest.mark.parametrize("case", BOMBS)
def test_a_small_file_takes_little_memory_and_time(case: str) -> None:
    data = BOMBS[case]()
    assert len(data) < 1_500_000
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", _CHILD], input=data, capture_output=True, check=True, env=env, timeout=120)
    _, seconds, grown_mib, child_mib = done.stdout.decode().split()
    assert float(seconds) < 10
    assert float(grown_mib) < 100
    assert float(child_mib) < 1_100


def test_a_bomb_is_decoded_up_to_the_limit() -> None:
    samples, rate_hz = audio.decode(flac_bomb(), max_seconds=60)
    assert samples.shape == (60 * rate_hz, 1)


def test_all_channels_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_SAMPLES", 100_000)
    assert audio.decode(with_soundfile(tone(2, channels=4)), max_seconds=60)[0].shape == (25_000, 4)
    assert audio.decode(with_ffmpeg(tone(2, 48_000, 2), 48_000, "ipod", "aac"), max_seconds=60)[0].shape == (50_000, 2)


def test_a_decoder_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_FFMPEG_TIMEOUT_S", 0.001)
    started = time.monotonic()
    with pytest.raises(ReferenceInvalid, match="not audio"):
        audio.decode(with_ffmpeg(tone(2, 48_000), 48_000, "ipod", "aac"), max_seconds=60)
    assert time.monotonic() - started < 5


def test_the_decoder_process_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    real = subprocess.run

    def run(*args: Any, env: dict[str, str], **more: Any) -> Any:
        seen.append(env)
        return real(*args, env=env, **more)

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(subprocess, "run", run)
    audio.decode(with_ffmpeg(tone(1, 48_000), 48_000, "ipod", "aac"), max_seconds=60)
    assert [list(env) for env in seen] == [["PYTHONPATH"]]


WRITTEN = st.lists(st.tuples(st.integers(0, 400) | st.integers(0, 1 << 16), st.binary(min_size=1, max_size=4)), max_size=8)


@settings(max_examples=1_000)
@given(st.binary(max_size=600) | st.builds(damaged, st.sampled_from(RECORDINGS), WRITTEN, st.none() | st.integers(0, 8_000)))
def test_any_bytes_and_any_damaged_recording_are_decoded_or_refused(data: bytes) -> None:
    is_decoded(data)


CONTAINERS = [with_ffmpeg(tone(0.2, 48_000), 48_000, *kind) for kind in (("ipod", "aac"), ("webm", "libopus"), ("adts", "aac"))]


@settings(max_examples=15)
@given(st.sampled_from(CONTAINERS), WRITTEN, st.none() | st.integers(1, 8_000))
def test_any_damaged_container_is_decoded_or_refused(recording: bytes, written: list[tuple[int, bytes]], end: int | None) -> None:
    is_decoded(recording[:12] + damaged(recording[12:], written, end))  # as it begins it goes to FFmpeg
