"""An emulated line: a TCP proxy that adds a round trip per connect and per request and caps bytes per second.

    with line("127.0.0.1:8333", rtt_s=0.02, per_connection=40e6, total=500e6) as running: connect(running.address)

It runs as its own process and moves bytes with splice(2), so that it takes little of the cores it shares with what is
measured. Slow start and loss are not emulated.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

_CHUNK_BYTES = 1024 * 1024
_F_SETPIPE_SZ = 1031
_CATCH_UP_S = 0.02  # what a late wake-up may make good
_QUANTUM_S = 0.004  # less is not slept: wake-ups would take the cores from what is measured


class Line(NamedTuple):
    """Where a line is entered, as host:port, and the process that emulates it."""

    address: str
    pid: int


class Rate:
    """Bytes per second as a sequence of reservations: `reserve(n)` is the time when the line has room for n more bytes."""

    def __init__(self, bytes_per_s: float) -> None:
        self._seconds_per_byte = 1 / bytes_per_s if bytes_per_s else 0.0
        self._free_at = 0.0
        self._lock = threading.Lock()

    def reserve(self, count: int) -> float:
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() - _CATCH_UP_S) + count * self._seconds_per_byte
            return self._free_at


def _upwards(client: socket.socket, server: socket.socket, rtt_s: float) -> None:
    """Requests: each burst of bytes arrives a round trip late (half for the way there, half for the way back)."""
    time.sleep(rtt_s)  # the handshake
    with contextlib.suppress(OSError):
        while data := client.recv(_CHUNK_BYTES):
            time.sleep(rtt_s)
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)


def _downwards(server: socket.socket, client: socket.socket, rates: list[Rate]) -> None:
    source, sink = os.pipe()
    fcntl.fcntl(sink, _F_SETPIPE_SZ, _CHUNK_BYTES)
    with contextlib.suppress(OSError):
        while count := os.splice(server.fileno(), sink, _CHUNK_BYTES):
            late_s = max([rate.reserve(count) for rate in rates]) - time.monotonic()
            if late_s > _QUANTUM_S:
                time.sleep(late_s)
            while count:
                count -= os.splice(source, client.fileno(), count)
    for end in (source, sink):
        os.close(end)
    for sock in (client, server):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, upstream: tuple[str, int], rtt_s: float, per_connection: float, total: float) -> None:
    shared = Rate(total)
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(upstream)
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_upwards, args=(client, server, rtt_s), daemon=True).start()
        threading.Thread(target=_downwards, args=(server, client, [Rate(per_connection), shared]), daemon=True).start()


@contextlib.contextmanager
def line(upstream: str, *, rtt_s: float, per_connection: float, total: float) -> Iterator[Line]:
    """Run the proxy in a process. Rates in bytes per second, 0 for no cap."""
    numbers = ["--rtt-s", str(rtt_s), "--per-connection", str(per_connection), "--total", str(total)]
    process = subprocess.Popen([sys.executable, __file__, upstream, *numbers], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Line(process.stdout.readline().strip(), process.pid)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upstream", help="host:port")
    parser.add_argument("--rtt-s", type=float, default=0.02)
    parser.add_argument("--per-connection", type=float, default=40e6, help="bytes per second")
    parser.add_argument("--total", type=float, default=500e6, help="bytes per second")
    args = parser.parse_args()
    host, _, port = args.upstream.rpartition(":")
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(f"127.0.0.1:{listener.getsockname()[1]}", flush=True)
    _serve(listener, (host, int(port)), args.rtt_s, args.per_connection, args.total)


if __name__ == "__main__":
    main()
