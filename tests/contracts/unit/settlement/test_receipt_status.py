from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import boa
import pytest
from assay.commitments.merkle import MerkleTree
from assay.commitments.receipts import voucher_digest
from assay.commitments.signing import SigningKey
from assay.types import Receipt, ReceiptStatus

from tests.support.contracts import ZERO_HASH
from tests.support.market import DISPUTE_WINDOW, UNIT, Market, as_tuple


@pytest.fixture
def receipts(market: Market, alice: SigningKey) -> list[Receipt]:
    return [market.receipt(alice.address, UNIT, sequence) for sequence in range(1, 6)]


@pytest.fixture
def tree(market: Market, receipts: list[Receipt]) -> MerkleTree:
    return MerkleTree([market.digest(receipt) for receipt in receipts])


@pytest.fixture
def status(market: Market, receipts: list[Receipt], tree: MerkleTree) -> Callable[..., ReceiptStatus]:
    """`status(batch, receipt, index)`: as the contract answers with the tree's proof."""

    def ask(batch: bytes, receipt: Receipt, index: int, siblings: list[bytes] | None = None) -> ReceiptStatus:
        proof = list(tree.proof(index % len(receipts))) if siblings is None else siblings
        return ReceiptStatus(market.settlement.receipt_status(batch, as_tuple(receipt), proof, index))

    return ask


def test_receipt_status__each_receipt__is_pending_then_final(
    market: Market, receipts: list[Receipt], tree: MerkleTree, status: Callable[..., ReceiptStatus]
) -> None:
    posted = market.post(root=tree.root)
    for index, receipt in enumerate(receipts):
        assert status(posted, receipt, index) is ReceiptStatus.PENDING
    boa.env.time_travel(seconds=DISPUTE_WINDOW - 1)
    assert status(posted, receipts[0], 0) is ReceiptStatus.PENDING
    boa.env.time_travel(seconds=1)
    for index, receipt in enumerate(receipts):
        assert status(posted, receipt, index) is ReceiptStatus.FINAL
    market.settlement.collect([(market.node, market.version_id, tree.root)])
    assert status(posted, receipts[0], 0) is ReceiptStatus.FINAL


def test_receipt_status__held__stays_pending(
    market: Market,
    receipts: list[Receipt],
    tree: MerkleTree,
    status: Callable[..., ReceiptStatus],
    dispute_game: str,
) -> None:
    posted = market.post(root=tree.root)
    market.settlement.hold(posted, sender=dispute_game)
    market.finish()
    assert status(posted, receipts[0], 0) is ReceiptStatus.PENDING
    market.settlement.release(posted, sender=dispute_game)
    assert status(posted, receipts[0], 0) is ReceiptStatus.FINAL


def test_receipt_status__void__is_void_and_its_neighbours_are_not(
    market: Market,
    receipts: list[Receipt],
    tree: MerkleTree,
    status: Callable[..., ReceiptStatus],
    dispute_game: str,
) -> None:
    posted = market.post(root=tree.root)
    market.settlement.void(posted, as_tuple(receipts[1]), sender=dispute_game)
    market.finish()
    found = [status(posted, receipt, index) for index, receipt in enumerate(receipts)]
    assert found == [ReceiptStatus.VOID if i == 1 else ReceiptStatus.FINAL for i in range(5)]


def test_receipt_status__unknown_batch__is_unknown(
    market: Market, receipts: list[Receipt], tree: MerkleTree, status: Callable[..., ReceiptStatus]
) -> None:
    for batch in (ZERO_HASH, b"\x01" * 32):
        assert status(batch, receipts[0], 0) is ReceiptStatus.UNKNOWN


def test_receipt_status__proof_that_leads_elsewhere__is_unknown(
    market: Market, receipts: list[Receipt], tree: MerkleTree, status: Callable[..., ReceiptStatus]
) -> None:
    posted = market.post(root=tree.root)
    proof = list(tree.proof(0))
    wrong = [
        (receipts[0], 1, None),
        (receipts[0], 8, None),
        (receipts[0], 0, proof[:-1]),
        (receipts[0], 0, [*proof, bytes(32)]),
        (receipts[0], 0, []),
        (replace(receipts[0], price=receipts[0].price + 1), 0, None),
        (replace(receipts[0], version_id=b"\x01" * 32), 0, None),
        (replace(receipts[0], node=receipts[0].consumer), 0, None),
    ]
    for receipt, index, siblings in wrong:
        assert status(posted, receipt, index, siblings) is ReceiptStatus.UNKNOWN
    assert status(posted, receipts[0], 0) is ReceiptStatus.PENDING


def test_receipt_status__index_above_the_tree__is_unknown(
    market: Market, receipts: list[Receipt], tree: MerkleTree, status: Callable[..., ReceiptStatus]
) -> None:
    """Bits beyond the depth must not be ignored: one receipt would stand at many places."""
    posted = market.post(root=tree.root)
    proof = list(tree.proof(0))
    for index in (8, 2**32, 2**255):
        assert status(posted, receipts[0], index, proof) is ReceiptStatus.UNKNOWN


def test_receipt_status__batch_of_one__has_an_empty_proof(market: Market, alice: SigningKey) -> None:
    receipt = market.receipt(alice.address, 0)
    tree = MerkleTree([market.digest(receipt)])
    posted = market.post(root=tree.root)
    found = market.settlement.receipt_status(posted, as_tuple(receipt), [], 0)
    assert found == ReceiptStatus.PENDING


def test_digests__receipt_and_voucher__are_pythons(market: Market, alice: SigningKey) -> None:
    receipt = market.receipt(alice.address, 2**128 - 1, 2**64 - 1, executed_at=2**64 - 1)
    assert market.settlement.receipt_digest(as_tuple(receipt)) == market.digest(receipt)
    voucher = market.voucher(alice.address, 2**128 - 1, 2**64 - 1)
    found = market.settlement.voucher_digest(
        voucher.consumer, voucher.node, voucher.version_id, voucher.amount, voucher.count
    )
    assert found == voucher_digest(market.domain, voucher)
