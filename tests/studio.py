"""`make studio`: the page to listen with, and a worker of its own that speaks for it.

With F5_MODEL, F5_MODELS_FILE or S3_BUCKET set the worker is the one that the environment describes. Else the model is chosen as in
tests/demo.py (DEMO_MODEL): the real one if the Hugging Face hub answers, else a tiny random one, which the page says.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from f5_worker import studio
from f5_worker.endpoint import LocalApi
from f5_worker.errors import SettingsError
from tests.demo import OUT, Interrupted, choose_model, interrupt, wanted_model
from tests.worker_process import until, worker_process

BOOT_TIMEOUT_S = 1800
SETTINGS = ("F5_MODEL", "F5_MODELS_FILE", "S3_BUCKET")
NOISE = (
    "This is a tiny random model: what it speaks is noise. The real one is taken when the Hugging Face hub answers, "
    "or the one that F5_MODEL, F5_MODELS_FILE or S3_BUCKET name."
)


@contextmanager
def model() -> Iterator[tuple[dict[str, str], str]]:
    """The worker's environment, and what the page says of the model."""
    if any(os.environ.get(name) for name in SETTINGS):
        yield dict(os.environ), ""
        return
    with choose_model(wanted_model()) as chosen:
        kept = {"MODEL_CACHE_DIR": str(OUT / "studio" / "cache")}  # downloaded once
        yield kept | os.environ | chosen.env, NOISE if chosen.spec.name == "demo-tiny" else ""


@contextmanager
def local_worker(env: dict[str, str]) -> Iterator[str]:
    """The address of a worker that serves the local job API."""
    port = free_port()
    arguments = ["--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port)]
    with worker_process(env, home=Path.home(), arguments=arguments, stdout=sys.stdout.fileno()) as worker:
        until(lambda: serves(port) or worker.poll() is not None, BOOT_TIMEOUT_S, lambda: "the worker does not get ready")
        if worker.poll() is not None:
            sys.exit(worker.returncode)
        yield f"http://127.0.0.1:{port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serves(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make studio")
    parser.add_argument("--port", type=int, default=studio.PORT)
    port = parser.parse_args().port
    if not 0 <= port <= 65_535:
        parser.error("--port: must be 0 to 65535")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        studio.check_port(port)
        with model() as (env, note), local_worker(env) as url:
            studio.serve(LocalApi(url), port, note=note)
    except Interrupted as exc:
        return 128 + int(exc.args[0])
    except SettingsError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
