"""Digests, signatures and identifiers against a second implementation: Foundry's `cast`, in Rust."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
CAST = shutil.which("cast", path=str(ROOT / "node_modules" / ".bin")) or shutil.which("cast")
VECTORS = ROOT / "tests" / "vectors"

pytestmark = pytest.mark.skipif(CAST is None, reason="cast is not installed; run npm ci")


def cast(*arguments: str) -> str:
    done = subprocess.run(
        [str(CAST), *arguments], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_bytes())


def typed_data(kind: str, encoded_type: str, case: dict[str, Any]) -> dict[str, Any]:
    """EIP-712 JSON as wallets take it. `case` keys are snake_case, the type's camelCase."""
    fields = [field.split(" ") for field in encoded_type[len(kind) + 1 : -1].split(",")]
    camel = {"".join(w.capitalize() if i else w for i, w in enumerate(k.split("_"))): k for k in case}
    domain_fields = ("name string", "version string", "chainId uint256", "verifyingContract address")
    return {
        "types": {
            "EIP712Domain": [dict(zip(("name", "type"), f.split(" "), strict=True)) for f in domain_fields],
            kind: [{"name": name, "type": type_} for type_, name in fields],
        },
        "primaryType": kind,
        "domain": {
            "name": "Assay",
            "version": "1",
            "chainId": case["chain_id"],
            "verifyingContract": case["settlement"],
        },
        "message": {name: str(case[camel[name]]) for _, name in fields},
    }


@pytest.mark.parametrize("kind", ["receipt", "voucher"])
def test_eip712__signed_by_cast__equals_the_vectors(kind: str, tmp_path: Path) -> None:
    """A signature is deterministic, so equal signatures mean equal digests."""
    data = load("eip712")
    cases = data[f"{kind}s"]
    extremes = [cases[0], cases[2], cases[-1]]
    for case in extremes:
        file = tmp_path / "typed.json"
        file.write_text(json.dumps(typed_data(kind.capitalize(), data["types"][kind], case)))
        secret = data[f"{kind}_signer"]["secret"]
        signature = cast("wallet", "sign", "--data", "--from-file", str(file), "--private-key", secret)
        assert signature == case["signature"]


@pytest.mark.parametrize("kind", ["domain", "voucher", "receipt"])
def test_eip712__type_hashes__equal_cast_keccak(kind: str) -> None:
    types = load("eip712")["types"]
    assert cast("keccak", types[kind]) == types[f"{kind}_typehash"]


def test_eip712__domain_separator__equals_cast_abi_encoding() -> None:
    data = load("eip712")
    for case in data["domains"]:
        encoded = cast(
            "abi-encode",
            "f(bytes32,bytes32,bytes32,uint256,address)",
            data["types"]["domain_typehash"],
            cast("keccak", "Assay"),
            cast("keccak", "1"),
            str(case["chain_id"]),
            case["settlement"],
        )
        assert cast("keccak", encoded) == case["separator"]


def test_identifiers__abi_encoded_by_cast__equal_the_vectors() -> None:
    data = load("identifiers")
    for case in data["models"][:4]:
        assert (
            cast("keccak", cast("abi-encode", "f(address,string)", case["publisher"], case["name"]))
            == (case["model_id"])
        )
    for case in data["versions"]:
        encoded = cast("abi-encode", "f(bytes32,uint256)", case["model_id"], case["number"])
        assert cast("keccak", encoded) == case["version_id"]
    for case in data["batches"]:
        encoded = cast(
            "abi-encode",
            "f(address,bytes32,bytes32)",
            case["node"],
            case["version_id"],
            case["receipts_root"],
        )
        assert cast("keccak", encoded) == case["batch_id"]
