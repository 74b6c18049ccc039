"""`python -m tests.fuzz_decoder [inputs] [seconds] [seed]`: damaged recordings for libsndfile's decoders until either number is reached.

Every file must be decoded within its bounds or refused by a ReferenceInvalid. Prints how many files it really were.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterable

import numpy as np

from f5_worker import audio
from f5_worker.errors import ReferenceInvalid
from tests.sounds import file_of, tone

MAX_SECONDS = 1.0
_FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_U8"),
    ("WAV", "FLOAT"),
    ("WAV", "IMA_ADPCM"),
    ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("FLAC", None),
    ("MP3", None),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("AIFF", None),
    ("AU", None),
    ("CAF", "ALAC_16"),
]
RECORDINGS = [file_of(tone(0.1), fmt=fmt, subtype=subtype) for fmt, subtype in _FORMATS]


def is_decoded(data: bytes) -> bool:
    """Whether it was, and not refused; any other exception is a defect and passes through."""
    try:
        samples, rate_hz = audio.decode(data, max_seconds=MAX_SECONDS)
    except ReferenceInvalid:
        return False
    assert len(samples) <= rate_hz * MAX_SECONDS
    assert np.abs(samples).max(initial=0) <= 1
    return True


def damaged(recording: bytes, written: Iterable[tuple[int, bytes]], end: int | None) -> bytes:
    """A recording cut off at `end`, with bytes written over its own from some places on, counted around its end."""
    data = bytearray(recording[:end])
    for place, new in written:
        at = place % (len(data) + 1)
        data[at : at + len(new)] = new
    return bytes(data)


def _drawn(draw: random.Random) -> bytes:
    if draw.random() < 0.05:
        return draw.randbytes(draw.randrange(2_000))
    # Most of what a parser can be led astray by stands at the beginning.
    places = [draw.randrange(draw.choice((16, 64, 512, 1 << 16))) for _ in range(draw.randrange(1, 9))]
    written = [(place, draw.randbytes(draw.randrange(1, 5))) for place in places]
    return damaged(draw.choice(RECORDINGS), written, draw.choice((None, None, draw.randrange(8_000))))


def main(inputs: int, seconds: float, seed: int) -> None:
    draw, end = random.Random(seed), time.monotonic() + seconds
    done = decoded = 0
    slowest_s = 0.0
    while done < inputs and time.monotonic() < end:
        data = _drawn(draw)
        began = time.perf_counter()
        try:
            decoded += is_decoded(data)
        except Exception as exc:
            raise SystemExit(f"input {done} of seed {seed} is a defect: {data.hex()}") from exc
        slowest_s = max(slowest_s, time.perf_counter() - began)
        done += 1
    print(f"{done} inputs, {decoded} decoded, {done - decoded} refused, slowest {slowest_s * 1000:.1f} ms, seed {seed}")


if __name__ == "__main__":
    given = [float(arg) for arg in sys.argv[1:]]
    main(*[int(given[0]) if given else 1_000_000, given[1] if len(given) > 1 else 600.0, int(given[2]) if len(given) > 2 else 0])
