"""The DisputeGame contract (SPEC.md §11): views and calls."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import cast

from eth_abi.abi import encode

from assay.chain.client import BlockId
from assay.chain.contract import Contract
from assay.chain.settlement import receipt_row
from assay.chain.values import Call
from assay.commitments.identifiers import keccak
from assay.exact.game import Move, State
from assay.types import Address, Hash32, Receipt, SignedReceipt

STATE_TYPES = (
    *("address", "address", "bytes32", "bytes32", "bytes32", "bytes32", "bytes32", "bytes32", "bytes32"),
    *(["uint256"] * 12),
    *("int256", "int256"),
)
"""ABI types of `IDisputeGame.State`'s fields."""


class Standing(StrEnum):
    """What `disputes(id)` tells."""

    NONE = "none"
    OPEN = "open"
    NODE_WON = "node_won"
    CHALLENGER_WON = "challenger_won"


def parse_standing(word: bytes) -> Standing:
    known = {0: Standing.NONE, 1: Standing.NODE_WON, 2: Standing.CHALLENGER_WON}
    return known.get(int.from_bytes(word, "big"), Standing.OPEN)


def state_hash(state: State) -> Hash32:
    """What the contract keeps of an open dispute: keccak256 of the ABI-encoded state."""
    return keccak(encode(STATE_TYPES, state.row()))


class DisputeGame(Contract):
    """Views and calls of the deployed DisputeGame."""

    NAME = "DisputeGame"

    def dispute_hash(self, dispute_id: int, block: BlockId = "latest") -> Hash32:
        """The open dispute's state hash; else a word that `parse_standing` reads."""
        return cast(Hash32, self.read("disputes", dispute_id, block=block))

    def standing(self, dispute_id: int, block: BlockId = "latest") -> Standing:
        return parse_standing(self.dispute_hash(dispute_id, block))

    def is_current(self, dispute_id: int, state: State, block: BlockId = "latest") -> bool:
        """Whether a move may still be played on this state."""
        return self.dispute_hash(dispute_id, block) == state_hash(state)

    def dispute_count(self, block: BlockId = "latest") -> int:
        """Disputes are numbered from 1 to this."""
        return cast(int, self.read("dispute_count", block=block))

    def claimable(self, account: Address, block: BlockId = "latest") -> int:
        return cast(int, self.read("claimable", account, block=block))

    def bond(self, block: BlockId = "latest") -> int:
        return cast(int, self.read("bond", block=block))

    def slash_amount(self, block: BlockId = "latest") -> int:
        return cast(int, self.read("slash_amount", block=block))

    def move_window(self, block: BlockId = "latest") -> int:
        """Seconds."""
        return cast(int, self.read("move_window", block=block))

    def open(self, signed: SignedReceipt, proof: tuple[Sequence[Hash32], int] | None = None) -> Call:
        """The sender must have approved the bond. `proof`: (siblings, index) of the receipt in its posted
        batch; None if it is in none.
        """
        siblings, index = proof if proof is not None else ((), 0)
        args = (receipt_row(signed.receipt), signed.signature, proof is not None, list(siblings), index)
        return self.write("open", *args, label="open a dispute")

    def move(self, dispute_id: int, state: State, move: Move) -> Call:
        """What `defend` or `challenge` answered for this state."""
        label = f"dispute {dispute_id}: {move.function}"
        return self.write(move.function, dispute_id, state.row(), *move.arguments, label=label)

    def claim_timeout(self, dispute_id: int, state: State, receipt: Receipt) -> Call:
        label = f"dispute {dispute_id}: claim time-out"
        return self.write("claim_timeout", dispute_id, state.row(), receipt_row(receipt), label=label)

    def prove_equivocation(self, first: SignedReceipt, second: SignedReceipt) -> Call:
        return self.write("prove_equivocation", *_pair(first, second), label="prove an equivocation")

    def prove_contradiction(self, first: SignedReceipt, second: SignedReceipt) -> Call:
        return self.write("prove_contradiction", *_pair(first, second), label="prove a contradiction")

    def claim(self, account: Address) -> Call:
        return self.write("claim", account, label=f"claim for {account}")


def _pair(first: SignedReceipt, second: SignedReceipt) -> tuple[object, ...]:
    return (
        *(receipt_row(first.receipt), first.signature),
        *(receipt_row(second.receipt), second.signature),
    )
