"""One JSON-RPC URL: a keep-alive HTTP connection, its health, and its address without credentials."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from assay.chain.errors import RpcUnavailable
from assay.errors import ConfigurationError

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
FIRST_COOLDOWN_SECONDS = 0.5
MAX_COOLDOWN_SECONDS = 30.0


def redact_url(url: str) -> str:
    """Scheme, host and port: providers put keys into user, path and query."""
    parts = urlsplit(url)
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    hidden = "/…" if parts.path.strip("/") or parts.query else ""
    return f"{parts.scheme}://{parts.hostname}{port}{hidden}"


class _RedactUrls(logging.Filter):
    """httpx logs each request's whole URL at INFO."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(redact_url(str(a)) if isinstance(a, httpx.URL) else a for a in record.args)
        return True


_REDACT_URLS = _RedactUrls()


@dataclass
class Endpoint:
    """`head` is the last block number it reported; `stale` means that others are ahead of it."""

    url: str
    http: httpx.Client
    name: str = field(init=False)
    is_checked: bool = False
    head: int = -1
    went_back: bool = False
    stale: bool = False
    failures: int = 0
    rests_until: float = 0.0

    def __post_init__(self) -> None:
        self.name = redact_url(self.url)

    def post(self, payload: Any, timeout: float) -> Any:
        """POST JSON, return parsed JSON; anything else than that is `RpcUnavailable`."""
        try:
            reply = self.http.post(
                self.url,
                content=orjson.dumps(payload),
                headers={"content-type": "application/json"},
                timeout=timeout,
            )
        except httpx.HTTPError as error:
            kind = type(error).__name__
            raise RpcUnavailable(
                f"{self.name} gave no answer ({kind}); is the RPC endpoint running?"
            ) from None
        try:
            answer = orjson.loads(reply.content)
        except orjson.JSONDecodeError:
            answer = None
        is_rpc = isinstance(answer, list) or (
            isinstance(answer, dict) and ("error" in answer or "result" in answer)
        )
        if is_rpc and reply.status_code < 429:
            return answer
        if reply.status_code in (401, 403):
            raise ConfigurationError(
                f"{self.name} answered HTTP {reply.status_code}: check the RPC URL's key"
            )
        if reply.status_code == 200:
            raise RpcUnavailable(f"{self.name} answered something that is not JSON-RPC: {reply.text[:80]!r}")
        raise RpcUnavailable(f"{self.name} answered HTTP {reply.status_code}")

    def note_success(self) -> None:
        self.failures = 0
        self.rests_until = 0.0

    def note_failure(self, now: float) -> None:
        """Rest twice as long after each failure in a row."""
        self.failures += 1
        rest = FIRST_COOLDOWN_SECONDS * 2.0 ** min(self.failures - 1, 10)
        self.rests_until = now + min(MAX_COOLDOWN_SECONDS, rest)

    def note_head(self, head: int) -> None:
        if head > self.head:
            self.went_back = False
        elif head < self.head:
            self.went_back = True
        self.head = head


def open_endpoint(url: str, timeout: float) -> Endpoint:
    """Raises `ConfigurationError` for anything but an http(s) URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"not an RPC URL: {redact_url(url)}; give http:// or https://")
    logger = logging.getLogger("httpx")
    if _REDACT_URLS not in logger.filters:
        logger.addFilter(_REDACT_URLS)
    limits = httpx.Limits(max_connections=32, max_keepalive_connections=8, keepalive_expiry=30)
    trust_env = parts.hostname not in LOOPBACK
    return Endpoint(url, httpx.Client(timeout=timeout, limits=limits, trust_env=trust_env))
