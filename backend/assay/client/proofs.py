"""Find where a receipt lies: from the file, the API, or the node's published batches.

`verify_receipt` judges it.
"""

from __future__ import annotations

from typing import Any

import orjson

from assay.chain.client import ChainClient
from assay.chain.contracts import NodeRegistry, Settlement
from assay.chain.deployments import Deployment
from assay.chain.logs import scan_logs
from assay.client.accelerator import Accelerator
from assay.client.transport import NodeHttp
from assay.client.verify import Proof
from assay.commitments.identifiers import batch_id
from assay.commitments.merkle import verify_proof
from assay.commitments.parsing import get_field, parse_hash, parse_integer
from assay.commitments.receipts import receipt_digest, receipts_tree
from assay.errors import AssayError, RequestError
from assay.types import BatchKey, Hash32, Receipt

CLOCK_SKEW_SECONDS = 600
MAX_BATCH_BYTES = 512 << 20
MAX_BATCHES = 1000


def proof_from_json(data: Any, receipt: Receipt) -> Proof:
    """A proof object: `receipts_root`, `siblings`, `index` (0x hex, list, integer). Raises RequestError."""
    siblings = get_field(data, "siblings", code="proof_invalid")
    if not isinstance(siblings, list) or len(siblings) > 32:
        raise RequestError("siblings: expected a list of at most 32 hashes", code="proof_invalid")
    root = parse_hash(get_field(data, "receipts_root", code="proof_invalid"), "receipts_root")
    return Proof(
        BatchKey(receipt.node, receipt.version_id, root),
        tuple(parse_hash(item, "siblings") for item in siblings),
        parse_integer(get_field(data, "index", code="proof_invalid"), "index"),
    )


def proof_to_json(proof: Proof) -> dict[str, Any]:
    return {
        "batch_id": "0x" + batch_id(proof.key).hex(),
        "receipts_root": "0x" + proof.key.receipts_root.hex(),
        "siblings": ["0x" + sibling.hex() for sibling in proof.siblings],
        "index": proof.index,
    }


def find_proof(
    chain: ChainClient,
    deployment: Deployment,
    receipt: Receipt,
    http: NodeHttp,
    accelerator: Accelerator | None = None,
) -> Proof | None:
    """From the API if it has one that checks, else from the node's batches as the chain's events name them.

    None: the receipt is in no batch that the chain knows and the node shows. Needs no API.
    """
    digest = receipt_digest(deployment.domain, receipt)
    if accelerator is not None and (data := accelerator.proof(digest)) is not None:
        try:
            proof = proof_from_json(data.get("proof", data) if isinstance(data, dict) else data, receipt)
            if verify_proof(proof.key.receipts_root, digest, proof.siblings, proof.index):
                return proof
        except RequestError:
            pass  # the node can still be asked
    settlement = Settlement(chain, deployment)
    endpoint = NodeRegistry(chain, deployment).node(receipt.node).endpoint
    for key in _posted_batches(settlement, receipt):
        try:
            digests = _fetch_digests(http, endpoint, batch_id(key))
        except AssayError:
            continue
        if digest in digests:
            tree = receipts_tree(digests)
            index = digests.index(digest)
            if tree.root == key.receipts_root:
                return Proof(key, tuple(tree.proof(index)), index)
    return None


def _posted_batches(settlement: Settlement, receipt: Receipt) -> list[BatchKey]:
    """Batches of the receipt's node and version that were posted after it was signed, oldest first."""
    topics = [
        settlement.abi.topic("BatchPosted"),
        None,
        "0x" + receipt.node[2:].lower().rjust(64, "0"),
        "0x" + receipt.version_id.hex(),
    ]
    keys = [
        BatchKey(receipt.node, receipt.version_id, Hash32(settlement.decode_log(log).args["receipts_root"]))
        for log in scan_logs(settlement, topics, settlement.deployment.block)
    ]
    batches = settlement.batches([batch_id(key) for key in keys]) if keys else []
    earliest = receipt.executed_at - CLOCK_SKEW_SECONDS
    late_enough = [key for key, batch in zip(keys, batches, strict=True) if batch.posted_at >= earliest]
    return late_enough[:MAX_BATCHES]


def _fetch_digests(http: NodeHttp, endpoint: str, identifier: Hash32) -> list[bytes]:
    """The receipt digests of a batch in leaf order, as the node lists them; the caller checks the root."""
    reply = http.get(endpoint, f"/v1/batches/0x{identifier.hex()}", MAX_BATCH_BYTES)
    if reply.status != 200:
        raise reply.error(endpoint)
    _, *lines = reply.content.splitlines()
    try:
        return [parse_hash(orjson.loads(line)["digest"], "digest") for line in lines]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RequestError(f"{endpoint} lists a malformed batch", code="batch_invalid") from None
