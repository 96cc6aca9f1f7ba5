"""One log line for a request that is worth one: failed here, slow, or all of them if the operator asks."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

import structlog

from assay.types import Hash32

LINES_PER_SECOND: Final = 20.0
BURST: Final = 100.0


class Requests(StrEnum):
    """Which requests get a line: those that failed here or were slow; refused ones as well; every one."""

    FAILED = "failed"
    REFUSED = "refused"
    ALL = "all"


class RequestLog:
    """Belongs to one event loop. But for `all`, at most `LINES_PER_SECOND` lines come after a burst: whoever
    sends garbage must not fill the disk; the next line says how many were left out."""

    def __init__(
        self,
        which: Requests = Requests.FAILED,
        slow_seconds: float = 1.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._which = which
        self.slow_seconds = slow_seconds
        self.wants_all = which is Requests.ALL
        self._log = structlog.get_logger("assay.node.requests")
        self._clock = clock
        self._tokens = BURST
        self._filled_at = clock()
        self._left_out = 0
        self._run = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    def name(self, given: str | None) -> str:
        """A request's id: the client's own, else one that no other request of this node has."""
        return _printable(given[:128]) if given else f"{self._run}-{next(self._numbers)}"

    def answered(
        self, request_id: str | None, model: str, digest: Hash32, consumer: str, seconds: float
    ) -> None:
        """Call it if `wants_all`, or the request took `slow_seconds`."""
        fields = {
            "request": self.name(request_id),
            "model": model,
            "receipt": "0x" + digest.hex(),
            "consumer": consumer,
            "seconds": round(seconds, 6),
        }
        if self.wants_all:
            self._log.info("answered", **fields)
        elif self._may():
            self._log.warning("answered slowly", **self._with_left_out(fields))

    def refused(
        self, request_id: str | None, where: str, *, status: int, code: str, reason: str, seconds: float
    ) -> str:
        """Note it if it is wanted; `where`: HTTP's path, or gRPC's method and the model. The request's id,
        for the answer to name."""
        name = self.name(request_id)
        is_failure = status >= 500 and status != 503
        if not (is_failure or self._which is not Requests.FAILED):
            return name
        if self.wants_all or self._may():
            fields = {
                "request": name,
                "path": _printable(where[:200]),
                "status": status,
                "code": code,
                "reason": _printable(reason[:300]),
                "seconds": round(seconds, 6),
            }
            write = self._log.error if is_failure else self._log.info
            write("failed" if is_failure else "refused", **self._with_left_out(fields))
        return name

    def _may(self) -> bool:
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._filled_at) * LINES_PER_SECOND, BURST)
        self._filled_at = now
        if self._tokens < 1:
            self._left_out += 1
            return False
        self._tokens -= 1
        return True

    def _with_left_out(self, fields: dict[str, Any]) -> dict[str, Any]:
        if self._left_out:
            fields["left_out"], self._left_out = self._left_out, 0
        return fields


def _printable(text: str) -> str:
    """What clients send must neither end a line nor move the cursor of whoever reads the log."""
    return text if text.isprintable() else repr(text)[1:-1]
