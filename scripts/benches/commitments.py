"""Trees, tensor commitments, digests and signatures, against bare hashing or a common library."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
from assay.commitments import receipts, signing, tensors
from assay.commitments.merkle import MerkleTree, verify_proof
from assay.types import Domain, Hash32, Receipt
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

LEAVES = 1_000_000
TENSOR_BYTES = 600_000
SECRET = bytes(range(1, 33))
KEY = signing.SigningKey(SECRET)
DOMAIN = Domain(31337, KEY.address)
RECEIPT = Receipt(
    KEY.address, KEY.address, Hash32(b"\1" * 32), Hash32(b"\2" * 32), Hash32(b"\3" * 32), 5, 1, 1_750_000_000
)


def compare(
    name: str,
    unit: str,
    call: Callable[[], Any],
    reference: Callable[[], Any],
    times: int,
    rounds: int = 5,
) -> dict[str, Any]:
    """The best of `rounds` rounds of `times` calls each, the two in turn so that load hits both alike."""
    scale = {"s": 1.0, "µs": 1e6}[unit]
    best = {call: float("inf"), reference: float("inf")}
    for _ in range(rounds):
        for measured in (call, reference):
            started = time.perf_counter()
            for _ in range(times):
                measured()
            best[measured] = min(best[measured], (time.perf_counter() - started) / times * scale)
    value, least = best.values()
    return {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "reference": round(least, 3),
        "ratio": round(value / least, 3),
    }


def bare_hashes(messages: Sequence[bytes], count: int) -> None:
    """What a tree over `count` leaves cannot go without: two sha256 calls a leaf, 33 and 65 bytes long."""
    leaf, node = messages
    for _ in range(count):
        sha256(leaf).digest()
        sha256(node).digest()


def tree_rows() -> list[dict[str, Any]]:
    digests = [os.urandom(32) for _ in range(LEAVES)]
    built = compare(
        "receipts_tree_1m_seconds",
        "s",
        lambda: receipts.receipts_tree(digests),
        lambda: bare_hashes((bytes(33), bytes(65)), LEAVES),
        1,
        3,
    )
    tree = MerkleTree(digests)
    at = LEAVES // 3
    proof = tree.proof(at)
    assert verify_proof(tree.root, digests[at], proof, at, depth=20)
    checked = compare(
        "receipt_proof_1m_verify_us",
        "µs",
        lambda: verify_proof(tree.root, digests[at], proof, at, depth=20),
        lambda: [sha256(bytes(65)).digest() for _ in range(21)],
        500,
    )
    return [built, checked]


def tensor_row() -> dict[str, Any]:
    array = np.random.default_rng(0).random(TENSOR_BYTES // 4, dtype=np.float32)
    raw = array.tobytes()
    return compare(
        "tensor_commitment_600kb_over_sha256",
        "µs",
        lambda: tensors.array_commitment(array),
        lambda: sha256(raw).digest(),
        20,
    )


def eth_account_digest() -> bytes:
    fields = [field.split(" ") for field in receipts.RECEIPT_TYPE[len("Receipt(") : -1].split(",")]
    values = (getattr(RECEIPT, name) for name in RECEIPT.__slots__)
    message = encode_typed_data(
        {"name": "Assay", "version": "1", "chainId": DOMAIN.chain_id, "verifyingContract": DOMAIN.settlement},
        {"Receipt": [{"name": name, "type": kind} for kind, name in fields]},
        {name: value for (_, name), value in zip(fields, values, strict=True)},
    )
    return keccak(b"\x19" + message.version + message.header + message.body)


def signature_rows() -> list[dict[str, Any]]:
    digest = receipts.receipt_digest(DOMAIN, RECEIPT)
    assert digest == eth_account_digest()
    signature = KEY.sign(digest)
    account = Account.from_key(SECRET)
    return [
        compare(
            "receipt_digest_us",
            "µs",
            lambda: receipts.receipt_digest(DOMAIN, RECEIPT),
            eth_account_digest,
            200,
        ),
        compare("sign_us", "µs", lambda: KEY.sign(digest), lambda: account.unsafe_sign_hash(digest), 200),
        compare(
            "recover_us",
            "µs",
            lambda: signing.recover(digest, signature),
            lambda: Account._recover_hash(digest, signature=signature),
            200,
        ),
    ]


def run() -> list[dict[str, Any]]:
    return [*tree_rows(), tensor_row(), *signature_rows()]


if __name__ == "__main__":
    json.dump(run(), sys.stdout, indent=2)
