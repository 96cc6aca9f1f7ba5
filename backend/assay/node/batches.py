"""Batches in the log: what is due, closing one durably, and its way from closed to posted to collected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from assay.chain.settlement import MAX_VOUCHERS, MAX_WALLET_VOUCHERS
from assay.commitments.identifiers import batch_id
from assay.commitments.receipts import receipts_tree
from assay.node.database import Database, IntegrityError
from assay.node.entries import HeldVoucher
from assay.node.schema import from_blob, to_blob
from assay.types import Address, BatchKey, Hash32, SignedVoucher, Voucher

_PAID: Final = "price > x'00000000000000000000000000000000'"
_OPEN: Final = "batch IS NULL AND retired = 0"
_PRESENTABLE: Final = (
    "NOT EXISTS (SELECT 1 FROM batch_vouchers v WHERE v.channel = channels.id AND v.amount = channels.amount"
    " AND v.count = channels.count AND v.skip_reason = 2)"  # BAD_SIGNATURE
)
"""A wallet that took its signature back once is not asked again for the same voucher: each time costs gas."""


class BatchState(StrEnum):
    CLOSED = "closed"
    """On disk and published; its transaction may or may not have been sent."""
    POSTED = "posted"
    COLLECTED = "collected"


@dataclass(frozen=True, slots=True)
class Due:
    """Open receipts of a version that call for a batch. `value` in base units, times Unix seconds."""

    version_id: Hash32
    receipts: int
    oldest: int
    newest: int
    value: int


@dataclass(frozen=True, slots=True)
class ChannelVoucher:
    """A voucher that may go into a batch. `channel` is the log's row id."""

    channel: int
    consumer: Address
    held: HeldVoucher

    def signed(self, node: Address, version_id: Hash32) -> SignedVoucher:
        voucher = Voucher(self.consumer, node, version_id, self.held.amount, self.held.count)
        return SignedVoucher(voucher, self.held.signature)


@dataclass(frozen=True, slots=True)
class Batch:
    id: int
    batch_id: Hash32
    key: BatchKey
    receipts: int
    state: BatchState
    attempt: int
    posted_at: int | None


_BATCH: Final = "id, batch_id, version_id, receipts_root, receipts, state, attempt, posted_at"


class BatchStore:
    """The settler's view of the log, through a connection of its own; used by one thread."""

    def __init__(self, database: Database, node: Address) -> None:
        self.node = node
        self._db = database.connect()

    def close(self) -> None:
        self._db.close()

    # What is due

    def due(self, *, free_receipts: bool, with_value: bool) -> list[Due]:
        """Versions with open receipts; unpaid ones count only with `free_receipts`."""
        where = _OPEN if free_receipts else f"{_OPEN} AND {_PAID}"
        rows = self._db.execute(
            f"SELECT version_id, count(*), min(id), max(id) FROM receipts WHERE {where} GROUP BY version_id"  # noqa: S608
        ).fetchall()
        result = []
        for version_id, count, first, last in rows:
            value = 0
            if with_value:
                prices = self._db.execute(
                    f"SELECT price FROM receipts WHERE version_id = ? AND batch IS NULL AND {_PAID}",  # noqa: S608
                    (version_id,),
                )
                value = sum(from_blob(price) for (price,) in prices)
            times = self._db.execute(
                "SELECT executed_at FROM receipts WHERE id IN (?, ?) ORDER BY id", (first, last)
            )
            seconds = [executed_at for (executed_at,) in times]
            result.append(Due(Hash32(version_id), count, seconds[0], seconds[-1], value))
        return result

    def is_acknowledged(self, version_id: Hash32) -> bool:
        """Whether every channel's voucher counts all its receipts, where paid ones are open."""
        row = self._db.execute(
            "SELECT 1 FROM channels c WHERE c.version_id = ? AND c.count < c.sequence AND EXISTS ("  # noqa: S608
            f"SELECT 1 FROM receipts r WHERE r.channel = c.id AND r.batch IS NULL AND r.{_PAID}) LIMIT 1",
            (version_id,),
        ).fetchone()
        return row is None

    def has_closed(self, version_id: Hash32) -> bool:
        """Whether a batch of the version waits to be posted."""
        row = self._db.execute(
            "SELECT 1 FROM batches WHERE state = ? AND version_id = ? LIMIT 1",
            (BatchState.CLOSED, version_id),
        ).fetchone()
        return row is not None

    # Closing

    def channels_to_close(self, version_id: Hash32, *, free_receipts: bool) -> list[int]:
        """Channels with open receipts, longest waiting first, as many as one batch has voucher rows for."""
        where = f"r.{_OPEN}" if free_receipts else f"r.{_OPEN} AND r.{_PAID}"
        rows = self._db.execute(
            "SELECT r.channel, c.wallet FROM receipts r JOIN channels c ON c.id = r.channel"  # noqa: S608
            f" WHERE r.version_id = ? AND {where} GROUP BY r.channel, c.wallet ORDER BY min(r.id)",
            (version_id,),
        )
        return _within_rows(rows)

    def owing(self, version_id: Hash32) -> list[int]:
        """Channels whose voucher has grown since the last posting, or was not paid in full."""
        rows = self._db.execute(
            "SELECT id, wallet FROM channels WHERE version_id = ? AND (amount > settled OR count > "  # noqa: S608
            f"settled_count) AND {_PRESENTABLE} ORDER BY id",
            (version_id,),
        )
        return _within_rows(rows)

    def vouchers(self, channels: Sequence[int]) -> list[ChannelVoucher]:
        """The vouchers held for these channels, in their order; channels without one are left out."""
        result = []
        for channel in channels:
            row = self._db.execute(
                "SELECT consumer, amount, count, signature, wallet FROM channels"  # noqa: S608
                f" WHERE id = ? AND signature IS NOT NULL AND {_PRESENTABLE}",
                (channel,),
            ).fetchone()
            if row is not None:
                consumer, amount, count, signature, wallet = row
                held = HeldVoucher(from_blob(amount), count, signature, bool(wallet))
                result.append(ChannelVoucher(channel, Address(consumer), held))
        return result

    def close_batch(
        self,
        version_id: Hash32,
        channels: Sequence[int],
        vouchers: Sequence[ChannelVoucher],
        max_receipts: int,
        now: int,
    ) -> Batch:
        """Put the oldest open receipts of `channels` into a batch with `vouchers`, in one transaction."""
        marks = ",".join("?" * len(channels))
        with self._db.transaction(snapshot=True):
            rows = self._db.execute(
                f"SELECT id, digest FROM receipts WHERE {_OPEN}"  # noqa: S608
                f" AND channel IN ({marks}) ORDER BY id LIMIT ?",
                (*channels, max_receipts),
            ).fetchall()
            key = BatchKey(self.node, version_id, receipts_tree(digest for _, digest in rows).root)
            number = self._insert(key, len(rows), now)
            taken = self._db.execute(
                f"UPDATE receipts SET batch = ? WHERE {_OPEN} AND channel IN ({marks}) AND id <= ?",  # noqa: S608
                (number, *channels, rows[-1][0]),
            ).rowcount
            if taken != len(rows):
                raise IntegrityError(f"batch takes {taken} receipts, its tree has {len(rows)}")
            self._db.executemany(
                "INSERT INTO batch_vouchers (batch, position, channel, amount, count, signature, wallet)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        number,
                        i,
                        v.channel,
                        to_blob(v.held.amount),
                        v.held.count,
                        v.held.signature,
                        v.held.wallet,
                    )
                    for i, v in enumerate(vouchers)
                ],
            )
        return Batch(number, batch_id(key), key, len(rows), BatchState.CLOSED, 0, None)

    def _insert(self, key: BatchKey, receipts: int, now: int) -> int:
        """The new batch's row id."""
        row = self._db.execute(
            "INSERT INTO batches (batch_id, version_id, receipts_root, receipts, state, closed_at)"
            " VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
            (batch_id(key), key.version_id, key.receipts_root, receipts, BatchState.CLOSED, now),
        ).fetchone()
        assert row is not None
        return int(row[0])

    # From closed to collected

    def in_state(self, state: BatchState) -> list[Batch]:
        rows = self._db.execute(f"SELECT {_BATCH} FROM batches WHERE state = ? ORDER BY id", (state,))  # noqa: S608
        return [self._batch(row) for row in rows]

    def _batch(self, row: tuple[Any, ...]) -> Batch:
        number, identifier, version_id, root, receipts, state, attempt, posted_at = row
        key = BatchKey(self.node, Hash32(version_id), Hash32(root))
        return Batch(number, Hash32(identifier), key, receipts, BatchState(state), attempt, posted_at)

    def batch_vouchers(self, batch: Batch) -> list[ChannelVoucher]:
        """The rows as they were closed."""
        rows = self._db.execute(
            "SELECT v.channel, c.consumer, v.amount, v.count, v.signature, v.wallet FROM batch_vouchers v"
            " JOIN channels c ON c.id = v.channel WHERE v.batch = ? ORDER BY v.position",
            (batch.id,),
        )
        return [
            ChannelVoucher(
                channel, Address(consumer), HeldVoucher(from_blob(amount), count, signature, bool(wallet))
            )
            for channel, consumer, amount, count, signature, wallet in rows
        ]

    def mark_posted(
        self,
        batch: Batch,
        posted_at: int,
        amount: int,
        tx_hash: str | None,
        skipped: Iterable[tuple[Address, int]],
    ) -> None:
        """`skipped`: (consumer, reason) of the rows that the contract left out."""
        with self._db.transaction():
            self._db.execute(
                "UPDATE batches SET state = ?, posted_at = ?, amount = ?, tx_hash = coalesce(?, tx_hash),"
                " error = NULL WHERE id = ?",
                (BatchState.POSTED, posted_at, to_blob(amount), tx_hash, batch.id),
            )
            self._db.executemany(
                "UPDATE batch_vouchers SET skip_reason = ? WHERE batch = ? AND channel IN"
                " (SELECT id FROM channels WHERE consumer = ?)",
                [(reason, batch.id, consumer) for consumer, reason in skipped],
            )

    def mark_vanished(self, batch: Batch) -> None:
        """A reorg undid the posting; it is to be posted again."""
        self._db.execute(
            "UPDATE batches SET state = ?, posted_at = NULL WHERE id = ?", (BatchState.CLOSED, batch.id)
        )

    def mark_collected(self, batches: Iterable[Batch]) -> None:
        self._db.executemany(
            "UPDATE batches SET state = ?, error = NULL WHERE id = ?",
            [(BatchState.COLLECTED, batch.id) for batch in batches],
        )

    def note_failure(self, batches: Iterable[Batch], error: str, *, reverted: bool) -> None:
        """Keep why it did not go on; after a revert the next attempt is a new transaction."""
        self._db.executemany(
            "UPDATE batches SET error = ?, attempt = attempt + ? WHERE id = ?",
            [(error[:500], reverted, batch.id) for batch in batches],
        )

    def note_settled(self, settled: Iterable[tuple[int, int, int]]) -> None:
        """(channel, amount, count) as the chain has them after a posting."""
        self._db.executemany(
            "UPDATE channels SET settled = ?, settled_count = ? WHERE id = ?",
            [(to_blob(amount), count, channel) for channel, amount, count in settled],
        )


def _within_rows(rows: Iterable[tuple[int, int]]) -> list[int]:
    """The first channels that fit into one batch's voucher rows."""
    room = [MAX_VOUCHERS, MAX_WALLET_VOUCHERS]
    result = []
    for channel, wallet in rows:
        if room[bool(wallet)] > 0:
            room[bool(wallet)] -= 1
            result.append(channel)
        if not any(room):
            break
    return result
