"""The x402 package's facilitator, held to one network, one token and the transfer method that nodes take."""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from x402 import x402FacilitatorSync
from x402.mechanisms.evm.exact.facilitator import ExactEvmScheme
from x402.schemas import (
    PaymentPayload,
    PaymentRequirements,
    SettleResponse,
    SupportedResponse,
    VerifyResponse,
)

from assay.facilitator.signer import FacilitatorSigner
from assay.types import Address

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is settled here. No `payees`: to whomever."""

    chain_id: int
    token: Address
    payees: frozenset[Address] = frozenset()

    @property
    def network(self) -> str:
        """The chain as CAIP-2 names it."""
        return f"eip155:{self.chain_id}"

    def refuse(self, payload: PaymentPayload, wanted: PaymentRequirements) -> str:
        """The package's kind of reason why this is not settled here; empty if it is."""
        if wanted.scheme != "exact" or payload.accepted.scheme != "exact":
            return "unsupported_scheme"
        if wanted.network != self.network:
            return "network_mismatch"
        if wanted.asset.lower() != self.token.lower():
            return "asset_not_settled_here"
        if self.payees and wanted.pay_to.lower() not in {payee.lower() for payee in self.payees}:
            return "payee_not_settled_here"
        if not isinstance(payload.payload.get("authorization"), dict):
            return "asset_transfer_method_not_settled_here"
        return ""


class LocalFacilitator:
    """Synchronous; each call in a thread of its own. What is wrong with a payment is in the response; that
    the chain cannot be reached is a RetryableError."""

    def __init__(self, signer: FacilitatorSigner, rules: Rules) -> None:
        self.rules = rules
        self._signer = signer
        self._facilitator = x402FacilitatorSync()
        self._facilitator.register([rules.network], ExactEvmScheme(signer))

    def supported(self) -> SupportedResponse:
        return self._facilitator.get_supported()

    def verify(self, payload: PaymentPayload, wanted: PaymentRequirements) -> VerifyResponse:
        """Signature, amount, payee, time; then the transfer simulated on the newest block."""
        if reason := self.rules.refuse(payload, wanted):
            return VerifyResponse(is_valid=False, invalid_reason=reason)
        with self._signer.whole():
            answer = self._facilitator.verify(payload, wanted)
        _log.info("verified", payer=answer.payer, valid=answer.is_valid, reason=answer.invalid_reason)
        return answer

    def settle(self, payload: PaymentPayload, wanted: PaymentRequirements) -> SettleResponse:
        """The transfer, mined once; `settlement_pending` if that takes too long."""
        if reason := self.rules.refuse(payload, wanted):
            return SettleResponse(
                success=False, error_reason=reason, transaction="", network=self.rules.network
            )
        with self._signer.whole():
            answer = self._facilitator.settle(payload, wanted)
        _log.info(
            "settled",
            payer=answer.payer,
            amount=wanted.amount,
            success=answer.success,
            transaction=answer.transaction,
            reason=answer.error_reason,
        )
        return answer
