# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Positional sha256 Merkle trees
@license GNU Affero General Public License v3.0 only
@notice Leaves and nodes are hashed under different prefixes, so no inner node passes for a leaf. Bytes: SPEC.md §2.
"""


MAX_DEPTH: constant(uint256) = 32
MAX_LEAF_BYTES: constant(uint256) = 2_048


_LEAF: constant(bytes1) = 0x00
_NODE: constant(bytes1) = 0x01


@internal
@pure
def _leaf_hash(data: bytes32) -> bytes32:
    return sha256(concat(_LEAF, data))


@internal
@pure
def _node_hash(left: bytes32, right: bytes32) -> bytes32:
    return sha256(concat(_NODE, left, right))


@internal
@pure
def _root(leaf: bytes32, siblings: DynArray[bytes32, MAX_DEPTH], index: uint256) -> bytes32:
    """
    @dev The root that `leaf` at `index` leads to, or zero if the index lies outside the tree. Bit k of the index
         says on which side of sibling k the path stands.
    """
    node: bytes32 = leaf
    path: uint256 = index
    for sibling: bytes32 in siblings:
        if path & 1 == 0:
            node = sha256(concat(_NODE, node, sibling))
        else:
            node = sha256(concat(_NODE, sibling, node))
        path >>= 1
    return node if path == 0 else empty(bytes32)


@internal
@pure
def _root_of(nodes: DynArray[bytes32, 16]) -> bytes32:
    """
    @dev What a full level of nodes hashes to; zero unless their number is a power of two.
    """
    level: DynArray[bytes32, 16] = nodes
    count: uint256 = len(nodes)
    if count == 0 or count & (count - 1) != 0:
        return empty(bytes32)
    for _: uint256 in range(4):
        if count == 1:
            break
        count //= 2
        for i: uint256 in range(count, bound=8):
            level[i] = sha256(concat(_NODE, level[2 * i], level[2 * i + 1]))
    return level[0]


@internal
@pure
def _bytes_hash(data: Bytes[MAX_LEAF_BYTES]) -> bytes32:
    """
    @dev The leaf of any bytes, a chunk or a record.
    """
    return sha256(concat(_LEAF, data))


@internal
@pure
def _is_depth(depth: uint256, leaves: uint256) -> bool:
    """
    @dev Whether a tree of that many leaves is that deep. Depths are fixed by counts, so that a proof of another
         length is refused whatever it leads to.
    """
    if leaves == 0 or depth > MAX_DEPTH or leaves > 1 << depth:
        return False
    return depth == 0 or leaves > 1 << unsafe_sub(depth, 1)
