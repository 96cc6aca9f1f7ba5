"""A payer's side of x402 version 2, by the package `x402`: what a node asks for, and what is signed for it.

Nothing is signed but a transfer by authorization (EIP-3009) of the deployment's token, on its chain.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

from assay.client.errors import NotSold
from assay.client.requests import Signer
from assay.commitments.authorizations import Authorization, TokenDomain, authorization_digest, payment_id
from assay.commitments.parsing import UINT256_MAX, parse_address, parse_decimal, parse_hash
from assay.errors import RequestError
from assay.types import Address, Hash32

MAX_HEADER: Final = 16_384
MAX_SECONDS: Final = 3_600
"""Longest life of an authorization that is signed: until then it may move the money."""
SCHEME, TRANSFER, TYPE = "exact", "eip3009", "TransferWithAuthorization"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a node wants for one request: `amount` base units. `required`: as the package reads it."""

    amount: int
    payee: Address
    required: Any


@dataclass(frozen=True, slots=True)
class Signed:
    """`payment` names it (SPEC.md §12); `header` is the value of `PAYMENT-SIGNATURE`."""

    payment: Hash32
    authorization: Authorization
    header: str


class Wallet:
    """Of one account on one chain."""

    def __init__(self, key: Signer, chain_id: int, token: Address) -> None:
        self.address = key.address
        self._key, self._chain_id, self._token = key, chain_id, token
        self.network = f"eip155:{chain_id}"

    def read(self, header: str, endpoint: str) -> Asked:
        """The value of `PAYMENT-REQUIRED`. Raises NotSold: no payment that this wallet signs is asked for."""
        if not header:
            raise NotSold(f"{endpoint} does not sell by x402; pay by voucher, or use another node")
        try:
            if len(header) > MAX_HEADER:
                raise ValueError(f"it has more than {MAX_HEADER} bytes")
            required = _package().decode(header)
            if required.x402_version != 2:
                raise ValueError(f"x402 version {required.x402_version}")
            wanted = [item for item in required.accepts if self._is_ours(item)]
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            reason = str(error).partition("\n")[0][:200]
            raise NotSold(f"{endpoint} sends a PAYMENT-REQUIRED that cannot be read: {reason}") from None
        if not wanted:
            offered = ", ".join(f"{i.scheme} {i.network} {i.asset}"[:120] for i in required.accepts[:4])
            raise NotSold(
                f"{endpoint} asks for {offered or 'nothing'}; this account pays {SCHEME} {self.network} "
                f"{self._token} by EIP-3009 alone. Use another node, or pay by voucher",
                code="x402_asset",
            )
        return self._asked(required, wanted[0], endpoint)

    def _is_ours(self, item: Any) -> bool:
        return (
            (item.scheme, item.network) == (SCHEME, self.network)
            and item.asset.lower() == self._token.lower()
            and (item.extra or {}).get("assetTransferMethod", TRANSFER) == TRANSFER
        )

    @staticmethod
    def _asked(required: Any, wanted: Any, endpoint: str) -> Asked:
        try:
            amount = parse_decimal(wanted.amount, "amount", UINT256_MAX)
            payee = parse_address(wanted.pay_to, "payTo")
            if not amount or not 0 < wanted.max_timeout_seconds <= MAX_SECONDS:
                raise ValueError(
                    f"{wanted.amount} base units within {wanted.max_timeout_seconds} s; a payment is of at "
                    f"least one, and good for {MAX_SECONDS} s at most"
                )
            for name in ("name", "version"):
                if not isinstance(wanted.extra.get(name), str):
                    raise ValueError(f"no {name!r} of the token's EIP-712 domain")
        except (ValueError, RequestError) as error:
            raise NotSold(
                f"{endpoint} asks for what is not signed here: {error}", code="x402_terms"
            ) from None
        return Asked(amount, payee, required.model_copy(update={"accepts": [wanted]}))

    def sign(self, asked: Asked, identifier: str) -> Signed:
        """An authorization of just `asked.amount`. Raises NotSold."""
        package = _package()
        extensions = package.identify(dict(asked.required.extensions or {}), identifier)
        client = package.Client()
        client.register(self.network, package.Scheme(self))
        most = {
            "network": self.network,
            "asset": self._token,
            "max_amount_per_payment": str(asked.amount),
        }
        client.set_spend_controls({"allowed_assets": [most]})
        try:
            payload = client.create_payment_payload(asked.required, extensions=extensions)
        except (ValueError, package.PaymentError) as error:
            raise NotSold(f"the payment cannot be signed: {str(error)[:200]}", code="x402_terms") from None
        given = _authorization(payload.payload["authorization"])
        domain = self._domain(asked.required.accepts[0].extra)
        return Signed(payment_id(domain, given.payer, given.nonce), given, package.encode(payload))

    def _domain(self, extra: dict[str, Any]) -> TokenDomain:
        return TokenDomain(extra["name"], extra["version"], self._chain_id, self._token)

    def sign_typed_data(
        self, domain: Any, types: dict[str, Any], primary_type: str, message: dict[str, Any]
    ) -> bytes:
        """What the package asks of a key. Raises ValueError for anything but a transfer of this token."""
        ours = (TYPE, self._chain_id, self._token.lower())
        if (primary_type, domain.chain_id, domain.verifying_contract.lower()) != ours:
            raise ValueError(f"{primary_type} of {domain.verifying_contract} is not signed here")
        given = Authorization(
            payer=self.address,
            payee=parse_address(message["to"], "to"),
            value=message["value"],
            valid_after=message["validAfter"],
            valid_before=message["validBefore"],
            nonce=Hash32(message["nonce"]),
        )
        return self._key.sign(
            authorization_digest(TokenDomain(domain.name, domain.version, self._chain_id, self._token), given)
        )


def _authorization(data: dict[str, str]) -> Authorization:
    return Authorization(
        payer=parse_address(data["from"], "from"),
        payee=parse_address(data["to"], "to"),
        value=int(data["value"]),
        valid_after=int(data["validAfter"]),
        valid_before=int(data["validBefore"]),
        nonce=parse_hash(data["nonce"], "nonce"),
    )


@functools.cache
def _package() -> SimpleNamespace:
    """The package's parts, loaded when somebody pays so: it brings web3, which takes a second."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # web3 7 asks websockets for its older interface
        from x402 import x402ClientSync
        from x402.extensions.payment_identifier import append_payment_identifier_to_extensions
        from x402.http.utils import decode_payment_required_header, encode_payment_signature_header
        from x402.mechanisms.evm.exact import ExactEvmScheme
        from x402.schemas import PaymentError
    return SimpleNamespace(
        Client=x402ClientSync,
        Scheme=ExactEvmScheme,
        PaymentError=PaymentError,
        decode=decode_payment_required_header,
        encode=encode_payment_signature_header,
        identify=append_payment_identifier_to_extensions,
    )
