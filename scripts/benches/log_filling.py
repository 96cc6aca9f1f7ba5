"""Fills a node's log with many receipts fast: rows as the node writes them, with random digests and
signatures.

Indexes grow by random keys in random order, as they do in years of service: their pages are as full.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass

from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.schema import to_blob
from assay.types import Address, Hash32

STEP = 3_000_000
"""Receipts a transaction: nearly every page of the indexes is written once in each."""
PRICE = 5
KNOWN = 5_000
_INSERT = (
    "INSERT INTO receipts (channel, sequence, version_id, digest, input_hash, output_hash, price,"
    " executed_at, signature, voucher, public)"
    " WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < ?)"
    " SELECT t.channel, t.sequence + i / ? + 1, ?, randomblob(32), randomblob(32), randomblob(32), ?, ?,"
    " randomblob(65), randomblob(32), 0 FROM numbers CROSS JOIN turns t ON t.turn = i % ?"
)
_ADVANCE = "UPDATE turns SET sequence = sequence + ? / ? + (turn < ? % ?)"


@dataclass(frozen=True)
class Known:
    """A receipt to look up."""

    digest: bytes
    payment: bytes


def fill(
    database: SqliteDatabase, version_id: Hash32, consumers: Sequence[Address], receipts: int
) -> list[Known]:
    """Append so many receipts, the consumers' in turn, in no batch; some of them for looking up."""
    count, price, now = len(consumers), to_blob(PRICE), int(time.time())
    with contextlib.closing(database.open_file()) as db:
        # nothing has to survive here, and nobody else has the file open
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -4000000"):
            db.execute(f"PRAGMA {pragma}")
        _prepare(db, version_id, consumers)
        for done in range(0, receipts, STEP):
            step = min(STEP, receipts - done)
            db.execute("BEGIN")
            db.execute(_INSERT, (step, count, version_id, price, now, count))
            db.execute(_ADVANCE, (step, count, step, count))
            db.execute("COMMIT")
        for channel, sequence in db.execute("SELECT channel, sequence FROM turns").fetchall():
            owed = to_blob(sequence * PRICE)
            db.execute(
                "UPDATE channels SET sequence = ?, charged = ?, amount = ?, count = ? WHERE id = ?",
                (sequence, owed, owed, sequence, channel),
            )
        known = _sample(db)
        db.execute("PRAGMA journal_mode = WAL")
    return known


def _prepare(db: sqlite3.Connection, version_id: Hash32, consumers: Sequence[Address]) -> None:
    """The consumers' channels, and in which turn each gets a receipt."""
    db.execute("CREATE TEMP TABLE turns (turn INTEGER PRIMARY KEY, channel INTEGER, sequence INTEGER)")
    for turn, consumer in enumerate(consumers):
        db.execute(
            "INSERT INTO channels (version_id, consumer) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (version_id, consumer),
        )
        db.execute(
            "INSERT INTO turns SELECT ?, id, sequence FROM channels WHERE version_id = ? AND consumer = ?",
            (turn, version_id, consumer),
        )


def _sample(db: sqlite3.Connection) -> list[Known]:
    ((most,),) = db.execute("SELECT max(id) FROM receipts")
    known = []
    for number in random.sample(range(1, most + 1), min(KNOWN, most)):
        row = db.execute("SELECT digest, voucher FROM receipts WHERE id = ?", (number,)).fetchone()
        if row is not None and row[1] is not None:
            known.append(Known(*row))
    return known


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
