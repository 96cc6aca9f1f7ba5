"""Re-execution of a receipt from the consumer's own copy, by the exact evaluator."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import StrEnum

from assay.client.client import Client
from assay.client.errors import NodeRefused, NodeUnreachable
from assay.client.proofs import find_proof
from assay.commitments.identifiers import batch_id
from assay.commitments.public_data import ReceiptData
from assay.commitments.receipts import receipt_digest
from assay.errors import RequestError, RetryableError
from assay.hub.client import HubClient
from assay.types import Domain, Hash32, SignedReceipt
from assay.watch.examine import examine
from assay.watch.programs import NoProgramError, Programs
from assay.watch.values import Verdict

UNBOUNDED = 1 << 62
MAX_DATA_BYTES = 256 << 20


class Recheck(StrEnum):
    """What a re-execution says of a receipt."""

    EXACT = "exact"
    WRONG = "wrong"
    NOT_EXACT = "not exact"
    """Nobody can tell by re-executing: the receipt is worth its node's signature."""


@dataclass(frozen=True, slots=True)
class Answered:
    """`reason` names the output element that differs, or why the version is not exact."""

    verdict: Recheck
    digest: Hash32
    reason: str
    data: ReceiptData | None = None


def recheck(client: Client, domain: Domain, signed: SignedReceipt, data: ReceiptData | None) -> Answered:
    """Run the version's program on the receipt's inputs and compare. `data` None: see `find_data`.

    Raises RequestError `data_unknown`, `data_mismatch`, RetryableError (no hub gives the artifact).
    """
    receipt, digest = signed.receipt, receipt_digest(domain, signed.receipt)
    if domain != client.domain:
        raise RequestError(
            f"receipt 0x{digest.hex()} is of chain {domain.chain_id}, settlement {domain.settlement}; "
            "connect to that one",
            code="wrong_chain",
        )
    version = client.models.version(receipt.version_id)
    if not (version.exists and version.has_program and client.deployment.has_disputes):
        lacks = "it has no program" if not version.has_program else "this deployment has no dispute game"
        return Answered(Recheck.NOT_EXACT, digest, f"{lacks}: worth the word of a staked node")
    data = data or find_data(client, signed, digest)
    if (data.input_hash, data.output_hash) != (receipt.input_hash, receipt.output_hash):
        raise RequestError(
            f"the tensors at hand are not those of receipt 0x{digest.hex()}: their hashes differ from the "
            "signed ones",
            code="data_mismatch",
        )
    problems = []
    for location in client.manifests.sources(version):
        try:
            with HubClient(location, attempts=2) as hub:
                program = Programs(client.models, hub, client.data / "artifacts").get(receipt.version_id)
        except NoProgramError as error:
            return Answered(Recheck.NOT_EXACT, digest, str(error), data)
        except RetryableError as error:
            problems.append(str(error))
            continue
        found = examine(receipt, data, program, max_work=UNBOUNDED, max_memory=UNBOUNDED)
        if found.verdict is Verdict.SKIPPED:
            raise RequestError(f"receipt 0x{digest.hex()}: {found.reason}", code="not_recomputed")
        verdict = Recheck.EXACT if found.verdict is Verdict.RIGHT else Recheck.WRONG
        return Answered(verdict, digest, found.reason, data)
    told = "; ".join(problems) or "no hub is known; set ASSAY_HUB_URL"
    raise RetryableError(f"the artifact of version 0x{receipt.version_id.hex()} cannot be had: {told}")


def find_data(client: Client, signed: SignedReceipt, digest: Hash32) -> ReceiptData:
    """The receipt's tensors: this folder's copy, else what the node shows of a public one.

    Raises RequestError `data_unknown`.
    """
    kept = client.store.copy("0x" + digest.hex())
    if kept is not None:
        return ReceiptData.from_bytes(kept)
    node = signed.receipt.node
    try:
        path = f"/v1/receipts/0x{digest.hex()}/data"
        endpoint = client.directory.endpoint(node)
        return ReceiptData.from_json(client.http.get_json(endpoint, path, MAX_DATA_BYTES))
    except (NodeRefused, NodeUnreachable) as error:
        raise RequestError(
            f"{client.data} has no copy of receipt 0x{digest.hex()}'s tensors, and node {node} does not give "
            f"them: {error}. Recheck it from the folder that asked for it",
            status=404,
            code="data_unknown",
        ) from error


def disputable_until(client: Client, signed: SignedReceipt) -> int:
    """Chain time before which a dispute of the receipt must be opened; 0 if that is past."""
    window = client.settlement.dispute_window()
    until = signed.receipt.executed_at + window
    proof = find_proof(client.chain, client.deployment, signed.receipt, client.http, client.accelerator)
    if proof is not None:
        until = max(until, client.settlement.batch(batch_id(proof.key)).posted_at + window)
    now = max(client.chain.get_block("latest").timestamp, math.floor(time.time()))
    return until if now < until else 0
