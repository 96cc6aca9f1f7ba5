"""HTTP to nodes (SPEC.md §7). Endpoints are strangers: bounded sizes, one deadline for a whole reply, no
redirects.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import quote

import httpx
import orjson

from assay.client.channels import Held
from assay.client.deadlines import Deadline, Transport
from assay.client.errors import NodeRefused, NodeUnreachable
from assay.client.wire import LENGTH_HEADER
from assay.commitments.parsing import parse_decimal, parse_integer, parse_signature
from assay.commitments.tensors import OIP_TO_ONNX
from assay.errors import RequestError
from assay.types import Address, Hash32, SignedVoucher, TensorSpec

MAX_REPLY_BYTES = 256 << 20
MAX_SMALL_REPLY_BYTES = 1 << 20
MAX_ERROR_BYTES = 1 << 16
MAX_SEQUENCE = 1 << 62
"""What the consumer's memory (SQLite's integers) holds, with room to count on."""
PROBE_SECONDS = 3.0
PAYMENT_REQUIRED, PAYMENT_SIGNATURE = "PAYMENT-REQUIRED", "PAYMENT-SIGNATURE"
"""Headers of x402 version 2."""
_DIGITS = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    content: bytes
    json_length: int | None
    payment_required: str = ""
    """x402's header `PAYMENT-REQUIRED`, empty without one."""
    retry_after: float | None = None
    """Seconds."""

    def error(self, endpoint: str) -> NodeRefused:
        """The node's `{"error", "code", "cure"}`, or what stands in its place."""
        cure = ""
        try:
            data = orjson.loads(self.content if len(self.content) <= MAX_ERROR_BYTES else b"")
            text, code = str(data["error"])[:500], str(data.get("code", "unknown"))[:64]
            cure = str(data.get("cure", ""))[:500]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            text, code = self.content[:200].decode(errors="replace"), "unknown"
        message = f"{endpoint} answered {self.status} {code}: {text}"
        return NodeRefused(message, status=self.status, code=code, cure=cure)


@dataclass(frozen=True, slots=True)
class HeldVoucher:
    """What a node holds for a channel, with the signature that proves it (None: none, or not shown)."""

    held: Held
    signature: bytes | None


def model_path(model: str, number: int) -> str:
    return f"/v2/models/{quote(model, safe='')}/versions/{number}"


class NodeHttp:
    """Thread-safe; keeps connections alive. Times in seconds, for a whole exchange each."""

    def __init__(self, timeout: float = 30.0, connect_timeout: float = 3.0) -> None:
        self.timeout = timeout
        self._deadline = Deadline()
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=connect_timeout),
            transport=Transport(self._deadline),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # a host may have several nodes
            follow_redirects=False,
            trust_env=False,
            headers={"Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        self._http.close()

    def infer(
        self, endpoint: str, path: str, body: bytes, json_length: int, payment: str | None = None
    ) -> Reply:
        """POST an inference, with `payment` as x402's `PAYMENT-SIGNATURE`. Raises NodeUnreachable."""
        headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(json_length)}
        if payment is not None:
            headers[PAYMENT_SIGNATURE] = payment
        return self._exchange("POST", endpoint, path + "/infer", body, headers, MAX_REPLY_BYTES)

    def get(self, endpoint: str, path: str, limit: int = MAX_SMALL_REPLY_BYTES) -> Reply:
        return self._exchange("GET", endpoint, path, None, {}, limit)

    def get_json(self, endpoint: str, path: str, limit: int = MAX_SMALL_REPLY_BYTES) -> Any:
        """Raises NodeRefused, NodeUnreachable."""
        reply = self.get(endpoint, path, limit)
        if reply.status != 200:
            raise reply.error(endpoint)
        return _json(reply, endpoint)

    def channel(self, endpoint: str, version_id: Hash32, consumer: Address) -> HeldVoucher:
        """What the node says that it holds; a channel it never saw holds nothing."""
        reply = self.get(endpoint, f"/v1/channels/0x{version_id.hex()}/{consumer}")
        if reply.status == 404:
            return HeldVoucher(Held(0, 0, 0), None)
        if reply.status != 200:
            raise reply.error(endpoint)
        data = _json(reply, endpoint)
        try:
            held = Held(
                parse_decimal(data["amount"], "amount"),
                parse_integer(data["count"], "count"),
                parse_integer(data["sequence"], "sequence", MAX_SEQUENCE),
            )
            signature = data.get("signature")
            return HeldVoucher(held, None if signature is None else parse_signature(signature))
        except (RequestError, KeyError, TypeError, AttributeError) as error:
            raise NodeUnreachable(f"{endpoint} answered a malformed channel: {error}", sent=True) from None

    def acknowledge(self, endpoint: str, signed: SignedVoucher) -> None:
        """POST a voucher without a request. Raises NodeRefused, NodeUnreachable."""
        voucher = signed.voucher
        body = {
            "version_id": "0x" + voucher.version_id.hex(),
            "consumer": voucher.consumer,
            "amount": str(voucher.amount),
            "count": str(voucher.count),
            "signature": "0x" + signed.signature.hex(),
        }
        headers = {"Content-Type": "application/json"}
        reply = self._exchange(
            "POST", endpoint, "/v1/vouchers", json.dumps(body).encode(), headers, MAX_SMALL_REPLY_BYTES
        )
        if reply.status != 200:
            raise reply.error(endpoint)

    def probe(self, endpoint: str) -> float | None:
        """Milliseconds to a ready answer, or None."""
        started = time.perf_counter()
        try:
            seconds = min(PROBE_SECONDS, self.timeout)
            reply = self._exchange(
                "GET", endpoint, "/v2/health/ready", None, {}, MAX_SMALL_REPLY_BYTES, seconds
            )
        except NodeUnreachable:
            return None
        return (time.perf_counter() - started) * 1000 if reply.status == 200 else None

    def _exchange(  # noqa: PLR0917 - one value each
        self,
        method: str,
        endpoint: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        limit: int,
        seconds: float = float("inf"),
    ) -> Reply:
        request = self._request(method, endpoint, path, body, headers)
        seconds = min(seconds, self.timeout)
        try:
            with self._deadline.within(seconds):
                response = self._http.send(request, stream=True)
                try:
                    return _reply(response, b"".join(_bounded(response.iter_raw(), endpoint, limit)))
                finally:
                    response.close()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            raise NodeUnreachable(f"{endpoint} cannot be reached: {error}", sent=False) from error
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise NodeUnreachable(
                f"{endpoint} gave no answer within {seconds:g} s: {what}", sent=True
            ) from error

    def _request(
        self, method: str, endpoint: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> httpx.Request:
        """Raises NodeUnreachable: whoever registers a node may write anything for its endpoint."""
        try:
            request = self._http.build_request(
                method, endpoint.rstrip("/") + path, content=body, headers=headers
            )
            is_usable = request.url.scheme in ("http", "https") and bool(request.url.host)
        except (httpx.InvalidURL, ValueError):
            is_usable = False
        if not is_usable:
            raise NodeUnreachable(f"the node's endpoint {endpoint[:80]!r} is not an HTTP URL", sent=False)
        return request


def _bounded(chunks: Iterator[bytes], endpoint: str, limit: int) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise NodeUnreachable(f"{endpoint} answered more than {limit} bytes", sent=True)
        yield chunk


def _reply(response: httpx.Response, content: bytes) -> Reply:
    seconds = _number(response, "Retry-After")
    return Reply(
        response.status_code,
        content,
        _number(response, LENGTH_HEADER),
        response.headers.get(PAYMENT_REQUIRED, ""),
        None if seconds is None else float(seconds),
    )


def _number(response: httpx.Response, header: str) -> int | None:
    text = response.headers.get(header)
    return int(text) if text is not None and _DIGITS.fullmatch(text) else None


def _json(reply: Reply, endpoint: str) -> Any:
    try:
        return orjson.loads(reply.content)
    except (ValueError, RecursionError):
        raise NodeUnreachable(f"{endpoint} answered what is not JSON", sent=True) from None


def parse_specs(metadata: Any, field_name: str) -> tuple[TensorSpec, ...]:
    """Tensors of the Open Inference Protocol's model metadata. Raises NodeUnreachable."""
    try:
        specs = tuple(
            TensorSpec(str(item["name"]), item["datatype"], tuple(int(dim) for dim in item["shape"]))
            for item in metadata[field_name]
        )
        is_known = all(spec.dtype in OIP_TO_ONNX for spec in specs)
    except (KeyError, TypeError, ValueError, OverflowError):
        specs, is_known = (), False
    if not specs or not is_known:
        raise NodeUnreachable(
            f"the node's model metadata has no usable {field_name!r}; has it loaded the model?", sent=False
        )
    return specs
