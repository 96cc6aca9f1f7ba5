"""Who paid what in a batch. `post_batch` logs no event per paid row (SPEC.md §6), so the rows come from the
transaction's input, less the skipped ones; where a batch was posted through another contract, from
`channel(…)` views. Either way the rows must add up to the batch's amount and count, else they are not
believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from sqlalchemy import Connection, select

from assay.chain.abi import ContractAbi
from assay.commitments.identifiers import batch_id, checksum_address, keccak
from assay.db.tables import Channel, Escrow
from assay.index.fetch import ChainEvent, Fetcher, Posting, hash_text
from assay.index.state import State
from assay.types import Address, BatchKey, Hash32

POST_BATCH_TYPES = (
    "address",
    "bytes32",
    "bytes32",
    "(address,uint128,uint64,bytes32,bytes32)[]",
    "(address,uint128,uint64,bytes)[]",
)
POST_BATCH = keccak(f"post_batch({','.join(POST_BATCH_TYPES)})".encode())[:4]


MAX_HELD = 2**96 - 1
"""The most that an escrow, or a channel's settled amount, holds (SPEC.md §6)."""


@dataclass(frozen=True, slots=True)
class Payment:
    """A row of `post_batch`. `amount`, `count`: the voucher's; `paid`, `counted`: what this batch took of
    it.
    """

    consumer: Address
    amount: int
    count: int
    paid: int
    counted: int


class Payments:
    """For the batches of one window; `None` for a batch whose rows cannot be told."""

    def __init__(
        self,
        *,
        settlement: Address,
        abi: ContractAbi,
        fetcher: Fetcher,
        connection: Connection,
        postings: Mapping[str, Posting],
        events: Sequence[ChainEvent],
    ) -> None:
        self._settlement, self._abi, self._fetcher, self._connection = settlement, abi, fetcher, connection
        self._postings = postings
        self._skips: dict[tuple[str, bytes], Counter[tuple[Address, int, int]]] = {}
        for event in events:
            if event.name == "VoucherSkipped":
                key = (event.tx_hash, bytes(event.args["batch_id"]))
                row = (event.args["consumer"], event.args["amount"], event.args["count"])
                self._skips.setdefault(key, Counter())[row] += 1

    def of_batch(self, state: State, event: ChainEvent) -> list[Payment] | None:
        posting = self._postings[event.tx_hash]
        rows = None
        if posting.to == self._settlement.lower():
            rows = self._from_input(state, event, posting.data)
        if rows is None or not _fits(rows, event):
            rows = self._from_views(state, event)
        return rows if _fits(rows, event) else None

    def _from_input(self, state: State, event: ChainEvent, data: bytes) -> list[Payment] | None:
        vouchers = decode_vouchers(data, Hash32(bytes(event.args["batch_id"])))
        if vouchers is None:
            return None
        skips = self._skips.get((event.tx_hash, bytes(event.args["batch_id"])), Counter())
        return pay_rows(state, event.args["node"], hash_text(event.args["version_id"]), vouchers, skips)

    def _from_views(self, state: State, event: ChainEvent) -> list[Payment]:
        """Compare every channel that can have paid with the chain as of the batch's block.

        Two batches of one node and version in one block cannot be told apart this way; then the sums do not
        fit.
        """
        state.flush()
        node, version_id = event.args["node"], hash_text(event.args["version_id"])
        queries = (
            select(Escrow.consumer).where(Escrow.node == node),
            select(Channel.consumer).where(Channel.node == node, Channel.version_id == version_id),
        )
        consumers = sorted({row[0] for query in queries for row in self._connection.execute(query)})
        calls = [
            self._abi.encode_call("channel", [consumer, node, event.args["version_id"]])
            for consumer in consumers
        ]
        answers = self._fetcher.call_many(self._settlement, calls, event.block_hash)
        rows = []
        for consumer, answer in zip(consumers, answers, strict=True):
            settled, count = decode(("uint128", "uint64"), answer)
            before = state.get("channels", consumer, node, version_id) or {"settled": 0, "count": 0}
            paid, counted = settled - before["settled"], count - before["count"]
            if paid or counted:
                rows.append(Payment(Address(consumer), settled, count, paid, counted))
        return rows


def decode_vouchers(data: bytes, expected: Hash32) -> list[tuple[Address, int, int]] | None:
    """(consumer, amount, count) rows in the contract's order, or None if this is not that batch's
    `post_batch` call.
    """
    if data[:4] != POST_BATCH:
        return None
    try:
        node, version_id, root, vouchers, wallets = decode(POST_BATCH_TYPES, data[4:])
    except DecodingError:
        return None
    if batch_id(BatchKey(checksum_address(node), version_id, root)) != expected:
        return None
    rows: list[Any] = [*vouchers, *wallets]
    return [(checksum_address(row[0]), row[1], row[2]) for row in rows]


def pay_rows(
    state: State,
    node: Address,
    version_id: str,
    vouchers: Sequence[tuple[Address, int, int]],
    skips: Counter[tuple[Address, int, int]],
) -> list[Payment]:
    """The contract's own arithmetic for the rows that it did not skip (SPEC.md §6)."""
    accepted = Counter(vouchers) - skips  # of equal rows the first ones: a repeat is stale
    channels: dict[Address, tuple[int, int]] = {}
    escrows: dict[Address, int] = {}
    rows = []
    for voucher in vouchers:
        if not accepted[voucher]:
            continue
        accepted[voucher] -= 1
        consumer, amount, count = voucher
        if consumer not in channels:
            channel = state.get("channels", consumer, node, version_id)
            escrow = state.get("escrows", consumer, node)
            channels[consumer] = (channel["settled"], channel["count"]) if channel else (0, 0)
            escrows[consumer] = escrow["balance"] if escrow else 0
        settled, counted = channels[consumer]
        paid = min(amount - settled, escrows[consumer], MAX_HELD - settled)
        rows.append(Payment(consumer, amount, count, paid, count - counted))
        channels[consumer] = (settled + paid, count)
        escrows[consumer] -= paid
    return rows


def _fits(rows: Sequence[Payment], event: ChainEvent) -> bool:
    """No row takes back, and all together are what the batch says.

    No event tells which of two equal rows was skipped; where the wrong one was taken for paid, a later row
    seems to pay less than nothing.
    """
    sums = sum(row.paid for row in rows), sum(row.counted for row in rows)
    never_back = all(row.paid >= 0 and row.counted >= 0 for row in rows)
    return never_back and sums == (event.args["amount"], event.args["count"])
