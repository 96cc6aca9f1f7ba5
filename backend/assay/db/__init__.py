"""The index database: engine, tables, migrations, repositories. Sync SQLAlchemy 2 on SQLite or PostgreSQL."""

from __future__ import annotations

from assay.db.engine import open_engine, read_session, upgrade, write_transaction

__all__ = ["open_engine", "read_session", "upgrade", "write_transaction"]
