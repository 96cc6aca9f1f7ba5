"""Batches in the log: what may go into one, closing one durably, and its way from closed to posted to
collected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from assay.chain.outbox import Intent
from assay.chain.values import TxReceipt
from assay.commitments.identifiers import batch_id
from assay.node.receipts import unbatched
from assay.node.receipts.database import Database
from assay.node.receipts.entries import HeldVoucher
from assay.node.receipts.retention import Retention
from assay.node.receipts.schema import from_blob, to_blob
from assay.node.receipts.unbatched import Exposure, OpenChannel, Range
from assay.node.settlement import spending
from assay.node.settlement.closing import Leaves, write_ranges
from assay.node.settlement.spending import Kind
from assay.node.settlement.values import Batch, BatchState, ChannelVoucher, Owing, Shares
from assay.types import Address, BatchKey, Hash32

_PRESENTABLE: Final = (
    "signature IS NOT NULL AND NOT EXISTS (SELECT 1 FROM batch_vouchers v WHERE v.channel = channels.id"
    " AND v.amount = channels.amount AND v.count = channels.count AND v.skip_reason = 2)"  # BAD_SIGNATURE
)
"""A wallet that took its signature back once is not asked again for the same voucher: each time costs gas."""


_BATCH: Final = (
    "id, batch_id, version_id, receipts_root, receipts, state, attempt, posted_at, value, amount,"
    " collect_key, collected_block"
)


class BatchStore:
    """The settler's view of the log, through a connection of its own; used by one thread."""

    def __init__(self, database: Database, node: Address) -> None:
        self.node = node
        self._db = database.connect()

    def close(self) -> None:
        self._db.close()

    # What may go into a batch

    def open_channels(self) -> list[OpenChannel]:
        """Channels with receipts in no batch, those that wait longest first."""
        return unbatched.open_channels(self._db)

    def exposure(self) -> Exposure:
        return unbatched.read_exposure(self._db)

    def has_closed(self, version_id: Hash32) -> bool:
        """Whether a batch of the version waits to be posted."""
        row = self._db.execute(
            "SELECT 1 FROM batches WHERE state = ? AND version_id = ? LIMIT 1",
            (BatchState.CLOSED, version_id),
        ).fetchone()
        return row is not None

    def owing(self) -> list[Owing]:
        """Every channel that owes, over all versions."""
        rows = self._db.execute(
            "SELECT id, version_id, consumer, wallet, amount, count, settled, settled_count FROM channels"  # noqa: S608
            f" WHERE (amount > settled OR count > settled_count) AND {_PRESENTABLE} ORDER BY id"
        )
        return [
            Owing(
                number,
                Hash32(version_id),
                Address(consumer),
                bool(wallet),
                from_blob(amount),
                count,
                from_blob(settled),
                settled_count,
            )
            for number, version_id, consumer, wallet, amount, count, settled, settled_count in rows
        ]

    def vouchers(self, channels: Sequence[int]) -> list[ChannelVoucher]:
        """The vouchers held for these channels, in their order; channels without one are left out."""
        result = []
        for channel in channels:
            row = self._db.execute(
                "SELECT consumer, amount, count, signature, wallet FROM channels"  # noqa: S608
                f" WHERE id = ? AND {_PRESENTABLE}",
                (channel,),
            ).fetchone()
            if row is not None:
                consumer, amount, count, signature, wallet = row
                held = HeldVoucher(from_blob(amount), count, bytes(signature), bool(wallet))
                result.append(ChannelVoucher(channel, Address(consumer), held))
        return result

    # Closing

    def leaves(self, ranges: Sequence[Range]) -> Leaves:
        return Leaves(self._db, ranges)

    def write_batch(
        self,
        version_id: Hash32,
        root: Hash32,
        leaves: Leaves,
        vouchers: Sequence[ChannelVoucher],
        now: int,
    ) -> Batch:
        """The batch of `leaves`, whose root was read before, in one short transaction.

        Raises RetryableError if a receipt of them went into another batch since they were read.
        """
        key = BatchKey(self.node, version_id, root)
        receipts, value = leaves.receipts, leaves.value
        with self._db.transaction():
            row = self._db.execute(
                "INSERT INTO batches (batch_id, version_id, receipts_root, receipts, state, closed_at, value)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (batch_id(key), version_id, root, receipts, BatchState.CLOSED, now, to_blob(value)),
            ).fetchone()
            assert row is not None
            write_ranges(self._db, row[0], leaves.ranges, leaves.values)
            self._db.executemany(
                "INSERT INTO batch_vouchers (batch, position, channel, amount, count, signature, wallet)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        row[0],
                        i,
                        v.channel,
                        to_blob(v.held.amount),
                        v.held.count,
                        v.held.signature,
                        int(v.held.wallet),
                    )
                    for i, v in enumerate(vouchers)
                ],
            )
        return Batch(row[0], batch_id(key), key, receipts, BatchState.CLOSED, 0, None, value)

    # From closed to collected

    def in_state(self, state: BatchState) -> list[Batch]:
        rows = self._db.execute(f"SELECT {_BATCH} FROM batches WHERE state = ? ORDER BY id", (state,))  # noqa: S608
        return [self._batch(row) for row in rows]

    def _batch(self, row: tuple[Any, ...]) -> Batch:
        number, identifier, version_id, root, receipts, state, attempt, posted_at, *more = row
        value, amount, *collecting = more
        key = BatchKey(self.node, Hash32(version_id), Hash32(root))
        return Batch(
            number,
            Hash32(identifier),
            key,
            receipts,
            BatchState(state),
            attempt,
            posted_at,
            from_blob(value),
            from_blob(amount or b""),
            *collecting,
        )

    def batch_vouchers(self, batch: Batch) -> list[ChannelVoucher]:
        """The rows as they were closed."""
        rows = self._db.execute(
            "SELECT v.channel, c.consumer, v.amount, v.count, v.signature, v.wallet FROM batch_vouchers v"
            " JOIN channels c ON c.id = v.channel WHERE v.batch = ? ORDER BY v.position",
            (batch.id,),
        )
        return [
            ChannelVoucher(
                channel,
                Address(consumer),
                HeldVoucher(from_blob(amount), count, bytes(signature), bool(wallet)),
            )
            for channel, consumer, amount, count, signature, wallet in rows
        ]

    def mark_posted(
        self,
        batch: Batch,
        posted_at: int,
        amount: int,
        receipt: TxReceipt | None,
        skipped: Iterable[tuple[Address, int]],
        *,
        settled: Iterable[tuple[int, int, int]] = (),
    ) -> None:
        """`receipt` None: another hand posted it. `skipped`: (consumer, reason) of the rows that the contract
        left out. `settled`: (channel, amount, count) as the chain has them since; in the same transaction, or
        a debt that is paid might stay in the books."""
        tx_hash = None if receipt is None else "0x" + receipt.transaction_hash.hex()
        with self._db.transaction():
            self._db.execute(
                "UPDATE batches SET state = ?, posted_at = ?, amount = ?, tx_hash = ?,"
                " error = NULL WHERE id = ?",
                (BatchState.POSTED, posted_at, to_blob(amount), tx_hash, batch.id),
            )
            self._db.executemany(
                "UPDATE batch_vouchers SET skip_reason = ? WHERE batch = ? AND channel IN"
                " (SELECT id FROM channels WHERE consumer = ?)",
                [(reason, batch.id, consumer) for consumer, reason in skipped],
            )
            self._db.executemany(
                "UPDATE channels SET settled = ?, settled_count = ? WHERE id = ?",
                [(to_blob(paid), count, channel) for channel, paid, count in settled],
            )
            if receipt is not None:
                spending.record(self._db, Kind.POST, receipt, [(batch.id, batch.key.version_id)])

    def is_disputed(self, batch: Batch) -> bool:
        """Whether a receipt of it ever was: the game may have given its price back."""
        row = self._db.execute(
            "SELECT 1 FROM disputes d JOIN receipts r ON r.digest = d.digest JOIN batch_ranges g"
            " ON g.channel = r.channel AND r.sequence BETWEEN g.first_sequence AND g.last_sequence"
            " WHERE g.batch = ? LIMIT 1",
            (batch.id,),
        ).fetchone()
        return row is not None

    def mark_vanished(self, batch: Batch) -> None:
        """A reorg undid the posting, or put it elsewhere; it is to be posted again, or noted anew."""
        with self._db.transaction():
            row = self._db.execute("SELECT tx_hash FROM batches WHERE id = ?", (batch.id,)).fetchone()
            self._db.execute(
                "UPDATE batches SET state = ?, posted_at = NULL, tx_hash = NULL WHERE id = ?",
                (BatchState.CLOSED, batch.id),
            )
            self._db.execute("UPDATE batch_vouchers SET skip_reason = NULL WHERE batch = ?", (batch.id,))
            if row is not None and row[0] is not None:
                spending.forget(self._db, row[0])

    def note_collecting(self, batches: Sequence[Batch], key: str) -> None:
        """Before what collects them is sent under `key`."""
        self._db.executemany(
            "UPDATE batches SET collect_key = ? WHERE id = ?", [(key, batch.id) for batch in batches]
        )

    def posted_with(self, collect_key: str) -> list[Batch]:
        query = f"SELECT {_BATCH} FROM batches WHERE state = ? AND collect_key = ? ORDER BY id"  # noqa: S608
        return [self._batch(row) for row in self._db.execute(query, (BatchState.POSTED, collect_key))]

    def mark_collected(
        self,
        batches: Sequence[tuple[Batch, Shares]],
        receipt: TxReceipt | None = None,
        block: int | None = None,
    ) -> None:
        """`receipt` None: another hand collected them, by `block`."""
        if receipt is not None:
            block = receipt.block_number
        with self._db.transaction():
            self._db.executemany(
                "UPDATE batches SET state = ?, error = NULL, node_amount = ?, royalty = ?, fee = ?,"
                " collect_key = ?, collected_block = ? WHERE id = ?",
                [
                    (
                        BatchState.COLLECTED,
                        to_blob(shares.node_amount),
                        to_blob(shares.royalty),
                        to_blob(shares.fee),
                        None if receipt is None else batch.collect_key,
                        block,
                        batch.id,
                    )
                    for batch, shares in batches
                ],
            )
            if receipt is not None:
                self._record(Kind.COLLECT, receipt, [batch for batch, _ in batches])

    def unsettled(self, limit: int) -> list[Batch]:
        """Collected, and not known to be so for good; the oldest first."""
        query = (
            f"SELECT {_BATCH} FROM batches WHERE collected_block IS NOT NULL"  # noqa: S608
            " ORDER BY collected_block, id LIMIT ?"
        )
        return [self._batch(row) for row in self._db.execute(query, (limit,))]

    def settle(self, batches: Sequence[Batch]) -> None:
        """No reorg takes their collecting away any more."""
        self._db.executemany(
            "UPDATE batches SET collected_block = NULL WHERE id = ?", [(batch.id,) for batch in batches]
        )

    def mark_uncollected(self, batches: Sequence[Batch], tx_hashes: Iterable[str]) -> None:
        """A reorg undid what collected them, `tx_hashes` where it was the node; they are to be collected."""
        with self._db.transaction():
            self._db.executemany(
                "UPDATE batches SET state = ?, collected_block = NULL, node_amount = NULL, royalty = NULL,"
                " fee = NULL WHERE id = ?",
                [(BatchState.POSTED, batch.id) for batch in batches],
            )
            for tx_hash in tx_hashes:
                spending.forget(self._db, tx_hash)

    def note_failure(
        self,
        batches: Sequence[Batch],
        error: str,
        kind: Kind = Kind.POST,
        receipt: TxReceipt | None = None,
    ) -> None:
        """Keep why a transaction reverted, and what it cost if it was mined; the next one is new."""
        with self._db.transaction():
            self._db.executemany(
                "UPDATE batches SET error = ?, attempt = attempt + 1 WHERE id = ?",
                [(error[:500], batch.id) for batch in batches],
            )
            if kind is Kind.COLLECT:
                self._db.executemany(
                    "UPDATE batches SET collect_key = NULL WHERE id = ?", [(batch.id,) for batch in batches]
                )
            if receipt is not None:
                self._record(kind, receipt, batches)

    def prune(self, retention: Retention, chain_time: int) -> int:
        """How many receipts were dropped."""
        return retention.prune_for(self._db, chain_time)

    # Claiming

    def claims(self) -> int:
        """Transactions that claimed, mined and recorded."""
        found = spending.totals(self._db).get(Kind.CLAIM)
        return found.transactions if found else 0

    def note_claim(self, receipt: TxReceipt) -> None:
        with self._db.transaction():
            spending.record(self._db, Kind.CLAIM, receipt, [(0, None)])

    def correct_costs(self, intents: Iterable[Intent]) -> None:
        """Each in a transaction of its own: where `intents` are read as they come, they are read between."""
        for intent in intents:
            with self._db.transaction():
                spending.correct(self._db, intent)

    def _record(self, kind: Kind, receipt: TxReceipt, batches: Sequence[Batch]) -> None:
        spending.record(self._db, kind, receipt, [(batch.id, batch.key.version_id) for batch in batches])
