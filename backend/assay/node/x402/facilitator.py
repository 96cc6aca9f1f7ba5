"""Asks a facilitator over HTTP whether a payment is good, and to settle it; every wait is bounded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import httpx
import orjson

from assay.node.errors import Unavailable
from assay.node.x402.wire import Payment, PaymentTerms

MAX_ANSWER: Final = 65_536
CONNECT_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is the facilitator's, empty if the payment is good."""

    is_valid: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """`transaction`: the hash it names, which may still be on its way; empty without one."""

    success: bool
    transaction: str = ""
    reason: str = ""

    @property
    def is_pending(self) -> bool:
        return self.reason == "settlement_pending"


class FacilitatorClient:
    """Belongs to one event loop. Raises Unavailable `payment_unavailable` where there is no answer."""

    def __init__(
        self, url: str, terms: PaymentTerms, *, verify_seconds: float, settle_seconds: float
    ) -> None:
        self._url = url.rstrip("/")
        self._terms = terms
        self._verify_seconds = verify_seconds
        self._settle_seconds = settle_seconds
        self._http = httpx.AsyncClient(trust_env=False, follow_redirects=False)

    async def close(self) -> None:
        await self._http.aclose()

    async def verify(self, payment: Payment) -> Verdict:
        answer = await self._post("verify", payment, self._verify_seconds)
        valid = answer.get("isValid") is True
        return Verdict(valid, "" if valid else _text(answer, "invalidReason") or "refused")

    async def settle(self, payment: Payment) -> Settled:
        answer = await self._post("settle", payment, self._settle_seconds)
        success = answer.get("success") is True
        reason = "" if success else _text(answer, "errorReason") or "refused"
        return Settled(success, _text(answer, "transaction"), reason)

    async def _post(self, what: str, payment: Payment, seconds: float) -> dict[str, Any]:
        wanted = self._terms.requirement(payment.authorization.value)
        body = {
            "x402Version": 2,
            "paymentPayload": {"x402Version": 2, "accepted": wanted, "payload": payment.to_json()},
            "paymentRequirements": wanted,
        }
        timeout = httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
        try:
            async with asyncio.timeout(seconds):  # httpx bounds each read, not all of them together
                request = self._http.build_request("POST", f"{self._url}/{what}", json=body, timeout=timeout)
                response = await self._http.send(request, stream=True)
                try:
                    content = await _bounded(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise _unavailable(what, f"no whole answer within {seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unavailable(what, f"{type(error).__name__} {error}") from None
        if response.status_code != 200:
            raise _unavailable(what, f"HTTP {response.status_code}: {content[:200].decode(errors='replace')}")
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            raise _unavailable(what, "its answer is not JSON") from None
        if not isinstance(answer, dict):
            raise _unavailable(what, "its answer is not a JSON object")
        return answer


async def _bounded(response: httpx.Response) -> bytes:
    content = b""
    async for part in response.aiter_bytes():
        content += part
        if len(content) > MAX_ANSWER:
            raise httpx.DecodingError(f"its answer has more than {MAX_ANSWER} bytes")
    return content


def _text(answer: dict[str, Any], field: str) -> str:
    value = answer.get(field)
    return value[:200] if isinstance(value, str) else ""


def _unavailable(what: str, problem: str) -> Unavailable:
    return Unavailable(
        f"this node's facilitator did not {what} the payment: {problem[:300]}; send the same request again",
        code="payment_unavailable",
        retry_after=2,
    )


def find_problem(url: str, chain_id: int) -> str:
    """Why this facilitator cannot settle on the chain; empty: it says that it can. Blocks for seconds."""
    try:
        answer = httpx.get(f"{url.rstrip('/')}/supported", timeout=CONNECT_SECONDS, trust_env=False)
        answer.raise_for_status()
        kinds = [
            (kind.get("x402Version"), kind.get("scheme"), kind["network"]) for kind in answer.json()["kinds"]
        ]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, LookupError, AttributeError) as error:
        return f"GET /supported: {type(error).__name__} {error}"
    wanted = (2, "exact", f"eip155:{chain_id}")
    return "" if wanted in kinds else f"it settles {kinds}, not {wanted}"
