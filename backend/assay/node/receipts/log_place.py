"""Where a node's receipts log is, and what keeps a node from going on without the one that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from assay.disk import write_whole
from assay.errors import ConfigurationError
from assay.node.config import LOG_FILE, NodeConfig, resolve_path
from assay.node.receipts.database import Database, SqliteDatabase
from assay.node.receipts.log import ReceiptLog
from assay.types import Domain

SHARED_MARK: Final = "receipts.shared"
"""A file that names the shared log from which this folder's receipts are signed."""


def open_log(folder: Path, config: NodeConfig, domain: Domain) -> ReceiptLog:
    """To sign into. Raises ConfigurationError as `log_database`, and where the node has signed into a shared
    log and the database has none; RetryableError, FatalError."""
    database, mark = log_database(folder, config), folder / SHARED_MARK
    if database.is_shared and mark.exists() and not database.exists():
        database.close()
        raise ConfigurationError(
            f"{folder} has signed receipts into {mark.read_text().strip()}, and there is no log in "
            f"{database.name}: a new one would give their sequences again, which is slashed; name the "
            "database that has it in [log] url, or bring the log of before back. If it is lost for good, do "
            "not sign on as this operator for the versions offered so far"
        )
    log = ReceiptLog(database, domain, config.node)
    mark_place(folder, database)
    return log


def log_database(folder: Path, config: NodeConfig) -> Database:
    """SQLite in the folder, or what `[log] url` names. Raises ConfigurationError where the node has signed
    receipts that the other kind of log holds: a log that does not know them would give their sequences
    again."""
    mark, file = folder / SHARED_MARK, folder / LOG_FILE
    if not config.log.url:
        if mark.exists():
            raise ConfigurationError(
                f"{folder} has signed receipts into {mark.read_text().strip()}, and node.toml names no "
                "[log] url: "
                "sequences given twice are slashed; name that log again"
            )
        return SqliteDatabase(file)
    if file.exists():
        raise ConfigurationError(
            f"node.toml names a shared log, and {file} holds receipts of this node: without them sequences "
            "are "
            f"given twice, and that is slashed; take them along with `assay node move-log --data {folder}`"
        )
    return shared_database(folder, config)


def shared_database(folder: Path, config: NodeConfig) -> Database:
    """What `[log] url` names, whatever else there is. Raises ConfigurationError."""
    from assay.node.receipts.postgresql import PostgresDatabase  # psycopg is for shared logs alone

    password_file = resolve_path(folder, config.log.password_file) if config.log.password_file else None
    return PostgresDatabase(config.log.url, password_file)


def mark_place(folder: Path, database: Database) -> None:
    """Remember that this folder's node signs into a shared log, also when its machine fails."""
    if database.is_shared:
        write_whole(folder / SHARED_MARK, f"{database.name}\n")
