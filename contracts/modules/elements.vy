# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Elements of committed tensors
@license GNU Affero General Public License v3.0 only
@notice Little-endian values by ONNX data type; a float32 is its bit pattern. Bytes: SPEC.md §2 and §10.
"""


# @dev Four bits a data type, the type's number times four up: its width in bytes; 0: none that the profile has.
_WIDTHS: constant(uint256) = 37_154_767_862_108_480
# @dev The types that are signed, as bits: int8, int16, int32, int64.
_SIGNED: constant(uint256) = 232


@internal
@pure
def _width(dtype: uint256) -> uint256:
    return (_WIDTHS >> (dtype * 4)) & 15


@internal
@pure
def _element(data: Bytes[2048], index: uint256, dtype: uint256) -> int256:
    """
    @dev The element at `index`, which the caller knows to be inside the data. Different bytes are different values.
    """
    width: uint256 = self._width(dtype)
    word: uint256 = convert(extract32(concat(data, empty(bytes32)), index * width), uint256)
    value: uint256 = 0
    for i: uint256 in range(width, bound=8):
        value |= ((word >> (248 - 8 * i)) & 255) << (8 * i)
    if (_SIGNED >> dtype) & 1 == 1 and value >> (8 * width - 1) == 1:
        return convert(value, int256) - convert(1 << (8 * width), int256)
    return convert(value, int256)
