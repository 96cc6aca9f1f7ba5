"""List receipts in their order, whoever's they are; find checks that are due"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("receipts_consumer", "receipts_version"):
        op.drop_index(name, table_name="receipts")
    for name, column in (("consumer", "consumer"), ("node", "node"), ("version", "version_id")):
        op.create_index(f"receipts_{name}", "receipts", [column, "block_number", "log_index", "position"])
    op.create_index(op.f("ix_batch_checks_next_attempt_at"), "batch_checks", ["next_attempt_at"])


def downgrade() -> None:
    op.drop_index(op.f("ix_batch_checks_next_attempt_at"), table_name="batch_checks")
    for name in ("receipts_consumer", "receipts_node", "receipts_version"):
        op.drop_index(name, table_name="receipts")
    op.create_index("receipts_consumer", "receipts", ["consumer", "block_number"])
    op.create_index("receipts_version", "receipts", ["version_id", "block_number"])
