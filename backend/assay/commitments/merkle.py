"""sha256 Merkle trees (SPEC.md §2): leaf = sha256(0x00 ‖ bytes), node = sha256(0x01 ‖ left ‖ right).

A tree of n leaves is padded with `bytes32(0)` to the next power of two; padding subtrees are precomputed, so
the work is 2n hashes whatever n is. Levels are kept as one bytes object each, 32 bytes a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice

from assay.types import Hash32

LEAF = b"\x00"
NODE = b"\x01"
MAX_DEPTH = 32
"""A tree has at most 2^32 leaves."""
_BLOCK_DEPTH = 8
_BLOCK_LEAVES = 1 << _BLOCK_DEPTH
"""Hashed at a time: they stay in the processor's cache, and other threads wait for half a millisecond."""


def leaf_hash(data: bytes | memoryview) -> Hash32:
    return Hash32(sha256(LEAF + data).digest())


def node_hash(left: bytes, right: bytes) -> Hash32:
    return Hash32(sha256(NODE + left + right).digest())


def _padding() -> tuple[Hash32, ...]:
    roots = [Hash32(bytes(32))]
    for _ in range(MAX_DEPTH):
        roots.append(node_hash(roots[-1], roots[-1]))
    return tuple(roots)


PADDING = _padding()
"""`PADDING[k]` is the root of a subtree of 2^k padding leaves."""


def depth_of(leaf_count: int) -> int:
    """Depth of the tree over `leaf_count` leaves: 0 for one leaf. Raises ValueError outside 1…2^32."""
    if not 1 <= leaf_count <= 1 << MAX_DEPTH:
        raise ValueError(f"a Merkle tree has 1 to 2^{MAX_DEPTH} leaves, not {leaf_count}")
    return (leaf_count - 1).bit_length()


def _leaf_blocks(leaf_datas: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The leaf hashes in runs of 2^8; the last may be shorter."""
    leaves = iter(leaf_datas)
    while block := b"".join([sha256(b"\x00" + data).digest() for data in islice(leaves, _BLOCK_LEAVES)]):
        yield block


def hash_leaves(leaf_datas: Iterable[bytes | memoryview]) -> bytes:
    """The leaf hashes of `leaf_datas`, concatenated."""
    return b"".join(_leaf_blocks(leaf_datas))


def _parents(level: bytes, height: int) -> bytes:
    """The level above `level`, whose nodes stand at `height` (leaves: 0)."""
    if len(level) % 64:
        level += PADDING[height]
    step, end = 64 * _BLOCK_LEAVES, len(level)
    blocks = (range(start, min(start + step, end), 64) for start in range(0, end, step))
    return b"".join(
        b"".join([sha256(b"\x01" + level[i : i + 64]).digest() for i in block]) for block in blocks
    )


def _fold(level: bytes, start: int, stop: int) -> bytes:
    """The level at height `stop` over the non-empty `level` at height `start`."""
    for height in range(start, stop):
        level = _parents(level, height)
    return level


def root_of_leaves(leaf_hashes: bytes) -> Hash32:
    """Root over concatenated leaf hashes. Raises ValueError if there is none."""
    return Hash32(_fold(leaf_hashes, 0, depth_of(len(leaf_hashes) // 32)))


def merkle_root(leaf_datas: Iterable[bytes | memoryview]) -> Hash32:
    """Root over a stream of leaves; keeps a node of each height. Raises ValueError if empty."""
    left: list[tuple[int, Hash32]] = []  # subtrees that have no sibling yet, and their heights: falling
    blocks = _leaf_blocks(leaf_datas)
    block = next(blocks, b"")
    count = len(block) // 32
    for following in blocks:
        _add(left, _BLOCK_DEPTH, Hash32(_fold(block, 0, _BLOCK_DEPTH)))
        block = following
        count += len(block) // 32
    depth = depth_of(count)
    if not left:
        return Hash32(_fold(block, 0, depth))
    _add(left, _BLOCK_DEPTH, Hash32(_fold(block, 0, _BLOCK_DEPTH)))
    while left[0][0] < depth:
        height = left[-1][0]
        _add(left, height, PADDING[height])
    return left[0][1]


def _add(left: list[tuple[int, Hash32]], height: int, node: Hash32) -> None:
    """A subtree to the right of those, which is not higher than any of them."""
    while left and left[-1][0] == height:
        node, height = node_hash(left.pop()[1], node), height + 1
    left.append((height, node))


class MerkleTree:
    """A tree with all its levels in memory: 64 bytes a leaf. Raises ValueError without leaves."""

    __slots__ = ("_levels", "leaf_count")

    def __init__(self, leaf_datas: Iterable[bytes | memoryview]) -> None:
        level = hash_leaves(leaf_datas)
        self.leaf_count = len(level) // 32
        self._levels = [level]
        for height in range(depth_of(self.leaf_count)):
            level = _parents(level, height)
            self._levels.append(level)

    @property
    def depth(self) -> int:
        return len(self._levels) - 1

    @property
    def root(self) -> Hash32:
        return Hash32(self._levels[-1])

    def node(self, height: int, index: int) -> Hash32:
        """A node by its height (leaves: 0), padding included. Raises IndexError outside the tree."""
        if not (0 <= height <= self.depth and 0 <= index < 1 << self.depth - height):
            raise IndexError(f"node {index} at height {height} is not in a tree of depth {self.depth}")
        return Hash32(self._levels[height][index * 32 : index * 32 + 32] or PADDING[height])

    def proof(self, index: int) -> list[Hash32]:
        """Siblings of leaf `index`, bottom-up, Raises IndexError without such a leaf."""
        if not 0 <= index < self.leaf_count:
            raise IndexError(f"leaf {index} is not in a tree of {self.leaf_count} leaves")
        siblings = []
        for height, level in enumerate(self._levels[:-1]):
            at = ((index >> height) ^ 1) * 32
            siblings.append(Hash32(level[at : at + 32] or PADDING[height]))
        return siblings


def verify_proof(
    root: bytes, leaf_data: bytes, siblings: Sequence[bytes], index: int, *, depth: int | None = None
) -> bool:
    """Whether `leaf_data` is leaf `index` under `root`; with `depth`, also that the proof has that length."""
    if len(siblings) > MAX_DEPTH or (depth is not None and len(siblings) != depth):
        return False
    if not 0 <= index < 1 << len(siblings) or any(len(sibling) != 32 for sibling in siblings):
        return False
    path: bytes = leaf_hash(leaf_data)
    for height, sibling in enumerate(siblings):
        path = node_hash(sibling, path) if index >> height & 1 else node_hash(path, sibling)
    return path == root
