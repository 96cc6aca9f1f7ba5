"""What a node published: good receipts are kept, garbage is nobody's evidence and ends nothing."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

from assay.commitments.identifiers import batch_id
from assay.commitments.receipts import receipt_digest, receipt_to_json, receipts_tree
from assay.commitments.signing import SigningKey
from assay.errors import RequestError
from assay.index.batch_file import BatchFile
from assay.index.verify import Validity
from assay.types import Address, BatchKey, Domain, Hash32, Receipt, SignedReceipt
from assay.watch.examine import parse_data
from assay.watch.published import is_signed, public_digests, signed_by_node, signers_of
from assay.watch.values import PostedBatch, SeenReceipt
from hypothesis import given
from hypothesis import strategies as st

DOMAIN = Domain(1, Address("0x" + "11" * 20))
NODE, CONSUMER = Address("0x" + "22" * 20), Address("0x" + "33" * 20)
VERSION = Hash32(b"\x07" * 32)
SIGNER = SigningKey(b"\x01" * 32)
ALWAYS = Validity(0, 0)


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


def published(batch: PostedBatch, body: bytes) -> BatchFile:
    return BatchFile(DOMAIN, batch.key, io.BytesIO(body))


def seen_in(batch: PostedBatch, file: BatchFile, validity: Validity | None = ALWAYS) -> list[SeenReceipt]:
    validities = {} if validity is None else {SIGNER.address: validity}
    return list(signed_by_node(batch, file, is_signed(file, validities)))


def test_signed_by_node__whole_batch__gives_leaves_in_order() -> None:
    lines = [line(1), line(2, public=False), line(3, public="yes")]
    batch = batch_of(lines)
    file = published(batch, body_of(lines))
    assert file.is_whole
    seen = seen_in(batch, file)
    assert [one.position for one in seen] == [0, 1, 2]
    assert [one.is_public for one in seen] == [True, False, False]
    signed = is_signed(file, {SIGNER.address: Validity(0, 0)})
    assert list(public_digests(file, signed)) == [seen[0].digest]


def test_signed_by_node__one_line_more__proves_no_leaf() -> None:
    lines = [line(1), line(2)]
    batch = batch_of(lines[:1])
    file = published(batch, body_of(lines))
    assert not file.is_whole
    assert [one.position for one in seen_in(batch, file)] == [None, None]


def test_signed_by_node__garbage_between__keeps_what_is_signed() -> None:
    good = [line(1), line(2)]
    batch = batch_of(good)
    body = b"\n".join(
        [b"{}", json.dumps(good[0]).encode(), b"x" * 20_000, b"[]", json.dumps(good[1]).encode()]
    )
    file = published(batch, body)
    assert not file.is_whole
    assert file.problem is not None and file.problem.step == "format"
    assert [one.signed.receipt.sequence for one in seen_in(batch, file)] == [1, 2]


def test_signed_by_node__key_not_valid_then__is_left_out() -> None:
    lines = [line(1, executed_at=99), line(2, executed_at=100), line(3, executed_at=200)]
    batch = batch_of(lines)
    file = published(batch, body_of(lines))
    assert signers_of(file, list) == [SIGNER.address]
    assert [one.signed.receipt.sequence for one in seen_in(batch, file, Validity(100, 200))] == [2]
    assert seen_in(batch, file, None) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@given(st.binary(max_size=300) | st.lists(json_values, max_size=5).map(body_of))
def test_batch_file__anything__is_read_without_an_end(body: bytes) -> None:
    file = published(batch_of([line(1)]), body)
    assert len(file) == 0
    assert not file.is_whole


FIELDS = ("node", "version_id", "output_hash", "price", "sequence", "executed_at", "signature", "digest")


@given(st.sampled_from(FIELDS), json_values)
def test_batch_file__one_field_changed__is_another_batch(field: str, value: Any) -> None:
    good = line(1)
    if value == good[field]:
        return
    batch = batch_of([good])
    file = published(batch, body_of([good | {field: value}]))
    assert not file.is_whole or field == "signature"
    assert seen_in(batch, file) == []


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
