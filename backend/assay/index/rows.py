"""Events as database rows and JSON: integers as decimal strings, bytes as 0x hex, text without NUL,
structs and arrays as lists in the ABI's order.
"""

from __future__ import annotations

from typing import Any

from assay.db.columns import clean_text
from assay.index.fetch import ChainEvent


def event_row(event: ChainEvent, chain_id: int, seq: int) -> dict[str, Any]:
    return {
        "chain_id": chain_id,
        "tx_hash": event.tx_hash,
        "block_hash": event.block_hash,
        "log_index": event.log_index,
        "seq": seq,
        "block_number": event.number,
        "timestamp": event.timestamp,
        "contract": event.contract,
        "name": event.name,
        "args": {name: plain(value) for name, value in event.args.items()},
    }


def plain(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    raise TypeError(f"no JSON form for {type(value).__name__}")
