"""Follow disputes and recheck programs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from assay.db import columns
from assay.types import ZERO_ADDRESS

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dispute_moves",
        sa.Column("dispute_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("phase", sa.Integer(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("tx_hash", sa.String(length=66), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("dispute_id", "number"),
    )
    op.create_table(
        "disputes",
        sa.Column("dispute_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("node", sa.String(length=42), nullable=False),
        sa.Column("challenger", sa.String(length=42), nullable=False),
        sa.Column("digest", sa.String(length=66), nullable=False),
        sa.Column("version_id", sa.String(length=66), nullable=False),
        sa.Column("batch_id", sa.String(length=66), nullable=False),
        sa.Column("receipt", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("phase", sa.Integer(), nullable=False),
        sa.Column("deadline", sa.BigInteger(), nullable=False),
        sa.Column("game", sa.JSON(), nullable=False),
        sa.Column("moves", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("moved_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=False),
        sa.Column("slashed", columns.AmountType(length=39), nullable=False),
        sa.Column("to_challenger", columns.AmountType(length=39), nullable=False),
        sa.Column("to_consumer", columns.AmountType(length=39), nullable=False),
        sa.Column("to_treasury", columns.AmountType(length=39), nullable=False),
        sa.Column("tx_hash", sa.String(length=66), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("dispute_id"),
    )
    op.create_index(op.f("ix_disputes_challenger"), "disputes", ["challenger"], unique=False)
    op.create_index(op.f("ix_disputes_digest"), "disputes", ["digest"], unique=False)
    op.create_index(op.f("ix_disputes_node"), "disputes", ["node"], unique=False)
    op.create_index(op.f("ix_disputes_state"), "disputes", ["state"], unique=False)
    op.create_index(op.f("ix_disputes_version_id"), "disputes", ["version_id"], unique=False)
    op.create_table(
        "frauds",
        sa.Column("block_number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("log_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("node", sa.String(length=42), nullable=False),
        sa.Column("reporter", sa.String(length=42), nullable=False),
        sa.Column("first_digest", sa.String(length=66), nullable=False),
        sa.Column("second_digest", sa.String(length=66), nullable=False),
        sa.Column("slashed", columns.AmountType(length=39), nullable=False),
        sa.Column("to_reporter", columns.AmountType(length=39), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("tx_hash", sa.String(length=66), nullable=False),
        sa.PrimaryKeyConstraint("block_number", "log_index"),
    )
    op.create_index(op.f("ix_frauds_node"), "frauds", ["node"], unique=False)
    op.create_index(op.f("ix_frauds_reporter"), "frauds", ["reporter"], unique=False)
    op.create_table(
        "program_checks",
        sa.Column("artifact", sa.String(length=66), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("program_root", sa.String(length=66), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("checked_at", sa.BigInteger(), nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("artifact"),
    )
    op.add_column(
        "cursor", sa.Column("dispute_game", sa.String(length=42), nullable=False, server_default=ZERO_ADDRESS)
    )


def downgrade() -> None:
    op.drop_column("cursor", "dispute_game")
    op.drop_table("program_checks")
    op.drop_index(op.f("ix_frauds_reporter"), table_name="frauds")
    op.drop_index(op.f("ix_frauds_node"), table_name="frauds")
    op.drop_table("frauds")
    op.drop_index(op.f("ix_disputes_version_id"), table_name="disputes")
    op.drop_index(op.f("ix_disputes_state"), table_name="disputes")
    op.drop_index(op.f("ix_disputes_node"), table_name="disputes")
    op.drop_index(op.f("ix_disputes_digest"), table_name="disputes")
    op.drop_index(op.f("ix_disputes_challenger"), table_name="disputes")
    op.drop_table("disputes")
    op.drop_table("dispute_moves")
