# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title IEEE 754 binary32 on bit patterns
@license GNU Affero General Public License v3.0 only
@notice Round to nearest, ties to even; subnormals are kept; every NaN result is 0x7fc00000. Arguments are patterns
        below 2^32. A finite magnitude is significand * 2^exponent, so each operation is exact in integers and
        rounded once. The same as backend/assay/exact/float32.py. Rules: SPEC.md §10.
"""


SIGN: constant(uint256) = 2**31
MAGNITUDE: constant(uint256) = 2**31 - 1
INFINITY: constant(uint256) = 255 * 2**23
NAN: constant(uint256) = 511 * 2**22


_FRACTION: constant(uint256) = 2**23 - 1
_HIDDEN: constant(uint256) = 2**23
# @dev Beyond this distance the smaller addend only says on which side of the larger one the sum lies.
_FAR: constant(uint256) = 32
_QUOTIENT_BITS: constant(uint256) = 50
_POINT: constant(uint256) = 149
_MAX_INT64: constant(uint256) = 2**63 - 1


@internal
@pure
def _add(a: uint256, b: uint256) -> uint256:
    high: uint256 = a
    low: uint256 = b
    if a & MAGNITUDE < b & MAGNITUDE:
        high = b
        low = a
    opposed: bool = (a ^ b) & SIGN != 0
    sign: uint256 = high & SIGN
    high &= MAGNITUDE
    low &= MAGNITUDE
    if high >= INFINITY:
        if high > INFINITY or (opposed and low == INFINITY):
            return NAN
        return sign | INFINITY
    if opposed and high == low:
        return 0
    top: uint256 = self._significand(high)
    bottom: uint256 = self._significand(low)
    exponent: uint256 = self._exponent(low)
    distance: uint256 = unsafe_sub(self._exponent(high), exponent)
    if distance > _FAR:
        exponent = unsafe_add(exponent, unsafe_sub(distance, _FAR))
        bottom = min(bottom, 1)
        distance = _FAR
    top = top << distance
    total: uint256 = unsafe_sub(top, bottom) if opposed else unsafe_add(top, bottom)
    return self._pack(sign, total, unsafe_sub(convert(exponent, int256), convert(_POINT, int256)))


@internal
@pure
def _mul(a: uint256, b: uint256) -> uint256:
    sign: uint256 = (a ^ b) & SIGN
    x: uint256 = a & MAGNITUDE
    y: uint256 = b & MAGNITUDE
    if x >= INFINITY or y >= INFINITY:
        if x > INFINITY or y > INFINITY or x == 0 or y == 0:
            return NAN
        return sign | INFINITY
    return self._pack(
        sign,
        unsafe_mul(self._significand(x), self._significand(y)),
        unsafe_sub(convert(unsafe_add(self._exponent(x), self._exponent(y)), int256), 298),
    )


@internal
@pure
def _div(a: uint256, b: uint256) -> uint256:
    sign: uint256 = (a ^ b) & SIGN
    x: uint256 = a & MAGNITUDE
    y: uint256 = b & MAGNITUDE
    if x > INFINITY or y > INFINITY or (x == y and (x == 0 or x == INFINITY)):
        return NAN
    if x == INFINITY or y == 0:
        return sign | INFINITY
    if y == INFINITY:
        return sign
    dividend: uint256 = self._significand(x) << _QUOTIENT_BITS
    divisor: uint256 = self._significand(y)
    quotient: uint256 = unsafe_div(dividend, divisor) << 1
    if dividend % divisor != 0:
        quotient |= 1
    exponent: int256 = unsafe_sub(convert(self._exponent(x), int256), convert(self._exponent(y), int256))
    return self._pack(sign, quotient, unsafe_sub(exponent, convert(_QUOTIENT_BITS + 1, int256)))


@internal
@pure
def _min(a: uint256, b: uint256) -> uint256:
    if self._is_nan(a) or self._is_nan(b):
        return NAN
    return a if self._order(a) < self._order(b) else b


@internal
@pure
def _max(a: uint256, b: uint256) -> uint256:
    if self._is_nan(a) or self._is_nan(b):
        return NAN
    return a if self._order(a) > self._order(b) else b


@internal
@pure
def _eq(a: uint256, b: uint256) -> bool:
    return not self._is_nan(a) and not self._is_nan(b) and self._order(a) == self._order(b)


@internal
@pure
def _lt(a: uint256, b: uint256) -> bool:
    return not self._is_nan(a) and not self._is_nan(b) and self._order(a) < self._order(b)


@internal
@pure
def _le(a: uint256, b: uint256) -> bool:
    return not self._is_nan(a) and not self._is_nan(b) and self._order(a) <= self._order(b)


@internal
@pure
def _from_int(number: int256) -> uint256:
    """
    @dev The nearest float of any integer; beyond the finite range infinity of its sign.
    """
    sign: uint256 = 0
    magnitude: uint256 = convert(convert(number, bytes32), uint256)
    if number < 0:
        sign = SIGN
        magnitude = unsafe_sub(0, magnitude)
    if magnitude >> 128 != 0:
        return sign | INFINITY
    return self._pack(sign, magnitude, 0)


@internal
@pure
def _to_int(a: uint256, nearest: bool) -> int256:
    """
    @dev The nearest integer, ties to even, or the one toward zero. NaN gives 0; beyond int64 its nearest bound.
    """
    if self._is_nan(a):
        return 0
    magnitude: uint256 = self._significand(a & MAGNITUDE)
    exponent: uint256 = self._exponent(a & MAGNITUDE)
    if exponent >= _POINT:
        magnitude = magnitude << unsafe_sub(exponent, _POINT)
    elif nearest:
        magnitude = self._half_even(magnitude, unsafe_sub(_POINT, exponent))
    else:
        magnitude = magnitude >> unsafe_sub(_POINT, exponent)
    if a & SIGN == 0:
        return convert(min(magnitude, _MAX_INT64), int256)
    return unsafe_sub(0, convert(min(magnitude, _MAX_INT64 + 1), int256))


@internal
@pure
def _is_nan(a: uint256) -> bool:
    return a & MAGNITUDE > INFINITY


@internal
@pure
def _order(a: uint256) -> int256:
    """
    @dev An integer that ascends with the float; both zeros are 0.
    """
    magnitude: int256 = convert(a & MAGNITUDE, int256)
    return magnitude if a & SIGN == 0 else unsafe_sub(0, magnitude)


@internal
@pure
def _significand(x: uint256) -> uint256:
    return x if x < _HIDDEN else (x & _FRACTION) | _HIDDEN


@internal
@pure
def _exponent(x: uint256) -> uint256:
    """
    @dev Biased so that the least, a subnormal's, is 0: the magnitude is significand * 2^(exponent - _POINT).
    """
    return unsafe_sub(max(x >> 23, 1), 1)


@internal
@pure
def _half_even(magnitude: uint256, bits: uint256) -> uint256:
    """
    @dev `magnitude / 2^bits` to the nearest integer, ties to even; 0 < bits < 256.
    """
    quotient: uint256 = magnitude >> bits
    half: uint256 = 1 << unsafe_sub(bits, 1)
    rest: uint256 = magnitude & unsafe_sub(half << 1, 1)
    if rest > half or (rest == half and quotient & 1 == 1):
        return unsafe_add(quotient, 1)
    return quotient


@internal
@pure
def _pack(sign: uint256, significand: uint256, exponent: int256) -> uint256:
    """
    @dev The nearest pattern of significand * 2^exponent, which is exact, below 2^128 and not below 2^-320. A carry
         out of 24 bits, and out of the subnormals, moves into the exponent field by itself.
    """
    if significand == 0:
        return sign
    to: int256 = max(unsafe_add(exponent, unsafe_sub(self._bit_length(significand), 24)), -149)
    distance: int256 = unsafe_sub(to, exponent)
    rounded: uint256 = 0
    if distance > 0:
        rounded = self._half_even(significand, convert(distance, uint256))
    else:
        rounded = significand << convert(unsafe_sub(0, distance), uint256)
    return sign | min(unsafe_add(convert(unsafe_add(to, 149), uint256) << 23, rounded), INFINITY)


@internal
@pure
def _bit_length(magnitude: uint256) -> int256:
    """
    @dev For 0 < magnitude < 2^128.
    """
    rest: uint256 = magnitude
    length: int256 = 1
    if rest >> 64 != 0:
        rest = rest >> 64
        length = 65
    if rest >> 32 != 0:
        rest = rest >> 32
        length = unsafe_add(length, 32)
    if rest >> 16 != 0:
        rest = rest >> 16
        length = unsafe_add(length, 16)
    if rest >> 8 != 0:
        rest = rest >> 8
        length = unsafe_add(length, 8)
    if rest >> 4 != 0:
        rest = rest >> 4
        length = unsafe_add(length, 4)
    if rest >> 2 != 0:
        rest = rest >> 2
        length = unsafe_add(length, 2)
    return unsafe_add(length, convert(rest >> 1, int256))
