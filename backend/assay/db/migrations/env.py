"""Alembic's entry: runs on the connection that `assay.db.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from assay.db.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    user_module_prefix="columns.",
)
with context.begin_transaction():
    context.run_migrations()
