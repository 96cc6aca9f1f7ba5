"""Tables. `events` and `blocks` are what the chain said; the state tables follow from `events` alone (plus
the inputs of `post_batch` transactions) and go back through `journal`; checks, receipts and probes are what
the index found elsewhere.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Index, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from assay.db.columns import AddressText, Amount, BigInt, HashText, LongText


class Base(DeclarativeBase):
    pass


class Cursor(Base):
    """One row: which chain and deployment this database follows, and how far it is."""

    __tablename__ = "cursor"
    chain_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    settlement: Mapped[AddressText]
    models: Mapped[AddressText]
    nodes: Mapped[AddressText]
    dispute_game: Mapped[AddressText]
    """Zero where the deployment has none; its events are followed from the first block on."""
    first_block: Mapped[BigInt]
    number: Mapped[BigInt]
    """Last indexed block; first_block - 1 before the first."""
    hash: Mapped[HashText]
    timestamp: Mapped[BigInt]
    head_number: Mapped[BigInt]
    finalized_number: Mapped[BigInt]
    journal_from: Mapped[BigInt]
    """State can be rolled back to any block >= journal_from - 1."""
    next_seq: Mapped[BigInt]
    dispute_window: Mapped[BigInt]
    min_stake: Mapped[Amount]
    updated_at: Mapped[BigInt]
    """Clock time at which the index last saw the chain's head."""


class Block(Base):
    """Headers of the last blocks and of every block that has events."""

    __tablename__ = "blocks"
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[HashText]
    parent_hash: Mapped[HashText]
    timestamp: Mapped[BigInt]
    events: Mapped[int]


class Event(Base):
    """One decoded log."""

    __tablename__ = "events"
    chain_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tx_hash: Mapped[HashText] = mapped_column(primary_key=True)
    block_hash: Mapped[HashText] = mapped_column(primary_key=True)
    log_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(BigInteger, unique=True)
    """Position in the feed; a reorg takes a number too, and numbers are never used again."""
    block_number: Mapped[int] = mapped_column(BigInteger, index=True)
    timestamp: Mapped[BigInt]
    contract: Mapped[str]
    name: Mapped[str]
    args: Mapped[dict[str, Any]] = mapped_column(JSON)


class Reorg(Base):
    """Events above `ancestor_number` that were in the feed before `seq` never happened."""

    __tablename__ = "reorgs"
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    ancestor_number: Mapped[BigInt]
    ancestor_hash: Mapped[HashText]
    old_number: Mapped[BigInt]
    old_hash: Mapped[HashText]


class Journal(Base):
    """A state row as it was before a block touched it; `before` is null when the row did not exist."""

    __tablename__ = "journal"
    block_number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    table_name: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[LongText] = mapped_column(primary_key=True)
    before: Mapped[str | None] = mapped_column(Text)


class Model(Base):
    __tablename__ = "models"
    model_id: Mapped[HashText] = mapped_column(primary_key=True)
    publisher: Mapped[AddressText] = mapped_column(index=True)
    registered_by: Mapped[AddressText]
    pending_publisher: Mapped[AddressText]
    payee: Mapped[AddressText]
    name: Mapped[str] = mapped_column(index=True)
    metadata_uri: Mapped[LongText]
    version_count: Mapped[BigInt]
    created_at: Mapped[BigInt]
    block_number: Mapped[BigInt]
    log_index: Mapped[int]
    __table_args__ = (Index("models_order", "block_number", "log_index"),)


class ProgramCheck(Base):
    """What lowering an artifact gave here; a function of its bytes, so no reorg touches it."""

    __tablename__ = "program_checks"
    artifact: Mapped[HashText] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(String(16))
    """A `ProgramOutcome`."""
    program_root: Mapped[HashText | None]
    reason: Mapped[LongText]
    attempts: Mapped[int]
    checked_at: Mapped[BigInt]
    next_attempt_at: Mapped[BigInt]


class Version(Base):
    __tablename__ = "versions"
    version_id: Mapped[HashText] = mapped_column(primary_key=True)
    model_id: Mapped[HashText] = mapped_column(index=True)
    number: Mapped[BigInt]
    artifact: Mapped[HashText] = mapped_column(index=True)
    program_root: Mapped[HashText]
    assurance: Mapped[str] = mapped_column(String(8))
    """What the chain's record claims; `exact` is worth that only if `program_check` gave the same root."""
    manifest_hash: Mapped[HashText]
    royalty_bps: Mapped[int]
    uri: Mapped[LongText]
    status: Mapped[int] = mapped_column(index=True)
    published_at: Mapped[BigInt]
    block_number: Mapped[BigInt]
    log_index: Mapped[int]
    model: Mapped[Model] = relationship(
        primaryjoin="foreign(Version.model_id) == Model.model_id", lazy="raise", viewonly=True
    )
    program_check: Mapped[ProgramCheck | None] = relationship(
        primaryjoin="foreign(Version.artifact) == ProgramCheck.artifact",
        lazy="raise",
        viewonly=True,
        uselist=False,
    )
    __table_args__ = (Index("versions_order", "block_number", "log_index"),)


class Node(Base):
    __tablename__ = "nodes"
    node: Mapped[AddressText] = mapped_column(primary_key=True)
    signer: Mapped[AddressText]
    endpoint: Mapped[LongText]
    stake: Mapped[Amount]
    thawing: Mapped[Amount]
    thaw_at: Mapped[BigInt]
    frozen: Mapped[BigInt]
    slashed: Mapped[Amount]
    registered_at: Mapped[BigInt]
    block_number: Mapped[BigInt]
    log_index: Mapped[int]
    __table_args__ = (Index("nodes_order", "block_number", "log_index"),)


class Signer(Base):
    """Which key spoke for which node, and when: valid_from <= t < valid_to; valid_to 0 = still."""

    __tablename__ = "signers"
    signer: Mapped[AddressText] = mapped_column(primary_key=True)
    node: Mapped[AddressText] = mapped_column(index=True)
    valid_from: Mapped[BigInt]
    valid_to: Mapped[BigInt]


class Offer(Base):
    __tablename__ = "offers"
    node: Mapped[AddressText] = mapped_column(primary_key=True)
    version_id: Mapped[HashText] = mapped_column(primary_key=True, index=True)
    price: Mapped[Amount]
    active: Mapped[bool]
    changed_at: Mapped[BigInt]


class Escrow(Base):
    __tablename__ = "escrows"
    consumer: Mapped[AddressText] = mapped_column(primary_key=True)
    node: Mapped[AddressText] = mapped_column(primary_key=True, index=True)
    balance: Mapped[Amount]
    thawing: Mapped[Amount]
    thaw_at: Mapped[BigInt]


class Channel(Base):
    """`amount`, `count`: the newest voucher that the chain took; `settled`: what it paid so far."""

    __tablename__ = "channels"
    consumer: Mapped[AddressText] = mapped_column(primary_key=True)
    node: Mapped[AddressText] = mapped_column(primary_key=True, index=True)
    version_id: Mapped[HashText] = mapped_column(primary_key=True, index=True)
    settled: Mapped[Amount]
    amount: Mapped[Amount]
    count: Mapped[Amount]
    updated_block: Mapped[BigInt]


class BatchCheck(Base):
    """What fetching the batch's receipts from its node gave."""

    __tablename__ = "batch_checks"
    batch_id: Mapped[HashText] = mapped_column(primary_key=True)
    availability: Mapped[str] = mapped_column(index=True)
    reason: Mapped[LongText]
    receipts: Mapped[BigInt]
    attempts: Mapped[int]
    checked_at: Mapped[BigInt]
    next_attempt_at: Mapped[BigInt] = mapped_column(index=True)


class Batch(Base):
    __tablename__ = "batches"
    batch_id: Mapped[HashText] = mapped_column(primary_key=True)
    node: Mapped[AddressText] = mapped_column(index=True)
    version_id: Mapped[HashText] = mapped_column(index=True)
    receipts_root: Mapped[HashText]
    amount: Mapped[Amount]
    count: Mapped[Amount]
    voided: Mapped[BigInt]
    voided_amount: Mapped[Amount]
    holds: Mapped[BigInt]
    collected: Mapped[bool]
    vouchers_known: Mapped[bool]
    """False when the paid rows could not be told: posted through another contract and views did not add up.
    """
    posted_at: Mapped[BigInt]
    tx_hash: Mapped[HashText]
    block_number: Mapped[BigInt]
    log_index: Mapped[int]
    check: Mapped[BatchCheck | None] = relationship(
        primaryjoin="foreign(Batch.batch_id) == BatchCheck.batch_id",
        lazy="raise",
        viewonly=True,
        uselist=False,
    )
    version: Mapped[Version | None] = relationship(
        primaryjoin="foreign(Batch.version_id) == Version.version_id",
        lazy="raise",
        viewonly=True,
        uselist=False,
    )
    __table_args__ = (Index("batches_order", "block_number", "log_index"),)


class BatchVoucher(Base):
    """A row of `post_batch`: paid (reason 0) or skipped (`SkipReason`). `position` counts within its kind."""

    __tablename__ = "batch_vouchers"
    batch_id: Mapped[HashText] = mapped_column(primary_key=True)
    skipped: Mapped[bool] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    consumer: Mapped[AddressText] = mapped_column(index=True)
    amount: Mapped[Amount]
    count: Mapped[Amount]
    paid: Mapped[Amount]
    counted: Mapped[Amount]
    reason: Mapped[int]


class Void(Base):
    __tablename__ = "voids"
    digest: Mapped[HashText] = mapped_column(primary_key=True)
    batch_id: Mapped[HashText] = mapped_column(index=True)
    consumer: Mapped[AddressText]
    amount: Mapped[Amount]


class Receipt(Base):
    """A receipt of an available batch."""

    __tablename__ = "receipts"
    digest: Mapped[HashText] = mapped_column(primary_key=True)
    batch_id: Mapped[HashText]
    position: Mapped[int]
    node: Mapped[AddressText]
    consumer: Mapped[AddressText]
    version_id: Mapped[HashText]
    input_hash: Mapped[HashText]
    output_hash: Mapped[HashText]
    price: Mapped[Amount]
    sequence: Mapped[BigInt]
    executed_at: Mapped[BigInt]
    signature: Mapped[str]
    signer: Mapped[AddressText]
    block_number: Mapped[BigInt]
    log_index: Mapped[int]
    batch: Mapped[Batch] = relationship(
        primaryjoin="foreign(Receipt.batch_id) == Batch.batch_id", lazy="raise", viewonly=True
    )
    __table_args__ = (
        Index("receipts_batch", "batch_id", "position"),
        Index("receipts_order", "block_number", "log_index", "position"),
        Index("receipts_channel", "node", "version_id", "consumer", "sequence"),
        *(
            Index(f"receipts_{name}", column, "block_number", "log_index", "position")
            for name, column in (("consumer", "consumer"), ("node", "node"), ("version", "version_id"))
        ),
    )


class Dispute(Base):
    """A dispute as its last event left it. `state`: a `DisputeState`; `game`: IDisputeGame.State by field
    name, integers as decimal strings, what the next move passes back.
    """

    __tablename__ = "disputes"
    dispute_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    node: Mapped[AddressText] = mapped_column(index=True)
    challenger: Mapped[AddressText] = mapped_column(index=True)
    digest: Mapped[HashText] = mapped_column(index=True)
    version_id: Mapped[HashText] = mapped_column(index=True)
    batch_id: Mapped[HashText]
    """Zero: opened on a receipt outside any batch."""
    receipt: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16), index=True)
    phase: Mapped[int]
    deadline: Mapped[BigInt]
    game: Mapped[dict[str, Any]] = mapped_column(JSON)
    moves: Mapped[int]
    opened_at: Mapped[BigInt]
    moved_at: Mapped[BigInt]
    closed_at: Mapped[BigInt]
    """0 while open."""
    slashed: Mapped[Amount]
    to_challenger: Mapped[Amount]
    to_consumer: Mapped[Amount]
    to_treasury: Mapped[Amount]
    tx_hash: Mapped[HashText]
    block_number: Mapped[BigInt]
    log_index: Mapped[int]


class DisputeMove(Base):
    """`phase`: the one that was played; `data`: what was revealed, 0x hex."""

    __tablename__ = "dispute_moves"
    dispute_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """From 1."""
    phase: Mapped[int]
    data: Mapped[LongText]
    at: Mapped[BigInt]
    tx_hash: Mapped[HashText]
    block_number: Mapped[BigInt]
    log_index: Mapped[int]


class Fraud(Base):
    """Two signatures of a node that contradict each other. `kind`: a `FraudKind`."""

    __tablename__ = "frauds"
    block_number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    log_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    node: Mapped[AddressText] = mapped_column(index=True)
    reporter: Mapped[AddressText] = mapped_column(index=True)
    first_digest: Mapped[HashText]
    second_digest: Mapped[HashText]
    slashed: Mapped[Amount]
    to_reporter: Mapped[Amount]
    at: Mapped[BigInt]
    tx_hash: Mapped[HashText]


class Probe(Base):
    """One look at a node's `/v2/health/ready` and `/v1/node`."""

    __tablename__ = "probes"
    node: Mapped[AddressText] = mapped_column(primary_key=True)
    at: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    answered: Mapped[bool]
    latency_ms: Mapped[int]
    reason: Mapped[LongText]
    versions: Mapped[list[str]] = mapped_column(JSON)
    received: Mapped[BigInt | None]
    in_deadline: Mapped[BigInt | None]


_OF_GAMES = (Dispute, DisputeMove, Fraud)
STATE_TABLES = {
    table.__tablename__: Base.metadata.tables[table.__tablename__]
    for table in (Model, Version, Node, Signer, Offer, Escrow, Channel, Batch, BatchVoucher, Void, *_OF_GAMES)
}
"""Written by the event handlers alone, always through `index.state.State`."""
