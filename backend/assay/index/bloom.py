"""logsBloom membership (Ethereum yellow paper §4.3.1)."""

from __future__ import annotations

from sha3 import keccak_256


def bloom_mask(item: bytes) -> int:
    """The three bits that `item` (an address or topic) sets in a 2048-bit bloom, as an integer."""
    digest = keccak_256(item).digest()
    mask = 0
    for position in (0, 2, 4):
        mask |= 1 << (int.from_bytes(digest[position : position + 2], "big") & 2047)
    return mask
