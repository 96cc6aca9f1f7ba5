"""What can go wrong for a consumer; each error names its cure.

RequestError
├── ModelUnknown        no such publisher, model or version on this chain
├── VersionRevoked      the publisher revoked the version
├── InputInvalid        arrays do not fit the model's signature
├── NoNodes             nobody offers the version, or nobody who does answered
├── PriceTooHigh        every offer is above `max_price`
├── EscrowShort         the escrow does not cover the request and may not be topped up
├── NodeRefused         a node answered with an error of its own
└── ChannelBlocked      the node took a voucher and owes its receipt
VerificationError
└── ReceiptRefused      an answer whose receipt does not check; the evidence is kept in a file
RetryableError
└── NodeUnreachable     no answer: refused connection, time-out, broken reply
"""
# ruff: noqa: N818 - named after what happened, as in assay.errors

from __future__ import annotations

from pathlib import Path

from assay.errors import RequestError, RetryableError, VerificationError


class ModelUnknown(RequestError):
    def __init__(self, message: str) -> None:
        super().__init__(message, status=404, code="model_unknown")


class VersionRevoked(RequestError):
    def __init__(self, message: str) -> None:
        super().__init__(message, status=409, code="version_revoked")


class InputInvalid(RequestError):
    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(message, status=400, code="input_invalid", cure=cure)


class NoNodes(RequestError):
    """`attempts` says what happened at each node that was tried, best first; `cure` is the last one's."""

    def __init__(self, message: str, attempts: tuple[Exception, ...] = ()) -> None:
        cures = [error.cure for error in attempts if isinstance(error, RequestError) and error.cure]
        super().__init__(message, status=503, code="no_nodes", cure=cures[-1] if cures else "")
        self.attempts = attempts


class PriceTooHigh(RequestError):
    """`cheapest` is the lowest price on offer, in base units."""

    def __init__(self, message: str, cheapest: int) -> None:
        super().__init__(message, status=402, code="price_too_high")
        self.cheapest = cheapest


class EscrowShort(RequestError):
    """`needed` and `free` are base units: what the request costs and what the escrow still covers."""

    def __init__(self, message: str, *, needed: int, free: int) -> None:
        super().__init__(message, status=402, code="escrow_short")
        self.needed = needed
        self.free = free


class NodeRefused(RequestError):
    """The node's own error, with its HTTP status and code (SPEC.md §7)."""


class ChannelBlocked(RequestError):
    """One price is at stake at most; `forgive` writes it off and goes on."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=402, code="channel_blocked")


class ReceiptRefused(VerificationError):
    """`evidence` is the JSON file with the request, the reply and the receipt as they were sent."""

    def __init__(self, message: str, *, step: str, evidence: Path | None = None) -> None:
        super().__init__(message, step=step)
        self.evidence = evidence


class NodeUnreachable(RetryableError):
    """`sent` tells whether the request may have reached the node (then its voucher is outstanding)."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent
