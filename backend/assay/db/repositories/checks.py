"""What the batch checker reads and writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, except_, func, insert, or_, select

from assay.db.tables import Batch, BatchCheck, BatchVoucher, Node, Receipt, Signer
from assay.types import BatchAvailability, SignedReceipt

CHUNK = 500  # bound parameters in one statement
ROWS = 2_000  # in one statement
UNCHECKED = BatchAvailability.UNCHECKED.value
WRITING = "its receipts are being written"
"""Reason of an unchecked batch some of whose receipts may be there."""


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """A batch due for a check; `signers` are (key, valid_from, valid_to)."""

    batch_id: str
    node: str
    version_id: str
    receipts_root: str
    posted_at: int
    block_number: int
    log_index: int
    endpoint: str
    availability: str
    attempts: int
    signers: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class CheckResult:
    availability: str
    reason: str
    receipts: int
    attempts: int
    checked_at: int
    next_attempt_at: int


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    signed: SignedReceipt
    digest: str
    signer: str


PENDING_COLUMNS = tuple(field.name for field in fields(PendingBatch))[:-1]


class CheckStore:
    """Queries on one connection, inside the caller's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def due_nodes(self, now: int) -> list[str]:
        """Whose batches were never looked at, or are due again; who has waited longest first."""
        oldest = dict[str, int]()
        for query in (self._again(now), self._never()):
            for node, block in () if query is None else self._connection.execute(query):
                oldest[node] = min(block, oldest.get(node, block))
        return sorted(oldest, key=lambda node: (oldest[node], node))

    def _again(self, now: int) -> Select[str, int]:
        """Nodes and blocks of batches that are due again."""
        query = select(Batch.node, Batch.block_number).join(Node, Node.node == Batch.node)
        query = query.join(BatchCheck, BatchCheck.batch_id == Batch.batch_id)
        return query.where(BatchCheck.next_attempt_at <= now)

    def _never(self) -> Select[str, int] | None:
        """Those of batches never looked at, which takes a look at all; so none where all have a check."""
        posted, checked = (select(func.count()).select_from(table) for table in (Batch, BatchCheck))
        if self._connection.scalar(posted) == self._connection.scalar(checked):
            return None
        query = select(Batch.node, func.min(Batch.block_number)).join(Node, Node.node == Batch.node)
        never = except_(select(Batch.batch_id), select(BatchCheck.batch_id))
        return query.where(Batch.batch_id.in_(never)).group_by(Batch.node)

    def due(self, now: int, node: str, limit: int) -> list[PendingBatch]:
        """Batches of a node never looked at, or due again; in posting order."""
        query = (
            select(
                Batch.batch_id,
                Batch.node,
                Batch.version_id,
                Batch.receipts_root,
                Batch.posted_at,
                Batch.block_number,
                Batch.log_index,
                Node.endpoint,
                func.coalesce(BatchCheck.availability, UNCHECKED),
                func.coalesce(BatchCheck.attempts, 0),
            )
            .join(Node, Node.node == Batch.node)
            .outerjoin(BatchCheck, BatchCheck.batch_id == Batch.batch_id)
            .where(_is_due(now), Batch.node == node)
            .order_by(Batch.block_number, Batch.log_index)
            .limit(limit)
        )
        rows = self._connection.execute(query).all()
        return [self._pending(row) for row in rows]

    def _pending(self, row: Sequence[Any]) -> PendingBatch:
        values = dict(zip(PENDING_COLUMNS, row, strict=True))
        return PendingBatch(**values, signers=self._signers(values["node"]))

    def _signers(self, node: str) -> tuple[tuple[str, int, int], ...]:
        query = select(Signer.signer, Signer.valid_from, Signer.valid_to).where(Signer.node == node)
        return tuple((s, start, stop) for s, start, stop in self._connection.execute(query))

    def lock(self, batch: PendingBatch, *, is_begun: bool = False) -> bool:
        """Whether the batch is still where it was posted, and what `begin` began still there; keeps it so
        until the transaction ends, whatever else changes of it.
        """
        query = select(Batch.block_number, Batch.log_index).where(Batch.batch_id == batch.batch_id)
        found = self._connection.execute(query.with_for_update(read=True, key_share=True)).first()
        if found is None or tuple(found) != (batch.block_number, batch.log_index):
            return False
        return not is_begun or batch.batch_id in self.unfinished()

    def batch_of_any(self, digests: Iterable[str]) -> tuple[str, str] | None:
        """(digest, batch_id) of one that is stored already."""
        left = iter(digests)
        while chunk := list(islice(left, CHUNK)):
            query = select(Receipt.digest, Receipt.batch_id).where(Receipt.digest.in_(chunk))
            if found := self._connection.execute(query.limit(1)).first():
                return found.digest, found.batch_id
        return None

    def other_states(self, batch: PendingBatch) -> set[BatchAvailability]:
        """Availabilities of the other batches of this node and version."""
        state = func.coalesce(BatchCheck.availability, UNCHECKED)
        query = (
            select(state)
            .select_from(Batch)
            .outerjoin(BatchCheck, BatchCheck.batch_id == Batch.batch_id)
            .where(
                Batch.node == batch.node,
                Batch.version_id == batch.version_id,
                Batch.batch_id != batch.batch_id,
            )
            .distinct()
        )
        return {BatchAvailability(row[0]) for row in self._connection.execute(query)}

    def sequence_in(self, batch: PendingBatch, consumer: str, first: int, last: int) -> int | None:
        """A sequence between `first` and `last` (included) that the channel has already."""
        query = select(func.min(Receipt.sequence)).where(
            self._channel(batch, consumer), Receipt.sequence.between(first, last)
        )
        return self._connection.scalar(query)

    def neighbours(self, batch: PendingBatch, consumer: str, first: int, last: int) -> tuple[int, int | None]:
        """The channel's nearest stored sequences below `first` (0 if none) and above `last`."""
        channel = self._channel(batch, consumer)
        below = self._connection.scalar(
            select(func.max(Receipt.sequence)).where(channel, Receipt.sequence < first)
        )
        above = self._connection.scalar(
            select(func.min(Receipt.sequence)).where(channel, Receipt.sequence > last)
        )
        return below or 0, above

    def acknowledged(self, batch: PendingBatch) -> list[tuple[str, int]]:
        """(consumer, cumulative count) of the vouchers that this batch took."""
        query = (
            select(BatchVoucher.consumer, func.max(BatchVoucher.count))
            .where(BatchVoucher.batch_id == batch.batch_id, BatchVoucher.skipped.is_(False))
            .group_by(BatchVoucher.consumer)
        )
        return [(consumer, int(count)) for consumer, count in self._connection.execute(query)]

    def published(self, batch: PendingBatch, consumer: str) -> int:
        """Receipts of the channel in available batches."""
        query = select(func.count()).select_from(Receipt).where(self._channel(batch, consumer))
        return self._connection.scalar(query) or 0

    def _channel(self, batch: PendingBatch, consumer: str) -> ColumnElement[bool]:
        return and_(
            Receipt.node == batch.node,
            Receipt.version_id == batch.version_id,
            Receipt.consumer == consumer,
            Receipt.batch_id != batch.batch_id,
        )

    def save(self, batch: PendingBatch, result: CheckResult) -> None:
        """What came of the batch, in place of what came of it before."""
        self._connection.execute(delete(BatchCheck).where(BatchCheck.batch_id == batch.batch_id))
        self._connection.execute(insert(BatchCheck).values(batch_id=batch.batch_id, **asdict(result)))

    def begin(self, batch: PendingBatch, now: int) -> None:
        """Its receipts follow in several transactions; until `save`, nobody else sees them."""
        self.save(batch, CheckResult(UNCHECKED, WRITING, 0, batch.attempts, now, now))

    def add(self, batch: PendingBatch, receipts: Sequence[tuple[int, StoredReceipt]]) -> None:
        """Receipts by their positions."""
        for start in range(0, len(receipts), ROWS):
            rows = [_receipt_row(batch, place, one) for place, one in receipts[start : start + ROWS]]
            self._connection.execute(insert(Receipt), rows)

    def unfinished(self) -> list[str]:
        """Batches whose receipts were not written to the end: the process was stopped."""
        query = select(BatchCheck.batch_id).where(
            BatchCheck.availability == UNCHECKED, BatchCheck.reason == WRITING
        )
        return list(self._connection.scalars(query))

    def remove(self, batch_id: str, below: int) -> bool:
        """Remove receipts at positions below that; whether any are left. At the end, its check, too."""
        of_batch = Receipt.batch_id == batch_id
        self._connection.execute(delete(Receipt).where(of_batch, Receipt.position < below))
        if self._connection.execute(select(Receipt.position).where(of_batch).limit(1)).first():
            return True
        self._connection.execute(delete(BatchCheck).where(BatchCheck.batch_id == batch_id))
        return False


def _is_due(now: int) -> ColumnElement[bool]:
    return or_(BatchCheck.batch_id.is_(None), BatchCheck.next_attempt_at <= now)


def _receipt_row(batch: PendingBatch, position: int, stored: StoredReceipt) -> dict[str, object]:
    receipt = stored.signed.receipt
    return {
        "digest": stored.digest,
        "batch_id": batch.batch_id,
        "position": position,
        "node": receipt.node,
        "consumer": receipt.consumer,
        "version_id": "0x" + receipt.version_id.hex(),
        "input_hash": "0x" + receipt.input_hash.hex(),
        "output_hash": "0x" + receipt.output_hash.hex(),
        "price": receipt.price,
        "sequence": receipt.sequence,
        "executed_at": receipt.executed_at,
        "signature": "0x" + stored.signed.signature.hex(),
        "signer": stored.signer,
        "block_number": batch.block_number,
        "log_index": batch.log_index,
    }
