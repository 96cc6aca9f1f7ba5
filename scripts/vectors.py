#!/usr/bin/env python3
"""Write the protocol's test vectors to tests/vectors, or with `--check` compare the files with the code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import exact_vectors
from assay.commitments import identifiers, merkle, receipts, signing, tensors
from assay.commitments.manifest import Manifest
from assay.exact.lowering import lower
from assay.types import Address, BatchKey, Domain, Hash32, Receipt, SignedReceipt, TensorSpec, Voucher

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "vectors"
MODELS = Path(__file__).resolve().parent / "models"
LEAF_COUNTS = sorted({1, 2, 3} | {2**k + d for k in range(2, 11) for d in (-1, 0, 1)})
BYTE_SIZES = (0, 1, 1023, 1024, 1025, 4095, 4096, 4097)
UINT64_MAX, UINT128_MAX = (1 << 64) - 1, (1 << 128) - 1


def hexed(value: bytes) -> str:
    return "0x" + value.hex()


def secret(name: str) -> bytes:
    return identifiers.keccak(f"assay test vector: {name}".encode())


NODE_KEY, CONSUMER_KEY = (signing.SigningKey(secret(name)) for name in ("node", "consumer"))
SETTLEMENT = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
DOMAINS = (
    Domain(1, SETTLEMENT),
    Domain(31337, SETTLEMENT),
    Domain(84532, identifiers.checksum_address("0x" + "a5" * 20)),
)
VERSION = identifiers.version_id(identifiers.model_id(NODE_KEY.address, "digits"), 1)


def leaf(index: int) -> bytes:
    return index.to_bytes(32, "big")


def proof_case(tree: merkle.MerkleTree, index: int) -> dict[str, Any]:
    return {"index": index, "leaf": hexed(leaf(index)), "siblings": [hexed(s) for s in tree.proof(index)]}


def merkle_vectors() -> dict[str, Any]:
    trees = []
    for count in LEAF_COUNTS:
        tree = merkle.MerkleTree(map(leaf, range(count)))
        indices = sorted({0, count // 2, count - 1})
        trees.append(
            {
                "leaf_count": count,
                "depth": tree.depth,
                "root": hexed(tree.root),
                "proofs": [proof_case(tree, index) for index in indices],
            }
        )
    return {
        "leaf_rule": "leaf i is the 32-byte big-endian integer i, from 0",
        "trees": trees,
        "invalid_proofs": list(invalid_proofs()),
    }


def invalid_proofs() -> Iterator[dict[str, Any]]:
    """Proofs under the root of five leaves that must be refused, and why."""
    tree = merkle.MerkleTree(map(leaf, range(5)))
    siblings = tree.proof(2)
    inner = merkle.leaf_hash(leaf(2)) + merkle.leaf_hash(leaf(3))

    def case(why: str, data: bytes, path: list[Hash32], index: int) -> dict[str, Any]:
        return {
            "why": why,
            "root": hexed(tree.root),
            "depth": tree.depth,
            "index": index,
            "leaf": hexed(data),
            "siblings": [hexed(sibling) for sibling in path],
        }

    yield case("another leaf", leaf(3), siblings, 2)
    yield case("another index", leaf(2), siblings, 3)
    yield case("index is not below 2^depth", leaf(2), siblings, 2 + 8)
    yield case("a sibling changed", leaf(2), [*siblings[:2], Hash32(bytes(32))], 2)
    yield case("siblings in the wrong order", leaf(2), siblings[::-1], 2)
    yield case("proof too short", leaf(2), siblings[:2], 2)
    yield case("proof too long", leaf(2), [*siblings, Hash32(bytes(32))], 2)
    yield case("an inner node offered as a leaf", inner, siblings[1:], 1)
    yield case("padding offered as a leaf", bytes(32), [Hash32(bytes(32)), *tree.proof(4)[1:]], 5)


def pattern(size: int) -> bytes:
    """Bytes whose chunks all differ: byte i is (31 i + i // 256) mod 256."""
    return bytes((31 * i + (i >> 8)) & 0xFF for i in range(size))


def tensor_case(oip: str, dims: tuple[int, ...], data: bytes) -> dict[str, Any]:
    dtype = tensors.OIP_TO_ONNX[oip]
    return {
        "dtype": dtype,
        "oip_dtype": oip,
        "dims": list(dims),
        "data": hexed(data),
        "root": hexed(tensors.tensor_root(data)),
        "commitment": hexed(tensors.tensor_commitment(dtype, dims, data)),
    }


def strings(*values: str) -> bytes:
    encoded = [value.encode() for value in values]
    return b"".join(len(raw).to_bytes(4, "little") + raw for raw in encoded)


def tensor_cases() -> Iterator[dict[str, Any]]:
    for size in BYTE_SIZES:
        yield tensor_case("UINT8", (size,), pattern(size))
    for oip, dtype in tensors.OIP_TO_NUMPY.items():
        if oip == "BOOL":
            yield tensor_case(oip, (2, 3), bytes((0, 1, 1, 0, 1, 0)))
        elif oip != "BYTES":
            yield tensor_case(oip, (2, 3), pattern(6 * dtype.itemsize))
    yield tensor_case("FP32", (), bytes.fromhex("0000803f"))
    yield tensor_case("FP32", (0, 7), b"")
    yield tensor_case("FP32", (1, 3, 16, 16), pattern(3072))
    yield tensor_case("INT8", (1,) * 16, b"\x80")
    yield tensor_case("BYTES", (0,), b"")
    yield tensor_case("BYTES", (2, 2), strings("", "assay", "Prüfung", "試金"))
    yield tensor_case("BYTES", (1,), strings("x" * 2000))


def tensor_vectors() -> dict[str, Any]:
    cases = list(tensor_cases())
    lists = [[], cases[1:2], cases[8:11], cases[10:7:-1]]
    commitments = [[case["commitment"] for case in chosen] for chosen in lists]
    return {
        "tensors": cases,
        "hashes": [
            {
                "commitments": chosen,
                "hash": hexed(tensors.hash_commitments(bytes.fromhex(c[2:]) for c in chosen)),
            }
            for chosen in commitments
        ],
    }


def identifier_vectors() -> dict[str, Any]:
    names = ("a", "digits", "mobilenet-v2_1.0-224", "x" * 31, "x" * 32, "x" * 33, "z" * 64)
    models = [
        {
            "publisher": publisher,
            "name": name,
            "model_id": hexed(identifiers.model_id(publisher, name)),
        }
        for publisher in (NODE_KEY.address, CONSUMER_KEY.address)
        for name in names
    ]
    model = bytes.fromhex(models[1]["model_id"][2:])
    versions = [
        {
            "model_id": hexed(model),
            "number": str(number),
            "version_id": hexed(identifiers.version_id(Hash32(model), number)),
        }
        for number in (1, 2, 256, (1 << 256) - 1)
    ]
    roots = (bytes(31) + b"\x01", pattern(32), b"\xff" * 32)
    batches = [
        {
            "node": NODE_KEY.address,
            "version_id": hexed(VERSION),
            "receipts_root": hexed(root),
            "batch_id": hexed(identifiers.batch_id(BatchKey(NODE_KEY.address, VERSION, Hash32(root)))),
        }
        for root in roots
    ]
    artifacts = [
        {"data": hexed(data), "sha256": hexed(digest), "cid": identifiers.cid(digest)}
        for data in (b"", b"hello world", pattern(1025))
        for digest in (identifiers.artifact_digest(data),)
    ]
    return {"models": models, "versions": versions, "batches": batches, "artifacts": artifacts}


def domain_json(domain: Domain) -> dict[str, Any]:
    return {"chain_id": domain.chain_id, "settlement": domain.settlement}


def all_receipts() -> Iterator[Receipt]:
    zero, ones = Hash32(bytes(32)), Hash32(b"\xff" * 32)
    node, consumer = NODE_KEY.address, CONSUMER_KEY.address
    highest = identifiers.checksum_address(b"\xff" * 20)
    yield Receipt(
        node, consumer, VERSION, Hash32(pattern(32)), Hash32(pattern(64)[32:]), 1000, 1, 1_750_000_000
    )
    yield Receipt(
        identifiers.checksum_address(bytes(20)), Address("0x" + "00" * 20), zero, zero, zero, 0, 0, 0
    )
    yield Receipt(highest, highest, ones, ones, ones, UINT128_MAX, UINT64_MAX, UINT64_MAX)
    yield Receipt(node, Address("0x" + "00" * 20), VERSION, ones, zero, 0, 7, 1_750_000_001)


def all_vouchers() -> Iterator[Voucher]:
    node, consumer = NODE_KEY.address, CONSUMER_KEY.address
    highest = identifiers.checksum_address(b"\xff" * 20)
    yield Voucher(consumer, node, VERSION, 25_000, 24)
    yield Voucher(Address("0x" + "00" * 20), Address("0x" + "00" * 20), Hash32(bytes(32)), 0, 0)
    yield Voucher(highest, highest, Hash32(b"\xff" * 32), UINT128_MAX, UINT64_MAX)


def receipt_case(domain: Domain, receipt: Receipt) -> dict[str, Any]:
    signature = NODE_KEY.sign(receipts.receipt_digest(domain, receipt))
    return receipts.receipt_file_to_json(domain, SignedReceipt(receipt, signature))


def voucher_case(domain: Domain, voucher: Voucher) -> dict[str, Any]:
    digest = receipts.voucher_digest(domain, voucher)
    signature = CONSUMER_KEY.sign(digest)
    r, vs = signing.compact(signature)
    return domain_json(domain) | {
        "consumer": voucher.consumer,
        "node": voucher.node,
        "version_id": hexed(voucher.version_id),
        "amount": str(voucher.amount),
        "count": str(voucher.count),
        "digest": hexed(digest),
        "signature": hexed(signature),
        "r": hexed(r),
        "vs": hexed(vs),
    }


def eip712_vectors() -> dict[str, Any]:
    return {
        "types": {
            "domain": receipts.DOMAIN_TYPE,
            "domain_typehash": hexed(receipts.DOMAIN_TYPEHASH),
            "voucher": receipts.VOUCHER_TYPE,
            "voucher_typehash": hexed(receipts.VOUCHER_TYPEHASH),
            "receipt": receipts.RECEIPT_TYPE,
            "receipt_typehash": hexed(receipts.RECEIPT_TYPEHASH),
        },
        "domains": [domain_json(d) | {"separator": hexed(receipts.domain_separator(d))} for d in DOMAINS],
        "receipt_signer": {"secret": hexed(secret("node")), "address": NODE_KEY.address},
        "voucher_signer": {"secret": hexed(secret("consumer")), "address": CONSUMER_KEY.address},
        "receipts": [receipt_case(domain, receipt) for domain in DOMAINS for receipt in all_receipts()],
        "vouchers": [voucher_case(domain, voucher) for domain in DOMAINS for voucher in all_vouchers()],
    }


def signature_vectors() -> dict[str, Any]:
    digests = [identifiers.keccak(f"digest {i}".encode()) for i in range(8)]
    good = []
    for digest in digests:
        signature = NODE_KEY.sign(digest)
        r, vs = signing.compact(signature)
        good.append({"digest": hexed(digest), "signature": hexed(signature), "r": hexed(r), "vs": hexed(vs)})
    return {
        "secret": hexed(secret("node")),
        "signer": NODE_KEY.address,
        "good": good,
        "bad": list(bad_signatures(digests[0])),
    }


def bad_signatures(digest: bytes) -> Iterator[dict[str, str]]:
    """Signatures over `digest` that must be refused as the node's, with the step that refuses them."""
    signature = NODE_KEY.sign(digest)
    r, s, v = signature[:32], signature[32:64], signature[64:]
    order = signing.CURVE_ORDER
    flipped = (order - int.from_bytes(s, "big")).to_bytes(32, "big") + bytes((55 - v[0],))

    def case(why: str, step: str, raw: bytes) -> dict[str, str]:
        return {"why": why, "step": step, "digest": hexed(digest), "signature": hexed(raw)}

    yield case("empty", "signature_length", b"")
    yield case("truncated", "signature_length", signature[:64])
    yield case("one byte too many", "signature_length", signature + b"\x00")
    for value in (0, 1, 26, 29, 255):
        yield case(f"v is {value}", "signature_v", r + s + bytes((value,)))
    yield case("r is zero", "signature_zero", bytes(32) + s + v)
    yield case("s is zero", "signature_zero", r + bytes(32) + v)
    yield case("s is above n/2", "signature_high_s", r + flipped)
    yield case("s is n/2 + 1", "signature_high_s", r + (order // 2 + 1).to_bytes(32, "big") + v)
    yield case("r is no point's x", "signature_recovery", leaf(5) + s + v)
    yield case("r is n", "signature_recovery", order.to_bytes(32, "big") + s + v)
    yield case("the other v", "signature_signer", r + s + bytes((55 - v[0],)))
    yield case("another signer", "signature_signer", CONSUMER_KEY.sign(digest))
    yield case("over another digest", "signature_signer", NODE_KEY.sign(identifiers.keccak(digest)))


def manifest_vectors() -> dict[str, Any]:
    image = TensorSpec("image", "FP32", (-1, 1, 8, 8))
    probabilities = TensorSpec("probabilities", "FP32", (-1, 10))
    card, test = identifiers.artifact_digest(b"card"), identifiers.artifact_digest(b"self-test")
    manifests = (
        Manifest((image,), (probabilities,), "Apache-2.0", card, test),
        Manifest(
            (TensorSpec('größe "a"\\\u2028', "INT64", (-1,)), TensorSpec("text", "BYTES", (-1, 1))),
            (TensorSpec("scalar", "BOOL", ()),),
            "Copyright © 2026; \t see LICENCE €😀",
            card,
            test,
        ),
    )
    return {
        "manifests": [
            {
                "manifest": json.loads(manifest.to_bytes()),
                "canonical": hexed(manifest.to_bytes()),
                "manifest_hash": hexed(manifest.digest),
            }
            for manifest in manifests
        ]
    }


def program_vectors() -> dict[str, Any]:
    programs = []
    for name in ("digits-int8",):
        artifact = (MODELS / name / "model.onnx").read_bytes()
        program = lower(artifact)
        programs.append(
            {
                "file": f"scripts/models/{name}/model.onnx",
                "artifact": hexed(sha256(artifact).digest()),
                "program_root": hexed(program.root),
                "records": [hexed(record) for record in program.records],
            }
        )
    return {"programs": programs}


def game_vectors() -> dict[str, Any]:
    sys.path.insert(0, str(FOLDER.parent.parent))  # the players are the tests' own
    import game_vectors as games

    return games.game_vectors(DOMAINS[1], NODE_KEY)


VECTORS: dict[str, Callable[[], dict[str, Any]]] = {
    "merkle": merkle_vectors,
    "tensors": tensor_vectors,
    "identifiers": identifier_vectors,
    "eip712": eip712_vectors,
    "signatures": signature_vectors,
    "manifests": manifest_vectors,
    "programs": program_vectors,
    "instructions": exact_vectors.instruction_vectors,
    "traces": exact_vectors.trace_vectors,
    "openings": exact_vectors.opening_vectors,
    "games": game_vectors,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if a file differs")
    check = parser.parse_args().check
    different = []
    for name, build in VECTORS.items():
        path = FOLDER / f"{name}.json"
        text = json.dumps(build(), indent=1, ensure_ascii=True) + "\n"
        if check and (not path.exists() or path.read_text() != text):
            different.append(path.name)
        elif not check:
            path.write_text(text)
    for file in different:
        print(f"tests/vectors/{file} differs from the code; if the code is right, run scripts/vectors.py")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
