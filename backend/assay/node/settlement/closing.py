"""Closing a batch: its root over millions of receipts in bounded memory, its row in one short transaction.

A batch holds, channel by channel, the receipts that come next in it, so it is written as so many ranges of
sequences, however many receipts they span. Receipts never change, so the root is computed from short reads
while others write; what the transaction then checks is that no other settler has closed the same receipts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

from assay.commitments.merkle import merkle_root
from assay.errors import FatalError, RetryableError
from assay.node.receipts.database import Connection, Row
from assay.node.receipts.schema import UINT128_MAX, from_blob, to_blob
from assay.node.receipts.unbatched import Range
from assay.types import Hash32

PAGE: Final = 256
REST_SECONDS: Final = 0.001
"""After so many receipts the requests have the interpreter and the processor again."""


class Leaves:
    """The digests of `ranges` in leaf order; afterwards `values` has the sum of prices of each range.

    Raises FatalError if the log does not have a receipt of them.
    """

    def __init__(self, connection: Connection, ranges: Sequence[Range]) -> None:
        self._db = connection
        self.ranges = ranges
        self.values: list[int] = []

    @property
    def receipts(self) -> int:
        return sum(taken.receipts for taken in self.ranges)

    @property
    def value(self) -> int:
        return sum(self.values)

    def root(self) -> Hash32:
        return merkle_root(self)

    def __iter__(self) -> Iterator[bytes]:
        self.values = []
        done = 0
        for taken in self.ranges:
            self.values.append(0)
            for page in pages([taken], PAGE):
                rows = self._read(page)
                self.values[-1] += sum(from_blob(price) for _, price in rows)
                yield from (digest for digest, _ in rows)
                done += page.receipts
                if done >= PAGE:
                    done = 0
                    time.sleep(REST_SECONDS)

    def _read(self, page: Range) -> list[Row]:
        rows = self._db.execute(
            "SELECT digest, price FROM receipts WHERE channel = ? AND sequence BETWEEN ? AND ?"
            " ORDER BY sequence",
            (page.channel, page.first, page.last),
        ).fetchall()
        if len(rows) != page.receipts:
            raise FatalError(
                f"the log has {len(rows)} of channel {page.channel}'s receipts {page.first} to {page.last}: "
                "it was changed from outside, or is damaged; bring back a copy of it that is whole"
            )
        return rows


def write_ranges(connection: Connection, batch: int, ranges: Sequence[Range], values: Sequence[int]) -> None:
    """Within a transaction: the ranges go into `batch`. Raises RetryableError if one is in another."""
    for position, (taken, value) in enumerate(zip(ranges, values, strict=True)):
        advance(connection, taken, value)
        connection.execute(
            "INSERT INTO batch_ranges (batch, position, channel, first_sequence, last_sequence)"
            " VALUES (?, ?, ?, ?, ?)",
            (batch, position, taken.channel, taken.first, taken.last),
        )


def advance(connection: Connection, taken: Range, value: int) -> None:
    """Within a transaction: the channel's receipts up to the range's end are open no more.

    Raises RetryableError if they were taken meanwhile.
    """
    row = connection.execute(
        "SELECT closed_charged FROM channels WHERE id = ? AND closed = ?", (taken.channel, taken.first - 1)
    ).fetchone()
    done = row and connection.execute(
        "UPDATE channels SET closed = ?, closed_charged = ? WHERE id = ? AND closed = ?",
        (
            taken.last,
            to_blob(min(from_blob(row[0]) + value, UINT128_MAX)),
            taken.channel,
            taken.first - 1,
        ),
    )
    if not done or done.rowcount != 1:
        raise RetryableError(
            f"receipts {taken.first} to {taken.last} of channel {taken.channel} went into another batch"
            " meanwhile"
        )


def pages(ranges: Sequence[Range], size: int) -> Iterator[Range]:
    """The ranges cut into pieces of at most `size` receipts, in leaf order."""
    for taken in ranges:
        for first in range(taken.first, taken.last + 1, size):
            yield Range(taken.channel, first, min(first + size - 1, taken.last))


def ranges_of(connection: Connection, batch: int) -> list[Range]:
    """A batch's ranges in leaf order."""
    rows = connection.execute(
        "SELECT channel, first_sequence, last_sequence FROM batch_ranges WHERE batch = ? ORDER BY position",
        (batch,),
    )
    return [Range(*row) for row in rows]
