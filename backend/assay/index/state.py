"""Read and write access to the state tables for event handlers, with an undo journal.

Before a block changes a row, the row's earlier image goes to `journal`; rolling back to a block puts those
images back, newest first. Handlers therefore never think about reorgs. Rows are plain dicts, column name to
Python value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Select, Table, bindparam, delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from assay.db.tables import STATE_TABLES, Journal

Row = dict[str, Any]
Key = tuple[Any, ...]
CACHE_ROWS = 50_000


def _lookup(table: Table) -> tuple[Select[Any], tuple[str, ...]]:
    """A query for one row, built once, and the names of its parameters."""
    names = tuple(f"key_{column.name}" for column in table.primary_key)
    matches = zip(table.primary_key, names, strict=True)
    return select(table).where(*(column == bindparam(name) for column, name in matches)), names


LOOKUPS = {name: _lookup(table) for name, table in STATE_TABLES.items()}


class State:
    """One per follower. The cache outlives transactions: call `forget` after one failed."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._cache: dict[tuple[str, Key], Row | None] = {}
        self._dirty: dict[tuple[str, Key], None] = {}
        self._journal: dict[tuple[int, str, str], str | None] = {}
        self._journal_from = 0
        self._block = 0

    def begin(self, connection: Connection, journal_from: int) -> None:
        """Start a transaction; blocks from `journal_from` on can be rolled back later."""
        self._connection, self._journal_from = connection, journal_from

    def begin_block(self, number: int) -> None:
        self._block = number

    def get(self, table_name: str, *key: Any) -> Row | None:
        """A copy of the row with this primary key."""
        cached = self._cache.get((table_name, key), ...)
        if cached is ...:
            cached = self._load(table_name, key)
            self._cache[table_name, key] = cached
        return None if cached is None else dict(cached)

    def create(self, table_name: str, row: Row) -> None:
        """Insert a row whose key no earlier event can have used."""
        self._write(table_name, row, None)

    def put(self, table_name: str, row: Row) -> None:
        """Insert or replace a row."""
        key = _key_of(STATE_TABLES[table_name], row)
        self._write(table_name, row, self.get(table_name, *key))

    def update(self, table_name: str, *key: Any, **changes: Any) -> Row:
        """Change columns of a row that must exist; returns the new row."""
        before = self.get(table_name, *key)
        if before is None:
            raise KeyError(f"{table_name} {key}")
        after = {**before, **changes}
        self._write(table_name, after, before)
        return after

    def flush(self) -> None:
        """Write what changed to the transaction."""
        connection = self._need_connection()
        for name, table in STATE_TABLES.items():
            rows = [self._cache[entry] for entry in self._dirty if entry[0] == name]
            if rows:
                _upsert(connection, table, [row for row in rows if row is not None])
        if self._journal:
            connection.execute(
                insert(Journal),
                [
                    {"block_number": number, "table_name": name, "key": key, "before": before}
                    for (number, name, key), before in self._journal.items()
                ],
            )
        self._dirty.clear()
        self._journal.clear()
        if len(self._cache) > CACHE_ROWS:
            self._cache.clear()

    def rollback_to(self, number: int) -> None:
        """Undo every block above `number`. All of them must have been journaled."""
        connection = self._need_connection()
        query = select(Journal.table_name, Journal.key, Journal.before).where(Journal.block_number > number)
        oldest: dict[tuple[str, str], str | None] = {}
        for name, key, before in connection.execute(query.order_by(Journal.block_number.desc())):
            oldest[name, key] = before
        for (name, key), before in oldest.items():
            table = STATE_TABLES[name]
            if before is None:
                matches = zip(table.primary_key, json.loads(key), strict=True)
                connection.execute(delete(table).where(*(column == value for column, value in matches)))
            else:
                _upsert(connection, table, [json.loads(before)])
        connection.execute(delete(Journal).where(Journal.block_number > number))
        self.forget()

    def prune(self, journal_from: int) -> None:
        """Forget how to undo blocks below `journal_from`."""
        self._need_connection().execute(delete(Journal).where(Journal.block_number < journal_from))

    def forget(self) -> None:
        """Drop everything that is not in the database."""
        self._cache.clear()
        self._dirty.clear()
        self._journal.clear()

    def _need_connection(self) -> Connection:
        assert self._connection is not None, "State.begin was not called"
        return self._connection

    def _load(self, table_name: str, key: Key) -> Row | None:
        query, names = LOOKUPS[table_name]
        values = dict(zip(names, key, strict=True))
        found = self._need_connection().execute(query, values).mappings().first()
        return None if found is None else dict(found)

    def _write(self, table_name: str, row: Row, before: Mapping[str, Any] | None) -> None:
        key = _key_of(STATE_TABLES[table_name], row)
        if self._block >= self._journal_from:
            entry = (self._block, table_name, json.dumps(key))
            if entry not in self._journal:
                self._journal[entry] = None if before is None else json.dumps(before, sort_keys=True)
        self._cache[table_name, key] = row
        self._dirty[table_name, key] = None


def _key_of(table: Table, row: Mapping[str, Any]) -> Key:
    return tuple(row[column.name] for column in table.primary_key)


def _upsert(connection: Connection, table: Table, rows: list[Row]) -> None:
    statement = postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
    keys = [column.name for column in table.primary_key]
    changes = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changes), rows)
