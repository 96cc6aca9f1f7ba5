"""The watcher's state on disk; every method is one durable transaction. Thread-safe. Any of them raises
DiskFullError where there is no room; then nothing has changed."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from assay.chain.values import LogReceipt
from assay.commitments.receipts import receipt_from_json, receipt_to_json
from assay.disk import room_for
from assay.types import Address, BatchAvailability, BatchKey, Domain, FraudKind, Hash32
from assay.watch.schema import open_database
from assay.watch.values import (
    Challenge,
    ChallengeState,
    DataState,
    Fraud,
    FraudState,
    PostedBatch,
    SeenReceipt,
    Verdict,
    question_of,
    slot_of,
)

KEEP_BLOCKS: Final = 256
_ADD_BATCH: Final = (
    "INSERT INTO batches (batch_id, node, version_id, receipts_root, block, state) VALUES (?, ?, ?, ?, ?, ?) "
)
_ADD_RECEIPT: Final = (
    "INSERT INTO receipts (digest, batch_id, position, node, version_id, slot, question, output_hash, body, "
    "is_public, data, verdict) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
)
_RECEIPT: Final = "digest, body, batch_id, position, is_public, attempts"


class Store:
    """`domain` and `game` name the deployment that the file belongs to."""

    def __init__(self, path: Path, domain: Domain, game: Address) -> None:
        self.path, self._domain = path, domain
        self._lock = threading.RLock()
        self._db = open_database(path, domain, game)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @property
    def seed(self) -> bytes:
        """Of the sample; never leaves this file."""
        return bytes.fromhex(self.meta("seed") or "")

    def meta(self, key: str) -> str | None:
        rows = self.rows("SELECT value FROM meta WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def set_meta(self, key: str, value: str) -> None:
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, room_for(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite ends it itself where it finds no room
                    self._db.execute("ROLLBACK")
                raise

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._lock, room_for(self.path):
            return self._db.execute(query, parameters).fetchall()

    def _write(self, query: str, parameters: Sequence[Any]) -> None:
        with self.transaction() as db:
            db.execute(query, parameters)

    # --- the chain ----------------------------------------------------------------------------------------

    def blocks(self) -> list[tuple[int, Hash32]]:
        """Ends of followed windows, newest first."""
        return [(n, Hash32(h)) for n, h in self.rows("SELECT number, hash FROM blocks ORDER BY number DESC")]

    def advance(
        self, end: tuple[int, Hash32], posted: Iterable[PostedBatch], logs: Iterable[tuple[LogReceipt, str]]
    ) -> None:
        """A window that ends in block `end`, with the batches and the game's (log, event name)s in it."""
        with self.transaction() as db:
            db.executemany(
                _ADD_BATCH + "ON CONFLICT (batch_id) DO UPDATE SET block = excluded.block",
                [_batch_row(batch) for batch in posted],
            )
            db.executemany(
                "INSERT OR REPLACE INTO logs VALUES (?, ?, ?, ?, ?)",
                [(*place_of(log), name, number_of(log, name), json.dumps(log)) for log, name in logs],
            )
            db.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?)", end)
            db.execute(
                "DELETE FROM blocks WHERE number NOT IN "
                "(SELECT number FROM blocks ORDER BY number DESC LIMIT ?)",
                (KEEP_BLOCKS,),
            )

    def add_batches(self, posted: Sequence[PostedBatch]) -> int:
        """Batches that somebody else found; how many were new."""
        with self.transaction() as db:
            rows = [_batch_row(batch) for batch in posted]
            return db.executemany(_ADD_BATCH + "ON CONFLICT (batch_id) DO NOTHING", rows).rowcount

    def rewind(self, number: int) -> None:
        """Forget what came after block `number`: a reorg took it away. What nodes signed stays."""
        with self.transaction() as db:
            db.execute("DELETE FROM blocks WHERE number > ?", (number,))
            db.execute("DELETE FROM logs WHERE block > ?", (number,))
            db.execute(
                "UPDATE receipts SET position = NULL WHERE batch_id IN "
                "(SELECT batch_id FROM batches WHERE block > ?)",
                (number,),
            )
            db.execute("DELETE FROM batches WHERE block > ?", (number,))

    def logs(self, dispute_ids: Iterable[int] | None = None, names: Sequence[str] = ()) -> list[LogReceipt]:
        """The game's logs in chain order, of those disputes or with those names."""
        if dispute_ids is not None:
            found = [
                (block, index, raw)
                for number in dispute_ids
                for block, index, raw in self.rows(
                    "SELECT block, log_index, raw FROM logs WHERE dispute_id = ?", (number,)
                )
            ]
        else:
            marks = ", ".join("?" * len(names))
            query = f"SELECT block, log_index, raw FROM logs WHERE name IN ({marks})"  # noqa: S608
            found = self.rows(query, names)
        return [json.loads(raw) for _, _, raw in sorted(found, key=lambda row: row[:2])]

    # --- batches ------------------------------------------------------------------------------------------

    def due_nodes(self, now: float) -> list[Address]:
        """Whose batches are due, who has waited longest first."""
        rows = self.rows(
            "SELECT node FROM batches WHERE state != ? AND next_at <= ? GROUP BY node ORDER BY min(block)",
            (BatchAvailability.AVAILABLE, now),
        )
        return [Address(node) for (node,) in rows]

    def due_batches(self, now: float, node: Address, limit: int) -> list[PostedBatch]:
        """Of a node; neither had nor given up, oldest first."""
        rows = self.rows(
            "SELECT batch_id, node, version_id, receipts_root, block, attempts FROM batches "
            "WHERE state != ? AND next_at <= ? AND node = ? ORDER BY block LIMIT ?",
            (BatchAvailability.AVAILABLE, now, node, limit),
        )
        return [
            PostedBatch(Hash32(i), BatchKey(Address(n), Hash32(v), Hash32(r)), block, attempts)
            for i, n, v, r, block, attempts in rows
        ]

    def record_batch(
        self,
        batch: PostedBatch,
        state: BatchAvailability,
        reason: str,
        *,
        posted_at: int,
        receipts: int,
        next_at: float,
    ) -> None:
        """What came of asking for the batch: `receipts` that the node signed."""
        self._write(
            "UPDATE batches SET state = ?, reason = ?, posted_at = ?, receipts = ?, "
            "attempts = attempts + 1, next_at = ? WHERE batch_id = ?",
            (state, reason[:500], posted_at, receipts, next_at, batch.batch_id),
        )

    def add_receipts(self, receipts: Sequence[SeenReceipt], chosen: Iterable[Hash32]) -> None:
        """Some that a node signed; those that are `chosen` are re-executed."""
        with self.transaction() as db:
            db.executemany(
                _ADD_RECEIPT + "ON CONFLICT (digest) DO UPDATE SET position = excluded.position, "
                "batch_id = excluded.batch_id WHERE excluded.position IS NOT NULL",
                [self._receipt_row(receipt) for receipt in receipts],
            )
            db.executemany(
                "UPDATE receipts SET is_chosen = 1 WHERE digest = ?", [(digest,) for digest in chosen]
            )
            for receipt in receipts:
                self._note_contradictions(db, receipt)

    def _receipt_row(self, seen: SeenReceipt) -> tuple[Any, ...]:
        receipt = seen.signed.receipt
        return (
            seen.digest,
            seen.batch_id,
            seen.position,
            receipt.node,
            receipt.version_id,
            slot_of(self._domain, receipt),
            question_of(self._domain, receipt),
            receipt.output_hash,
            json.dumps(receipt_to_json(self._domain, seen.signed)),
            int(seen.is_public),
            DataState.UNASKED if seen.is_public else DataState.PRIVATE,
            Verdict.UNCHECKED,
        )

    def _note_contradictions(self, db: sqlite3.Connection, seen: SeenReceipt) -> None:
        """Receipts that cannot both be honest; the public ones of them are re-executed, sampled or not."""
        receipt = seen.signed.receipt
        slot, question = slot_of(self._domain, receipt), question_of(self._domain, receipt)
        twins = db.execute(
            "SELECT digest FROM receipts WHERE slot = ? AND digest != ? ORDER BY digest LIMIT 1",
            (slot, seen.digest),
        ).fetchone()
        others = db.execute(
            "SELECT digest FROM receipts WHERE question = ? AND output_hash != ? ORDER BY digest LIMIT 1",
            (question, receipt.output_hash),
        ).fetchone()
        for kind, name, found in (
            (FraudKind.EQUIVOCATION, slot, twins),
            (FraudKind.CONTRADICTION, question, others),
        ):
            if found is not None:
                db.execute(
                    "INSERT OR IGNORE INTO frauds (kind, name, first, second, state) VALUES (?, ?, ?, ?, ?)",
                    (kind, name, found[0], seen.digest, FraudState.DUE),
                )
                db.execute(
                    "UPDATE receipts SET is_chosen = 1 WHERE digest IN (?, ?) AND is_public = 1",
                    (found[0], seen.digest),
                )

    # --- receipts -----------------------------------------------------------------------------------------

    def _seen(self, row: Sequence[Any]) -> SeenReceipt:
        digest, body, batch, position, is_public, attempts = row
        signed = receipt_from_json(self._domain, json.loads(body))
        return SeenReceipt(Hash32(digest), signed, Hash32(batch), position, bool(is_public), attempts)

    def receipt(self, digest: Hash32) -> SeenReceipt | None:
        rows = self.rows(f"SELECT {_RECEIPT} FROM receipts WHERE digest = ?", (digest,))  # noqa: S608
        return self._seen(rows[0]) if rows else None

    def due_receipt_nodes(self, now: float) -> list[Address]:
        """Whose receipts are chosen, due and not judged yet, asked for least often first."""
        rows = self.rows(
            "SELECT node FROM receipts WHERE is_chosen = 1 AND verdict = 'unchecked' AND next_at <= ? "
            "GROUP BY node ORDER BY min(attempts), min(next_at)",
            (now,),
        )
        return [Address(node) for (node,) in rows]

    def due_receipts(self, now: float, node: Address, limit: int) -> list[SeenReceipt]:
        """Those of a node, asked for least often first."""
        query = (
            f"SELECT {_RECEIPT} FROM receipts WHERE is_chosen = 1 AND verdict = 'unchecked' "  # noqa: S608
            "AND node = ? AND next_at <= ? ORDER BY attempts, next_at LIMIT ?"
        )
        return [self._seen(row) for row in self.rows(query, (node, now, limit))]

    def record_verdict(
        self, digest: Hash32, data: DataState, verdict: Verdict, reason: str, next_at: float
    ) -> None:
        """A wrong receipt becomes a challenge in the same transaction."""
        with self.transaction() as db:
            db.execute(
                "UPDATE receipts SET data = ?, verdict = ?, reason = ?, attempts = attempts + 1, next_at = ? "
                "WHERE digest = ?",
                (data, verdict, reason[:500], next_at, digest),
            )
            if verdict is Verdict.WRONG:
                self._add_challenge(db, digest)

    def add_challenge(self, seen: SeenReceipt) -> None:
        """A receipt that somebody else found wrong, to be disputed."""
        with self.transaction() as db:
            db.execute(_ADD_RECEIPT + "ON CONFLICT (digest) DO NOTHING", self._receipt_row(seen))
            self._add_challenge(db, seen.digest)

    @staticmethod
    def _add_challenge(db: sqlite3.Connection, digest: Hash32) -> None:
        db.execute(
            "INSERT OR IGNORE INTO challenges (digest, state, found_at) VALUES (?, ?, ?)",
            (digest, ChallengeState.DUE, time.time()),
        )

    def keep_leaves(self, batch_id: Hash32, digests: bytes) -> None:
        """Of a batch whose root they gave. Who disputes one needs all of them: also those that the node did
        not sign, and those that it put into another batch again."""
        self._write("INSERT OR REPLACE INTO leaves VALUES (?, ?)", (batch_id, digests))

    def leaves(self, batch_id: Hash32) -> list[Hash32]:
        """In order; empty where they are not known."""
        rows = self.rows("SELECT digests FROM leaves WHERE batch_id = ?", (batch_id,))
        digests = rows[0][0] if rows else b""
        return [Hash32(digests[i : i + 32]) for i in range(0, len(digests), 32)]

    # --- frauds and challenges ----------------------------------------------------------------------------

    def due_frauds(self, now: float) -> list[Fraud]:
        rows = self.rows(
            "SELECT kind, name, first, second, attempts FROM frauds WHERE state = ? AND next_at <= ?",
            (FraudState.DUE, now),
        )
        return [Fraud(FraudKind(k), n, Hash32(a), Hash32(b), attempts) for k, n, a, b, attempts in rows]

    def record_fraud(
        self, fraud: Fraud, state: FraudState, reason: str = "", *, attempts: int = 0, next_at: float = 0
    ) -> None:
        self._write(
            "UPDATE frauds SET state = ?, reason = ?, attempts = ?, next_at = ? WHERE kind = ? AND name = ?",
            (state, reason[:500], attempts, next_at, fraud.kind, fraud.name),
        )

    def challenges(self, state: ChallengeState, now: float | None = None) -> list[Challenge]:
        """Oldest first; with `now`, those that are due by then."""
        rows = self.rows(
            "SELECT digest, state, attempts FROM challenges WHERE state = ? AND next_at <= ? "
            "ORDER BY found_at",
            (state, time.time() + 1e12 if now is None else now),
        )
        return [Challenge(Hash32(d), ChallengeState(s), attempts) for d, s, attempts in rows]

    def record_challenge(
        self, digest: Hash32, state: ChallengeState, reason: str = "", *, attempts: int, next_at: float = 0
    ) -> None:
        self._write(
            "UPDATE challenges SET state = ?, reason = ?, attempts = ?, next_at = ? WHERE digest = ?",
            (state, reason[:500], attempts, next_at, digest),
        )

    def play(self, dispute_id: int, state_hash: Hash32) -> tuple[int, float]:
        """(transactions that reverted for this state, when it may be tried again)."""
        rows = self.rows(
            "SELECT attempts, next_at FROM plays WHERE dispute_id = ? AND state_hash = ?",
            (dispute_id, state_hash),
        )
        return rows[0] if rows else (0, 0.0)

    def record_play(self, dispute_id: int, state_hash: Hash32, attempts: int, next_at: float) -> None:
        self._write(
            "INSERT OR REPLACE INTO plays VALUES (?, ?, ?, ?)", (dispute_id, state_hash, attempts, next_at)
        )

    def prune(self, posted_before: int) -> int:
        """Forget batches posted before that chain time, with receipts that nobody can be slashed for."""
        with self.transaction() as db:
            old = "SELECT batch_id FROM batches WHERE posted_at > 0 AND posted_at < ?"
            db.execute(
                f"DELETE FROM receipts WHERE batch_id IN ({old}) "  # noqa: S608
                "AND digest NOT IN (SELECT digest FROM challenges)",
                (posted_before,),
            )
            gone = db.execute("DELETE FROM batches WHERE posted_at > 0 AND posted_at < ?", (posted_before,))
            db.execute("DELETE FROM leaves WHERE batch_id NOT IN (SELECT batch_id FROM batches)")
            return gone.rowcount


def _batch_row(batch: PostedBatch) -> tuple[Any, ...]:
    key = batch.key
    where = (batch.batch_id, key.node, key.version_id, key.receipts_root, batch.block)
    return (*where, BatchAvailability.UNCHECKED)


def place_of(log: LogReceipt) -> tuple[int, int]:
    """Block number and log index."""
    return int(log["blockNumber"], 16), int(log["logIndex"], 16)


def number_of(log: LogReceipt, name: str) -> int | None:
    """The dispute that a log of the game is about."""
    is_about_one = name in ("DisputeOpened", "Moved", "DisputeClosed")
    return int(log["topics"][1], 16) if is_about_one else None
