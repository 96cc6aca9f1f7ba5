"""Every code that a node refuses with: HTTP and gRPC status, reason and cure; SPEC.md §7 has them as a table.

HTTP answers `{"error", "code", "cure"}`; gRPC has the message as its status' details, and `assay-code` and
`assay-cure` in the trailing metadata. A cure that an error brings itself goes before the code's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from assay.errors import FatalError, RequestError, RetryableError
from assay.node.errors import Unavailable, WrongMethod

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """`status` is HTTP's, `grpc` the name of gRPC's status code."""

    status: int
    grpc: str
    reason: str
    cure: str


_INPUT: Final = "INVALID_ARGUMENT"
_STATE: Final = "FAILED_PRECONDITION"


def _input(reason: str, cure: str, status: int = 400) -> Refusal:
    return Refusal(status, _INPUT, reason, cure)


def _payment(reason: str, cure: str, grpc: str = _STATE) -> Refusal:
    return Refusal(402, grpc, reason, cure)


def _failed(reason: str, cure: str) -> Refusal:
    return Refusal(500, "INTERNAL", reason, cure)


REFUSALS: Final[dict[str, Refusal]] = {
    "input_json": _input(
        "the request is not the JSON object, or over gRPC the message, that the protocol asks for",
        "correct the part that the message names",
    ),
    "input_header": _input(
        "`Inference-Header-Content-Length` is not the length of the body's JSON part",
        "send the number of bytes before the first binary tensor, or leave the header out",
    ),
    "input_http": _input(
        "the request is not HTTP/1.1 as this node speaks it",
        "mend what the message names, or use another client",
    ),
    "input_encoding": _input("the body is compressed", "send it as it is"),
    "input_body": _input(
        "the body did not arrive in time",
        "send fewer rows a request, or over a faster connection",
        408,
    ),
    "input_unknown": _input(
        "the model has no input or output of that name",
        "use the names of the model's metadata: `GET /v2/models/{name}`",
    ),
    "input_missing": _input(
        "an input of the model is not in the request", "send all inputs of the model's metadata"
    ),
    "input_duplicate": _input("a tensor is named twice", "name each input and output once"),
    "input_dtype": _input(
        "an input's `datatype` is not the model's",
        "convert the values to the datatype of the model's metadata",
    ),
    "input_shape": _input(
        "an input's shape is not the model's, or its data are of another shape",
        "reshape the values; -1 in the model's metadata is any positive number",
    ),
    "input_rows": _input(
        "an exact version got no rows, or inputs of different row counts",
        "send the same positive number of rows in every input",
    ),
    "input_size": _input(
        "an input's binary data are longer or shorter than its shape and datatype say",
        "send row-major little-endian elements without padding; a string as u32 length and UTF-8 bytes",
    ),
    "input_data": _input(
        "an input's values are not of its datatype, or there are too few or too many of them",
        "send as many values as the shape says, each within the datatype",
    ),
    "input_not_finite": _input("an input holds NaN or infinite values", "clean the input first"),
    "input_output_form": _input(
        "an output holds values that JSON cannot carry", "ask for it with `binary_data`"
    ),
    "input_unsupported": _input(
        "the request asks for an extension that this node does not have",
        "leave the parameter out; `GET /v2` lists the extensions there are",
    ),
    "input_public": _input("parameter `public` is no boolean", "send true or false"),
    "input_voucher": _input(
        "a field of the voucher is malformed",
        "amounts and counts are decimal strings, the signature is 0x hex, addresses are checksummed",
    ),
    "field_invalid": _input(
        "a hash, an address or another field of the request is malformed",
        "correct the field that the message names",
    ),
    "voucher_missing": _payment(
        "the version costs something, and the request has no voucher or half of one",
        "sign a voucher for the price over what the node already holds; `GET /v1/node` has the price",
    ),
    "voucher_signature": _payment(
        "the voucher is not signed by its consumer",
        "sign the EIP-712 voucher of this chain, settlement, node and version with the consumer's key",
        "UNAUTHENTICATED",
    ),
    "voucher_stale": _payment(
        "the voucher has paid for another request already, or the node holds a newer one",
        "ask `GET /v1/channels/{version_id}/{consumer}` for the state and sign the next voucher on top of it",
    ),
    "voucher_short": _payment(
        "the voucher's amount does not cover the price over what the channel already owes",
        "sign the amount that the message names, or more",
    ),
    "escrow_short": _payment(
        "the consumer's escrow at this node does not cover what it has promised",
        "fund the escrow (`assay channel fund`) and send the same request again",
    ),
    "unacknowledged": _payment(
        "too many receipts of the channel are not counted by a voucher",
        "check the receipts and send a voucher whose count includes them (`POST /v1/vouchers`)",
    ),
    "input_payment": _input(
        "`PAYMENT-SIGNATURE` is malformed, or stands beside a voucher",
        "send what an x402 version 2 client makes of `PAYMENT-REQUIRED`, and no voucher",
    ),
    "payment_mismatch": _payment(
        "the payment is not what the request costs", "sign what the reply's `PAYMENT-REQUIRED` asks for"
    ),
    "payment_signature": _payment(
        "the authorization is not signed by its payer",
        "sign the token's EIP-712 `TransferWithAuthorization` with the payer's key",
        "UNAUTHENTICATED",
    ),
    "payment_invalid": _payment(
        "the payment does not hold: expired, used, taken back, or the payer is short of tokens",
        "mend what the message names and sign a new authorization; nothing was moved",
    ),
    "payment_failed": _payment(
        "the payment could not be settled, so nothing was answered or signed",
        "sign a new authorization; this one did not go through",
    ),
    "payment_used": _payment(
        "the payment has bought the receipt of another request", "sign a new authorization"
    ),
    "payment_conflict": Refusal(
        409,
        "ALREADY_EXISTS",
        "the payment identifier came with another request before",
        "choose another identifier for another request",
    ),
    "operator_token": Refusal(
        401,
        "UNAUTHENTICATED",
        "only the node's operator may do this, and the request has no token",
        "send `Authorization: Bearer` with the content of `operator.token` in the node's folder",
    ),
    "operator_denied": Refusal(
        403,
        "PERMISSION_DENIED",
        "the token is not this node's operator's",
        "read `operator.token` in the node's folder again; it is made anew when it is missing at the start",
    ),
    "model_unknown": Refusal(
        404,
        "NOT_FOUND",
        "the node does not serve the model or version, or does not offer it at present",
        "choose one of the offers at `GET /v1/node`, or another node",
    ),
    "not_found": Refusal(
        404, "NOT_FOUND", "there is nothing at the path", "see `GET /v1/node` and `GET /v2` for what there is"
    ),
    "private": Refusal(
        404,
        "NOT_FOUND",
        "the receipt's tensors are its consumer's alone",
        "ask the consumer, or infer with `public` yourself",
    ),
    "expired": Refusal(
        404,
        "NOT_FOUND",
        "the receipt cannot be disputed any more, and its tensors are gone",
        "fetch what you want to check within the dispute window",
    ),
    "method": Refusal(
        405, "UNIMPLEMENTED", "the path takes another HTTP method", "use the method that the message names"
    ),
    "version_revoked": Refusal(
        409, _STATE, "the publisher revoked the version", "use another version of the model"
    ),
    "load_refused": Refusal(
        409,
        _STATE,
        "the version cannot be loaded or unloaded as it stands",
        "see the message; `POST /v2/repository/index` shows every version's state and reason",
    ),
    "too_large": Refusal(
        413,
        "RESOURCE_EXHAUSTED",
        "the request is larger than this node takes",
        "send fewer rows a request, tensors as binary data, or ask a node with greater limits",
    ),
    "headers_too_large": Refusal(
        431,
        "RESOURCE_EXHAUSTED",
        "request line and headers are longer than 32,768 bytes",
        "send fewer or shorter headers",
    ),
    "run_failed": _failed(
        "the model failed on valid input, or ran out of its time",
        "try other input; nothing was charged, the voucher stays as credit",
    ),
    "not_reproducible": _failed(
        "a repeated request gave another output, so the stored receipt does not fit it",
        "fetch the receipt from `GET /v1/receipts/{digest}`; nothing was charged again",
    ),
    "output_nan": _failed(
        "an exact version gave NaN, which is not signed", "try other input; nothing was charged"
    ),
    "output_shape": _failed(
        "an exact version gave another shape than its program, which is not signed",
        "try another node; nothing was charged",
    ),
    "internal": _failed(
        "the node failed on the request", "try another node; this one's operator finds why in its log"
    ),
    "unsupported": Refusal(
        501,
        "UNIMPLEMENTED",
        "an extension of the protocol that this node does not have",
        "do without it; `GET /v2` lists the extensions there are",
    ),
    "not_ready": Refusal(
        503,
        "UNAVAILABLE",
        "the node or the version is starting, stopping, inactive or out of sight of its chain",
        "try again after `Retry-After` seconds, or another node",
    ),
    "payment_pending": Refusal(
        503,
        "UNAVAILABLE",
        "the payment is on its way to the chain, or not deep enough in it",
        "send the same request and `PAYMENT-SIGNATURE` after `Retry-After` seconds: it is paid once",
    ),
    "payment_unavailable": Refusal(
        503,
        "UNAVAILABLE",
        "the node's facilitator does not answer",
        "send the same request after `Retry-After` seconds, pay by voucher, or use another node",
    ),
    "stake_exhausted": Refusal(
        503,
        "UNAVAILABLE",
        "the node's stake covers no more receipts that can still be disputed",
        "use another node, or try again when a batch of this one is final",
    ),
    "busy": Refusal(
        503,
        "UNAVAILABLE",
        "the node is at its limit of requests, or of this consumer's share of them",
        "try again after `Retry-After` seconds, or another node",
    ),
}


@dataclass(frozen=True, slots=True)
class Answered:
    """An error as it leaves the node. `grpc` is the name of a gRPC status code, `retry_after` in seconds."""

    status: int
    grpc: str
    code: str
    message: str
    cure: str
    retry_after: int | None = None
    allow: str = ""
    """The methods that there are, where another was used."""

    def to_json(self) -> dict[str, str]:
        return {"error": self.message, "code": self.code, "cure": self.cure}


def answer_error(error: BaseException, where: str) -> Answered:
    """`describe_error`; what the operator should know of besides is logged with `where`."""
    if isinstance(error, RetryableError):
        _log.warning("request waits", path=where[:200], error=str(error))
    elif not isinstance(error, RequestError | FatalError):
        _log.error("request failed", path=where[:200], exc_info=error)
    return describe_error(error)


def describe_error(error: BaseException) -> Answered:
    """What any exception says to whoever asked; what was not expected is not shown."""
    if isinstance(error, RequestError):
        known = REFUSALS.get(error.code)
        return Answered(
            status=error.status,
            grpc=known.grpc if known else grpc_status(error.status),
            code=error.code,
            message=str(error),
            cure=error.cure or (known.cure if known else ""),
            retry_after=error.retry_after if isinstance(error, Unavailable) else None,
            allow=error.allow if isinstance(error, WrongMethod) else "",
        )
    if isinstance(error, FatalError):
        return _of_code("not_ready", "this node had to stop; use another node", retry_after=60)
    if isinstance(error, RetryableError):
        return _of_code("not_ready", "what this node needs for the request is away; try again", retry_after=2)
    return _of_code("internal", "this node failed on the request; its operator finds why in the log")


def _of_code(code: str, message: str, retry_after: int | None = None) -> Answered:
    known = REFUSALS[code]
    return Answered(known.status, known.grpc, code, message, known.cure, retry_after)


def grpc_status(status: int) -> str:
    """The gRPC status nearest to an HTTP status whose code has none of its own."""
    if status in _NEAREST:
        return _NEAREST[status]
    return "INVALID_ARGUMENT" if status < 500 else "INTERNAL"


_NEAREST: Final = {
    401: "UNAUTHENTICATED",
    402: _STATE,
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: _STATE,
    413: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
}
