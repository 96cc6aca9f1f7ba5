"""What can go wrong for a consumer; each error names its cure.

RequestError
├── ModelUnknown        no such publisher, model or version on this chain
├── VersionRevoked      the publisher revoked the version
├── InputInvalid        arrays do not fit the model's signature
├── NoNodes             nobody offers the version, or nobody who does answered
├── PriceTooHigh        every offer is above `max_price`
├── EscrowShort         the escrow does not cover the request and may not be topped up
├── BalanceShort        the account has fewer tokens than an x402 payment moves
├── NotSold             a node does not sell by x402, or asks for what this client does not sign
├── PaymentRefused      a node refused an x402 payment that was sent to it
├── NodeRefused         a node answered with an error of its own
└── ChannelBlocked      the node took a voucher and owes its receipt
VerificationError
└── ReceiptRefused      an answer whose receipt does not check; the evidence is kept in a file
RetryableError
├── NodeUnreachable     no answer: refused connection, time-out, broken reply
└── PaymentOpen         an x402 payment was sent and not answered; the same request goes on with it
"""
# ruff: noqa: N818 - named after what happened, as in assay.errors

from __future__ import annotations

from pathlib import Path

from assay.errors import AssayError, RequestError, RetryableError, VerificationError


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


class BalanceShort(RequestError):
    """`needed` and `balance` are base units of the token."""

    def __init__(self, message: str, *, needed: int, balance: int) -> None:
        super().__init__(message, status=402, code="balance_short")
        self.needed = needed
        self.balance = balance


class NotSold(RequestError):
    """Nothing was signed. `code`: `x402_unsupported`, `x402_asset`, `x402_terms` or `x402_price`."""

    def __init__(self, message: str, *, code: str = "x402_unsupported") -> None:
        super().__init__(message, status=402, code=code)


class PaymentRefused(RequestError):
    """The node's own error about a payment, with its HTTP status and code (SPEC.md §12)."""


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


class PaymentOpen(RetryableError):
    """`code` is the node's (`payment_pending`, `payment_unavailable`, …) or `node_unreachable`.

    No other payment is signed for the request while this one may go through."""

    def __init__(self, message: str, *, code: str, cure: str) -> None:
        super().__init__(message)
        self.code = code
        self.cure = cure


def is_of_input(error: AssayError) -> bool:
    """Whether the request is at fault by one node's word: another may be honest, or have wider limits."""
    return isinstance(error, (InputInvalid, NodeRefused)) and error.status in (400, 413)


def cure_of(error: AssayError) -> str:
    return error.cure if isinstance(error, RequestError) else ""


def summarise(version: str, failures: list[AssayError]) -> AssayError:
    """What became of a request to `version` (its reference): of several failures, each node's is told."""
    if failures and all(is_of_input(error) for error in failures):
        first = failures[0]
        return first if isinstance(first, InputInvalid) else InputInvalid(str(first), cure=cure_of(first))
    if len(failures) == 1:
        return failures[0]
    for kind in (EscrowShort, NotSold):
        if failures and all(isinstance(error, kind) for error in failures):
            return failures[0]
    if failures and all(
        isinstance(error, NodeRefused) and error.code == "version_revoked" for error in failures
    ):
        return VersionRevoked(f"every node says that {version} was revoked: {failures[0]}")
    told = "; ".join(str(error) for error in failures)
    return NoNodes(f"none of {len(failures)} nodes answered {version}: {told}", tuple(failures))
