"""Connections that go to addresses checked beforehand, whatever their host's name means by then, and that end at a deadline."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Sequence

import httpcore

CONNECT_S = 5.0  # for one address; the next is tried then


class PinnedBackend(httpcore.NetworkBackend):
    """Dials the addresses in turn in place of the host's name. TLS still checks the certificate against the name."""

    def __init__(self, addresses: Sequence[str], deadline: float) -> None:
        """deadline: in seconds of time.monotonic()."""
        self._addresses, self._deadline = addresses, deadline
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - the point of this class
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline's rest
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failed: Exception = httpcore.ConnectError("no address")
        for address in self._addresses:
            try:
                left = min(CONNECT_S, _left(self._deadline))
                stream = self._backend.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failed = exc
            else:
                return _Bounded(stream, self._deadline)
        raise failed


class _Bounded(httpcore.NetworkStream):
    """A stream whose every call ends at the deadline: a server cannot drip for ever, neither in its headers nor in its body."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the deadline's rest
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None) -> _Bounded:  # noqa: ARG002
        return _Bounded(self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline)), self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the deadline has passed")
    return left
