"""Takes a stopped node's receipts and outbox from its folder into a shared log: all in one transaction.

Nothing is signed by the copy: it holds the same receipts under the same sequences. The files are set aside
under another name, so that the node never goes on from them.
"""

from __future__ import annotations

import contextlib
from itertools import islice
from pathlib import Path
from typing import Final

from assay.chain.outbox import Outbox
from assay.disk import sync_path
from assay.errors import ConfigurationError
from assay.node.config import LOG_FILE, OUTBOX_FILE, NodeConfig
from assay.node.receipts.database import Connection, Database, SqliteDatabase
from assay.node.receipts.importing import Importer
from assay.node.receipts.journal_entries import decode
from assay.node.receipts.journal_mark import open_journal
from assay.node.receipts.log_place import mark_place, shared_database
from assay.node.receipts.schema import prepare_database
from assay.types import Domain

ROWS: Final = 1_000
FIRST: Final = ("channels", "batches", "receipts")
"""What other tables refer to."""
OUTBOX_TABLES: Final = ("chains", "intents", "attempts")
ASIDE: Final = ".moved"


def move_log(folder: Path, config: NodeConfig, domain: Domain) -> dict[str, int]:
    """Rows by table. The folder's lock is the caller's. Raises ConfigurationError, RetryableError,
    FatalError."""
    file = folder / LOG_FILE
    if not config.log.url:
        raise ConfigurationError(f"{folder}/node.toml names no [log] url to move to; write it there first")
    if not file.exists():
        raise ConfigurationError(
            f"there is no {file} to move; `assay node run` makes the shared log by itself"
        )
    source, target = SqliteDatabase(file), shared_database(folder, config)
    prepare_database(source, domain, config.node).close()
    _finish_journal(folder, source)
    with contextlib.closing(prepare_database(target, domain, config.node)) as into, source.session() as log:
        copied = _copy_all(folder, log, into, target)
    mark_place(folder, target)
    for path in [*folder.glob(f"{LOG_FILE}*"), *folder.glob("receipts.journal.*"), folder / OUTBOX_FILE]:
        if path.exists() and not path.name.endswith(ASIDE):
            path.rename(path.with_name(path.name + ASIDE))
    sync_path(folder)
    return copied


def _finish_journal(folder: Path, log: SqliteDatabase) -> None:
    """What a crash left in the journal alone. Raises FatalError."""
    journal = open_journal(log, folder)
    with contextlib.closing(journal), contextlib.closing(log.open_file()) as connection:
        importer = Importer(connection)
        for frame in journal.frames():
            importer.write(list(decode(frame.payload)))


def _copy_all(folder: Path, log: Connection, into: Connection, target: Database) -> dict[str, int]:
    with into.transaction():
        into.lock_schema()
        if into.execute("SELECT 1 FROM channels LIMIT 1").fetchone():
            raise ConfigurationError(
                f"{target.name} holds receipts of this node already; two logs cannot become one. Name an "
                "empty database in [log] url"
            )
        copied = {table: _copy(log, into, table, table) for table in _tables(log)}
        into.execute("INSERT INTO consumers SELECT DISTINCT consumer FROM channels")
        if (folder / OUTBOX_FILE).exists():
            Outbox(folder / OUTBOX_FILE).close()  # brings an older one up
            with SqliteDatabase(folder / OUTBOX_FILE).session() as outbox:
                copied |= {table: _copy(outbox, into, table, table) for table in OUTBOX_TABLES}
        for table in copied:
            _go_on_with_ids(into, table)
    return copied


def _tables(log: Connection) -> list[str]:
    rows = log.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    names = {name for (name,) in rows} - {"meta"}
    return [*FIRST, *sorted(names.difference(FIRST))]


def _columns(log: Connection, table: str) -> list[str]:
    return [row[1] for row in log.execute(f"PRAGMA table_info({table})")]


def _copy(log: Connection, into: Connection, name: str, table: str) -> int:
    """In the order in which the rows came."""
    columns = ", ".join(_columns(log, name))
    marks = ", ".join("?" * len(_columns(log, name)))
    order = "rowid" if name == "attempts" else "1"
    count = 0
    with log.stream(f"SELECT {columns} FROM {name} ORDER BY {order}") as rows:  # noqa: S608 - names of tables
        while page := list(islice(rows, ROWS)):
            into.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", page)  # noqa: S608
            count += len(page)
    return count


def _go_on_with_ids(into: Connection, table: str) -> None:
    sequence = "pg_get_serial_sequence(?, 'id')"
    has_id = (
        "SELECT 1 FROM pg_attribute WHERE attrelid = ?::regclass AND attname = 'id' AND attidentity <> ''"
    )
    if into.execute(has_id, (table,)).fetchone():
        greatest = f"(SELECT coalesce(max(id), 0) + 1 FROM {table})"  # noqa: S608
        into.execute(f"SELECT setval({sequence}, {greatest}, false)", (table,))
