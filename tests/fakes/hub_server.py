"""A loopback stand-in for the Hugging Face hub, for the real huggingface_hub client through HF_ENDPOINT.

Serves the files of the models and transcribers in a models file (schema of f5_worker/models.json) from `<folder>/<org>/<name>/<path>`.
Runs as a program too: `python -m tests.fakes.hub_server <models.json> <folder>` prints its URL and serves until it is ended.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from f5_worker.manifest import PinnedFile, load_pins

_CHUNK_BYTES = 1024 * 1024


@dataclass
class HubServer:
    """A running stand-in: what it was asked, how many bytes of files it sent, and its fault knobs."""

    url: str = ""
    files: dict[tuple[str, str, str], tuple[PinnedFile, Path]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    fail_status: int | None = None  # answer everything with it
    wrong_bytes: bool = False  # right size, other content
    hang: threading.Event | None = None  # accept, then answer only when it is set
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, folder: Path, files: Iterable[PinnedFile]) -> None:
        for file in files:
            self.files[file.repo, file.commit, file.path] = (file, folder / file.repo / file.path)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub = self.hub
        with hub.lock:
            hub.requests.append(f"{self.command} {self.path}")
        if hub.hang:
            hub.hang.wait()
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", unquote(urlsplit(self.path).path))
        found = hub.files.get((match[1], match[2], match[3])) if match else None
        if hub.fail_status or not found:
            self._send_status(hub.fail_status or 404)
            return
        self._send_file(*found, body=body)

    def _send_status(self, status: int) -> None:
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_file(self, file: PinnedFile, path: Path, *, body: bool) -> None:
        start, end = 0, file.size_bytes - 1
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if requested and body:
            start, end = int(requested[1]), min(int(requested[2] or end), end)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{file.size_bytes}")
        else:
            self.send_response(200)
        self.send_header("X-Repo-Commit", file.commit)
        self.send_header("ETag", f'"{file.etag}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start + 1))
        self.end_headers()
        if body:
            self._send_bytes(path, start, end - start + 1)

    def _send_bytes(self, path: Path, start: int, count: int) -> None:
        with path.open("rb") as handle:
            handle.seek(start)
            while count and (chunk := handle.read(min(count, _CHUNK_BYTES))):
                self.wfile.write(bytes(len(chunk)) if self.hub.wrong_bytes else chunk)
                count -= len(chunk)
                with self.hub.lock:
                    self.hub.sent_bytes += len(chunk)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet: `requests` is the log."""


@contextmanager
def hub_server(models_file: Path | None = None, folder: Path | None = None) -> Iterator[HubServer]:
    """Serve on a free loopback port until the block ends."""
    hub = HubServer()
    if models_file is not None:
        hub.add(folder or models_file.parent, load_pins(models_file))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if hub.hang:
            hub.hang.set()
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    with hub_server(Path(sys.argv[1]), Path(sys.argv[2])) as running:
        print(json.dumps({"url": running.url}), flush=True)
        threading.Event().wait()
