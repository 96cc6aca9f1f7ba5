"""What the head of an inference request says: its path and the headers that matter. Pure.

Clients send the same head again and again, so that it is read once for all requests that have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from assay.node.errors import InputError
from assay.node.http.messages import Request
from assay.node.models.catalog import Route
from assay.node.oip.protocol import HEADER_LENGTH
from assay.node.payments.voucher_header import NAME as VOUCHER_NAME
from assay.node.payments.voucher_header import voucher_parameters
from assay.node.x402.wire import SIGNATURE as X402_SIGNATURE

_LENGTH_HEADER: Final = HEADER_LENGTH.encode()
_VOUCHER_HEADER: Final = VOUCHER_NAME.encode()


class InferenceHead:
    """`route` is what the path names; the rest is known once it was `read`."""

    __slots__ = ("by_x402", "is_read", "json_length", "route", "voucher")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.is_read = False
        self.by_x402 = False
        """Whether it comes with a payment by x402."""
        self.json_length: int | None = None
        """Bytes of JSON in front of the tensors' bytes."""
        self.voucher: Mapping[str, Any] = {}
        """Parameters that a header told."""

    def read(self, request: Request, *, sells_by_x402: bool) -> None:
        """Of a payment by x402 no voucher is looked for. Raises InputError."""
        headers = request.headers
        self.by_x402 = sells_by_x402 and X402_SIGNATURE in headers
        self.voucher = {} if self.by_x402 else voucher_parameters(headers.get(_VOUCHER_HEADER))
        self.json_length = json_length(headers.get(_LENGTH_HEADER))
        self.is_read = True


def json_length(value: bytes | None) -> int | None:
    """`Inference-Header-Content-Length`. Raises InputError `input_header`."""
    if value is None:
        return None
    if not value.isdigit() or len(value) > 12:
        raise InputError(
            "Inference-Header-Content-Length must be a decimal number of bytes", code="input_header"
        )
    return int(value)
