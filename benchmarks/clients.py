"""The programs that `bench restore` runs, one process each: ours, the bare baseline, boto3 and huggingface_hub.

Each reads one JSON argument and fetches the same keys into a folder. Signing is part of ours; the bare baseline gets
signed URLs, because it is a floor and not a product.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import mmap
import os
import socket
import ssl
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit


def ours(job: dict) -> None:
    """The restore's own path: settings, signing, fetch with verification, rename."""
    from f5_worker.fetch import Item, Limits, fetch
    from f5_worker.settings import Settings
    from s3_utils import S3Store

    settings = Settings.from_env(os.environ)
    assert settings.s3 is not None
    store, folder = S3Store(settings.s3), Path(job["folder"])
    items = [Item(store.sign_get(f["key"], expires_s=3600), folder / f"{f['name']}.part", f["size"], f["sha256"]) for f in job["files"]]
    limits = Limits(ca_file=settings.ca_file, **job.get("limits", {}))
    outcomes = fetch(items, limits, on_done=lambda o: o.item.part.rename(o.item.part.with_suffix("")))
    errors = [str(o.error) for o in outcomes if o.error]
    if errors:
        sys.exit("; ".join(errors))


def bare(job: dict) -> None:
    """The least that gives the same bytes with the same guarantee: no retries, bounds, journal, resume or keep-alive logic."""
    connections, range_bytes, slice_bytes = job["connections"], job["range_bytes"], job.get("slice_bytes", 256 * 1024)
    context = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))
    files, tasks = [], []
    for entry in job["files"]:
        fd = os.open(Path(job["folder"]) / entry["name"], os.O_CREAT | os.O_RDWR)
        os.posix_fallocate(fd, 0, entry["size"])
        files.append(_BareFile(fd, entry))
        tasks += [(files[-1], at, min(at + range_bytes, entry["size"])) for at in range(0, entry["size"], range_bytes)]
    memory = memoryview(mmap.mmap(-1, (connections + 6) * range_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    buffers = [memory[n * range_bytes : (n + 1) * range_bytes] for n in range(connections + 6)]
    tasks.reverse()
    free, lock = threading.Semaphore(len(buffers)), threading.Lock()

    def release(buffer: memoryview) -> None:
        buffers.append(buffer)
        free.release()

    def work() -> None:
        sock = _bare_connect(urlsplit(job["files"][0]["url"]), context)
        while True:
            with lock:
                if not tasks:
                    return
                free.acquire()
                file, start, end = tasks.pop()
                buffer = buffers.pop()
            _bare_get(sock, file, buffer[: end - start], start, slice_bytes)
            file.done[start] = (buffer, end - start)
            file.advance(release)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not all(f.digest.hexdigest() == f.sha256 for f in files):
        sys.exit("wrong digest")


class _BareFile:
    def __init__(self, fd: int, entry: dict) -> None:
        self.fd, self.url, self.sha256 = fd, urlsplit(entry["url"]), entry["sha256"]
        self.digest, self.hashed, self.chain = hashlib.sha256(), 0, threading.Lock()
        self.done: dict[int, tuple[memoryview, int]] = {}

    def advance(self, release) -> None:
        while self.hashed in self.done and self.chain.acquire(blocking=False):
            try:
                while (ready := self.done.pop(self.hashed, None)) is not None:
                    self.digest.update(ready[0][: ready[1]])
                    self.hashed += ready[1]
                    release(ready[0])
            finally:
                self.chain.release()


def _bare_connect(url, context: ssl.SSLContext) -> socket.socket:
    sock = socket.create_connection((url.hostname, url.port))
    return context.wrap_socket(sock, server_hostname=url.hostname) if url.scheme == "https" else sock


def _bare_get(sock: socket.socket, file: _BareFile, view: memoryview, start: int, slice_bytes: int) -> None:
    url = file.url
    sock.sendall(
        f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nRange: bytes={start}-{start + len(view) - 1}\r\n\r\n".encode()
    )
    response = http.client.HTTPResponse(sock)
    response.begin()
    assert response.status == 206, response.status
    flags = 0 if isinstance(sock, ssl.SSLSocket) else socket.MSG_WAITALL
    filled = response.fp.readinto(view[: len(response.fp.peek(1))])
    os.pwrite(file.fd, view[:filled], start)
    while filled < len(view):
        count = sock.recv_into(view[filled : filled + slice_bytes], 0, flags)
        assert count
        os.pwrite(file.fd, view[filled : filled + count], start + filled)
        filled += count
    response.close()


def boto3_default(job: dict) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for entry in job["files"]:
        client.download_file(os.environ["S3_BUCKET"], entry["key"], str(Path(job["folder"]) / entry["name"]))


def hub(job: dict) -> None:
    from huggingface_hub import hf_hub_download

    for repo, entry in zip(job["repos"], job["files"], strict=True):
        hf_hub_download(repo, entry["name"], revision=job["commit"], cache_dir=job["folder"])


if __name__ == "__main__":
    {"ours": ours, "bare": bare, "boto3": boto3_default, "hub": hub}[sys.argv[1]](json.loads(sys.argv[2]))
