"""What this process asks its chains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from assay.chain.endpoint import Endpoint


@contextlib.contextmanager
def chain_requests() -> Iterator[list[tuple[str, ...]]]:
    """The methods of each HTTP request from now on."""
    seen: list[tuple[str, ...]] = []
    send = Endpoint.post

    def post(self: Endpoint, payload: Any, timeout: float) -> Any:
        calls = payload if isinstance(payload, list) else [payload]
        seen.append(tuple(call["method"] for call in calls))
        return send(self, payload, timeout)

    with mock.patch.object(Endpoint, "post", post):
        yield seen
