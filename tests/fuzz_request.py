"""`python -m tests.fuzz_request [inputs] [seconds] [seed]`: the request parser under random inputs until either number is reached.

Every input must be parsed or refused by a RequestError whose words can be sent and quote no value. Prints how many inputs it really were.
"""

from __future__ import annotations

import json
import sys
import time

from f5_worker import request
from tests.job_inputs import MARK, MAX_REFUSAL_CHARS, Drawing, refusal_of

WORKER = request.Worker(model="F5TTS_v1_Base", s3_prefixes=("voices/", "output/"))


def main(inputs: int, seconds: float, seed: int) -> None:
    draw, end = Drawing(seed), time.monotonic() + seconds
    done = refused = 0
    slowest_s = 0.0
    while done < inputs and time.monotonic() < end:
        job_input = draw.job_input()
        began = time.perf_counter()
        refusal = refusal_of(job_input, WORKER)
        json.dumps(refusal, ensure_ascii=False).encode()
        if MARK in refusal or len(refusal) > MAX_REFUSAL_CHARS:
            raise SystemExit(f"input {done} of seed {seed} is quoted or has an endless message")
        refused += bool(refusal)
        slowest_s = max(slowest_s, time.perf_counter() - began)
        done += 1
    print(f"{done} inputs, {done - refused} parsed, {refused} refused, slowest {slowest_s * 1000:.1f} ms, seed {seed}")


if __name__ == "__main__":
    given = [float(arg) for arg in sys.argv[1:]]
    main(*[int(given[0]) if given else 1_000_000, given[1] if len(given) > 1 else 600.0, int(given[2]) if len(given) > 2 else 0])
