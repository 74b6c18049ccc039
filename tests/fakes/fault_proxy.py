"""A loopback HTTP server with fault knobs: in front of a real store, or serving a few objects of its own.

    with FaultProxy(upstream="127.0.0.1:8333") as proxy:      # or FaultProxy(objects={"/bucket/key": b"..."})
        proxy.fail(status(503, code="SlowDown", retry_after=1), path="*.safetensors", methods=("GET",), times=2)
        client = boto3.client("s3", endpoint_url=proxy.url)
        ...
        assert [r.status for r in proxy.log if r.method == "GET"] == [503, 503, 206]

Requests reach the store unchanged, Host included, so a SigV4 signature made for the proxy's address stays valid.
The first rule that matches a request and has uses left applies; without one the request passes.
"""

from __future__ import annotations

import contextlib
import fnmatch
import http.client
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit

_CHUNK_BYTES = 256 * 1024
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection"}


@dataclass
class Request:
    """One request as it ended. `status` 0: never answered. `sent_bytes`: of the body that went to the client."""

    method: str
    path: str  # decoded, without the query
    query: str
    range: str | None
    headers: Mapping[str, str]
    status: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass(frozen=True)
class Reply:
    """An answer on its way to the client."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: Iterator[bytes]
    cut_after_bytes: int | None = None  # then `ending`
    ending: str = "close"  # close | reset | stall
    bytes_per_s: float | None = None

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    def with_headers(self, **changes: str) -> Reply:
        """Names with _ for -."""
        new = {k.replace("_", "-"): v for k, v in changes.items()}
        kept = [(k, v) for k, v in self.headers if k.lower() not in {n.lower() for n in new}]
        return replace(self, headers=[*kept, *new.items()])


@dataclass
class Fault:
    """`before(request)` may answer instead of the store; `after(reply)` changes the store's answer."""

    name: str
    before: Callable[[Request], Reply | None] = lambda _: None
    after: Callable[[Reply], Reply] = lambda reply: reply
    edit: Callable[[list[tuple[str, str]]], list[tuple[str, str]]] = lambda headers: headers  # of the request


# the faults


def status(code_number: int, *, code: str = "", retry_after: str | int | None = None, message: str = "refused by the fault proxy") -> Fault:
    """An S3 error document with this status and <Code>."""
    xml = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(xml)))]
    if retry_after is not None:
        headers.append(("Retry-After", str(retry_after)))
    return Fault(f"{code_number} {code}", before=lambda _: Reply(code_number, headers, iter([xml])))


def slow_down(retry_after: str | int | None = None) -> Fault:
    return status(503, code="SlowDown", retry_after=retry_after)


def truncated(after_bytes: int) -> Fault:
    """The body ends early: the connection is closed in order after N bytes of it."""
    return Fault("truncated", after=lambda r: replace(r, cut_after_bytes=after_bytes, ending="close"))


def reset(after_bytes: int) -> Fault:
    """A TCP reset after N bytes of the body."""
    return Fault("reset", after=lambda r: replace(r, cut_after_bytes=after_bytes, ending="reset"))


def stall(after_bytes: int) -> Fault:
    """Silence after N bytes of the body, the connection stays open."""
    return Fault("stall", after=lambda r: replace(r, cut_after_bytes=after_bytes, ending="stall"))


def black_hole() -> Fault:
    """The request is read and never answered."""
    return Fault("black hole", before=lambda _: Reply(0, [], iter(()), cut_after_bytes=0, ending="stall"))


def slow(bytes_per_s: float) -> Fault:
    """Every body of this rule trickles at this rate."""
    return Fault("slow", after=lambda r: replace(r, bytes_per_s=bytes_per_s))


def ignore_range() -> Fault:
    """The whole object with 200, whatever was asked for."""
    return Fault("ignores Range", edit=lambda headers: [(k, v) for k, v in headers if k.lower() != "range"])


def chunked() -> Fault:
    """The body comes without Content-Length, in chunks."""
    return Fault("chunked", after=lambda r: replace(r, headers=[(k, v) for k, v in r.headers if k.lower() != "content-length"]))


def wrong_content_range(shift_bytes: int = 1) -> Fault:
    """The right number of bytes, said to be from another place."""

    def after(reply: Reply) -> Reply:
        match = _parse_content_range(reply)
        if match is None:
            return reply
        first, last, total = match
        return reply.with_headers(Content_Range=f"bytes {first + shift_bytes}-{last + shift_bytes}/{total}")

    return Fault("wrong Content-Range", after=after)


def replaced(etag: str = '"0123456789abcdef0123456789abcdef"') -> Fault:
    """The object is another one from here on: other ETag, other bytes. Use with `skip=` to replace it in mid-download."""
    flip = corrupt()
    return Fault("replaced", after=lambda r: flip.after(r).with_headers(ETag=etag))


def corrupt() -> Fault:
    """Same length, wrong bytes."""
    return Fault("corrupt", after=lambda r: replace(r, body=(bytes([c[0] ^ 1]) + c[1:] for c in r.body if c)))


def resized(delta_bytes: int) -> Fault:
    """The object is longer (zeros at the end) or shorter than it was."""

    def after(reply: Reply) -> Reply:
        match = _parse_content_range(reply)
        if match is not None:
            first, last, total = match
            if last >= total + delta_bytes:
                return status(416, code="InvalidRange").before(Request("", "", "", None, {})) or reply
            return reply.with_headers(Content_Range=f"bytes {first}-{last}/{total + delta_bytes}")
        size = int(reply.header("Content-Length") or 0) + delta_bytes
        return replace(reply.with_headers(Content_Length=str(size)), body=_fitted(reply.body, size)) if reply.status == 200 else reply

    return Fault("resized", after=after)


def refuse_headers(*prefixes: str) -> Fault:
    """What Backblaze B2 does: 501 for a request that carries an unsupported header."""
    refusal = status(501, code="NotImplemented", message="A header you provided implies functionality that is not implemented")

    def before(request: Request) -> Reply | None:
        found = any(name.lower().startswith(tuple(p.lower() for p in prefixes)) for name in request.headers)
        return refusal.before(request) if found else None

    return Fault("refused headers", before=before)


def backblaze() -> Fault:
    """Checksum headers and conditional writes are refused."""
    return refuse_headers("x-amz-checksum-", "x-amz-sdk-checksum-", "x-amz-trailer", "if-none-match", "if-match")


def hook(function: Callable[[Request], None]) -> Fault:
    """Call a function when a request comes (to kill a process, to set an event); the request passes."""
    return Fault("hook", before=function)  # type: ignore[arg-type]


@dataclass
class _Rule:
    fault: Fault
    path: str
    methods: Sequence[str]
    times: int | None
    skip: int
    query: str
    used: int = 0

    def matches(self, request: Request) -> bool:
        return (
            fnmatch.fnmatchcase(request.path, self.path)
            and (not self.methods or request.method in self.methods)
            and re.search(self.query, request.query) is not None
        )


class FaultProxy:
    """See the module. `url` is its address; `log` the requests that ended, oldest first; `faults_used` counts by name."""

    def __init__(
        self,
        upstream: str | None = None,
        *,
        objects: Mapping[str, bytes] | None = None,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.upstream = upstream
        self.objects = dict(objects or {})  # by decoded path
        self._log: list[Request] = []
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._tls = tls
        self._server = _Server((host, 0), type("_BoundHandler", (_Handler,), {"proxy": self}), host)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.host, self.port = self._server.server_address[:2]

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.drop_connections()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        shown = f"[{self.host}]" if ":" in str(self.host) else self.host
        return f"{'https' if self._tls else 'http'}://{shown}:{self.port}"

    @property
    def log(self) -> list[Request]:
        with self._lock:
            return list(self._log)

    def fail(
        self, fault: Fault, *, path: str = "*", methods: Sequence[str] = (), times: int | None = None, skip: int = 0, query: str = ""
    ) -> FaultProxy:
        """Apply a fault to requests whose decoded path fits the glob.

        Args:
            methods: () for all.
            times: How many requests it hits; None: every one.
            skip: How many matching requests pass first.
            query: A regular expression that the query string has to contain (`uploads`, `list-type`).
        """
        with self._lock:
            self._rules.append(_Rule(fault, path, methods, times, skip, query))
        return self

    def heal(self) -> None:
        """Forget every fault; the log stays."""
        with self._lock:
            self._rules.clear()

    def count(self, method: str | None = None, path: str = "*", status: int | None = None) -> int:
        """How many logged requests fit."""
        return sum(
            1
            for r in self.log
            if (method is None or r.method == method) and fnmatch.fnmatchcase(r.path, path) and (status is None or r.status == status)
        )

    def wait_for(self, condition: Callable[[list[Request]], bool], timeout_s: float = 10.0) -> None:
        """Wait until the log fulfils a condition."""
        until = time.monotonic() + timeout_s
        while not condition(self.log):
            if time.monotonic() > until:
                raise AssertionError(f"the log never fulfilled the condition; it has {len(self.log)} requests")
            time.sleep(0.005)

    # for the handler

    def rules_for(self, request: Request) -> list[Fault]:
        """The faults of this request: every edit-or-answer rule that matches, each counted."""
        with self._lock:
            for rule in self._rules:
                if not rule.matches(request):
                    continue
                rule.used += 1
                if rule.used > rule.skip and (rule.times is None or rule.used <= rule.skip + rule.times):
                    return [rule.fault]
        return []

    def note(self, request: Request) -> None:
        with self._lock:
            self._log.append(request)

    def pause(self, seconds: float) -> None:
        """Wait, unless the proxy closes."""
        if self._closing.wait(seconds):
            raise ConnectionAbortedError

    def hold(self) -> None:
        """Keep a connection open without a word until the proxy closes."""
        self._closing.wait()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], host: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        self._open.add(request)
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is the normal end of a fault."""

    def drop_connections(self) -> None:
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy  # set by the proxy on its own subclass
    upstream: http.client.HTTPConnection | None = None
    protocol_version = "HTTP/1.1"
    wbufsize = 0
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.close_connection = True

    def finish(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
        with contextlib.suppress(OSError):
            super().finish()

    def _any(self) -> None:
        parts = urlsplit(self.path)
        request = Request(self.command, unquote(parts.path), parts.query, self.headers.get("Range"), dict(self.headers.items()))
        body = self._body(request)
        try:
            reply = self._reply(request, body)
            for _ in body:  # what the store did not want
                pass
            request.status = reply.status
            if reply.status:
                self._send(request, reply)
            else:
                self.proxy.note(request)
                self.proxy.hold()
                self.close_connection = True
        except OSError:
            self.close_connection = True
            if request.status == 0 or request not in self.proxy.log:
                self.proxy.note(request)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any  # noqa: N815 - the names that http.server looks for

    def _body(self, request: Request) -> Iterator[bytes]:
        left = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            yield from self._chunks(request)
        while left > 0:
            data = self.rfile.read(min(left, _CHUNK_BYTES))
            if not data:
                raise ConnectionAbortedError
            left -= len(data)
            request.received_bytes += len(data)
            yield data

    def _chunks(self, request: Request) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data = self.rfile.read(size)
            self.rfile.readline()
            request.received_bytes += len(data)
            yield data
        while self.rfile.readline().strip():
            pass

    def _reply(self, request: Request, body: Iterator[bytes]) -> Reply:
        headers = list(self.headers.items())
        faults = self.proxy.rules_for(request)
        for fault in faults:
            if (instead := fault.before(request)) is not None:
                return instead
            headers = fault.edit(headers)
        reply = self._from_upstream(headers, body) if self.proxy.upstream else _from_objects(self.proxy, request, headers, body)
        for fault in faults:
            reply = fault.after(reply)
        return reply

    def _from_upstream(self, headers: list[tuple[str, str]], body: Iterator[bytes]) -> Reply:
        if self.upstream is not None:
            self.upstream.close()
        self.upstream = connection = http.client.HTTPConnection(str(self.proxy.upstream), timeout=120)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                connection.putheader(name, value)
        is_chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        if is_chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for data in body:
            connection.send(b"%x\r\n%b\r\n" % (len(data), data) if is_chunked else data)
        if is_chunked:
            connection.send(b"0\r\n\r\n")
        response = connection.getresponse()
        passed = [(k, v) for k, v in response.getheaders() if k.lower() not in _HOP_BY_HOP]
        return Reply(response.status, passed, iter(lambda: response.read(_CHUNK_BYTES), b""))

    def _send(self, request: Request, reply: Reply) -> None:
        length = reply.header("Content-Length")
        bodyless = self.command == "HEAD" or reply.status in {204, 304}
        in_chunks = length is None and not bodyless
        lines = [f"HTTP/1.1 {reply.status} {http.client.responses.get(reply.status, '')}"]
        lines += [f"{name}: {value}" for name, value in reply.headers]
        lines += ["Transfer-Encoding: chunked"] if in_chunks else []
        self.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        try:
            if not bodyless:
                self._send_body(request, reply, in_chunks)
        finally:
            self.proxy.note(request)

    def _send_body(self, request: Request, reply: Reply, in_chunks: bool) -> None:
        started = time.monotonic()
        step = _CHUNK_BYTES if reply.bytes_per_s is None else max(1, min(_CHUNK_BYTES, int(reply.bytes_per_s / 20)))
        for data in _pieces(reply.body, step):
            left = len(data) if reply.cut_after_bytes is None else reply.cut_after_bytes - request.sent_bytes
            part = data[: max(0, left)]
            if part:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if in_chunks else part)
                request.sent_bytes += len(part)
            if len(part) < len(data):
                self._break(reply.ending)
                return
            if reply.bytes_per_s is not None:
                self.proxy.pause(max(0.0, started + request.sent_bytes / reply.bytes_per_s - time.monotonic()))
        if in_chunks:
            self.wfile.write(b"0\r\n\r\n")

    def _break(self, ending: str) -> None:
        self.close_connection = True
        if ending == "stall":
            self.proxy.hold()
        elif ending == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def _from_objects(proxy: FaultProxy, request: Request, headers: list[tuple[str, str]], body: Iterator[bytes]) -> Reply:
    """GET, HEAD with ranges, PUT and DELETE of the proxy's own objects."""
    if request.method == "PUT":
        proxy.objects[request.path] = b"".join(body)
        return Reply(200, [("Content-Length", "0")], iter(()))
    data = proxy.objects.get(request.path)
    if request.method == "DELETE":
        proxy.objects.pop(request.path, None)
        return Reply(204, [], iter(()))
    if data is None:
        return status(404, code="NoSuchKey").before(request) or Reply(404, [("Content-Length", "0")], iter(()))
    common = [("ETag", f'"{md5(data, usedforsecurity=False).hexdigest()}"'), ("Last-Modified", formatdate(0, usegmt=True))]
    wanted = next((v for k, v in headers if k.lower() == "range"), None)
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
    if match is None:
        return Reply(200, [*common, ("Content-Length", str(len(data)))], iter([data]))
    first, last = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
    if first >= len(data):
        return status(416, code="InvalidRange").before(request) or Reply(416, [("Content-Length", "0")], iter(()))
    part = data[first : last + 1]
    return Reply(206, [*common, ("Content-Length", str(len(part))), ("Content-Range", f"bytes {first}-{last}/{len(data)}")], iter([part]))


def _parse_content_range(reply: Reply) -> tuple[int, int, int] | None:
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", reply.header("Content-Range") or "")
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _fitted(body: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The body cut or filled with zeros to a size."""
    for data in body:
        yield data[:size]
        size -= min(size, len(data))
    if size:
        yield bytes(size)


def _pieces(body: Iterator[bytes], step: int) -> Iterator[bytes]:
    for data in body:
        for at in range(0, len(data), step):
            yield data[at : at + step]


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """The URL of an address that lets nobody connect: SYNs are dropped as by a firewall (a listener whose backlog is full)."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            for filler in fillers:
                filler.close()


def refused_url() -> str:
    """The URL of a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"
