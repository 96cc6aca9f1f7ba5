# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Tensor commitments in Vyper
@license GNU Affero General Public License v3.0 only
@notice A second implementation of SPEC.md §2 for tensors of up to 8 chunks, held to the test vectors.
@custom:security For tests only.
"""


from ..modules import merkle


CHUNK: constant(uint256) = 1_024
MAX_BYTES: constant(uint256) = 8 * CHUNK
MAX_DEPTH: constant(uint256) = 3


@external
@pure
def tensor_root(data: Bytes[MAX_BYTES]) -> bytes32:
    """
    @notice The Merkle root over the data's chunks of 1,024 bytes; no data is one empty chunk.
    @param data The tensor's bytes, row-major and little-endian.
    """
    nodes: bytes32[8] = empty(bytes32[8])
    count: uint256 = max((len(data) + CHUNK - 1) // CHUNK, 1)
    for i: uint256 in range(count, bound=8):
        start: uint256 = i * CHUNK
        nodes[i] = sha256(concat(0x00, slice(data, start, min(CHUNK, len(data) - start))))
    width: uint256 = 1
    for level: uint256 in range(MAX_DEPTH):
        if width < count:
            width *= 2
    for level: uint256 in range(MAX_DEPTH):
        width //= 2
        for i: uint256 in range(width, bound=4):
            nodes[i] = merkle._node_hash(nodes[2 * i], nodes[2 * i + 1])
    return nodes[0]


@external
@pure
def tensor_commitment(dtype: uint8, dims: DynArray[uint32, 16], root: bytes32) -> bytes32:
    """
    @notice The commitment to a tensor.
    @param dtype ONNX `TensorProto.DataType`.
    @param dims Its shape.
    @param root Its tensor root.
    """
    words: uint256[2] = empty(uint256[2])
    place: uint256 = 0
    for dim: uint32 in dims:
        words[place // 8] |= convert(dim, uint256) << (224 - 32 * (place % 8))
        place += 1
    packed: Bytes[64] = slice(concat(convert(words[0], bytes32), convert(words[1], bytes32)), 0, 4 * len(dims))
    rank: bytes1 = convert(convert(len(dims), uint8), bytes1)
    return sha256(concat(0x02, convert(dtype, bytes1), rank, packed, root))


@external
@pure
def commit_tensors(commitments: DynArray[bytes32, 8]) -> bytes32:
    """
    @notice The `input_hash` or `output_hash` of tensors.
    @param commitments Theirs, in signature order.
    """
    return sha256(concat(0x03, slice(abi_encode(commitments), 64, 32 * len(commitments))))
