"""JSON over keep-alive HTTP to one URL, by urllib3: a node's followers ask every other second beside the
requests that it serves, and each of theirs takes half of the processor time that it takes through httpx.

Proxies as the environment names them (`HTTPS_PROXY`, `NO_PROXY`, …), none for this machine itself.
Certificates are checked as httpx does it, which the rest of the package uses.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from time import monotonic
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import urllib3

LOOPBACK: Final = {"127.0.0.1", "::1", "localhost"}
MAX_CONNECTIONS: Final = 32
IDLE_SECONDS: Final = 30.0
"""Below the minutes after which machines on the way forget a silent connection and tell nobody: what is sent
there is not answered."""
MAX_ANSWER_BYTES: Final = 256 << 20
"""More than any node or provider answers; a stream without end is cut off here."""

TransportError = urllib3.exceptions.HTTPError
"""No answer: refused, timed out, cut off, not HTTP, not certified."""


class AnswerTooLongError(TransportError):
    """Over `MAX_ANSWER_BYTES`."""


class ProxyUnusableError(ValueError):
    """What the environment names as a proxy is none of HTTP, or no URL."""


class _RedactTargets(logging.Filter):
    """urllib3 logs each request's path and query at DEBUG, and the whole URL at WARNING where it finds an
    answer's headers odd; providers put keys there."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                "/…" if isinstance(value, str) and "/" in value else value for value in record.args
            )
        return True


_REDACT_TARGETS = _RedactTargets()


class _Pool(urllib3.HTTPConnectionPool):
    """Opens a connection anew that was idle for long."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection: Any = super()._get_conn(timeout)
        if monotonic() - getattr(connection, "idle_since", monotonic()) >= IDLE_SECONDS:
            connection.close()
        return connection

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.idle_since = monotonic()
        super()._put_conn(conn)


class _TlsPool(_Pool, urllib3.HTTPSConnectionPool):
    """Over TLS."""


class Transport:
    """Thread-safe: each request under way has a connection of its own, `MAX_CONNECTIONS` at most."""

    def __init__(self, url: str, timeout: float) -> None:
        """`timeout`: seconds for connecting. Raises ValueError for anything but an http(s) URL,
        ProxyUnusableError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an http(s) URL")
        for name in ("urllib3.connectionpool", "urllib3.connection"):
            logging.getLogger(name).addFilter(_REDACT_TARGETS)  # once: it is the same
        path = parts.path or "/"
        self._headers = {"content-type": "application/json", **_authorization(parts, "authorization")}
        options: dict[str, Any] = {"maxsize": MAX_CONNECTIONS, "block": True, "timeout": timeout}
        if parts.scheme == "https":
            options["ssl_context"] = httpx.create_ssl_context()
        self._manager, is_forwarding = urllib3.PoolManager(**options), False
        if proxy := _proxy(parts):
            login = _authorization(urlsplit(proxy), "proxy-authorization")
            try:
                self._manager = urllib3.ProxyManager(proxy, proxy_headers=login, **options)
            except ValueError as error:
                raise ProxyUnusableError(type(error).__name__) from None
            if is_forwarding := parts.scheme == "http":
                self._headers |= login
        # What the request line names: path and query, or for a forwarding proxy the whole URL.
        place = (parts.scheme, parts.netloc.rpartition("@")[2]) if is_forwarding else ("", "")
        self._target = urlunsplit((*place, path, parts.query, ""))
        if is_forwarding:
            self._headers["host"] = place[1]
        self._manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        self._pool = self._manager.connection_from_host(parts.hostname, parts.port, parts.scheme)

    def post(self, body: bytes, timeout: float) -> tuple[int, bytes]:
        """The answer's status and body. `timeout`: seconds for connecting, and between two of its parts.
        Raises TransportError; nothing is sent twice."""
        reply = self._pool.urlopen(
            "POST",
            self._target,
            body,
            self._headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=timeout,
            pool_timeout=timeout,  # type: ignore[arg-type]  # a float works, as in queue.get
            preload_content=False,
        )
        try:
            answer = reply.read(MAX_ANSWER_BYTES + 1)
            if len(answer) > MAX_ANSWER_BYTES:
                raise AnswerTooLongError
        except BaseException:
            reply.close()
            raise
        reply.release_conn()
        return reply.status, answer

    def close(self) -> None:
        self._manager.clear()


def _authorization(parts: SplitResult, header: str) -> dict[str, str]:
    """The header for a user, or a password alone, that the URL names."""
    if not (parts.username or parts.password):
        return {}
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return {header: "Basic " + b64encode(login.encode()).decode()}


def _proxy(parts: SplitResult) -> str | None:
    """The environment's proxy for a URL."""
    if parts.hostname in LOOPBACK or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"
