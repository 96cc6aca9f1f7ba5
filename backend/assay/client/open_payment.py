"""An x402 payment between its signature and its receipt, and as the store's row. Pure."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from assay.commitments.authorizations import Authorization
from assay.types import Hash32


@dataclass(frozen=True, slots=True)
class OpenPayment:
    """`header`: the value of `PAYMENT-SIGNATURE`, sent until the receipt came or the payment is dead."""

    payment: Hash32
    """What the token lets through once (SPEC.md §12)."""
    authorization: Authorization
    header: str = field(repr=False)
    identifier: str
    """x402's `payment-identifier`: another payment of the same request keeps it, and is not charged twice."""
    input_hash: Hash32
    body: bytes | None = field(repr=False)
    """The request's bytes; None of a private request."""
    json_length: int
    started_at: int
    """Unix seconds."""
    refused: str = ""
    """Why its receipt was not accepted; empty while it is merely outstanding."""

    @property
    def text(self) -> str:
        return "0x" + self.payment.hex()

    @property
    def end(self) -> str:
        """Time of day (UTC) from which on the token lets it through no more."""
        return time.strftime("%H:%M:%S", time.gmtime(self.authorization.valid_before))

    def to_row(self) -> tuple[str, bytes | None]:
        """(content, body)."""
        plain: dict[str, Any] = {}
        for name, value in asdict(self).items():
            plain[name] = value.hex() if isinstance(value, bytes) else value
        given = plain.pop("authorization")
        plain["authorization"] = given | {"value": str(given["value"]), "nonce": given["nonce"].hex()}
        del plain["body"]
        return json.dumps(plain), self.body

    @classmethod
    def from_row(cls, content: str, body: bytes | None) -> OpenPayment:
        plain: dict[str, Any] = json.loads(content)
        given = plain.pop("authorization")
        plain |= {name: Hash32(bytes.fromhex(plain[name])) for name in ("payment", "input_hash")}
        nonce = Hash32(bytes.fromhex(given["nonce"]))
        authorization = Authorization(**(given | {"value": int(given["value"]), "nonce": nonce}))
        return cls(**plain, authorization=authorization, body=None if body is None else bytes(body))
