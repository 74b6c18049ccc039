"""Processor seconds to encode a minute of speech in each format, and the bytes it takes; the best of the rounds.

    python -m benchmarks.formats [--rounds 5]

"First" is what a fresh process pays for its first second of audio in the format: the import of FFmpeg's bindings is in it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks import measure
from f5_worker import audio

SECONDS = 60
_FIRST = """
import sys, time
import numpy as np
from f5_worker import audio
samples = np.zeros(24_000, dtype=np.float32)
started = time.perf_counter()
audio.Encoder(sys.argv[1], 24_000).write(samples)
print(time.perf_counter() - started)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    samples = a_minute()
    rows = {fmt: row(fmt, samples, rounds) for fmt in audio.CONTENT_TYPES}
    print(f"{'format':8}{'content type':14}{'encode s':>10}{'first s':>9}{'bytes':>10}{'kbit/s':>8}")
    for fmt, figures in rows.items():
        columns = f"{figures['encode_s']:10.3f}{figures['first_s']:9.3f}{figures['bytes']:10.0f}{figures['kbps']:8.0f}"
        print(f"{fmt:8}{audio.CONTENT_TYPES[fmt]:14}{columns}")
    result = {
        "machine": measure.machine(),
        "rounds": rounds,
        "audio_seconds": SECONDS,
        "sample_rate_hz": audio.MODEL_RATE_HZ,
        "formats": rows,
    }
    measure.write(Path(__file__).with_name("results") / "formats.json", result)


def a_minute() -> audio.Samples:
    """The recording that f5_tts ships, again and again."""
    spec = find_spec("f5_tts")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations))) / "infer" / "examples" / "basic"
    recorded, rate_hz = audio.decode((folder / "basic_ref_en.wav").read_bytes(), max_seconds=SECONDS)
    speech = audio.resample(recorded[:, 0], rate_hz, audio.MODEL_RATE_HZ)
    return np.resize(speech, SECONDS * audio.MODEL_RATE_HZ)


def row(fmt: str, samples: audio.Samples, rounds: int) -> dict[str, float]:
    data = audio.encode(samples[: audio.MODEL_RATE_HZ], audio.MODEL_RATE_HZ, fmt)  # imports are made
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        data = audio.encode(samples, audio.MODEL_RATE_HZ, fmt)
        seconds.append(time.process_time() - started)
    first = [
        float(subprocess.run([sys.executable, "-c", _FIRST, fmt], capture_output=True, check=True, text=True).stdout) for _ in range(rounds)
    ]
    return {"encode_s": min(seconds), "first_s": min(first), "bytes": len(data), "kbps": len(data) * 8 / SECONDS / 1000}


if __name__ == "__main__":
    main()
