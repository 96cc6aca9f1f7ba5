"""The server's own bounds, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from assay.errors import RequestError
from assay.node.server import Limits, Server

pytestmark = pytest.mark.network  # an event loop needs a socket pair


def read_body(seconds_between: float, parts: int, limits: Limits) -> bytes:
    """What `Server` reads of a body that comes one byte at a time."""
    messages: Iterator[dict[str, Any]] = iter(
        {"type": "http.request", "body": b"x", "more_body": n < parts} for n in range(1, parts + 1)
    )

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(seconds_between)
        return next(messages)

    server = Server.__new__(Server)
    server._limits = limits
    return asyncio.run(server._body(receive, 1000))


def test_body__drips_in__is_given_up_in_time() -> None:
    """Each part in time is not enough: some hundred such requests would keep everybody else out."""
    with pytest.raises(RequestError) as caught:
        read_body(0.02, 100, Limits(body_seconds=0.2))
    assert caught.value.status == 408


def test_body__slow_but_steady__is_read() -> None:
    assert read_body(0.01, 30, Limits(body_seconds=0.05, body_rate=50)) == b"x" * 30
