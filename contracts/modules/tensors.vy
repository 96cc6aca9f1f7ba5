# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Typed elements of committed tensors
@license GNU Affero General Public License v3.0 only
@notice Elements are little-endian, in chunks of 1,024 bytes under a Merkle root. Bytes: SPEC.md §2; how a value is
        read by its dtype: §10.
"""


from . import elements
from . import merkle


CHUNK: constant(uint256) = 1_024
MAX_CHUNK_DEPTH: constant(uint256) = 22
MAX_TENSOR_BYTES: constant(uint256) = 2**32


_TENSOR: constant(bytes1) = 0x02
_TENSORS: constant(bytes1) = 0x03


@internal
@pure
def _size(dtype: uint256) -> uint256:
    """
    @dev Bytes of an element.
    """
    size: uint256 = elements._width(dtype)
    assert size != 0, "steps: dtype is none that programs have"
    return size


@internal
@pure
def _wrap(number: int256, dtype: uint256) -> int256:
    """
    @dev The number reduced to the dtype's width in two's complement and read back with its sign.
    """
    unused: uint256 = unsafe_sub(256, unsafe_mul(8, self._size(dtype)))
    if (elements._SIGNED >> dtype) & 1 == 1:
        return (number << unused) >> unused
    bits: uint256 = convert(convert(number, bytes32), uint256)
    return convert((bits << unused) >> unused, int256)


@internal
@pure
def _element(
    dtype: uint256,
    count: uint256,
    element: uint256,
    root: bytes32,
    chunk: Bytes[CHUNK],
    siblings: DynArray[bytes32, MAX_CHUNK_DEPTH],
) -> int256:
    """
    @dev The value of one of a tensor's `count` elements, element < count < 2^64, in the chunk that the root commits to.
    """
    size: uint256 = self._size(dtype)
    length: uint256 = unsafe_mul(count, size)
    assert length <= MAX_TENSOR_BYTES, "steps: tensor is too large"
    start: uint256 = unsafe_mul(element, size)
    position: uint256 = start // CHUNK
    assert len(chunk) == min(CHUNK, length - position * CHUNK), "steps: chunk has the wrong length"
    chunks: uint256 = unsafe_add(length, CHUNK - 1) // CHUNK
    assert merkle._is_depth(len(siblings), chunks), "steps: chunk's proof has the wrong depth"
    found: bytes32 = merkle._root(merkle._bytes_hash(chunk), siblings, position)
    assert found == root, "steps: chunk is not in the tensor"
    return elements._element(chunk, (start % CHUNK) // size, dtype)


@internal
@pure
def _commitment(dtype: bytes1, rank: bytes1, dims: Bytes[64], root: bytes32) -> bytes32:
    """
    @dev The commitment to a tensor; dims are its big-endian u32s.
    """
    return sha256(concat(_TENSOR, dtype, rank, dims, root))


@internal
@pure
def _hash_of(commitments: DynArray[bytes32, 8]) -> bytes32:
    """
    @dev The `input_hash` or `output_hash` of tensors in signature order.
    """
    return sha256(concat(_TENSORS, slice(abi_encode(commitments), 64, unsafe_mul(32, len(commitments)))))
