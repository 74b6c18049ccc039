"""Samples to bytes in the formats that clients ask for, whole or piece by piece."""

from __future__ import annotations

import importlib
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soxr

from f5_worker.decode import Samples, decode
from f5_worker.errors import RequestError

__all__ = ["CONTENT_TYPES", "Encoder", "Recorder", "Samples", "check_format", "decode", "encode", "nearest_rate_hz", "resample"]

MODEL_RATE_HZ = 24_000  # what F5-TTS speaks
CONTENT_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "pcm": "audio/pcm",  # as OpenAI's API says; audio/L16 is big-endian (RFC 2586)
}
_ANY_RATE_HZ = range(8_000, 48_001)
_MPEG_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_RATES_HZ: dict[str, Sequence[int]] = {"opus": (8_000, 12_000, 16_000, 24_000, 48_000), "mp3": _MPEG_RATES_HZ, "aac": _MPEG_RATES_HZ}
_DEFAULT_KBPS = {"mp3": 96, "aac": 96, "opus": 48}  # mono speech
_MP3_KBPS = (  # constant bit rates of layer III by version: lowest sample rate, rates
    (32_000, (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)),
    (16_000, (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)),
    (8_000, (8, 16, 24, 32, 40, 48, 56, 64)),
)
_PIECE = 2**18  # samples encoded at once, 11 s: conversions copy them several times
_UNKNOWN = 0xFFFFFFFF  # the length in the header of a WAV that is still being written


def check_format(fmt: str, out_rate_hz: int | None, bitrate_kbps: int | None) -> None:
    """Refuse what the format cannot have. None: what the model speaks, and the format's usual bit rate.

    Raises:
        RequestError: the message names what is possible.
        KeyError: fmt is not one of CONTENT_TYPES.
    """
    _check(fmt, out_rate_hz or nearest_rate_hz(fmt, MODEL_RATE_HZ), bitrate_kbps)


def nearest_rate_hz(fmt: str, rate_hz: int) -> int:
    """The sample rate of a format that was asked for without one."""
    rates = _rates_hz(fmt)
    return rate_hz if rate_hz in rates else min(rates, key=lambda rate: abs(rate - rate_hz))


def encode(
    samples: Samples, sample_rate_hz: int, fmt: str = "wav", *, out_rate_hz: int | None = None, bitrate_kbps: int | None = None
) -> bytes:
    """Mono float samples as one file of the format; values outside [-1, 1] are clipped. The same samples give the same bytes.

    mp3 and aac begin with the encoder's delay, 1105 and 1024 samples, of which their streams have no place to tell.

    Raises:
        RequestError: as check_format.
        KeyError: fmt is not one of CONTENT_TYPES.
    """
    recorder = Recorder(fmt, sample_rate_hz, out_rate_hz, bitrate_kbps)
    recorder.write(samples)
    return recorder.close()


class Recorder:
    """The file of encode(), written while its samples come. Raises as encode()."""

    def __init__(self, fmt: str, sample_rate_hz: int, out_rate_hz: int | None = None, bitrate_kbps: int | None = None) -> None:
        self._file = io.BytesIO()
        self._sink = _Sink(self._file, fmt, sample_rate_hz, out_rate_hz, bitrate_kbps)

    def write(self, samples: Samples) -> None:
        for start in range(0, len(samples), _PIECE):
            self._sink.write(samples[start : start + _PIECE])

    def close(self) -> bytes:
        """The whole file."""
        self._sink.close()
        return self._file.getvalue()


class Encoder:
    """A file of the format in pieces: each continues those before it, and with them can be decoded on arrival.

    All pieces together are what encode() gives, but for the lengths and the checksum in the header of wav and flac, which
    nobody knows when the first piece is sent. Raises as encode().
    """

    def __init__(self, fmt: str, sample_rate_hz: int, out_rate_hz: int | None = None, bitrate_kbps: int | None = None) -> None:
        self._file = _Pipe()
        self._sink = _Sink(self._file, fmt, sample_rate_hz, out_rate_hz, bitrate_kbps)

    def write(self, samples: Samples) -> bytes:
        """May be empty: codecs hold back what does not fill a frame."""
        self._sink.write(samples)
        return self._file.take()

    def close(self) -> bytes:
        self._sink.close()
        return self._file.take()


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """Band-limited sample-rate conversion (soxr, high quality) along the first axis."""
    if from_hz == to_hz:
        return samples
    converted: Samples = soxr.resample(samples, from_hz, to_hz, quality="HQ")
    return converted


class _Pipe(io.BytesIO):
    """What was written since the last take."""

    def seekable(self) -> bool:
        return False

    def take(self) -> bytes:
        data = self.getvalue()
        self.seek(0)
        self.truncate()
        return data


class _Writer(Protocol):
    def write(self, samples: Samples) -> None: ...
    def close(self) -> None: ...


class _Sink:
    """Resamples on the way to the format's writer."""

    def __init__(self, file: io.BytesIO, fmt: str, sample_rate_hz: int, out_rate_hz: int | None, bitrate_kbps: int | None) -> None:
        rate_hz = out_rate_hz or nearest_rate_hz(fmt, sample_rate_hz)
        _check(fmt, rate_hz, bitrate_kbps)
        self._stream = soxr.ResampleStream(sample_rate_hz, rate_hz, 1, quality="HQ") if rate_hz != sample_rate_hz else None
        self._writer: _Writer
        if fmt in _CODECS:
            self._writer = _Compressed(file, _CODECS[fmt], rate_hz, bitrate_kbps or _default_kbps(fmt, rate_hz))
        else:
            self._writer = _Wav(file, rate_hz) if fmt == "wav" else _Pcm(file)

    def write(self, samples: Samples) -> None:
        self._writer.write(self._stream.resample_chunk(samples) if self._stream else samples)

    def close(self) -> None:
        if self._stream:
            self._writer.write(self._stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
        self._writer.close()


class _Pcm:
    def __init__(self, file: io.BytesIO) -> None:
        self.file = file

    def write(self, samples: Samples) -> None:
        self.file.write(_as_16_bit(samples).tobytes())

    def close(self) -> None:
        pass


class _Wav(_Pcm):
    def __init__(self, file: io.BytesIO, rate_hz: int) -> None:
        super().__init__(file)
        file.write(struct.pack("<4sI4s4sIHHIIHH", b"RIFF", _UNKNOWN, b"WAVE", b"fmt ", 16, 1, 1, rate_hz, 2 * rate_hz, 2, 16))
        file.write(struct.pack("<4sI", b"data", _UNKNOWN))

    def close(self) -> None:
        if self.file.seekable():
            size = self.file.tell()
            for place in (4, 40):
                self.file.seek(place)
                self.file.write(struct.pack("<I", size - place - 4))


@dataclass(frozen=True)
class _Codec:
    container: str
    encoder: str
    sample_format: str
    container_options: dict[str, str]
    encoder_options: dict[str, str]


_CODECS = {
    # Without Xing and ID3 headers, which are written last: the bit rate is constant and tells the length.
    "mp3": _Codec("mp3", "libmp3lame", "fltp", {"write_xing": "0", "id3v2_version": "0"}, {}),
    # The other coder takes seven times as long for no more than a decibel.
    "aac": _Codec("adts", "aac", "fltp", {}, {"aac_coder": "fast"}),
    # A fixed serial number makes equal speech equal bytes; short pages arrive early (the muxer keeps one back).
    "opus": _Codec("ogg", "libopus", "flt", {"serial_offset": "1", "page_duration": "100000"}, {}),
    "flac": _Codec("flac", "flac", "s16", {"metadata_header_padding": "0"}, {}),
}


class _Compressed:
    """FFmpeg's encoders and containers through PyAV. Nothing volatile is written (bitexact)."""

    def __init__(self, file: io.BytesIO, codec: _Codec, rate_hz: int, kbps: int) -> None:
        self._av = importlib.import_module("av")  # 0.1 s, only for those who ask for such a format
        self._codec, self._rate_hz, self._written = codec, rate_hz, 0
        options = {"fflags": "+bitexact", **codec.container_options}
        self._container = self._av.open(file, "w", format=codec.container, container_options=options)
        self._stream = self._container.add_stream(
            codec.encoder, rate_hz, codec.encoder_options, bit_rate=1000 * kbps, layout="mono", format=codec.sample_format
        )
        self._container.start_encoding()

    def write(self, samples: Samples) -> None:
        if not len(samples):
            return
        values = _as_16_bit(samples) if self._codec.sample_format == "s16" else np.clip(samples, -1.0, 1.0)
        frame = self._av.AudioFrame.from_ndarray(values[np.newaxis], format=self._codec.sample_format, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = self._rate_hz, self._written, Fraction(1, self._rate_hz)
        self._written += len(samples)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()


def _as_16_bit(samples: Samples) -> npt.NDArray[np.int16]:
    values: npt.NDArray[np.int16] = np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2")
    return values


def _rates_hz(fmt: str) -> Sequence[int]:
    if fmt not in CONTENT_TYPES:
        raise KeyError(fmt)
    return _RATES_HZ.get(fmt, _ANY_RATE_HZ)


def _bit_rates_kbps(fmt: str, rate_hz: int) -> Sequence[int]:
    if fmt == "mp3":
        return next(rates for lowest_hz, rates in _MP3_KBPS if rate_hz >= lowest_hz)
    if fmt == "aac":
        return range(16, 6 * rate_hz // 1000 + 1)  # a frame of 1024 samples holds at most 6144 bits
    return range(6, 257) if fmt == "opus" else ()


def _default_kbps(fmt: str, rate_hz: int) -> int:
    return min(_DEFAULT_KBPS[fmt], _bit_rates_kbps(fmt, rate_hz)[-1]) if fmt in _DEFAULT_KBPS else 0


def _check(fmt: str, rate_hz: int, bitrate_kbps: int | None) -> None:
    if rate_hz not in _rates_hz(fmt):
        raise RequestError(f"{fmt} cannot have a sample_rate of {rate_hz}: use {_in_words(_rates_hz(fmt))}")
    possible = _bit_rates_kbps(fmt, rate_hz)
    if bitrate_kbps is not None and not possible:
        raise RequestError(f"{fmt} has no bit rate: leave bitrate_kbps out")
    if bitrate_kbps is not None and bitrate_kbps not in possible:
        raise RequestError(f"{fmt} at {rate_hz} Hz cannot have a bitrate_kbps of {bitrate_kbps}: use {_in_words(possible)}")


def _in_words(numbers: Sequence[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if isinstance(numbers, range) else ", ".join(map(str, numbers))
