"""Download what a client's URL points to, and nothing that only this machine can reach.

Every address that a name resolves to must be a public one; the connection goes to the address that was checked, not to what the
name means a moment later; each redirect passes the same checks. Bytes and seconds are bounded, headers included. No message holds
any part of a URL. (The SDK's `rp_ssrf.safe_get` lets plain http, 6to4 and some metadata addresses pass, has no bound on the whole
time and puts URLs into its errors.)
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import TYPE_CHECKING

from f5_worker.errors import FetchFailed, FetchRefused

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LATER = frozenset({408, 425, 429})  # besides 5xx: the same request can succeed later
# Not public although `ipaddress` of some patch releases of Python 3.11 calls them global.
_REFUSED = tuple(
    map(
        ipaddress.ip_network,
        (
            "100.64.0.0/10",  # carrier NAT; metadata of one cloud
            "168.63.129.16/32",  # metadata of another
            "192.0.0.0/24",  # IETF protocols; metadata of a third
            "192.88.99.0/24",  # 6to4 relays
            "198.18.0.0/15",  # benchmarks
            "2001::/23",  # IETF protocols, Teredo among them
            "2002::/16",  # 6to4: an IPv4 address inside
            "3fff::/20",  # documentation
        ),
    )
)
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")  # all that is assigned; leaves out IPv4-mapped, NAT64, local and multicast addresses

Resolve = Callable[[str, int], Iterable[str]]


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, in the order of the system's choice. Raises OSError."""
    return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


@dataclass(frozen=True)
class Network:
    """How names are resolved and connections secured. `loopback`, for tests: also addresses of this machine, which http may be used for."""

    resolve: Resolve = resolve
    tls: ssl.SSLContext | None = None  # None: the certificates of certifi
    loopback: bool = False


def fetch(url: str, *, max_bytes: int, timeout_s: float, network: Network = Network()) -> bytes:
    """The body of a GET of the URL.

    Args:
        timeout_s: Seconds for all of it, name resolution and redirects included.
    Raises:
        FetchRefused: the URL may not be used, or what it points to is too large or not there; no retry helps.
        FetchFailed: the server could not be reached, was too slow or failed; the same job can succeed later.
    """
    import httpcore  # noqa: PLC0415 - not before the first URL

    import f5_worker.pinned  # noqa: F401, PLC0415 - for _get

    target = check(url, network)
    deadline = time.monotonic() + timeout_s  # after the imports
    try:
        for _ in range(MAX_REDIRECTS + 1):
            answer = _get(target, max_bytes, deadline, network)
            if isinstance(answer, bytes):
                return answer
            target = answer
    except httpcore.TimeoutException as exc:
        raise FetchFailed(f"the URL's server was too slow: a recording must arrive within {timeout_s:g} s") from exc
    except (httpcore.NetworkError, httpcore.ProtocolError) as exc:
        raise FetchFailed("the URL's server could not be reached, has no valid certificate or broke off its answer") from exc
    raise FetchRefused(f"the URL redirects more than {MAX_REDIRECTS} times: send the address of the recording itself")


def check(url: str, network: Network = Network(), base: httpx.URL | None = None) -> httpx.URL:
    """The parsed URL, when it may be used as far as its text tells.

    Args:
        base: What a redirect's address is relative to.
    Raises:
        FetchRefused: it is not https, holds credentials or names no host.
    """
    import httpx  # noqa: PLC0415 - not before the first URL

    try:
        target = base.join(url) if base else httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise FetchRefused("the URL cannot be read: send one such as https://host/voice.wav") from exc
    if target.scheme != "https" and not (network.loopback and target.scheme == "http"):
        raise FetchRefused("the URL must begin with https://")
    if target.userinfo:
        raise FetchRefused("the URL holds a user name or password: send a presigned URL or the audio itself")
    if not target.host:
        raise FetchRefused("the URL names no host: send one such as https://host/voice.wav")
    return target


def public_addresses(target: httpx.URL, deadline: float, network: Network = Network()) -> list[str]:
    """What the host resolves to.

    Args:
        deadline: In seconds of time.monotonic().
    Raises:
        FetchRefused: one of the addresses is not public. FetchFailed: there is none.
    """
    try:
        addresses = list(_in_time(lambda: network.resolve(target.raw_host.decode("ascii"), _port(target)), deadline))
    except (OSError, UnicodeError, FutureTimeout) as exc:
        raise FetchFailed("the name of the URL's host could not be resolved") from exc
    if not addresses:
        raise FetchFailed("the name of the URL's host could not be resolved")
    if not all(_is_allowed(address, network) for address in addresses):
        raise FetchRefused(
            "the URL's host has an address that is not public: send the audio itself, or put it where everybody can reach it"
        )
    if target.scheme != "https" and not all(ipaddress.ip_address(address).is_loopback for address in addresses):
        raise FetchRefused("the URL must begin with https://")
    return addresses


def _is_allowed(address: str, network: Network) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # fe80::1%eth0 and the like
        return False
    if ip.is_loopback:
        return network.loopback
    if ip.version == 6 and ip not in _UNICAST_V6:
        return False
    return (
        ip.is_global and not ip.is_multicast and not ip.is_reserved and not any(ip.version == net.version and ip in net for net in _REFUSED)
    )


def _in_time(work: Callable[[], Iterable[str]], deadline: float) -> Iterable[str]:
    """A name server that does not answer holds getaddrinfo for half a minute."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="resolve")
    try:
        pending: Future[Iterable[str]] = pool.submit(work)
        return pending.result(max(deadline - time.monotonic(), 0.0))
    finally:
        pool.shutdown(wait=False)


def _port(target: httpx.URL) -> int:
    return target.port or (443 if target.scheme == "https" else 80)


def _get(target: httpx.URL, max_bytes: int, deadline: float, network: Network) -> bytes | httpx.URL:
    """The body, or where the server says it is."""
    import httpcore  # noqa: PLC0415 - see fetch

    from f5_worker.pinned import PinnedBackend  # noqa: PLC0415 - imports httpcore

    backend = PinnedBackend(public_addresses(target, deadline, network), deadline)
    headers: list[tuple[bytes | str, bytes | str]] = [
        ("Host", target.netloc),
        ("Accept", "*/*"),
        ("Accept-Encoding", "identity"),
        ("User-Agent", "f5-tts-worker"),
    ]
    with (
        httpcore.ConnectionPool(ssl_context=network.tls, network_backend=backend) as pool,
        pool.stream("GET", str(target.copy_with(fragment=None)), headers=headers) as response,
    ):
        found = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        if response.status in _REDIRECTS:
            return check(found.get(b"location", ""), network, base=target)
        _check_answer(response.status, found, max_bytes)
        body = bytearray()
        for piece in response.iter_stream():
            body += piece
            if len(body) > max_bytes:
                raise _too_large(max_bytes)
        return bytes(body)


def _check_answer(status: int, headers: dict[bytes, str], max_bytes: int) -> None:
    if status >= 500 or status in _LATER:
        raise FetchFailed(f"the URL's server answered {status}")
    if status != 200:
        raise FetchRefused(f"the URL's server answered {status}: check that the URL is right and has not expired")
    if headers.get(b"content-encoding", "identity") != "identity":  # a few KB could unpack to any size
        raise FetchRefused("the URL's server sends the recording compressed: serve the file as it is")
    length = headers.get(b"content-length", "0")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> FetchRefused:
    return FetchRefused(f"the URL points to more than {max_bytes} bytes: send a few seconds of speech")
