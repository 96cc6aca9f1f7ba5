"""A batch's file against its root: whole, cut off, swollen, shuffled; read in bounded memory."""

from __future__ import annotations

import io
import json
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from assay.commitments.identifiers import batch_id
from assay.commitments.receipts import receipt_digest, receipt_to_json, receipts_tree
from assay.commitments.signing import SigningKey
from assay.errors import VerificationError
from assay.index import batch_file
from assay.index.batch_file import BatchFile, spans_of, spool
from assay.index.download import Interrupted
from assay.index.verify import BatchClaim, Validity, verify_batch
from assay.types import Address, BatchKey, Domain, Hash32, Receipt, SignedReceipt
from hypothesis import given
from hypothesis import strategies as st

DOMAIN = Domain(1, Address("0x" + "11" * 20))
NODE = Address("0x" + "22" * 20)
VERSION = Hash32(b"\x07" * 32)
SIGNER = SigningKey(b"\x01" * 32)


@dataclass(frozen=True)
class Made:
    claim: BatchClaim
    lines: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        return b"\n".join(self.lines) + b"\n"

    def read(self, body: bytes | None = None, **options: Any) -> BatchFile:
        return BatchFile(DOMAIN, self.claim.key, io.BytesIO(self.body if body is None else body), **options)


def receipt(consumer: int, sequence: int) -> SignedReceipt:
    payer = Address("0x" + f"{consumer:040d}")
    made = Receipt(NODE, payer, VERSION, VERSION, VERSION, 1, sequence, 100)
    return SignedReceipt(made, SIGNER.sign(receipt_digest(DOMAIN, made)))


@cache
def made(counts: tuple[int, ...]) -> Made:
    """A batch of so many receipts of each consumer."""
    signed = [receipt(who, n) for who, count in enumerate(counts, 1) for n in range(1, count + 1)]
    digests = [receipt_digest(DOMAIN, one.receipt) for one in signed]
    key = BatchKey(NODE, VERSION, receipts_tree(digests).root)
    claim = BatchClaim(DOMAIN, batch_id(key), key, 200, {SIGNER.address: Validity(0, 0)})
    header = {
        "batch_id": "0x" + claim.batch_id.hex(),
        "node": NODE,
        "version_id": "0x" + VERSION.hex(),
        "receipts_root": "0x" + key.receipts_root.hex(),
        "count": len(signed),
    }
    return Made(
        claim,
        tuple(json.dumps(row).encode() for row in (header, *(receipt_to_json(DOMAIN, s) for s in signed))),
    )


def step_of(batch: Made, body: bytes) -> str:
    with pytest.raises(VerificationError) as caught:
        verify_batch(batch.claim, batch.read(body))
    return caught.value.step


def with_count(batch: Made, count: int, lines: tuple[bytes, ...]) -> bytes:
    header = json.dumps(json.loads(batch.lines[0]) | {"count": count}).encode()
    return b"\n".join((header, *lines))


def test_verify_batch__as_it_was_posted__is_whole_and_read_again_in_order() -> None:
    batch = made((3, 1, 2))
    file = batch.read()
    verify_batch(batch.claim, file)
    assert [one.receipt.sequence for one in file.receipts()] == [1, 2, 3, 1, 1, 2]
    assert list(file.spans.values()) == [(1, 3), (1, 1), (1, 2)]
    assert file.signers == (array("H", [0] * 6), [SIGNER.address])


@given(st.data())
def test_verify_batch__cut_off_anywhere__is_not_the_batch(data: st.DataObject) -> None:
    batch = made((3, 1))
    size = data.draw(st.integers(0, len(batch.body) - 2))
    assert step_of(batch, batch.body[:size]) in {"format", "header", "count"}


@given(st.permutations(range(4)))
def test_verify_batch__another_order__is_another_root(order: list[int]) -> None:
    batch = made((3, 1))
    body = b"\n".join((batch.lines[0], *(batch.lines[1 + i] for i in order)))
    if order == sorted(order):
        verify_batch(batch.claim, batch.read(body))
    else:
        assert step_of(batch, body) == "root"


def test_verify_batch__a_receipt_more_or_less__is_another_root() -> None:
    batch, more = made((3, 1)), made((4, 1))
    assert step_of(batch, with_count(batch, 5, more.lines[1:])) == "root"
    assert step_of(batch, with_count(batch, 3, batch.lines[1:4])) == "root"
    assert step_of(batch, with_count(batch, 4, (*batch.lines[1:4], batch.lines[3]))) == "duplicate"
    assert step_of(batch, with_count(batch, 5, batch.lines[1:])) == "count"


@pytest.mark.parametrize("line", [b"x" * 10_000, b"[" * 5_000, b"", b"null", b'{"a": ' + b"9" * 5_000 + b"}"])
def test_verify_batch__a_line_that_is_no_receipt__says_which(line: bytes) -> None:
    batch = made((3, 1))
    body = with_count(batch, 5, (*batch.lines[1:3], line, *batch.lines[3:]))
    with pytest.raises(VerificationError, match="line 4") as caught:
        verify_batch(batch.claim, batch.read(body))
    assert caught.value.step in {"format", "receipt"}
    assert len(batch.read(body)) == 4


@pytest.mark.parametrize("body", [b"", b"\n", b"{}", b"x" * 9_000, b"x" * 9_000 + b"\n{}\n"])
def test_verify_batch__no_batch_at_all__is_refused_by_its_form(body: bytes) -> None:
    assert step_of(made((1,)), body) == "format"


def test_batch_file__more_lines_than_are_read__ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_file, "MAX_RECEIPTS", 3)
    batch = made((3, 1))
    assert step_of(batch, batch.body) in {"format", "count"}
    assert len(batch.read()) == 3


def test_verify_batch__signed_by_somebody_else__names_the_receipt() -> None:
    batch = made((2,))
    claim = replace(batch.claim, signers={SIGNER.address: Validity(0, 50)})
    with pytest.raises(VerificationError, match="not the node's signer at 100") as caught:
        verify_batch(claim, batch.read())
    assert caught.value.step == "signer"
    late = replace(batch.claim, posted_at=100 - 3_601)
    with pytest.raises(VerificationError, match="executed after") as caught:
        verify_batch(late, batch.read())
    assert caught.value.step == "time"


def test_batch_file__process_stops__is_left_half_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_file, "CHUNK", 2)
    batch = made((3, 1))
    with pytest.raises(Interrupted):
        batch.read(should_stop=lambda: True)


@pytest.mark.parametrize("read", [BatchFile.digests, BatchFile.receipts])
def test_batch_file__process_stops_while_it_is_compared_or_stored__is_left(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[BatchFile], Iterator[object]]
) -> None:
    monkeypatch.setattr(batch_file, "CHUNK", 2)
    told = list[bool]()
    stored = made((3, 1)).read(should_stop=lambda: bool(told))
    receipts = read(stored)
    for _ in range(2):
        next(receipts)
    told.append(True)
    with pytest.raises(Interrupted):
        next(receipts)


def test_batch_file__thousands_of_receipts__keeps_little_of_each(tmp_path: Path) -> None:
    batch = made((2_000,))
    with spool(tmp_path / "spool") as file:
        file.write(batch.body)
        assert list((tmp_path / "spool").iterdir()) == []
        tracemalloc.start()
        try:
            read = BatchFile(DOMAIN, batch.claim.key, file)
            verify_batch(batch.claim, read)
            kept = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert kept < 200 * 2_000 + 200_000


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), max_size=8))
def test_spans_of__any_sequences__are_spans_or_refused(pairs: list[tuple[int, int]]) -> None:
    names = [Address(f"0x{i}") for i in range(3)]
    found: dict[int, list[int]] = {}
    for who, sequence in pairs:
        found.setdefault(who, []).append(sequence)
    good = all(sorted(s) == list(range(min(s), max(s) + 1)) and min(s) >= 1 for s in found.values())
    given_ = array("I", [who for who, _ in pairs]), array("Q", [sequence for _, sequence in pairs])
    if good:
        assert spans_of(names, *given_) == {names[w]: (min(s), max(s)) for w, s in found.items()}
    else:
        with pytest.raises(VerificationError) as caught:
            spans_of(names, *given_)
        assert caught.value.step == "sequence"
