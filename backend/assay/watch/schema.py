"""The watcher's memory: one SQLite file. What the chain says can be read again; what nodes gave may not."""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path
from typing import Final

from assay.disk import START_AGAIN, room_for, room_in
from assay.errors import ConfigurationError
from assay.types import Domain
from assay.watch.policy import SEED_BYTES

SCHEMA_VERSION: Final = 1

TABLES: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE blocks (                             -- ends of the windows followed so far, for reorgs
    number INTEGER PRIMARY KEY,
    hash BLOB NOT NULL
) STRICT;

CREATE TABLE batches (
    batch_id BLOB PRIMARY KEY,
    node TEXT NOT NULL,
    version_id BLOB NOT NULL,
    receipts_root BLOB NOT NULL,
    block INTEGER NOT NULL,
    state TEXT NOT NULL,                          -- BatchAvailability
    reason TEXT NOT NULL DEFAULT '',
    posted_at INTEGER NOT NULL DEFAULT 0,
    receipts INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX batches_due ON batches (state, next_at);

CREATE TABLE receipts (
    digest BLOB PRIMARY KEY,
    batch_id BLOB NOT NULL,
    position INTEGER,                             -- leaf in the batch; NULL: the batch does not prove it
    node TEXT NOT NULL,
    version_id BLOB NOT NULL,
    slot BLOB NOT NULL,                           -- hash of node, consumer, version, sequence
    question BLOB NOT NULL,                       -- hash of node, version, input
    output_hash BLOB NOT NULL,
    body TEXT NOT NULL,                           -- the receipt object
    is_public INTEGER NOT NULL,
    is_chosen INTEGER NOT NULL DEFAULT 0,
    data TEXT NOT NULL,                           -- DataState
    verdict TEXT NOT NULL,                        -- Verdict
    reason TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX receipts_by_batch ON receipts (batch_id, position);
CREATE INDEX receipts_by_slot ON receipts (slot);
CREATE INDEX receipts_by_question ON receipts (question);

CREATE TABLE frauds (
    kind TEXT NOT NULL,                           -- FraudKind
    name BLOB NOT NULL,                           -- the slot or the question
    first BLOB NOT NULL,
    second BLOB NOT NULL,
    state TEXT NOT NULL,                          -- due, proven, dropped
    reason TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,          -- transactions for it that reverted
    next_at REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, name)
) STRICT;

CREATE TABLE challenges (                         -- one a wrong receipt
    digest BLOB PRIMARY KEY,
    state TEXT NOT NULL,                          -- ChallengeState
    reason TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0,
    found_at REAL NOT NULL
) STRICT;

CREATE TABLE plays (                              -- moves whose transaction reverted, or that must wait
    dispute_id INTEGER NOT NULL,
    state_hash BLOB NOT NULL,
    attempts INTEGER NOT NULL,
    next_at REAL NOT NULL,
    PRIMARY KEY (dispute_id, state_hash)
) STRICT;

CREATE TABLE logs (                               -- DisputeGame's events, as JSON-RPC gave them
    block INTEGER NOT NULL,
    log_index INTEGER NOT NULL,
    name TEXT NOT NULL,
    dispute_id INTEGER,
    raw TEXT NOT NULL,
    PRIMARY KEY (block, log_index)
) STRICT;
CREATE INDEX logs_by_dispute ON logs (dispute_id, block, log_index);
"""
LATER: Final = """
CREATE TABLE IF NOT EXISTS leaves (               -- of batches whose root they gave, whoever signed them
    batch_id BLOB PRIMARY KEY,
    digests BLOB NOT NULL                         -- 32 bytes each, in order
) STRICT;
CREATE INDEX IF NOT EXISTS receipts_due_of_node ON receipts (node, attempts, next_at)
    WHERE is_chosen = 1 AND verdict = 'unchecked';
DROP INDEX IF EXISTS receipts_due;
"""
"""What files of before may lack, or have too many of."""


def open_database(path: Path, domain: Domain, game: str) -> sqlite3.Connection:
    """Autocommit, WAL, synchronous=FULL; made if new, with a sampling seed of its own.

    Raises ConfigurationError if the file is damaged, or belongs to another chain, settlement or game;
    DiskFullError.
    """
    with room_in(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    expected = {
        "schema": str(SCHEMA_VERSION),
        "chain_id": str(domain.chain_id),
        "settlement": domain.settlement,
        "game": game,
    }
    try:
        with room_for(path, START_AGAIN):
            db = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
            path.chmod(0o600)  # the seed is what keeps the sample unpredictable
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            found = _prepare(db, expected)
    except sqlite3.DatabaseError as error:
        raise ConfigurationError(
            f"{path} cannot be opened ({error}); name another folder with --data, or mend it"
        ) from error
    for key, value in expected.items():
        if found.get(key) != value:
            db.close()
            raise ConfigurationError(
                f"{path} was written for {key} {found.get(key)}, this is {value}; name another --data folder"
            )
    return db


def _prepare(db: sqlite3.Connection, expected: dict[str, str]) -> dict[str, str]:
    db.execute("BEGIN IMMEDIATE")
    try:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            for statement in TABLES.split(";\n"):
                db.execute(statement)
            db.executemany("INSERT INTO meta VALUES (?, ?)", expected.items())
            db.execute("INSERT INTO meta VALUES ('seed', ?)", (secrets.token_hex(SEED_BYTES),))
        for statement in LATER.split(";\n"):
            db.execute(statement)
        found = dict(db.execute("SELECT key, value FROM meta").fetchall())
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return found
