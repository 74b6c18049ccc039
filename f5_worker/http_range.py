"""One ranged GET at a time over a keep-alive connection, for http and https.

Sockets block without a timeout; whoever owns the connection watches `waiting_since` and calls `interrupt()` from
another thread. That keeps every bound in one place and lets a plain socket fill a whole slice in one system call
(MSG_WAITALL), which costs half the CPU of buffered reads when many threads share the interpreter.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from f5_worker.errors import StoreCorrupt, StoreError, StoreUnavailable
from f5_worker.store import answer_error

Endpoint = tuple[bool, str, int]  # tls, host, port

_ERROR_BODY_BYTES = 65_536  # an S3 error document has under 1 KB
_S3_CODE = re.compile(rb"<Code>([A-Za-z0-9._-]{1,64})</Code>")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class Interrupted(Exception):
    """This attempt failed and another may succeed. `retry_after_s` is what the store asked for."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Target:
    """An URL taken apart as it came: nothing is encoded again, or its signature would break."""

    tls: bool
    host: str
    port: int
    authority: str
    path: str

    @classmethod
    def parse(cls, url: str) -> Target:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(tls, parts.hostname or "", parts.port or (443 if tls else 80), parts.netloc.rpartition("@")[2], path)

    @property
    def endpoint(self) -> Endpoint:
        return self.tls, self.host, self.port


def tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """The default context (SSL_CERT_FILE and SSL_CERT_DIR count); certifi's roots where the system has none."""
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    paths = ssl.get_default_verify_paths()
    if ca_file is None and paths.cafile is None and paths.capath is None:
        import certifi  # noqa: PLC0415 - only on images without ca-certificates

        context.load_verify_locations(certifi.where())
    return context


class Answer:
    """A successful response whose body is read in slices."""

    def __init__(self, connection: Connection, sock: socket.socket, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.etag = response.headers.get("ETag")
        self.length = response.length  # None: not told (chunked)
        self.content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        self._connection = connection
        self._sock = sock
        self._response = response
        self._left = response.length
        self._buffered = True  # the parser of the head may have read into the body

    def read_into(self, view: memoryview) -> int:
        """Fill the view; fewer bytes: the body ended or broke. Raises Interrupted when nothing came before it broke."""
        with self._connection.watching():
            if self._left is not None:
                return self._read_counted(view)
            received = self._response.readinto(view)  # chunked
            self._connection.note(received)
            return received

    def _read_counted(self, view: memoryview) -> int:
        view = view[: self._left]
        filled = 0
        while filled < len(view):
            try:
                received = self._receive(view[filled:])
            except OSError:
                if filled == 0:
                    raise
                received = 0
            if received == 0:
                break
            filled += received
            self._connection.note(received)
        self._left = (self._left or 0) - filled
        if self._left == 0:
            self._connection.finished(self._response)
        return filled

    def _receive(self, view: memoryview) -> int:
        if self._buffered:
            self._buffered = False
            return self._response.fp.readinto(view[: len(self._response.fp.peek(1))])
        if isinstance(self._sock, ssl.SSLSocket):
            return self._sock.recv_into(view)
        return self._sock.recv_into(view, 0, socket.MSG_WAITALL)


class Connection:
    """A keep-alive connection that follows the targets it is given. One thread uses it; any may interrupt it."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.waiting_since: float | None = None  # monotonic time of the last progress while a call waits for the network
        self.received_bytes = 0
        self.endpoint: Endpoint | None = None
        self.answered = False  # whether the current request got a status line
        self.reusable = False
        self._context = context
        self._sock: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None  # its file object keeps the socket open
        self._reason: str | None = None

    def note(self, received: int) -> None:
        self.received_bytes += received
        self.waiting_since = time.monotonic()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While a call waits for the network; what goes wrong inside is Interrupted."""
        self.waiting_since = time.monotonic()
        try:
            yield
        except (OSError, http.client.HTTPException, UnicodeError) as exc:
            raise Interrupted(self._reason or _reason_of(exc)) from exc
        finally:
            self.waiting_since = None

    def finished(self, response: http.client.HTTPResponse) -> None:
        """The body is read: the connection may carry the next request."""
        self.reusable = not response.will_close
        response.close()

    def interrupt(self, reason: str) -> None:
        """Make the call that waits on this connection end with Interrupted(reason). For other threads."""
        self._reason = self._reason or reason
        sock = self._sock
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # SSLSocket's own would drop its state under the reader

    def close(self) -> None:
        self.reusable = False
        response, self._response = self._response, None
        sock, self._sock = self._sock, None
        if response is not None:
            response.close()
        if sock is not None:
            sock.close()

    def get(self, target: Target, start: int, end: int, *, connect_s: float) -> Answer:
        """Ask for the bytes from start to end, for the whole object when both are 0.

        Raises:
            Interrupted: no usable answer; another attempt may get one.
            StoreError: the store refused, and would again.
        """
        self._reason = None
        self.answered = False
        reused, self.reusable = self.reusable and self.endpoint == target.endpoint, False
        if reused:
            try:
                return self._request(target, start, end)
            except Interrupted:
                if self.answered or self._reason is not None:
                    raise
        self._connect(target, connect_s)
        return self._request(target, start, end)

    def _connect(self, target: Target, connect_s: float) -> None:
        self.close()
        self.endpoint = target.endpoint
        with self.watching():
            sock = self._open(target, connect_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.tls and self._context is not None:
                # The handshake comes after: wrapping detaches the socket that interrupt() would shut down.
                self._sock = secured = self._context.wrap_socket(sock, server_hostname=target.host, do_handshake_on_connect=False)
                self._check_interrupted()
                secured.do_handshake()

    def _open(self, target: Target, connect_s: float) -> socket.socket:
        failure: OSError = OSError("the name has no address")
        addresses = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses:
            self.close()
            sock = self._sock = socket.socket(family, kind, protocol)
            self._check_interrupted()
            sock.settimeout(connect_s / len(addresses))  # or one that lets nobody connect (IPv6) would hide the next
            try:
                sock.connect(address)
            except OSError as exc:
                failure = exc
                continue
            sock.settimeout(None)
            return sock
        raise failure

    def _check_interrupted(self) -> None:
        """For an interrupt that came while there was no socket to shut down."""
        if self._reason is not None:
            raise ConnectionAbortedError

    def _request(self, target: Target, start: int, end: int) -> Answer:
        sock = self._sock
        if sock is None:
            raise Interrupted(self._reason or "not connected")
        wanted = f"Range: bytes={start}-{end - 1}\r\n" if end else ""
        head = f"GET {target.path} HTTP/1.1\r\nHost: {target.authority}\r\n{wanted}Accept-Encoding: identity\r\n\r\n"
        with self.watching():
            sock.sendall(head.encode())
            response = self._response = http.client.HTTPResponse(sock, method="GET")
            response.begin()
            self.answered = True
            if response.status not in {200, 206}:
                body = response.read(_ERROR_BODY_BYTES)
                raise refusal(response.status, body, response.headers.get("Retry-After"))
        if response.length == 0:
            self.finished(response)
        return Answer(self, sock, response)


def refusal(status: int, body: bytes, retry_after: str | None) -> StoreError | Interrupted:
    """What an answer without the wanted bytes means. Its message has the S3 code and never the URL."""
    match = _S3_CODE.search(body)
    code = match[1].decode() if match else ""
    if status == 416:
        return StoreCorrupt("the object is shorter than its pin")
    error = answer_error("GET", status, code)
    is_passing = isinstance(error, StoreUnavailable) and (status in _TRANSIENT or code == "RequestTimeout")
    return Interrupted(error.message, _seconds(retry_after)) if is_passing else error


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header as seconds from now: a number or an HTTP date."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _reason_of(exc: Exception) -> str:
    """Why a connection failed, without host or path."""
    if isinstance(exc, (socket.gaierror, UnicodeError)):  # UnicodeError: an empty or too long label
        return "the endpoint's name does not resolve"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"the endpoint's certificate is not trusted: {exc.verify_message}"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror.lower()
    return {"TimeoutError": "timed out"}.get(type(exc).__name__, f"broken answer ({type(exc).__name__})")
