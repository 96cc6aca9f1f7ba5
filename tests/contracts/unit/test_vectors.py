"""The Vyper modules against tests/vectors, which Python's `assay.commitments` reproduces too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.contracts import deployer

VECTORS = Path(__file__).resolve().parents[2] / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


@pytest.fixture(scope="module")
def harness() -> Any:
    return deployer("CommitmentsHarness").deploy()


@pytest.mark.parametrize("tree", load("merkle")["trees"], ids=lambda tree: f"{tree['leaf_count']} leaves")
def test_merkle__every_proof__leads_to_the_root(harness: Any, tree: Any) -> None:
    assert tree["proofs"]
    for proof in tree["proofs"]:
        siblings = [raw(sibling) for sibling in proof["siblings"]]
        assert len(siblings) == tree["depth"]
        assert harness.root(raw(proof["leaf"]), siblings, proof["index"]) == raw(tree["root"])


@pytest.mark.parametrize(
    "proof",
    [proof for proof in load("merkle")["invalid_proofs"] if len(raw(proof["leaf"])) == 32],
    ids=lambda proof: proof["why"],
)
def test_merkle__invalid_proof__leads_elsewhere(harness: Any, proof: Any) -> None:
    """On-chain every leaf is a 32-byte digest: two children as 64 bytes of a leaf cannot even be offered."""
    siblings = [raw(sibling) for sibling in proof["siblings"]]
    assert harness.root(raw(proof["leaf"]), siblings, proof["index"]) != raw(proof["root"])


@pytest.fixture(scope="module")
def tensors() -> Any:
    return deployer("TensorHarness").deploy()


@pytest.mark.parametrize(
    "tensor", load("tensors")["tensors"], ids=lambda tensor: f"{tensor['oip_dtype']} {tensor['dims']}"
)
def test_tensors__root_and_commitment__are_the_vectors(tensors: Any, tensor: Any) -> None:
    assert tensors.tensor_root(raw(tensor["data"])) == raw(tensor["root"])
    found = tensors.tensor_commitment(tensor["dtype"], tensor["dims"], raw(tensor["root"]))
    assert found == raw(tensor["commitment"])


def test_tensors__hashes__are_the_vectors(tensors: Any) -> None:
    hashes = load("tensors")["hashes"]
    assert max(len(case["commitments"]) for case in hashes) > 1
    for case in hashes:
        assert tensors.commit_tensors([raw(each) for each in case["commitments"]]) == raw(case["hash"])


def test_receipts__type_hashes__are_the_vectors() -> None:
    source = (Path(__file__).resolve().parents[3] / "contracts/modules/receipts.vy").read_text()
    for name in ("voucher", "receipt"):
        assert f'"{load("eip712")["types"][name]}"' in source


def test_receipts__receipt_digests__are_the_vectors(harness: Any) -> None:
    vectors = load("eip712")
    domains = {(d["chain_id"], d["settlement"]): raw(d["separator"]) for d in vectors["domains"]}
    assert vectors["receipts"]
    for receipt in vectors["receipts"]:
        made = (
            receipt["node"],
            receipt["consumer"],
            raw(receipt["version_id"]),
            raw(receipt["input_hash"]),
            raw(receipt["output_hash"]),
            int(receipt["price"]),
            receipt["sequence"],
            receipt["executed_at"],
        )
        domain = domains[receipt["chain_id"], receipt["settlement"]]
        assert harness.receipt_digest(domain, made) == raw(receipt["digest"])


def test_receipts__voucher_digests_and_signatures__are_the_vectors(harness: Any) -> None:
    vectors = load("eip712")
    domains = {(d["chain_id"], d["settlement"]): raw(d["separator"]) for d in vectors["domains"]}
    assert vectors["vouchers"]
    for voucher in vectors["vouchers"]:
        digest = harness.voucher_digest(
            domains[voucher["chain_id"], voucher["settlement"]],
            voucher["consumer"],
            voucher["node"],
            raw(voucher["version_id"]),
            int(voucher["amount"]),
            int(voucher["count"]),
        )
        assert digest == raw(voucher["digest"])
        signer = vectors["voucher_signer"]["address"]
        assert harness.is_signed_by(signer, digest, raw(voucher["r"]), raw(voucher["vs"]))


def test_receipts__batch_ids__are_the_vectors(harness: Any) -> None:
    batches = load("identifiers")["batches"]
    assert batches
    for batch in batches:
        found = harness.batch_id(batch["node"], raw(batch["version_id"]), raw(batch["receipts_root"]))
        assert found == raw(batch["batch_id"])


def test_signatures__good__are_the_signers(harness: Any) -> None:
    vectors = load("signatures")
    for good in vectors["good"]:
        assert harness.is_signed_by(vectors["signer"], raw(good["digest"]), raw(good["r"]), raw(good["vs"]))


@pytest.mark.parametrize(
    "bad",
    [
        bad
        for bad in load("signatures")["bad"]
        if len(raw(bad["signature"])) == 65 and bad["step"] != "signature_v"
    ],
    ids=lambda bad: bad["why"],
)
def test_signatures__bad__are_nobodys(harness: Any, bad: Any) -> None:
    """As EIP-2098 carries them; another length or another v cannot be said in that form."""
    signature = raw(bad["signature"])
    r, s, v = signature[:32], int.from_bytes(signature[32:64], "big"), signature[64]
    vs = ((v - 27) << 255 | s) % 2**256
    assert not harness.is_signed_by(
        load("signatures")["signer"], raw(bad["digest"]), r, vs.to_bytes(32, "big")
    )
