"""Decode a recording with FFmpeg, as a process of its own: 200 bytes of MP4 can make its parser take gigabytes.

    python -m f5_worker.av_decode CONTAINER MAX_SECONDS MAX_SAMPLES < file

Writes the rate in Hz and the number of channels as a line of text, then interleaved 32-bit floats. Fails when there is no audio.
"""

from __future__ import annotations

import importlib
import io
import resource
import sys
from collections.abc import Iterator
from typing import Any

_MEMORY_BYTES = 1 << 30  # address space; what the libraries take is a fifth of it
_CPU_S = 20
_DECODERS = "aac,alac,mp3,mp3float,opus,libopus,vorbis,flac,amrnb,amrwb,pcm_s16le,pcm_s24le,pcm_f32le,pcm_s16be"


def main(container: str, max_seconds: float, max_samples: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    written = 0
    for frame in _frames(sys.stdin.buffer.read(), container):
        rate_hz, channels = frame.sample_rate, frame.layout.nb_channels
        if not written:
            sys.stdout.buffer.write(b"%d %d\n" % (rate_hz, channels))
        left = min(int(max_seconds * rate_hz), max_samples // channels) - written
        sys.stdout.buffer.write(bytes(frame.planes[0])[: 4 * channels * min(frame.samples, left)])
        written += frame.samples
        if frame.samples >= left:
            return
    if not written:
        raise SystemExit("no audio")


def _frames(data: bytes, container_format: str) -> Iterator[Any]:
    """Packed float frames of the first audio stream, up to the first defect."""
    av = importlib.import_module("av")
    resampler = av.AudioResampler(format="flt")
    with av.open(io.BytesIO(data), format=container_format, container_options={"codec_whitelist": _DECODERS}) as container:
        stream = next(iter(container.streams.audio), None)
        if stream is None or stream.codec_context.name not in _DECODERS.split(","):
            return
        stream.codec_context.thread_count = 1
        try:
            for frame in container.decode(stream):
                yield from resampler.resample(frame)
        except av.FFmpegError:
            return


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
