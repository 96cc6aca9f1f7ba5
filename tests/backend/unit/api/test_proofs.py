"""Proofs from trees that are kept for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from hashlib import sha256

import pytest
from assay.api.proofs import Proofs, ProofsBusyError
from assay.commitments.merkle import MerkleTree


class Batch:
    """Counts how often its digests are read."""

    def __init__(self, name: str, leaves: int) -> None:
        self.name, self.reads = name, 0
        self.leaves = [sha256(f"{name} {number}".encode()).digest() for number in range(leaves)]

    def digests(self) -> Iterator[bytes]:
        self.reads += 1
        return iter(self.leaves)


def test_siblings__asked_again__are_the_trees_and_read_once() -> None:
    batch, proofs = Batch("a", 5), Proofs()
    for index in range(5):
        expected = MerkleTree(batch.leaves).proof(index)
        assert proofs.siblings(batch.name, index, batch.digests) == expected
    assert batch.reads == 1


def test_siblings__of_more_than_are_kept__the_oldest_make_room() -> None:
    """However large: a batch may have two million receipts, and anybody may ask."""
    batches, proofs = [Batch("a", 5), Batch("b", 5), Batch("c", 11)], Proofs(max_leaves=10)
    for batch in (*batches[:2], *batches[:2], batches[2], batches[2], batches[0]):
        proofs.siblings(batch.name, 0, batch.digests)
    assert [batch.reads for batch in batches] == [2, 1, 1]


def test_siblings__while_another_tree_is_built__waits_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("assay.api.proofs.WAIT_SECONDS", 0.05)
    batch, proofs, begun, let = Batch("a", 5), Proofs(), threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        begun.set()
        assert let.wait(60)
        return batch.digests()

    building = threading.Thread(target=proofs.siblings, args=(batch.name, 0, slowly))
    building.start()
    assert begun.wait(60)
    other = Batch("b", 5)
    with pytest.raises(ProofsBusyError):
        proofs.siblings(other.name, 0, other.digests)
    let.set()
    building.join(60)
    assert proofs.siblings(other.name, 0, other.digests) == MerkleTree(other.leaves).proof(0)
