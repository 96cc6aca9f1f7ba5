"""What the API answers. Amounts and counts that may exceed 2^53 are decimal strings; times are Unix
seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from assay.types import Assurance, BatchAvailability, DisputeState, FraudKind

T = TypeVar("T")

AddressOut = Annotated[str, Field(pattern="^0x[0-9a-fA-F]{40}$", examples=["0x" + "11" * 20])]
HashOut = Annotated[str, Field(pattern="^0x[0-9a-f]{64}$", examples=["0x" + "ab" * 32])]
AmountOut = Annotated[
    str, Field(pattern="^[0-9]+$", description="decimal, token's base unit", examples=["1000000"])
]
CountOut = Annotated[str, Field(pattern="^[0-9]+$", description="decimal", examples=["42"])]
BatchStatus = Literal["pending", "held", "final"]
ReceiptState = Literal["pending", "disputed", "final", "void"]
VersionState = Literal["active", "deprecated", "revoked"]


class Error(BaseModel):
    """Every error: what happened and what to do, and a stable code."""

    error: str = Field(examples=["no receipt 0xabab… in an available batch"])
    code: str = Field(examples=["receipt_unknown"])
    detail: list[dict[str, Any]] | None = Field(
        default=None, description="which inputs are wrong, if several"
    )


class Stamped(BaseModel):
    """As of which block an answer is."""

    model_config = ConfigDict(from_attributes=True)
    indexed_block: int = Field(description="last block that the answer takes into account")
    head_block: int = Field(description="newest block that the index has seen")
    finalized_block: int = Field(description="newest block that the chain calls final, or head - 64")


class PageOut(Stamped, Generic[T]):
    items: list[T]
    next_cursor: str | None = Field(
        description="give it as `cursor` for the next page; null: this was the last"
    )


class ModelItem(BaseModel):
    model_id: HashOut
    publisher: AddressOut
    registered_by: AddressOut = Field(description="model_id commits to this account")
    pending_publisher: AddressOut | None
    payee: AddressOut = Field(description="earns the royalty")
    name: str
    metadata_uri: str
    version_count: int
    created_at: int


class VersionItem(BaseModel):
    version_id: HashOut
    model_id: HashOut
    publisher: AddressOut
    name: str
    number: int
    artifact: HashOut
    artifact_cid: str
    program_root: HashOut | None = Field(description="null: receipts are worth `signed` at most")
    manifest_hash: HashOut
    royalty_bps: int
    uri: str
    status: VersionState
    assurance: Assurance = Field(description="the most that a receipt of this version can be worth")
    assurance_reason: str = Field(
        description="why it is `signed` although the version names a program; empty otherwise"
    )
    published_at: int
    active_offers: int


class ModelOut(ModelItem, Stamped):
    versions: list[VersionItem] = Field(description="newest first, at most 100")


class VersionOut(VersionItem, Stamped):
    pass


class ProbeItem(BaseModel):
    """The newest look at the node's `/v2/health/ready` and `/v1/node`."""

    at: int
    answered: bool
    latency_ms: int
    reason: str = Field(description="why not, if not")


class SignerItem(BaseModel):
    signer: AddressOut
    valid_from: int
    valid_to: int | None = Field(description="exclusive; null: still valid")


class NodeItem(BaseModel):
    node: AddressOut
    signer: AddressOut
    endpoint: str
    stake: AmountOut
    thawing: AmountOut
    thaw_at: int | None
    slashed: AmountOut
    open_disputes: int
    is_active: bool = Field(description="stake is at least the minimum")
    is_answering: bool = Field(description="newest probe is recent and was answered")
    last_probe: ProbeItem | None
    registered_at: int


class NodeOut(NodeItem, Stamped):
    signers: list[SignerItem]


class OfferItem(BaseModel):
    node: AddressOut
    endpoint: str
    version_id: HashOut
    price: AmountOut
    is_active: bool
    is_live: bool = Field(description="node is staked, answers, and lists the version itself")
    changed_at: int


class ChannelItem(BaseModel):
    consumer: AddressOut
    node: AddressOut
    version_id: HashOut
    settled: AmountOut = Field(description="paid on-chain so far")
    amount: AmountOut = Field(description="newest voucher the chain took")
    owed: AmountOut = Field(description="amount - settled")
    count: CountOut = Field(description="inferences acknowledged on-chain")
    escrow: AmountOut = Field(description="of this consumer with this node")
    escrow_thawing: AmountOut
    escrow_thaw_at: int | None


class BatchItem(BaseModel):
    batch_id: HashOut
    node: AddressOut
    version_id: HashOut
    receipts_root: HashOut
    amount: AmountOut
    count: CountOut = Field(description="inferences that paying consumers acknowledged")
    voided: int
    status: BatchStatus
    final_at: int = Field(description="end of the dispute window")
    collected: bool
    availability: BatchAvailability
    availability_reason: str
    receipts: int = Field(description="receipts fetched and checked")
    assurance: Assurance
    posted_at: int
    posted_block: int
    tx_hash: HashOut


class VoucherItem(BaseModel):
    consumer: AddressOut
    amount: AmountOut
    count: CountOut
    paid: AmountOut
    counted: CountOut
    skipped: Literal["STALE", "BAD_SIGNATURE", "NO_ESCROW", "COUNT_JUMP"] | str | None


class BatchOut(BatchItem, Stamped):
    vouchers_known: bool = Field(description="false: paid rows could not be told from the chain")
    vouchers: list[VoucherItem]


class ReceiptItem(BaseModel):
    """The receipt object of SPEC.md §7, and what it is worth now."""

    node: AddressOut
    consumer: AddressOut
    version_id: HashOut
    input_hash: HashOut
    output_hash: HashOut
    price: AmountOut
    sequence: int
    executed_at: int
    signature: str = Field(pattern="^0x[0-9a-f]{130}$")
    digest: HashOut
    signer: AddressOut
    batch_id: HashOut
    index: int = Field(description="leaf in the batch's tree")
    status: ReceiptState = Field(description="`disputed`: a dispute of it is open")
    disputes: list[int] = Field(description="every dispute of it, oldest first")
    assurance: Assurance
    verified: bool = Field(description="assurance is exact or proven, status is final; never true for signed")


class ReceiptOut(ReceiptItem, Stamped):
    chain_id: int
    settlement: AddressOut


class ProofOut(Stamped):
    """All that a contract or a third party needs to check a receipt."""

    chain_id: int
    settlement: AddressOut
    receipt: ReceiptItem
    batch_id: HashOut
    node: AddressOut
    version_id: HashOut
    receipts_root: HashOut
    siblings: list[HashOut] = Field(description="bottom-up; leaf = sha256(0x00 ‖ digest)")
    index: int
    receipt_status_calldata: str = Field(
        description="eth_call it at `settlement`: receipt_status(batch_id, receipt, siblings, index)"
    )


class DisputeItem(BaseModel):
    """A dispute of one receipt as of its last event (SPEC.md §11)."""

    dispute_id: int
    node: AddressOut
    challenger: AddressOut
    digest: HashOut = Field(description="the receipt's")
    version_id: HashOut
    batch_id: HashOut | None = Field(description="null: the receipt was in no batch when it was disputed")
    state: DisputeState
    phase: str = Field(description="the move that is owed, or with which it ended", examples=["REVEAL"])
    to_move: Literal["node", "challenger"] | None = Field(description="null: closed, or only to be closed")
    deadline: int | None = Field(description="who owes the move loses after it; null: closed")
    overdue: bool = Field(description="open, and the deadline has passed at the indexed block")
    moves: int
    kernel: int | None = Field(description="the kernel that the dispute has come to")
    element: int | None = Field(description="the element of its tensor, once it was pointed at")
    opened_at: int
    moved_at: int
    closed_at: int | None
    slashed: AmountOut
    to_challenger: AmountOut
    to_consumer: AmountOut
    to_treasury: AmountOut
    tx_hash: HashOut = Field(description="transaction that opened it")
    opened_block: int


class MoveItem(BaseModel):
    number: int
    phase: str
    by: Literal["node", "challenger"]
    data: str = Field(pattern="^0x([0-9a-f]{2})*$", description="what was revealed")
    at: int
    block: int
    tx_hash: HashOut


class DisputedReceipt(BaseModel):
    """The receipt and the signature that the dispute was opened with."""

    node: AddressOut
    consumer: AddressOut
    version_id: HashOut
    input_hash: HashOut
    output_hash: HashOut
    price: AmountOut
    sequence: CountOut
    executed_at: CountOut
    signature: str = Field(pattern="^0x[0-9a-f]{130}$")


class DisputeOut(DisputeItem, Stamped):
    receipt: DisputedReceipt
    game: dict[str, str] = Field(description="IDisputeGame.State by field: what the next move passes back")
    played: list[MoveItem]


class FraudItem(BaseModel):
    """Two receipts of one node that contradict each other, proven by their signatures."""

    kind: FraudKind
    node: AddressOut
    reporter: AddressOut
    first_digest: HashOut
    second_digest: HashOut
    slashed: AmountOut
    to_reporter: AmountOut
    at: int
    block: int
    tx_hash: HashOut


class Bucket(BaseModel):
    key: str
    verified: int
    settled: int


class NetworkOut(Stamped):
    """SPEC.md §8. Shares are in [0, 1]."""

    verified_inferences: int = Field(description="headline: exact or proven, FINAL, available, not void")
    settled_inferences: int = Field(description="acknowledged and FINAL, whatever their assurance")
    settled_signed_only: int = Field(description="settled and not verified")
    settled_paid: int = Field(description="settled in batches that were paid more than 0")
    verified_paid: int
    utility: float = Field(ge=0, le=1)
    accessibility: float = Field(ge=0, le=1)
    verifiability: float = Field(ge=0, le=1)
    scalability: float = Field(ge=0, le=1)
    active_versions: int
    live_versions: int
    staked_nodes: int = Field(description="with active stake and an active offer")
    answering_nodes: int
    disputes_open: int
    disputes_won_by_node: int
    disputes_won_by_challenger: int
    frauds_proven: int = Field(description="equivocations and contradictions")
    slashed: AmountOut = Field(description="taken from nodes' stakes so far")
    per_day: list[Bucket] = Field(description="UTC days of posting, newest first, at most 90")
    per_node: list[Bucket] = Field(description="at most 100, most verified first")
    per_version: list[Bucket] = Field(description="at most 100, most verified first")


class Health(BaseModel):
    status: Literal["ok"]


class Ready(Stamped):
    status: Literal["ready"]
    seconds_since_update: int
