"""The tables of the node's log, for SQLite and PostgreSQL alike. Amounts are 16-byte big-endian blobs (they
order as numbers), hashes raw bytes."""

from __future__ import annotations

from typing import Final

from assay.errors import FatalError
from assay.node.receipts.database import Connection, Database
from assay.node.receipts.schema_ranges import RANGES
from assay.types import Address, Domain

SCHEMA_VERSION: Final = 7

TABLES: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE channels (
    id INTEGER PRIMARY KEY,
    version_id BLOB NOT NULL,
    consumer TEXT NOT NULL,
    sequence INTEGER NOT NULL DEFAULT 0,          -- receipts issued; the next one gets sequence + 1
    unpaid INTEGER NOT NULL DEFAULT 0,            -- of these, issued without a voucher of their own
    charged BLOB NOT NULL DEFAULT (zeroblob(16)), -- sum of their prices
    amount BLOB NOT NULL DEFAULT (zeroblob(16)),  -- the voucher held
    count INTEGER NOT NULL DEFAULT 0,
    signature BLOB,
    wallet INTEGER NOT NULL DEFAULT 0,            -- 1: the signature is for ERC-1271
    settled BLOB NOT NULL DEFAULT (zeroblob(16)), -- the chain's channel as of the last posting
    settled_count INTEGER NOT NULL DEFAULT 0,
    UNIQUE (version_id, consumer)
) STRICT;
CREATE INDEX channels_by_consumer ON channels (consumer);
CREATE INDEX channels_owing ON channels (version_id) WHERE amount > settled OR count > settled_count;

CREATE TABLE batches (
    id INTEGER PRIMARY KEY,
    batch_id BLOB NOT NULL UNIQUE,
    version_id BLOB NOT NULL,
    receipts_root BLOB NOT NULL,
    receipts INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,           -- transactions for it that reverted
    closed_at INTEGER NOT NULL,
    posted_at INTEGER,                            -- chain time
    tx_hash TEXT,
    amount BLOB,                                  -- what the posting paid
    error TEXT
) STRICT;
CREATE INDEX batches_by_state ON batches (state, id);

CREATE TABLE receipts (
    id INTEGER PRIMARY KEY,                       -- order of issue, hence of leaves
    channel INTEGER NOT NULL REFERENCES channels (id),
    sequence INTEGER NOT NULL,
    version_id BLOB NOT NULL,
    digest BLOB NOT NULL UNIQUE,
    input_hash BLOB NOT NULL,
    output_hash BLOB NOT NULL,
    price BLOB NOT NULL,
    executed_at INTEGER NOT NULL,
    signature BLOB NOT NULL,
    voucher BLOB UNIQUE,                          -- digest of the voucher that paid for it
    batch INTEGER REFERENCES batches (id),
    UNIQUE (channel, sequence)
) STRICT;
CREATE INDEX receipts_open ON receipts (channel, id) WHERE batch IS NULL;
CREATE INDEX receipts_due ON receipts (version_id, channel, id)
    WHERE batch IS NULL AND price > x'00000000000000000000000000000000';
CREATE INDEX receipts_by_batch ON receipts (batch, id) WHERE batch IS NOT NULL;

CREATE TABLE batch_vouchers (
    batch INTEGER NOT NULL REFERENCES batches (id),
    position INTEGER NOT NULL,
    channel INTEGER NOT NULL REFERENCES channels (id),
    amount BLOB NOT NULL,
    count INTEGER NOT NULL,
    signature BLOB NOT NULL,
    wallet INTEGER NOT NULL,
    skip_reason INTEGER,                          -- SPEC.md §6, where the contract skipped the row
    PRIMARY KEY (batch, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX batch_vouchers_by_channel ON batch_vouchers (channel, batch);
"""
"""Schema 1; what came after is in `MIGRATIONS`."""

UINT128_MAX: Final = (1 << 128) - 1

MIGRATIONS: Final = {
    2: """
ALTER TABLE receipts ADD COLUMN public INTEGER NOT NULL DEFAULT 0;  -- 1: anybody may see its data
ALTER TABLE receipts ADD COLUMN retired INTEGER NOT NULL DEFAULT 0; -- 1: its data are gone, no batch takes it

CREATE TABLE receipt_data (
    receipt INTEGER PRIMARY KEY REFERENCES receipts (id),
    content BLOB NOT NULL                         -- ReceiptData.to_bytes: what a dispute is answered from
) STRICT;

CREATE TABLE disputes (
    dispute_id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,
    opened_block INTEGER NOT NULL,
    phase INTEGER NOT NULL,
    deadline INTEGER NOT NULL,                    -- chain time
    is_ours INTEGER NOT NULL,                     -- 1: the node owes the next move
    problem TEXT,                                 -- why the node cannot answer
    attempt INTEGER NOT NULL DEFAULT 0,           -- moves that were mined and reverted
    outcome TEXT,                                 -- NULL while open
    closed_block INTEGER
) STRICT;
CREATE INDEX disputes_open ON disputes (deadline) WHERE outcome IS NULL;

CREATE TABLE cursors (name TEXT PRIMARY KEY, block INTEGER NOT NULL, timestamp INTEGER NOT NULL) STRICT;
""",
    3: """
CREATE TABLE payments (
    payment BLOB PRIMARY KEY,                     -- its name; what it bought has it as `receipts.voucher`
    payer TEXT NOT NULL,
    identifier TEXT,                              -- the payer's own
    version_id BLOB NOT NULL,                     -- of the request that it came with
    input_hash BLOB NOT NULL,
    amount BLOB NOT NULL,
    content TEXT NOT NULL,                        -- the authorization, as JSON
    noted_at INTEGER NOT NULL,                    -- before it was to be settled
    tx_hash TEXT,                                 -- NULL until it was found on the chain
    statement BLOB,                               -- the signer's, that it bought its receipt
    UNIQUE (payer, identifier)
) STRICT;
""",
    4: RANGES,
    5: """
CREATE INDEX payments_unstated ON payments (payment) WHERE statement IS NULL;
""",
    6: """
CREATE TABLE spending_totals (                    -- of all rows of `spending`
    kind TEXT PRIMARY KEY,
    transactions INTEGER NOT NULL,
    gas INTEGER NOT NULL,
    wei BLOB NOT NULL
) STRICT, WITHOUT ROWID;
""",
    7: """
-- of batches: what the transaction that collects them was sent under; by which block they were collected,
-- NULL once that is too deep for a reorg
ALTER TABLE batches ADD COLUMN collect_key TEXT;
ALTER TABLE batches ADD COLUMN collected_block INTEGER;
CREATE INDEX batches_unsettled ON batches (collected_block, id) WHERE collected_block IS NOT NULL;
DROP INDEX spending_by_batch;                     -- no statement looked there
""",
}
"""Statements that take a log from the schema before to this one."""

SHARED_TABLES: Final = """
CREATE TABLE IF NOT EXISTS consumers (
    consumer TEXT PRIMARY KEY                     -- whoever issues to it holds the row
) STRICT;

CREATE TABLE IF NOT EXISTS covers (               -- settlement/shared_cover.py
    process TEXT PRIMARY KEY,
    budget BLOB NOT NULL,                         -- what it may put at risk beside what the tables have
    seen_at REAL NOT NULL                         -- the server's clock
) STRICT;

CREATE TABLE IF NOT EXISTS chains (chain_id INTEGER PRIMARY KEY, genesis BLOB NOT NULL) STRICT;

CREATE TABLE IF NOT EXISTS intents (              -- this and the next: as in chain/outbox.py
    id INTEGER PRIMARY KEY,
    chain_id INTEGER NOT NULL,
    sender TEXT NOT NULL,
    key TEXT NOT NULL,
    nonce INTEGER NOT NULL,
    to_address TEXT,
    data BLOB NOT NULL,
    value TEXT NOT NULL,
    gas INTEGER NOT NULL,
    label TEXT NOT NULL,
    state TEXT NOT NULL,
    receipt TEXT,
    created_at REAL NOT NULL,
    UNIQUE (chain_id, sender, key),
    UNIQUE (chain_id, sender, nonce)
) STRICT;

CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    intent_id INTEGER NOT NULL REFERENCES intents (id),
    raw BLOB NOT NULL,
    max_fee TEXT NOT NULL,
    priority_fee TEXT,
    created_at REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS attempts_by_intent ON attempts (intent_id);
CREATE INDEX IF NOT EXISTS intents_by_state ON intents (chain_id, sender, state);
"""
"""Of a log that several processes write to; beside the others."""


def prepare_database(database: Database, domain: Domain, node: Address) -> Connection:
    """Open the log of `node` on `domain`; create it if it is new, bring it to this schema if it is older.

    Raises FatalError if it belongs to another node, chain or settlement, or to a newer schema.
    """
    connection = database.connect()
    try:
        _prepare(connection, database, domain, node)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: Connection, database: Database, domain: Domain, node: Address) -> None:
    expected = {
        "schema": str(SCHEMA_VERSION),
        "node": str(node),
        "chain_id": str(domain.chain_id),
        "settlement": str(domain.settlement),
    }
    with connection.transaction():
        connection.lock_schema()
        if not connection.has_table("meta"):
            connection.define(TABLES)
            connection.executemany("INSERT INTO meta VALUES (?, ?)", (expected | {"schema": "1"}).items())
        found: dict[str, str] = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        if all(found.get(key) == value for key, value in expected.items() if key != "schema"):
            found["schema"] = _migrate(connection, found["schema"])
            if database.is_shared:
                connection.define(SHARED_TABLES)
    for key, value in expected.items():
        if found.get(key) != value:
            raise FatalError(
                f"receipts log {database.name} was written for {key} {found.get(key)}, this node has "
                f"{value}; "
                "use that node's settings, or another data folder"
            )


def _migrate(connection: Connection, schema: str) -> str:
    """Bring this node's log up to this schema; what it is then. A newer one stays as it is."""
    for version in range(int(schema) + 1, SCHEMA_VERSION + 1):
        connection.define(MIGRATIONS[version])
        if version == 4:
            _sum_prices(connection)
        elif version == 6:
            _sum_spending(connection)
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(version),))
        schema = str(version)
    return schema


def _sum_prices(connection: Connection) -> None:
    """What schema 4 keeps as sums, which SQL cannot add up: prices by channel and by batch."""
    closed: dict[int, int] = {}
    batches: dict[int, int] = {}
    query = (
        "SELECT r.channel, g.batch, r.price FROM batch_ranges g JOIN receipts r ON r.channel = g.channel"
        " AND r.sequence BETWEEN g.first_sequence AND g.last_sequence"
    )
    with connection.stream(query) as rows:
        for channel, batch, price in rows:
            closed[channel] = closed.get(channel, 0) + from_blob(price)
            batches[batch] = batches.get(batch, 0) + from_blob(price)
    for table, column, sums in (("channels", "closed_charged", closed), ("batches", "value", batches)):
        connection.executemany(
            f"UPDATE {table} SET {column} = ? WHERE id = ?",  # noqa: S608
            [(to_blob(min(total, UINT128_MAX)), number) for number, total in sums.items()],
        )


def _sum_spending(connection: Connection) -> None:
    """What schema 6 keeps as sums."""
    query = "SELECT kind, count(DISTINCT tx_hash), sum(gas) FROM spending GROUP BY kind"
    found = {kind: (number, gas) for kind, number, gas in connection.execute(query).fetchall()}
    paid = dict.fromkeys(found, 0)
    with connection.stream("SELECT kind, wei FROM spending") as rows:
        for kind, wei in rows:
            paid[kind] += from_blob(wei)
    connection.executemany(
        "INSERT INTO spending_totals (kind, transactions, gas, wei) VALUES (?, ?, ?, ?)",
        [(kind, number, gas, to_blob(paid[kind])) for kind, (number, gas) in found.items()],
    )


def to_blob(amount: int) -> bytes:
    """A uint128 as it is stored. Raises OverflowError outside its range."""
    return amount.to_bytes(16, "big")


def from_blob(raw: bytes) -> int:
    return int.from_bytes(raw, "big")
