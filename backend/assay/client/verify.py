"""Check any receipt from the chain alone: each step in words, nothing taken on trust."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from assay.chain.client import ChainClient
from assay.chain.contracts import ModelRegistry, NodeRegistry, Settlement, read_many
from assay.chain.deployments import Deployment
from assay.chain.settlement import receipt_row
from assay.chain.views import Version
from assay.commitments.identifiers import batch_id
from assay.commitments.merkle import verify_proof
from assay.commitments.receipts import receipt_digest
from assay.commitments.signing import recover
from assay.errors import ContractRevert, VerificationError
from assay.types import (
    Assurance,
    BatchKey,
    Domain,
    Hash32,
    Receipt,
    ReceiptStatus,
    SignedReceipt,
    VersionStatus,
)


@dataclass(frozen=True, slots=True)
class Proof:
    """Where a receipt lies in a batch: leaf `index` under `key.receipts_root`, siblings bottom-up."""

    key: BatchKey
    siblings: tuple[Hash32, ...]
    index: int


@dataclass(frozen=True, slots=True)
class Step:
    """`ok` None: not decided yet, for instance because the batch is not posted or its window is open."""

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    digest: Hash32
    steps: tuple[Step, ...]
    assurance: Assurance | None

    @property
    def failed(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.ok is False)

    @property
    def is_final(self) -> bool:
        """Every step holds: the receipt is in a batch that can no longer be overturned."""
        return all(step.ok for step in self.steps)

    @property
    def is_verified(self) -> bool:
        """*Verified* as the protocol says it: final, and not merely `signed` (SPEC.md §1)."""
        return self.is_final and self.assurance in (Assurance.EXACT, Assurance.PROVEN)


def verify_receipt(
    chain: ChainClient,
    deployment: Deployment,
    domain: Domain,
    signed: SignedReceipt,
    proof: Proof | None = None,
) -> Report:
    """The report on a receipt that claims to be of `domain`. Reads the chain only; raises its RetryableError.

    Without `proof` inclusion and finality stay undecided (see `assay.client.proofs.find_proof`).
    """
    digest = receipt_digest(domain, signed.receipt)
    steps = [_check_domain(deployment, domain)]
    if steps[0].ok is False:
        return Report(digest, tuple(steps), None)
    steps += _check_signature(NodeRegistry(chain, deployment), signed, digest)
    version_step, version = _check_version(ModelRegistry(chain, deployment), deployment, signed.receipt)
    steps.append(version_step)
    steps += _check_settlement(Settlement(chain, deployment), signed.receipt, digest, proof)
    assurance = None
    if version is not None and version.exists:
        assurance = deployment.assurance_of(has_program=version.has_program)
    return Report(digest, tuple(steps), assurance)


def _check_domain(deployment: Deployment, domain: Domain) -> Step:
    ours = deployment.domain
    where = f"chain {domain.chain_id}, settlement {domain.settlement}"
    if ours == domain:
        return Step("domain", True, f"the receipt belongs to {where}, the deployment in use")
    return Step(
        "domain",
        False,
        f"the receipt belongs to {where}; the deployment in use is chain {ours.chain_id}, settlement "
        f"{ours.settlement}",
    )


def _check_signature(nodes: NodeRegistry, signed: SignedReceipt, digest: Hash32) -> list[Step]:
    receipt = signed.receipt
    try:
        signer = recover(digest, signed.signature)
    except VerificationError as error:
        return [Step("signature", False, f"the signature is no signature: {error}")]
    steps = [Step("signature", True, f"{signer} signed digest 0x{digest.hex()}")]
    info = nodes.signer_info(signer)
    at = time_text(receipt.executed_at)
    if info.node != receipt.node:
        detail = f"{signer} was never a signer of node {receipt.node}"
        return [*steps, Step("signer", False, detail)]
    since = f"registered for node {receipt.node} from {time_text(info.valid_from)}"
    until = f" until {time_text(info.valid_to)}" if info.valid_to else ", and still is"
    is_valid = info.valid_from <= receipt.executed_at and (
        info.valid_to == 0 or receipt.executed_at < info.valid_to
    )
    return [*steps, Step("signer", is_valid, f"the signer was {since}{until}; the receipt is of {at}")]


def _check_version(
    models: ModelRegistry, deployment: Deployment, receipt: Receipt
) -> tuple[Step, Version | None]:
    version = models.version(receipt.version_id)
    if not version.exists:
        return Step("version", False, f"no version 0x{receipt.version_id.hex()} is registered"), None
    model = models.model(version.model_id)
    worth = (
        "in the exact profile: a wrong output can be proven to the contracts"
        if deployment.assurance_of(has_program=version.has_program) is Assurance.EXACT
        else "which no contract can judge: the receipt is worth the node's signature"
    )
    status = VersionStatus(version.status).name.lower()
    detail = f"version {version.number} of {model.publisher}/{model.name}, {status}, {worth}"
    return Step("version", True, detail), version


def _check_settlement(
    settlement: Settlement, receipt: Receipt, digest: Hash32, proof: Proof | None
) -> list[Step]:
    if proof is None:
        return [
            Step(
                "inclusion",
                None,
                "no posted batch with this receipt was found; its node has not settled it yet",
            ),
            Step("finality", None, "decided once the receipt is in a posted batch"),
        ]
    key, identifier = proof.key, batch_id(proof.key)
    if (key.node, key.version_id) != (receipt.node, receipt.version_id):
        return [Step("inclusion", False, "the proof is of another node's or version's batch")]
    if not verify_proof(key.receipts_root, digest, proof.siblings, proof.index):
        return [Step("inclusion", False, f"the proof does not lead to root 0x{key.receipts_root.hex()}")]
    batch = settlement.batch(identifier)
    if not batch.exists:
        return [Step("inclusion", False, f"batch 0x{identifier.hex()} was never posted")]
    included = Step(
        "inclusion",
        True,
        f"leaf {proof.index} of batch 0x{identifier.hex()}, posted {time_text(batch.posted_at)} with "
        f"{batch.count} paid inferences",
    )
    return [
        included,
        _check_finality(settlement, receipt, identifier, proof.siblings, proof.index, batch.posted_at),
    ]


def _check_finality(  # noqa: PLR0917 - one value each
    settlement: Settlement,
    receipt: Receipt,
    identifier: Hash32,
    siblings: Sequence[Hash32],
    index: int,
    posted_at: int,
) -> Step:
    try:
        status, window = read_many(
            settlement.client,
            [
                settlement.view("receipt_status", identifier, receipt_row(receipt), list(siblings), index),
                settlement.view("dispute_window"),
            ],
        )
    except ContractRevert as error:
        return Step("finality", False, f"the contract refused the proof: {error}")
    ends = time_text(posted_at + window)
    match status:
        case ReceiptStatus.FINAL:
            return Step("finality", True, f"final: the dispute window ended {ends} and nothing overturned it")
        case ReceiptStatus.PENDING:
            return Step(
                "finality", None, f"pending: it can be disputed until {ends}, longer while a dispute is open"
            )
        case ReceiptStatus.VOID:
            return Step(
                "finality", False, "void: a dispute proved this receipt wrong, and its price was returned"
            )
        case _:
            return Step("finality", False, "the contract does not find the receipt in that batch")


def time_text(seconds: int) -> str:
    """Unix seconds for people, in UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"time {seconds}"
