"""Reads a URL that a stranger put on the chain: capped in bytes and time, no redirects, no private addresses.

The address is checked after name resolution and connected to as resolved, so a name that changes between
look-ups gains nothing. The deadline covers everything, the look-up and a header sent byte by byte included;
whoever is told to stop leaves any of it within a moment.
"""

from __future__ import annotations

import contextlib
import functools
import io
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

import httpcore

from assay.disk import check_room
from assay.errors import RetryableError

CHUNK = 1 << 16
LOOK_SECONDS: Final = 0.25
"""How often a wait looks whether it is to stop."""
ShouldStop = Callable[[], bool]


def go_on() -> bool:
    """Of who is never told to stop."""
    return False


class Interrupted(RetryableError):  # noqa: N818 - names what happened
    """The process is to stop; what was read is read again another time."""


class _NotWritten(Exception):  # noqa: N818 - as above
    """It is not the URL's fault."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class Unreachable(RetryableError):  # noqa: N818 - names what happened
    """The URL gave no usable answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Per download. `allow_private`: loopback, link-local and private addresses may be asked.

    `bytes_per_second`: what keeps coming at least so fast may take longer than `seconds`; 0: nothing may.
    """

    bytes: int = 64 << 20
    seconds: float = 30.0
    allow_private: bool = False
    bytes_per_second: int = 0


class Deadline:
    """Of one download, put off by what has come of it."""

    def __init__(self, limits: Limits) -> None:
        self._at = time.monotonic() + limits.seconds
        self._seconds, self._rate = limits.seconds, limits.bytes_per_second

    def received(self, size: int) -> None:
        """What came faster is no credit: the next byte is never waited for longer than for the first."""
        if self._rate:
            self._at = min(self._at + size / self._rate, time.monotonic() + self._seconds)

    def remaining(self) -> float:
        """Seconds, more than 0. Raises httpcore.ReadTimeout."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("deadline passed")
        return left


def download(url: str, limits: Limits, should_stop: ShouldStop = go_on) -> bytes:
    """The body of a 200 answer. Raises Unreachable, Interrupted."""
    body = io.BytesIO()
    download_to(body, url, limits, should_stop)
    return body.getvalue()


def download_to(file: BinaryIO, url: str, limits: Limits, should_stop: ShouldStop = go_on) -> int:
    """Write the body of a 200 answer into `file`; how many bytes it has. Raises Unreachable, Interrupted;
    OSError if `file` does not take it."""
    check_scheme(url)
    waits = _Waits(Deadline(limits), should_stop, url)
    backend = _GuardedBackend(waits, limits.allow_private)
    headers = [("accept-encoding", "identity"), ("user-agent", "assay-index"), ("connection", "close")]
    try:
        with (
            httpcore.ConnectionPool(network_backend=backend, ssl_context=_tls_of(url)) as pool,
            pool.stream("GET", url, headers=headers) as response,
        ):
            if response.status != 200:
                raise Unreachable(f"{url} answered {response.status}")
            return _copy(response, file, url, limits)
    except _NotWritten as failure:
        raise failure.error from None
    except (httpcore.TimeoutException, TimeoutError) as error:
        raise Unreachable(f"{url} took longer than {limits.seconds:g} s{_pace(limits)}") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
        raise Unreachable(f"{url} cannot be read: {error or type(error).__name__}") from error
    except (ValueError, TypeError) as error:  # httpcore on malformed hosts, ports and characters
        raise Unreachable(f"{url[:200]!r} is not a usable URL: {error}") from error


def _tls_of(url: str) -> ssl.SSLContext | None:
    return _authorities() if url[:6].lower() == "https:" else None


@functools.cache
def _authorities() -> ssl.SSLContext:
    """Read once a process: it takes some 30 ms."""
    return ssl.create_default_context()


def check_scheme(url: str) -> None:
    """Raises Unreachable unless the URL is http or https with a host and without credentials."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and not parts.username and url.isascii()
        _ = parts.port
    except ValueError as error:
        raise Unreachable(f"{url[:200]!r} is not a URL: {error}") from error
    if not usable:
        raise Unreachable(f"{url[:200]!r} is not an http or https URL without credentials")


def _pace(limits: Limits) -> str:
    return f" and one for each {limits.bytes_per_second} bytes" if limits.bytes_per_second else ""


def _copy(response: httpcore.Response, file: BinaryIO, url: str, limits: Limits) -> int:
    size = 0
    for chunk in response.iter_stream():
        size += len(chunk)
        if size > limits.bytes:
            raise Unreachable(f"{url} is larger than {limits.bytes} bytes")
        try:
            file.write(chunk)
            check_room(file)
        except OSError as error:
            raise _NotWritten(error) from error
    return size


class _Waits:
    """All that one download waits for, until its deadline and while nobody says stop."""

    def __init__(self, deadline: Deadline, should_stop: ShouldStop, url: str) -> None:
        self.deadline, self._should_stop, self._url = deadline, should_stop, url

    def remaining(self) -> float:
        """Seconds until it is to look again. Raises httpcore.ReadTimeout, Interrupted."""
        if self._should_stop():
            raise Interrupted(f"{self._url} was left half read: it is read again another time")
        return min(LOOK_SECONDS, self.deadline.remaining())

    def stream_of(self, open_stream: Callable[[], httpcore.NetworkStream]) -> httpcore.NetworkStream:
        """What it opens, in a thread that is left behind when the time is over: a look-up of a name cannot
        be ended. What it opens too late is closed."""
        found: Future[httpcore.NetworkStream] = Future()
        threading.Thread(target=_open, args=(open_stream, found), name="connecting", daemon=True).start()
        try:
            while not wait_for([found], self.remaining()).done:
                pass
            return found.result()
        except BaseException:
            if not found.cancel() and found.exception() is None:
                found.result().close()
            raise


def _open(open_stream: Callable[[], httpcore.NetworkStream], found: Future[httpcore.NetworkStream]) -> None:
    try:
        stream = open_stream()
    except BaseException as error:
        with contextlib.suppress(InvalidStateError):
            found.set_exception(error)
        return
    try:
        found.set_result(stream)
    except InvalidStateError:
        stream.close()


class _GuardedBackend(httpcore.NetworkBackend):
    def __init__(self, waits: _Waits, allow_private: bool) -> None:
        self._waits, self._allow_private = waits, allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _DeadlineStream(self._waits.stream_of(lambda: self._connect(host, port)), self._waits)

    def _connect(self, host: str, port: int) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} does not resolve") from error
        allowed = [str(item[4][0]) for item in found if self._allow_private or is_public(str(item[4][0]))]
        if not allowed:
            raise httpcore.ConnectError(f"{host} is not a public address (see --allow-private)")
        return httpcore.SyncBackend().connect_tcp(allowed[0], port, self._waits.deadline.remaining())


class _DeadlineStream(httpcore.NetworkStream):
    """Every wait ends at the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, waits: _Waits) -> None:
        self._stream, self._waits = stream, waits

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            wait = self._waits.remaining()
            try:
                chunk = self._stream.read(max_bytes, wait)
            except httpcore.ReadTimeout:
                continue
            self._waits.deadline.received(len(chunk))
            return chunk

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._waits.deadline.remaining())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._waits.deadline.remaining()
        stream = self._waits.stream_of(lambda: self._stream.start_tls(ssl_context, server_hostname, left))
        return _DeadlineStream(stream, self._waits)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def is_public(address: str) -> bool:
    """Whether the address is one that anybody on the internet may offer a service at."""
    parsed = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_global and not (mapped or parsed).is_multicast
