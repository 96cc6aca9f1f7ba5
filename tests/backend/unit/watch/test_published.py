"""What a node published: good receipts are kept, garbage is nobody's evidence and ends nothing."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from assay.commitments.identifiers import batch_id
from assay.commitments.receipts import receipt_digest, receipt_to_json, receipts_tree
from assay.commitments.signing import SigningKey
from assay.errors import RequestError
from assay.index.verify import Validity
from assay.types import Address, BatchKey, Domain, Hash32, Receipt, SignedReceipt
from assay.watch.examine import parse_data
from assay.watch.published import read_receipts, signed_by_node, signers_of
from assay.watch.values import PostedBatch
from hypothesis import given
from hypothesis import strategies as st

DOMAIN = Domain(1, Address("0x" + "11" * 20))
NODE, CONSUMER = Address("0x" + "22" * 20), Address("0x" + "33" * 20)
VERSION = Hash32(b"\x07" * 32)
SIGNER = SigningKey(b"\x01" * 32)


def line(sequence: int, *, executed_at: int = 100, public: object = True, **changes: Any) -> dict[str, Any]:
    receipt = Receipt(NODE, CONSUMER, VERSION, VERSION, VERSION, 1, sequence, executed_at)
    signature = SIGNER.sign(receipt_digest(DOMAIN, receipt))
    return receipt_to_json(DOMAIN, SignedReceipt(receipt, signature)) | {"public": public} | changes


def batch_of(lines: list[dict[str, Any]]) -> PostedBatch:
    root = receipts_tree([bytes.fromhex(one["digest"][2:]) for one in lines]).root
    key = BatchKey(NODE, VERSION, root)
    return PostedBatch(batch_id(key), key, 1)


def body_of(lines: list[Any]) -> bytes:
    return b"\n".join(json.dumps(one).encode() for one in ({}, *lines)) + b"\n"


def test_read_receipts__whole_batch__gives_leaves_in_order() -> None:
    lines = [line(1), line(2, public=False), line(3, public="yes")]
    batch = batch_of(lines)
    receipts, is_root = read_receipts(DOMAIN, batch, body_of(lines))
    assert is_root
    seen = signed_by_node(batch, receipts, {SIGNER.address: Validity(0, 0)}, is_root=is_root)
    assert [one.position for one in seen] == [0, 1, 2]
    assert [one.is_public for one in seen] == [True, False, False]


def test_read_receipts__one_line_more__proves_no_leaf() -> None:
    lines = [line(1), line(2)]
    receipts, is_root = read_receipts(DOMAIN, batch_of(lines[:1]), body_of(lines))
    assert not is_root
    seen = signed_by_node(batch_of(lines), receipts, {SIGNER.address: Validity(0, 0)}, is_root=is_root)
    assert [one.position for one in seen] == [None, None]


def test_signed_by_node__key_not_valid_then__is_left_out() -> None:
    lines = [line(1, executed_at=99), line(2, executed_at=100), line(3, executed_at=200)]
    batch = batch_of(lines)
    receipts, is_root = read_receipts(DOMAIN, batch, body_of(lines))
    assert signers_of(receipts) == [SIGNER.address]
    seen = signed_by_node(batch, receipts, {SIGNER.address: Validity(100, 200)}, is_root=is_root)
    assert [one.signed.receipt.sequence for one in seen] == [2]
    assert signed_by_node(batch, receipts, {}, is_root=is_root) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@given(st.binary(max_size=300) | st.lists(json_values, max_size=5).map(body_of))
def test_read_receipts__anything__is_read_without_an_end(body: bytes) -> None:
    receipts, is_root = read_receipts(DOMAIN, batch_of([line(1)]), body)
    assert receipts == []
    assert not is_root


FIELDS = ("node", "version_id", "output_hash", "price", "sequence", "executed_at", "signature", "digest")


@given(st.sampled_from(FIELDS), json_values)
def test_read_receipts__one_field_changed__is_another_batch(field: str, value: Any) -> None:
    good = line(1)
    if value == good[field]:
        return
    batch = batch_of([good])
    receipts, is_root = read_receipts(DOMAIN, batch, body_of([good | {field: value}]))
    assert not is_root or field == "signature"
    seen = signed_by_node(batch, receipts, {SIGNER.address: Validity(0, 0)}, is_root=is_root)
    assert seen == []


def tensors(row: dict[str, Any]) -> bytes:
    return json.dumps({"inputs": [row], "outputs": []}).encode()


@given(
    st.binary(max_size=200)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"name": json_values, "datatype": json_values | st.just("UINT8"), "shape": json_values},
        optional={"data": json_values, "bytes": json_values, "size": json_values},
    ).map(tensors)
)
def test_parse_data__anything__is_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(RequestError):
        _ = parse_data(body).input_hash
