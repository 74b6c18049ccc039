"""`make bench`: every benchmark in turn, each in a process of its own; results land in benchmarks/results/ as JSON.

Takes about an hour on two cores. `python -m benchmarks NAME...` runs some; the names are those of the table below.
"""

from __future__ import annotations

import subprocess
import sys

RUNS: dict[str, list[str]] = {
    "load": ["benchmarks.load"],
    "engine": ["benchmarks.engine"],
    "boot": ["benchmarks.boot"],
    "restore": ["benchmarks.restore"],
    "restore-tls": ["benchmarks.restore", "--tls"],
    "restore-wan500": ["benchmarks.restore", "--wan", "500"],
    "broken": ["benchmarks.broken"],
    "formats": ["benchmarks.formats"],
    "restore-wan125": ["benchmarks.restore", "--wan", "125"],
}


def main(names: list[str]) -> int:
    unknown = set(names) - set(RUNS)
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(RUNS)}")
        return 2
    failed = []
    for name in names or RUNS:
        print(f"\n=== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", *RUNS[name]], check=False).returncode:
            failed.append(name)
    print(f"\nfailed or missed a bar: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
