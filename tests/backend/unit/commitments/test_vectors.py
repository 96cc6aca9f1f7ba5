"""The published vectors, read back through the public functions."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from assay.commitments import identifiers, merkle, receipts, signing, tensors
from assay.commitments.manifest import Manifest
from assay.errors import VerificationError
from assay.types import Address, BatchKey, Domain, Hash32, Voucher

ROOT = Path(__file__).parents[4]


def load(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((ROOT / "tests" / "vectors" / f"{name}.json").read_bytes())
    return data


def raw(text: str) -> Hash32:
    return Hash32(bytes.fromhex(text.removeprefix("0x")))


def test_vectors__generator__writes_what_is_committed() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "vectors.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("tree", load("merkle")["trees"], ids=lambda tree: str(tree["leaf_count"]))
def test_merkle_vectors__trees__reproduce(tree: dict[str, Any]) -> None:
    count = tree["leaf_count"]
    assert merkle.merkle_root(i.to_bytes(32, "big") for i in range(count)) == raw(tree["root"])
    for proof in tree["proofs"]:
        siblings = [raw(sibling) for sibling in proof["siblings"]]
        assert merkle.verify_proof(
            raw(tree["root"]), raw(proof["leaf"]), siblings, proof["index"], depth=tree["depth"]
        )


@pytest.mark.parametrize("case", load("merkle")["invalid_proofs"], ids=lambda case: case["why"])
def test_merkle_vectors__invalid_proofs__are_refused(case: dict[str, Any]) -> None:
    siblings = [raw(sibling) for sibling in case["siblings"]]
    root, leaf = raw(case["root"]), raw(case["leaf"])
    assert not merkle.verify_proof(root, leaf, siblings, case["index"], depth=case["depth"])
    assert not merkle.verify_proof(root, leaf, siblings, case["index"])


def test_tensor_vectors__all__reproduce() -> None:
    data = load("tensors")
    for case in data["tensors"]:
        content = raw(case["data"])
        assert tensors.tensor_root(content) == raw(case["root"])
        assert tensors.tensor_commitment(case["dtype"], case["dims"], content) == raw(case["commitment"])
        assert tensors.OIP_TO_ONNX[case["oip_dtype"]] == case["dtype"]
    assert {case["dtype"] for case in data["tensors"]} == set(tensors.ONNX_TO_OIP)
    for case in data["hashes"]:
        assert tensors.hash_commitments(map(raw, case["commitments"])) == raw(case["hash"])


def test_identifier_vectors__all__reproduce() -> None:
    data = load("identifiers")
    for case in data["models"]:
        assert identifiers.model_id(case["publisher"], case["name"]) == raw(case["model_id"])
    for case in data["versions"]:
        assert identifiers.version_id(raw(case["model_id"]), int(case["number"])) == raw(case["version_id"])
    for case in data["batches"]:
        key = BatchKey(case["node"], raw(case["version_id"]), raw(case["receipts_root"]))
        assert identifiers.batch_id(key) == raw(case["batch_id"])
    for case in data["artifacts"]:
        assert identifiers.artifact_digest(raw(case["data"])) == raw(case["sha256"])
        assert identifiers.cid(raw(case["sha256"])) == case["cid"]


def test_eip712_vectors__all__reproduce() -> None:
    data = load("eip712")
    for case in data["domains"]:
        domain = Domain(case["chain_id"], case["settlement"])
        assert receipts.domain_separator(domain) == raw(case["separator"])
    for case in data["receipts"]:
        _, signed = receipts.receipt_file_from_json(case)
        assert signing.recover(raw(case["digest"]), signed.signature) == data["receipt_signer"]["address"]
    for case in data["vouchers"]:
        voucher = Voucher(
            Address(case["consumer"]),
            Address(case["node"]),
            raw(case["version_id"]),
            int(case["amount"]),
            int(case["count"]),
        )
        digest = receipts.voucher_digest(Domain(case["chain_id"], case["settlement"]), voucher)
        assert digest == raw(case["digest"])
        assert signing.recover(digest, raw(case["signature"])) == data["voucher_signer"]["address"]


@pytest.mark.parametrize("case", load("signatures")["bad"], ids=lambda case: case["why"])
def test_signature_vectors__bad__are_refused_at_their_step(case: dict[str, Any]) -> None:
    with pytest.raises(VerificationError) as caught:
        signing.verify_signer(raw(case["digest"]), raw(case["signature"]), load("signatures")["signer"])
    assert caught.value.step == case["step"]


def test_signature_vectors__good__reproduce() -> None:
    data = load("signatures")
    key = signing.SigningKey(raw(data["secret"]))
    assert key.address == data["signer"]
    for case in data["good"]:
        assert key.sign(raw(case["digest"])) == raw(case["signature"])
        assert signing.compact(raw(case["signature"])) == (raw(case["r"]), raw(case["vs"]))


def test_manifest_vectors__all__reproduce() -> None:
    for case in load("manifests")["manifests"]:
        manifest = Manifest.from_bytes(raw(case["canonical"]))
        assert json.loads(manifest.to_bytes()) == case["manifest"]
        assert manifest.digest == raw(case["manifest_hash"])
