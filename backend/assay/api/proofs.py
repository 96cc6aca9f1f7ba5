"""Proofs that receipts are in their batches, from trees that are kept for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Final

from assay.commitments.merkle import MerkleTree
from assay.errors import RequestError
from assay.types import Hash32

MAX_LEAVES: Final = 2_000_000
"""Of all trees that are kept: 64 bytes each."""
WAIT_SECONDS: Final = 10.0


class ProofsBusyError(RequestError):
    """Others' trees are being built."""

    def __init__(self) -> None:
        super().__init__(
            "proofs in other batches are being built; ask again in a minute", status=503, code="busy"
        )


class Proofs:
    """One per app; one tree is built at a time, from `digests` of a batch, which its id commits to."""

    def __init__(self, max_leaves: int = MAX_LEAVES) -> None:
        self._max_leaves = max_leaves
        self._trees: OrderedDict[str, MerkleTree] = OrderedDict()
        self._lock = Lock()

    def siblings(self, batch_id: str, index: int, digests: Callable[[], Iterable[bytes]]) -> list[Hash32]:
        """Of leaf `index`, bottom-up. Raises ProofsBusyError."""
        tree = self._trees.get(batch_id)
        if tree is None:
            if not self._lock.acquire(timeout=WAIT_SECONDS):
                raise ProofsBusyError
            try:
                tree = self._trees.get(batch_id) or self._keep(batch_id, MerkleTree(digests()))
            finally:
                self._lock.release()
        return tree.proof(index)

    def _keep(self, batch_id: str, tree: MerkleTree) -> MerkleTree:
        """The oldest make room."""
        self._trees[batch_id] = tree
        while (
            len(self._trees) > 1 and sum(kept.leaf_count for kept in self._trees.values()) > self._max_leaves
        ):
            self._trees.popitem(last=False)
        return tree
