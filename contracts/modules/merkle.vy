# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Positional sha256 Merkle trees
@license GNU Affero General Public License v3.0 only
@notice Leaves and nodes are hashed under different prefixes, so no inner node passes for a leaf. Bytes: SPEC.md §2.
"""


MAX_DEPTH: constant(uint256) = 32


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
