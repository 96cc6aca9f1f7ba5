"""What a node refuses, with HTTP status and code (SPEC.md §7); `refusals` has each code's reason and cure.

RequestError
├── InputError          400 `input_*`: the request does not fit the model's signature or the protocol
├── PaymentError        402 `voucher_missing | voucher_signature | voucher_stale | voucher_short |
escrow_short | unacknowledged`; by x402 `payment_mismatch | payment_signature | payment_invalid |
payment_failed | payment_used`
├── PaymentConflict     409 `payment_conflict`
├── OperatorOnly        401 `operator_token`, 403 `operator_denied`
├── NotFound            404 `model_unknown`, `not_found`
├── WrongMethod         405 `method`
├── VersionRevoked      409
├── LoadRefused         409 `load_refused`: a version that cannot be loaded or unloaded as it stands
├── TooLarge            413
├── RunFailed           500 `run_failed`: the model refused valid input, or ran out of its limits;
│                       `output_nan`, `output_shape`: what it gave must not be signed as exact
├── NotReproducible     500: a repeated request gave another output; no second receipt is signed
├── Unsupported         501: an extension of the protocol that this node does not have
└── Unavailable         503 `not_ready | busy`; `retry_after` in seconds
ArtifactRefused         an ONNX file, or what it does when loaded, breaks a rule; names operator and node
"""

# ruff: noqa: N818 - named after what happened, as in assay.errors

from __future__ import annotations

from assay.errors import AssayError, RequestError
from assay.types import Address


class InputError(RequestError):
    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message, status=400, code=code)


class PaymentError(RequestError):
    """`consumer`: who would have paid, once that is known."""

    consumer: Address | None = None

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message, status=402, code=code)


class PaymentConflict(RequestError):
    def __init__(self, message: str) -> None:
        super().__init__(f"{message}; choose another identifier", status=409, code="payment_conflict")


class OperatorOnly(RequestError):
    """`given`: whether the request had a token at all."""

    def __init__(self, what: str, *, given: bool) -> None:
        problem = "the token sent is another's" if given else "send its token as Authorization: Bearer"
        super().__init__(
            f"{what} is for this node's operator; {problem}",
            status=403 if given else 401,
            code="operator_denied" if given else "operator_token",
        )


class NotFound(RequestError):
    def __init__(self, message: str, *, code: str = "not_found") -> None:
        super().__init__(message, status=404, code=code)


class WrongMethod(RequestError):
    """`allow`: the methods that the path takes, as the header of that name has them."""

    def __init__(self, method: str, taken: set[str]) -> None:
        super().__init__(f"use {', '.join(sorted(taken))} here, not {method[:40]}", status=405, code="method")
        self.allow = ", ".join(sorted(taken | {"HEAD"} if "GET" in taken else taken))


class VersionRevoked(RequestError):
    def __init__(self, message: str) -> None:
        super().__init__(message, status=409, code="version_revoked")


class LoadRefused(RequestError):
    def __init__(self, message: str) -> None:
        super().__init__(message, status=409, code="load_refused")


class TooLarge(RequestError):
    def __init__(self, message: str) -> None:
        super().__init__(message, status=413, code="too_large")


class RunFailed(RequestError):
    def __init__(self, message: str, *, code: str = "run_failed") -> None:
        super().__init__(message, status=500, code=code)


class NotReproducible(RequestError):
    def __init__(self, message: str) -> None:
        super().__init__(message, status=500, code="not_reproducible")


class Unsupported(RequestError):
    def __init__(self, what: str) -> None:
        super().__init__(
            f"this node does not have {what}; see the extensions of GET /v2", status=501, code="unsupported"
        )


class Unavailable(RequestError):
    def __init__(self, message: str, *, code: str = "not_ready", retry_after: int = 1) -> None:
        super().__init__(message, status=503, code=code)
        self.retry_after = retry_after


class ArtifactRefused(AssayError):
    """`code` is stable snake_case; `node` and `operator` name the graph node at fault, where there is one."""

    exit_code = 8

    def __init__(self, message: str, *, code: str, operator: str = "", node: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.operator = operator
        self.node = node
