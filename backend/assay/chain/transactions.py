"""Signed transactions as bytes: EIP-1559 (type 2) where the chain has a base fee, else EIP-155. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Union

from assay.commitments.identifiers import keccak
from assay.types import Address, Hash32

RlpItem = Union[int, bytes, "list[RlpItem]"]

BUMP_NUMERATOR, BUMP_DENOMINATOR = 9, 8
"""12.5 %: pools ask for 10 % more of both fees to replace a transaction (geth's `txpool.pricebump`)."""


class Signer(Protocol):
    """Signs 32-byte digests; `assay.commitments.signing.SigningKey` is one."""

    @property
    def address(self) -> Address: ...

    def sign(self, digest: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Fees:
    """Wei per gas. `priority_fee` None: a legacy transaction at gas price `max_fee`."""

    max_fee: int
    priority_fee: int | None

    def bumped(self, current: Fees) -> Fees:
        """At least 12.5 % above these on both counts, and at least the current market's."""
        max_fee = max(_bump(self.max_fee), current.max_fee)
        if self.priority_fee is None:
            return Fees(max_fee, None)
        priority = max(_bump(self.priority_fee), current.priority_fee or 0)
        return Fees(max(max_fee, priority), priority)


@dataclass(frozen=True, slots=True)
class Transaction:
    """Unsigned. `to` None creates a contract; `value` in wei."""

    chain_id: int
    nonce: int
    to: Address | None
    data: bytes
    value: int
    gas: int
    fees: Fees


def rlp_encode(item: RlpItem) -> bytes:
    """Recursive length prefix (yellow paper, appendix B); integers are big-endian without leading zeros."""
    if isinstance(item, list):
        payload = b"".join(rlp_encode(part) for part in item)
        return _rlp_prefix(len(payload), 0xC0) + payload
    data = item.to_bytes((item.bit_length() + 7) // 8, "big") if isinstance(item, int) else item
    if len(data) == 1 and data[0] < 0x80:
        return data
    return _rlp_prefix(len(data), 0x80) + data


def _rlp_prefix(length: int, offset: int) -> bytes:
    if length < 56:
        return bytes((offset + length,))
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((offset + 55 + len(size),)) + size


def _bump(fee: int) -> int:
    return fee * BUMP_NUMERATOR // BUMP_DENOMINATOR + 1


def sign_transaction(transaction: Transaction, key: Signer) -> tuple[bytes, Hash32]:
    """`(raw bytes, hash)`, by EIP-1559 or EIP-155."""
    to = b"" if transaction.to is None else bytes.fromhex(transaction.to[2:])
    body: list[RlpItem] = [transaction.gas, to, transaction.value, transaction.data]
    if transaction.fees.priority_fee is None:
        head: list[RlpItem] = [transaction.nonce, transaction.fees.max_fee]
        digest = keccak(rlp_encode([*head, *body, transaction.chain_id, 0, 0]))
        r, s, parity = _sign(key, digest)
        raw = rlp_encode([*head, *body, transaction.chain_id * 2 + 35 + parity, r, s])
    else:
        fees = [transaction.fees.priority_fee, transaction.fees.max_fee]
        head = [transaction.chain_id, transaction.nonce, *fees]
        digest = keccak(b"\x02" + rlp_encode([*head, *body, []]))
        r, s, parity = _sign(key, digest)
        raw = b"\x02" + rlp_encode([*head, *body, [], parity, r, s])
    return raw, keccak(raw)


def _sign(key: Signer, digest: bytes) -> tuple[int, int, int]:
    signature = key.sign(digest)
    return int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64] - 27
