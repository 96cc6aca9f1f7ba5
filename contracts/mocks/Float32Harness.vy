# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Float instructions over packed words
@license GNU Affero General Public License v3.0 only
@notice Lets tests put thousands of patterns a call through `float32`.
@custom:security For tests only.
"""


from ..modules import float32


MAX_CASES: constant(uint256) = 4_096


@external
@pure
def binary(op: uint256, pairs: DynArray[uint256, MAX_CASES]) -> DynArray[uint256, MAX_CASES]:
    """
    @notice The results of one instruction.
    @param op Its code, as in SPEC.md §10.
    @param pairs Each a << 32 | b.
    """
    results: DynArray[uint256, MAX_CASES] = []
    for pair: uint256 in pairs:
        results.append(self._binary(op, pair >> 32, pair % 2**32))
    return results


@external
@pure
def from_int(numbers: DynArray[int256, MAX_CASES]) -> DynArray[uint256, MAX_CASES]:
    """
    @notice The nearest floats.
    @param numbers Any integers.
    """
    results: DynArray[uint256, MAX_CASES] = []
    for number: int256 in numbers:
        results.append(float32._from_int(number))
    return results


@external
@pure
def to_int(patterns: DynArray[uint256, MAX_CASES], nearest: bool) -> DynArray[int256, MAX_CASES]:
    """
    @notice The integers of floats.
    @param patterns The floats.
    @param nearest Whether to the nearest, ties to even; else toward zero.
    """
    results: DynArray[int256, MAX_CASES] = []
    for pattern: uint256 in patterns:
        results.append(float32._to_int(pattern, nearest))
    return results


@internal
@pure
def _binary(op: uint256, a: uint256, b: uint256) -> uint256:
    if op == 48:
        return float32._add(a, b)
    if op == 49:
        return float32._add(a, b ^ float32.SIGN)
    if op == 50:
        return float32._mul(a, b)
    if op == 51:
        return float32._div(a, b)
    if op == 52:
        return float32._min(a, b)
    if op == 53:
        return float32._max(a, b)
    if op == 54:
        return convert(float32._eq(a, b), uint256)
    if op == 55:
        return convert(float32._lt(a, b), uint256)
    return convert(float32._le(a, b), uint256)
