"""Records that the chain gives back, parsed from JSON-RPC. `LogReceipt` stays the RPC's own dictionary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from assay.commitments.identifiers import checksum_address
from assay.errors import FatalError
from assay.types import Address, Hash32

LogReceipt = dict[str, Any]
"""As `eth_getLogs` and transaction receipts give it (hex strings); `ContractAbi.decode_log` reads it."""


@dataclass(frozen=True, slots=True)
class Block:
    """A header. `base_fee` in wei, None before EIP-1559; `logs_bloom` is 256 bytes (yellow paper §4.3.1)."""

    number: int
    hash: Hash32
    parent_hash: Hash32
    timestamp: int
    base_fee: int | None
    gas_limit: int
    logs_bloom: bytes


@dataclass(frozen=True, slots=True)
class TxReceipt:
    """A mined transaction. `effective_gas_price` in wei; `status` 1 = success, 0 = reverted."""

    transaction_hash: Hash32
    block_number: int
    block_hash: Hash32
    status: int
    gas_used: int
    effective_gas_price: int
    contract_address: Address | None
    logs: tuple[LogReceipt, ...]


@dataclass(frozen=True, slots=True)
class EventData:
    """A decoded log. `args` by name: addresses checksummed, bytesN as bytes."""

    name: str
    args: dict[str, Any]
    address: Address
    block_number: int
    block_hash: Hash32
    transaction_hash: Hash32
    log_index: int


@dataclass(frozen=True, slots=True)
class Call:
    """A state-changing call for `Sender`: `label` is for people, `value` in wei.

    `extra_gas` is added to the estimate: for what may cost more when it is mined than when it is estimated.
    """

    to: Address | None
    data: bytes
    label: str = ""
    value: int = 0
    extra_gas: int = 0


def hash32(value: str) -> Hash32:
    raw = bytes.fromhex(value.removeprefix("0x"))
    if len(raw) != 32:
        raise FatalError(f"expected 32 bytes from the RPC endpoint, got {len(raw)}")
    return Hash32(raw)


def parse_block(raw: dict[str, Any]) -> Block:
    base_fee = raw.get("baseFeePerGas")
    return Block(
        number=int(raw["number"], 16),
        hash=hash32(raw["hash"]),
        parent_hash=hash32(raw["parentHash"]),
        timestamp=int(raw["timestamp"], 16),
        base_fee=None if base_fee is None else int(base_fee, 16),
        gas_limit=int(raw["gasLimit"], 16),
        logs_bloom=bytes.fromhex(raw["logsBloom"][2:]),
    )


def parse_tx_receipt(raw: dict[str, Any]) -> TxReceipt:
    created = raw.get("contractAddress")
    return TxReceipt(
        transaction_hash=hash32(raw["transactionHash"]),
        block_number=int(raw["blockNumber"], 16),
        block_hash=hash32(raw["blockHash"]),
        status=int(raw["status"], 16),
        gas_used=int(raw["gasUsed"], 16),
        effective_gas_price=int(raw.get("effectiveGasPrice", "0x0"), 16),
        contract_address=None if created is None else checksum_address(created),
        logs=tuple(raw["logs"]),
    )
