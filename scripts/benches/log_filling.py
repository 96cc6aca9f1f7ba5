"""Fills a node's log with many receipts fast: rows as the node writes them, with random digests and
signatures.

Indexes grow by random keys in random order, as they do in years of service: their pages are as full.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from assay.node.database import SqliteDatabase
from assay.node.schema import to_blob
from assay.types import Address, Hash32

STEP = 100_000
PRICE = 5
_INSERT = (
    "INSERT INTO receipts (channel, sequence, version_id, digest, input_hash, output_hash, price,"
    " executed_at, signature, voucher, public) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
)


@dataclass(frozen=True)
class Known:
    """A receipt to look up."""

    digest: bytes
    payment: bytes


def fill(
    database: SqliteDatabase, version_id: Hash32, consumers: Sequence[Address], receipts: int
) -> list[Known]:
    """Append so many receipts, the consumers' in turn, in no batch; some of them for looking up."""
    known: list[Known] = []
    with contextlib.closing(database.open_file()) as db:
        # nothing has to survive here, and nobody else has the file open
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -3000000"):
            db.execute(f"PRAGMA {pragma}")
        channels = []
        for consumer in consumers:
            db.execute(
                "INSERT INTO channels (version_id, consumer) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (version_id, consumer),
            )
            query = "SELECT id, sequence FROM channels WHERE version_id = ? AND consumer = ?"
            channels.append(list(db.execute(query, (version_id, consumer)).fetchone()))
        done = 0
        while done < receipts:
            count = min(STEP, receipts - done)
            db.execute("BEGIN")
            db.executemany(_INSERT, _rows(version_id, channels, count, known))
            db.execute("COMMIT")
            done += count
        for number, sequence in channels:
            owed = to_blob(sequence * PRICE)
            db.execute(
                "UPDATE channels SET sequence = ?, charged = ?, amount = ?, count = ? WHERE id = ?",
                (sequence, owed, owed, sequence, number),
            )
        db.execute("PRAGMA journal_mode = WAL")
    return known


def _rows(
    version_id: Hash32, channels: Sequence[list[int]], count: int, known: list[Known]
) -> Iterator[tuple[object, ...]]:
    noise, price, now = os.urandom(count * 160), to_blob(PRICE), int(time.time())
    for i in range(count):
        channel = channels[i % len(channels)]
        channel[1] += 1
        parts = [noise[i * 160 + at : i * 160 + at + 32] for at in range(0, 160, 32)]
        if i % 100 == 0:
            known.append(Known(parts[0], parts[3]))
        signature = parts[1] + parts[4] + b"\x1b"
        yield (
            channel[0],
            channel[1],
            version_id,
            parts[0],
            parts[1],
            parts[2],
            price,
            now,
            signature,
            parts[3],
        )


def settle_all_but(database: SqliteDatabase, version_id: Hash32, keep: int, size: int = 1_000_000) -> int:
    """Put all open receipts but about the newest `keep` into collected batches of about `size`; how many
    batches."""
    with contextlib.closing(database.connect()) as db, db.transaction():
        rows = db.execute(
            "SELECT id, closed, sequence FROM channels WHERE version_id = ?", (version_id,)
        ).fetchall()
        each, step = keep // len(rows), max(size // len(rows), 1)
        made = 0
        while any(sequence - closed > each for _, closed, sequence in rows):
            made += 1
            ranges = [
                (number, closed + 1, min(closed + step, sequence - each)) for number, closed, sequence in rows
            ]
            total = sum(last - first + 1 for _, first, last in ranges)
            ((batch,),) = db.execute(
                "INSERT INTO batches (batch_id, version_id, receipts_root, receipts, state, closed_at,"
                " posted_at, amount, value) VALUES (?, ?, ?, ?, 'collected', 1, 1, ?, ?) RETURNING id",
                (os.urandom(32), version_id, os.urandom(32), total, to_blob(0), to_blob(total * PRICE)),
            ).fetchall()
            db.executemany(
                "INSERT INTO batch_ranges (batch, position, channel, first_sequence, last_sequence)"
                " VALUES (?, ?, ?, ?, ?)",
                [(batch, position, *taken) for position, taken in enumerate(ranges)],
            )
            db.executemany(
                "UPDATE channels SET closed = ?, closed_charged = ? WHERE id = ?",
                [(last, to_blob(last * PRICE), number) for number, _, last in ranges],
            )
            rows = [
                (number, taken[2], sequence)
                for (number, _, sequence), taken in zip(rows, ranges, strict=True)
            ]
    return made
