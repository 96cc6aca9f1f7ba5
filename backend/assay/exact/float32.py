"""IEEE 754 binary32 on bit patterns, in integers alone: an expression's float instructions (SPEC.md §10).

Every argument and float result is a bit pattern from 0 to 2^32 - 1. Round to nearest, ties to even;
subnormals are kept; every NaN result is 0x7fc00000. The machine's own floating point is not used.
"""

from __future__ import annotations

from typing import Final

from assay.exact.opcodes import FLOAT_NAN

SIGN: Final = 0x8000_0000
INFINITY: Final = 0x7F80_0000
MASK: Final = 0xFFFF_FFFF
INT64_MIN: Final = -(1 << 63)
INT64_MAX: Final = (1 << 63) - 1
_QUOTIENT_BITS: Final = 50


def is_nan(a: int) -> bool:
    return a & ~SIGN > INFINITY


def _is_infinite(a: int) -> bool:
    return a & ~SIGN == INFINITY


def _split(a: int) -> tuple[int, int]:
    """(significand, exponent) of a finite pattern: its magnitude is significand · 2^exponent."""
    exponent, fraction = a >> 23 & 0xFF, a & 0x7F_FFFF
    return (fraction | 1 << 23, exponent - 150) if exponent else (fraction, -149)


def half_even(value: int, shift: int) -> int:
    """`value / 2^shift` to the nearest integer, ties to even; value ≥ 0, shift > 0."""
    quotient, rest, half = value >> shift, value & (1 << shift) - 1, 1 << shift - 1
    return quotient + (rest > half or (rest == half and quotient & 1))


def _pack(sign: int, significand: int, exponent: int) -> int:
    """The nearest pattern of `significand · 2^exponent`, exact and ≥ 0, with that sign bit."""
    if not significand:
        return sign
    to = max(exponent + significand.bit_length() - 24, -149)
    shift = to - exponent
    rounded = half_even(significand, shift) if shift > 0 else significand << -shift
    # A carry out of the 24 bits, and out of the subnormals, moves into the exponent field by itself.
    return sign | min((to + 149 << 23) + rounded, INFINITY)


def fadd(a: int, b: int) -> int:
    if is_nan(a) or is_nan(b) or (_is_infinite(a) and b == a ^ SIGN):
        return FLOAT_NAN
    if _is_infinite(a) or _is_infinite(b):
        return a if _is_infinite(a) else b
    (left, left_exponent), (right, right_exponent) = _split(a), _split(b)
    exponent = min(left_exponent, right_exponent)
    left <<= left_exponent - exponent
    right <<= right_exponent - exponent
    total = (-left if a & SIGN else left) + (-right if b & SIGN else right)
    sign = (SIGN if total < 0 else 0) if total else a & b & SIGN
    return _pack(sign, abs(total), exponent)


def fsub(a: int, b: int) -> int:
    return fadd(a, b ^ SIGN)


def fmul(a: int, b: int) -> int:
    sign = (a ^ b) & SIGN
    if is_nan(a) or is_nan(b):
        return FLOAT_NAN
    if _is_infinite(a) or _is_infinite(b):
        return sign | INFINITY if a & ~SIGN and b & ~SIGN else FLOAT_NAN
    (left, left_exponent), (right, right_exponent) = _split(a), _split(b)
    return _pack(sign, left * right, left_exponent + right_exponent)


def fdiv(a: int, b: int) -> int:
    sign = (a ^ b) & SIGN
    if is_nan(a) or is_nan(b) or (_is_infinite(a) and _is_infinite(b)) or not (a & ~SIGN or b & ~SIGN):
        return FLOAT_NAN
    if _is_infinite(a) or not b & ~SIGN:
        return sign | INFINITY
    if _is_infinite(b):
        return sign
    (left, left_exponent), (right, right_exponent) = _split(a), _split(b)
    quotient, rest = divmod(left << _QUOTIENT_BITS, right)
    return _pack(sign, quotient << 1 | (rest != 0), left_exponent - right_exponent - _QUOTIENT_BITS - 1)


def feq(a: int, b: int) -> int:
    return int(not (is_nan(a) or is_nan(b)) and (a == b or not (a | b) & ~SIGN))


def flt(a: int, b: int) -> int:
    return int(not (is_nan(a) or is_nan(b)) and _order(a) < _order(b))


def fle(a: int, b: int) -> int:
    return int(not (is_nan(a) or is_nan(b)) and _order(a) <= _order(b))


def _order(a: int) -> int:
    """An integer that ascends with the float; both zeros are 0."""
    return -(a & ~SIGN) if a & SIGN else a


def fmin(a: int, b: int) -> int:
    """a if a < b else b."""
    return FLOAT_NAN if is_nan(a) or is_nan(b) else a if flt(a, b) else b


def fmax(a: int, b: int) -> int:
    """a if a > b else b."""
    return FLOAT_NAN if is_nan(a) or is_nan(b) else a if flt(b, a) else b


def i2f(value: int) -> int:
    """The nearest float of any integer; beyond the finite range infinity of its sign."""
    return _pack(SIGN if value < 0 else 0, abs(value), 0)


def _to_integer(a: int, nearest: bool) -> int:
    if is_nan(a):
        return 0
    significand, exponent = _split(a)
    if exponent >= 0:
        magnitude = significand << exponent
    else:
        magnitude = half_even(significand, -exponent) if nearest else significand >> -exponent
    return max(-magnitude, INT64_MIN) if a & SIGN else min(magnitude, INT64_MAX)


def f2i(a: int) -> int:
    """Nearest integer, ties to even; NaN gives 0, what is beyond int64 its nearest bound."""
    return _to_integer(a, nearest=True)


def trunc(a: int) -> int:
    """Integer toward zero; NaN and beyond as `f2i`."""
    return _to_integer(a, nearest=False)
