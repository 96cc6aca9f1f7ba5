"""QLinearAdd and QLinearMul on uint8.

onnxruntime core/mlas/lib/{qladd,qlmul}.cpp, intrinsics/avx2/qladd_avx2.cpp. QLinearMul is the same on all
x86-64
CPUs. QLinearAdd is computed with fused multiply-adds where the CPU has AVX2, without them elsewhere, and in
another
order where it broadcasts; it is in the profile where all of these agree on every pair of inputs that can
occur.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.exact.assembler import Expression
from assay.exact.lowering.context import Context
from assay.exact.lowering.graph import MICROSOFT
from assay.exact.lowering.quantisation import SCALE_CURE, check_scales, scalar_scale, scalar_zero_point
from assay.exact.lowering.registry import Node, operator
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import UINT8, Value, dtype_interval

MAX_RESULT: Final = float(1 << 30)
"""Beyond 2^31 the CPU's conversion to int32 wraps round."""


def _parameters(node: Node) -> tuple[Value, Value, list[np.float32], list[int]]:
    a, b = node.input(0, "A", (UINT8,)), node.input(3, "B", (UINT8,))
    scales = [scalar_scale(node, at, f"{what}_scale") for at, what in ((1, "A"), (4, "B"), (6, "C"))]
    zeros = [
        scalar_zero_point(node, at, f"{what}_zero_point", UINT8)
        for at, what in ((2, "A"), (5, "B"), (7, "C"))
    ]
    return a, b, scales, zeros


@operator("QLinearAdd", (1,), (), MICROSOFT)
def lower_qlinear_add(node: Node, context: Context) -> Value:
    """float32((fixed + a · a_ratio) + b · b_ratio), rounded; ratio = scale / c_scale, fixed = the zero
    points' part."""
    a, b, scales, zeros = _parameters(node)
    ratios = np.array([scales[0] / scales[2], scales[1] / scales[2]], np.float32)
    check_scales(ratios, "a scale divided by C_scale")
    if float(ratios.sum()) * 255 > MAX_RESULT:
        raise Refusal("its result can leave int32", "use scales of like size")
    plain = a.batched == b.batched and a.dims == b.dims and a.size > 1
    if not addition_agrees(_all_of(a), _all_of(b), ratios, zeros, same_dims=plain):
        raise Refusal("with these scales CPUs with and without AVX2 differ in some sum", SCALE_CURE)
    fixed = float(_fixed_part(ratios, zeros))
    expression = Expression().float(fixed)
    for number, ratio in enumerate(ratios):
        expression = expression.operand(number).i2f().float(float(ratio)).fmul().fadd()
    return context.elementwise(node, UINT8, [a, b], expression.f2i().clamp(0, 255))


@operator("QLinearMul", (1,), (), MICROSOFT)
def lower_qlinear_mul(node: Node, context: Context) -> Value:
    """float32(float32((a − a_zero)(b − b_zero)) · ratio) + c_zero, rounded; ratio = float32(a_scale ·
    b_scale) / c_scale."""
    a, b, scales, zeros = _parameters(node)
    with np.errstate(over="ignore", under="ignore"):
        ratio = np.float32(np.float32(scales[0] * scales[1]) / scales[2])
    check_scales(np.atleast_1d(ratio), "A_scale · B_scale / C_scale")
    if float(ratio) * 255 * 255 > MAX_RESULT:
        raise Refusal("its result can leave int32", "use scales of like size")
    factors = Expression().operand(0).integer(zeros[0]).sub().operand(1).integer(zeros[1]).sub()
    scaled = factors.mul().i2f().float(float(ratio)).fmul().float(float(zeros[2])).fadd()
    return context.elementwise(node, UINT8, [a, b], scaled.f2i().clamp(0, 255))


def _all_of(value: Value) -> NDArray[Any]:
    """Every value that the tensor can hold, as float32."""
    ends = value.interval if value.data is not None else dtype_interval(UINT8)
    return np.arange(int(ends.low), int(ends.high) + 1).astype(np.float32)


def _fixed_part(ratios: NDArray[Any], zeros: list[int]) -> np.float32:
    a_zero, b_zero, c_zero = (np.float32(zero) for zero in zeros)
    return np.float32(c_zero - (ratios[0] * a_zero + ratios[1] * b_zero))


def addition_agrees(
    a: NDArray[Any], b: NDArray[Any], ratios: NDArray[Any], zeros: list[int], *, same_dims: bool
) -> bool:
    """Whether every way in which onnxruntime computes the sum gives the same for all pairs of a's and b's
    values.

    a, b: float32, 1-D. Equal dims leave two ways, broadcasting (which treats one side as scalar) all of them.
    """
    left, right = a[:, None], b[None, :]
    one, other = ratios
    a_zero, b_zero, c_zero = (np.float32(zero) for zero in zeros)
    plain = _fixed_part(ratios, zeros)
    fused = np.float32(c_zero - fused_multiply_add(a_zero, one, other * b_zero))
    ways = [
        (plain + left * one) + right * other,
        fused_multiply_add(left, one, fused_multiply_add(right, other, fused)),
    ]
    if not same_dims:
        swapped = np.float32(c_zero - fused_multiply_add(b_zero, other, one * a_zero))
        ways.append((plain + right * other) + left * one)
        for start in (fused, swapped):
            ways += [
                fused_multiply_add(left, one, start + right * other),
                fused_multiply_add(right, other, start + left * one),
                fused_multiply_add(left, one, fused_multiply_add(right, other, start)),
                fused_multiply_add(right, other, fused_multiply_add(left, one, start)),
            ]
    rounded = [np.clip(np.rint(way), 0, 255) for way in ways]
    return all(bool(np.array_equal(rounded[0], way)) for way in rounded[1:])


def fused_multiply_add(a: Any, b: Any, c: Any) -> NDArray[Any]:
    """float32(a · b + c), rounded once; float32 operands, a an integer below 2^29 so that float64 holds a ·
    b.

    The float64 sum is rounded to odd (Boldo and Melquiond 2008), which makes the second rounding harmless.
    """
    product, addend = np.broadcast_arrays(np.float64(a) * np.float64(b), np.float64(c))
    total = product + addend
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    bits = np.atleast_1d(total).view(np.int64)
    inexact = (np.atleast_1d(error) != 0) & (bits & 1 == 0)
    away = (np.atleast_1d(error) > 0) == (np.atleast_1d(total) > 0)
    odd = np.where(inexact, np.where(away, bits + 1, bits - 1), bits)
    return odd.view(np.float64).astype(np.float32).reshape(total.shape)
