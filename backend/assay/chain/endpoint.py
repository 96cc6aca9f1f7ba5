"""One JSON-RPC URL: its connections, its health, and its address without credentials."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

from assay.chain.errors import RpcUnavailable
from assay.chain.transport import (
    MAX_ANSWER_BYTES,
    AnswerTooLongError,
    ProxyUnusableError,
    Transport,
    TransportError,
)
from assay.errors import ConfigurationError

FIRST_COOLDOWN_SECONDS = 0.5
MAX_COOLDOWN_SECONDS = 30.0
SECRET_LENGTH = 8
"""From which on a part of a URL may be a key."""


def redact_url(url: str) -> str:
    """Scheme, host and port: providers put keys into user, path and query."""
    parts = urlsplit(url)
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    hidden = "/…" if parts.path.strip("/") or parts.query else ""
    return f"{parts.scheme}://{parts.hostname}{port}{hidden}"


@dataclass
class Endpoint:
    """`head` is the last block number it reported; `stale` means that others are ahead of it."""

    url: str
    http: Transport
    name: str = field(init=False)
    is_checked: bool = False
    head: int = -1
    went_back: bool = False
    stale: bool = False
    failures: int = 0
    rests_until: float = 0.0

    def __post_init__(self) -> None:
        self.name = redact_url(self.url)

    def hide(self, text: str) -> str:
        """What it answered, to be told, without what its URL keeps secret: some repeat what they were
        asked."""
        for secret in _secrets(self.url):
            text = text.replace(secret, "…")
        return text

    def post(self, payload: Any, timeout: float) -> Any:
        """POST JSON, return parsed JSON; anything else than that is `RpcUnavailable`."""
        try:
            status, body = self.http.post(orjson.dumps(payload), timeout)
        except AnswerTooLongError:
            raise RpcUnavailable(
                f"{self.name} answered more than {MAX_ANSWER_BYTES >> 20} MiB; try another endpoint"
            ) from None
        except TransportError as error:
            kind = type(error).__name__
            raise RpcUnavailable(
                f"{self.name} gave no answer ({kind}); is the RPC endpoint running?"
            ) from None
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        is_rpc = isinstance(answer, list) or (
            isinstance(answer, dict) and ("error" in answer or "result" in answer)
        )
        if is_rpc and status < 429:
            return answer
        if status in (401, 403):
            raise ConfigurationError(f"{self.name} answered HTTP {status}: check the RPC URL's key")
        if status == 200:
            text = self.hide(body[:1000].decode(errors="replace"))[:80]
            raise RpcUnavailable(f"{self.name} answered something that is not JSON-RPC: {text!r}")
        raise RpcUnavailable(f"{self.name} answered HTTP {status}")

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


def _secrets(url: str) -> list[str]:
    """Longest first: as a key is, before what may be a part of it."""
    parts = urlsplit(url)
    words = [*re.split(r"[/?&=]", parts.path + "?" + parts.query), parts.username or "", parts.password or ""]
    found = {form for word in words for form in (word, unquote(word)) if len(form) >= SECRET_LENGTH}
    return sorted(found, key=len, reverse=True)


def open_endpoint(url: str, timeout: float) -> Endpoint:
    """Raises `ConfigurationError` for anything but an http(s) URL, or where its proxy cannot be used."""
    try:
        return Endpoint(url, Transport(url, timeout))
    except ProxyUnusableError as error:
        raise ConfigurationError(
            f"the environment's proxy for {redact_url(url)} cannot be used ({error}): name an http:// or "
            "https:// one in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, or the URL's host in NO_PROXY"
        ) from None
    except ValueError:
        raise ConfigurationError(f"not an RPC URL: {redact_url(url)}; give http:// or https://") from None
