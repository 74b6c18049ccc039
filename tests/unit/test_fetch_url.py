"""Downloads of what clients' URLs point to: only from public addresses, only what was checked, within bytes and seconds."""

from __future__ import annotations

import datetime as dt
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from f5_worker import fetch_url
from f5_worker.errors import FetchFailed, FetchRefused
from f5_worker.fetch_url import Network

BODY = b"RIFF" + bytes(range(256)) * 400
LOOPBACK = Network(loopback=True)
NAME = "voices.test"
SECRET = "s3cr3t"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Host"], self.headers["Accept-Encoding"]))
        route = self.path.partition("?")[0]
        if route.startswith("/to/"):
            self._answer(302, {"Location": self.server.targets[route.removeprefix("/to/")]})
        elif route.startswith("/status/"):
            self._answer(int(route.removeprefix("/status/")), {"Content-Length": "0"})
        elif route == "/drip-body":
            self._answer(200, {"Content-Length": str(len(BODY))})
            self._drip(BODY)
        elif route == "/drip-headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            self._drip(b"X-Slow: " + b"a" * 10_000)
        elif route == "/gzip":
            self._answer(200, {"Content-Encoding": "gzip", "Content-Length": "5"}, b"bomb!")
        elif route == "/no-length":
            self._answer(200, {"Connection": "close"}, BODY)
        elif route == "/lying":
            self._answer(200, {"Content-Length": str(len(BODY) * 2)}, BODY)
        else:
            self._answer(200, {"Content-Length": str(len(BODY))}, BODY)

    def _answer(self, status, headers, body=b""):
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status == 302:
            self.send_header("Content-Length", "0")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def _drip(self, data):
        for byte in data:
            if self.server.closing.wait(0.02):
                return
            try:
                self.wfile.write(bytes([byte]))
            except OSError:
                return

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, str]] = []
        self.targets: dict[str, str] = {}
        self.closing = threading.Event()
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def handle_error(self, request, client_address):
        pass  # the client hangs up when it has seen enough

    def stop(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._thread.join(10)


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.stop()


def fetch(url, *, max_bytes=1_000_000, timeout_s=5.0, network=LOOPBACK):
    return fetch_url.fetch(url, max_bytes=max_bytes, timeout_s=timeout_s, network=network)


def test_a_file_is_downloaded_whole_and_uncompressed(server):
    assert fetch(server.url("/voice.wav?sig=1#part")) == BODY
    assert server.asked == [("/voice.wav?sig=1", f"127.0.0.1:{server.port}", "identity")]


def test_a_file_of_unknown_length_is_downloaded_whole(server):
    assert fetch(server.url("/no-length")) == BODY


@pytest.mark.parametrize("path", ["/voice.wav", "/no-length"])
def test_a_file_over_the_limit_is_refused_with_or_without_its_length(server, path):
    assert fetch(server.url(path), max_bytes=len(BODY)) == BODY
    with pytest.raises(FetchRefused, match="more than"):
        fetch(server.url(path), max_bytes=len(BODY) - 1)


def test_a_compressed_answer_is_refused_unread(server):
    with pytest.raises(FetchRefused, match="compressed"):
        fetch(server.url("/gzip"))


@pytest.mark.parametrize("path", ["/drip-body", "/drip-headers"])
def test_a_server_that_drips_is_left_at_the_deadline(server, path):
    fetch(server.url("/voice.wav"))  # the imports
    began = time.monotonic()
    with pytest.raises(FetchFailed, match="too slow"):
        fetch(server.url(path), timeout_s=0.4)
    assert len(server.asked) == 2
    assert time.monotonic() - began < 2.0


def test_an_answer_that_breaks_off_is_no_file(server):
    with pytest.raises(FetchFailed, match="broke off"):
        fetch(server.url("/lying"))


@pytest.mark.parametrize(
    ("status", "kind"), [(404, FetchRefused), (403, FetchRefused), (204, FetchRefused), (429, FetchFailed), (503, FetchFailed)]
)
def test_an_answer_that_is_no_file_is_an_error_that_says_whether_to_try_again(server, status, kind):
    with pytest.raises(kind, match=str(status)):
        fetch(server.url(f"/status/{status}"))


def test_a_server_that_is_not_there_is_an_error_to_try_again():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(FetchFailed, match="could not be reached"):
        fetch(f"http://127.0.0.1:{port}/")


def test_redirects_are_followed_up_to_three(server):
    server.targets = {"1": "/to/2", "2": server.url("/to/3"), "3": "/voice.wav", "0": "/to/1"}
    assert fetch(server.url("/to/1")) == BODY
    with pytest.raises(FetchRefused, match="more than 3 times"):
        fetch(server.url("/to/0"))


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("http://10.0.0.1/", "not public"),
        ("http://169.254.169.254/latest/meta-data/", "not public"),
        ("http://[fd00:ec2::254]/", "not public"),
        ("ftp://127.0.0.1/", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        (f"http://user:{SECRET}@127.0.0.1/", "user name or password"),
        ("http://[::1", "cannot be read"),
    ],
)
def test_a_redirect_passes_the_same_checks(server, target, named):
    server.targets = {"1": target}
    with pytest.raises(FetchRefused, match=named):
        fetch(server.url("/to/1"))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://example.com/a.wav", "must begin with https://"),
        ("ftp://example.com/a.wav", "must begin with https://"),
        ("//example.com/a.wav", "must begin with https://"),
        ("example.com/a.wav", "must begin with https://"),
        (f"https://user:{SECRET}@example.com/", "user name or password"),
        ("https://user@example.com/", "user name or password"),
        ("https://", "names no host"),
        ("https:///a.wav", "names no host"),
        ("https://[::1/", "cannot be read"),
        ("https://exa\x00mple.com/", "cannot be read"),
        ("https://example.com:port/", "cannot be read"),
    ],
)
def test_a_url_that_may_not_be_used_is_refused_before_its_name_is_resolved(url, named):
    network = Network(resolve=lambda *_: pytest.fail("resolved"))
    with pytest.raises(FetchRefused, match=named) as caught:
        fetch(url, network=network)
    assert SECRET not in str(caught.value)


PRIVATE = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200",
    "168.63.129.16", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1",
    "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
    "fe80::1%eth0", "fec0::1", "ff02::1", "not an address",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_with_an_address_that_is_not_public_is_refused_even_beside_a_public_one(address):
    for found in ([address], ["1.1.1.1", address]):
        with pytest.raises(FetchRefused, match="not public"):
            fetch(f"https://{NAME}/", network=Network(resolve=lambda _host, _port, found=found: found))


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::1]", "[::ffff:7f00:1]", "localhost"])
def test_this_machine_has_no_name_that_gets_through(host):
    with pytest.raises(FetchRefused, match=r"not public|cannot be read"):
        fetch(f"https://{host}/", network=Network())


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "2a00:1450:4001::1"])
def test_a_public_address_is_dialled(monkeypatch, address):
    dialled = []

    def refuse(to):
        dialled.append(to)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", lambda to, *_a, **_k: refuse(to))
    with pytest.raises(FetchFailed):
        fetch(f"https://{NAME}/", network=Network(resolve=lambda _host, _port: [address]))
    assert dialled == [(address, 443)]


def test_a_name_is_resolved_once_and_the_connection_goes_to_the_address_that_was_checked(server):
    """DNS rebinding: the second answer of the name server would be a private address."""
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    network = Network(resolve=lambda _host, _port: next(answers), loopback=True)
    assert fetch(f"http://{NAME}:{server.port}/voice.wav", network=network) == BODY
    assert server.asked[0][1] == f"{NAME}:{server.port}"
    assert next(answers) == ["10.0.0.1"]


def test_each_redirect_is_resolved_again(server):
    asked = []

    def resolve(host, _port):
        asked.append(host)
        return ["127.0.0.1"] if host == NAME else ["10.0.0.1"]

    server.targets = {"1": "http://internal.test/"}
    with pytest.raises(FetchRefused, match="not public"):
        fetch(f"http://{NAME}:{server.port}/to/1", network=Network(resolve=resolve, loopback=True))
    assert asked == [NAME, "internal.test"]


def test_the_next_address_is_tried_when_one_does_not_answer(server):
    network = Network(resolve=lambda _host, _port: ["127.0.0.2", "127.0.0.1"], loopback=True)

    def dial(to, *args, real=socket.create_connection, **kwargs):
        if to[0] == "127.0.0.2":
            raise ConnectionRefusedError
        return real(to, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "create_connection", dial)
        assert fetch(f"http://{NAME}:{server.port}/voice.wav", network=network) == BODY


@pytest.mark.parametrize("failing", [socket.gaierror("no such name"), UnicodeError("label too long")])
def test_a_name_that_does_not_resolve_is_an_error_to_try_again(failing):
    def resolve(_host, _port):
        raise failing

    with pytest.raises(FetchFailed, match="could not be resolved"):
        fetch(f"https://{NAME}/", network=Network(resolve=resolve))


def test_a_name_server_that_does_not_answer_is_left_at_the_deadline():
    hanging = threading.Event()
    began = time.monotonic()
    try:
        with pytest.raises(FetchFailed, match="could not be resolved"):
            fetch(f"https://{NAME}/", timeout_s=0.2, network=Network(resolve=lambda *_: hanging.wait(20) or []))
    finally:
        hanging.set()
    assert time.monotonic() - began < 2.0


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server's, client's) contexts of a certificate for the name alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "cert.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(cert.public_bytes(serialization.Encoding.PEM) + private)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=pem)


def test_tls_is_checked_against_the_name_and_not_against_the_address(tmp_path):
    of_server, of_client = certificate(tmp_path, NAME)
    seen = []
    of_server.sni_callback = lambda _socket, name, _context: seen.append(name)
    server = Server(of_server)
    network = Network(resolve=lambda _host, _port: ["127.0.0.1"], tls=of_client, loopback=True)
    try:
        assert fetch(f"https://{NAME}:{server.port}/voice.wav", network=network) == BODY
        assert seen == [NAME]
        assert server.asked[0][1] == f"{NAME}:{server.port}"
        for url, how in ((f"https://other.test:{server.port}/", network), (f"https://{NAME}:{server.port}/", replace(network, tls=None))):
            with pytest.raises(FetchFailed, match="no valid certificate"):
                fetch(url, network=how)
    finally:
        server.stop()


def test_no_error_and_no_log_line_holds_any_part_of_the_url(server, caplog):
    server.targets = {SECRET: f"http://10.0.0.1/{SECRET}"}
    paths = [f"/to/{SECRET}", f"/status/404?{SECRET}", f"/gzip?{SECRET}", f"/lying?{SECRET}", f"/voice.wav?{SECRET}"]
    with caplog.at_level(logging.INFO):
        for path in paths:
            with pytest.raises((FetchRefused, FetchFailed)) as caught:
                fetch(server.url(path), max_bytes=10)
            assert SECRET not in str(caught.value)
            assert "127.0.0.1" not in str(caught.value)
    assert SECRET not in caplog.text


def test_where_loopback_is_allowed_http_still_goes_nowhere_else():
    with pytest.raises(FetchRefused, match="https"):
        fetch(f"http://{NAME}/", network=Network(resolve=lambda _host, _port: ["127.0.0.1", "1.1.1.1"], loopback=True))
