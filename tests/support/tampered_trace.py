"""Traces that lie: what a cheating node holds, and forged trees under them.

TamperedTrace(trace, {kernel: {element: value}})      # some elements changed, nothing computed anew
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from assay.commitments.merkle import MerkleTree, leaf_hash, node_hash
from assay.commitments.tensors import CHUNK_BYTES
from assay.exact.dispute import element_width, encode_elements
from assay.exact.program import Program, Source
from assay.types import Hash32

Changes = Mapping[int, Mapping[int, int]]
"""kernel → element (over all rows) → the value claimed."""


@dataclass(frozen=True)
class Opened:
    """`IStepVerifier.Opening`."""

    root: bytes = bytes(32)
    trace_siblings: tuple[bytes, ...] = ()
    chunk: bytes = b""
    siblings: tuple[bytes, ...] = ()


def chunks_of(data: bytes) -> list[bytes]:
    return [data[at : at + CHUNK_BYTES] for at in range(0, max(len(data), 1), CHUNK_BYTES)]


class ForgedTree(MerkleTree):
    """A tree over given leaf hashes, a power of two of them: its padding may be anything."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.leaf_count = len(leaves)
        self._levels = [b"".join(leaves)]
        level = list(leaves)
        while len(level) > 1:
            level = [node_hash(level[at], level[at + 1]) for at in range(0, len(level), 2)]
            self._levels.append(b"".join(level))


def with_padding(tree: MerkleTree, index: int, leaf: bytes) -> ForgedTree:
    """The tree with a leaf of its padding, or any other one, replaced."""
    leaves = [bytes(tree.node(0, place)) for place in range(1 << tree.depth)]
    leaves[index] = leaf
    return ForgedTree(leaves)


class TamperedTrace:
    """`trace` with changed elements. `lie_from`: after how many steps an element's accumulators begin to lie
    (default: only after the last). `trees` and `tree` may be forged besides.
    """

    def __init__(
        self,
        trace: Any,
        changes: Changes,
        *,
        lie_from: int | None = None,
        trees: Mapping[int, MerkleTree] | None = None,
        chunks: Mapping[tuple[int, int], bytes] | None = None,
    ) -> None:
        self._trace, self._changes, self._lie_from = trace, changes, lie_from
        self._chunks = dict(chunks or {})
        self._tensors = {kernel: self._change(kernel) for kernel in changes}
        self._trees = {kernel: MerkleTree(chunks_of(data)) for kernel, data in self._tensors.items()}
        self._trees |= trees or {}

    @property
    def program(self) -> Program:
        program: Program = self._trace.program
        return program

    @property
    def rows(self) -> int:
        return int(self._trace.rows)

    @property
    def inputs(self) -> Any:
        return self._trace.inputs

    @property
    def input_roots(self) -> Sequence[bytes]:
        roots: Sequence[bytes] = self._trace.input_roots
        return roots

    @cached_property
    def roots(self) -> tuple[Hash32, ...]:
        honest = enumerate(self._trace.roots)
        return tuple(self._trees[k].root if k in self._trees else Hash32(root) for k, root in honest)

    @cached_property
    def tree(self) -> MerkleTree:
        return MerkleTree(self.roots)

    @property
    def root(self) -> Hash32:
        return self.tree.root

    def tensor(self, kernel: int) -> bytes:
        return self._tensors[kernel] if kernel in self._tensors else bytes(self._trace.tensor(kernel))

    def tensor_tree(self, kernel: int) -> MerkleTree:
        tree: MerkleTree = self._trees.get(kernel) or self._trace.tensor_tree(kernel)
        return tree

    def chunk(self, kernel: int, position: int) -> bytes:
        forged = self._chunks.get((kernel, position))
        return chunks_of(self.tensor(kernel))[position] if forged is None else forged

    def accumulators(self, kernel: int, element: int, steps: Sequence[int]) -> list[int]:
        values = list(self._trace.accumulators(kernel, element, steps))
        claimed = self._changes.get(kernel, {}).get(element)
        if claimed is None:
            return values
        total = self.program.kernels[kernel].steps
        start = total if self._lie_from is None else self._lie_from
        difference = claimed - self._trace.accumulators(kernel, element, [total])[0]
        return [
            value + difference if step >= start else value for step, value in zip(steps, values, strict=True)
        ]

    def openings(self, kernel: int, element: int, step: int) -> list[Opened]:
        found = []
        honest = self._trace.openings(kernel, element, step)
        for operand, one in zip(self.program.kernels[kernel].operands, honest, strict=True):
            opened = Opened(one.root, tuple(one.trace_siblings), one.chunk, tuple(one.siblings))
            is_kernel = operand.source is Source.KERNEL and one.chunk
            found.append(self._reopened(operand.index, opened) if is_kernel else opened)
        return found

    def _reopened(self, kernel: int, honest: Opened) -> Opened:
        """The same place of this trace's tensor."""
        position = chunks_of(bytes(self._trace.tensor(kernel))).index(honest.chunk)
        tree = self.tensor_tree(kernel)
        proof = tuple(self.tree.proof(kernel))
        return Opened(tree.root, proof, self.chunk(kernel, position), tuple(tree.proof(position)))

    def _change(self, kernel: int) -> bytes:
        data, dtype = bytearray(self._trace.tensor(kernel)), self.program.kernels[kernel].dtype
        width = element_width(dtype)
        for element, value in self._changes[kernel].items():
            data[element * width : (element + 1) * width] = encode_elements(dtype, [value])
        return bytes(data)


def forged_leaf(data: bytes) -> Hash32:
    """The leaf of any bytes, also of more or fewer than a chunk has."""
    return leaf_hash(data)
