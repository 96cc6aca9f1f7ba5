"""QLinearMatMul, MatMulInteger and QGemm: a contraction to int32, then perhaps a requantisation.

onnxruntime core/providers/cpu/quantization/{quantize_linear_matmul,matmul_integer}.cc,
contrib_ops/…/quant_gemm.cc.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact.assembler import Expression
from assay.exact.lowering import forms
from assay.exact.lowering.context import Context, broadcast
from assay.exact.lowering.contractions import (
    check_accumulator,
    check_activations,
    check_weights,
    multiply_add,
    shifted,
)
from assay.exact.lowering.graph import MICROSOFT
from assay.exact.lowering.quantisation import (
    check_scales,
    common_zero_point,
    requantise,
    scalar_scale,
    scalar_zero_point,
    scale_array,
)
from assay.exact.lowering.registry import Node, operator
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import FLOAT, INT32, UINT8, Interval, Value, constant_value, dtype_interval


@operator("QLinearMatMul", versions=(10, 21))
def lower_qlinear_matmul(node: Node, context: Context) -> Value:
    """Output scale of column c: float32(float32(a_scale · b_scale[c]) / y_scale)."""
    a, b = node.input(0, "a"), node.input(3, "b")
    a_zero = scalar_zero_point(node, 2, "a_zero_point", a.dtype)
    b_zero = common_zero_point(node, 5, "b_zero_point", b.dtype)
    y_zero = scalar_zero_point(node, 7, "y_zero_point", UINT8)
    scales = _scales(node, (1, 4, 6), np.float32(1))
    _check_columns(scales, b)
    acc = multiply(node, context, a, b, a_zero=a_zero, b_zero=b_zero)
    return _requantised(node, context, acc, scales, y_zero=y_zero)


@operator("MatMulInteger", versions=(10,))
def lower_matmul_integer(node: Node, context: Context) -> Value:
    """The accumulator alone."""
    a, b = node.input(0, "a"), node.input(1, "b")
    a_zero = scalar_zero_point(node, 2, "a_zero_point", a.dtype)
    b_zero = common_zero_point(node, 3, "b_zero_point", b.dtype)
    return multiply(node, context, a, b, a_zero=a_zero, b_zero=b_zero, part="")


@operator("QGemm", (1,), ("alpha", "transA", "transB"), MICROSOFT)
def lower_qgemm(node: Node, context: Context) -> Value:
    """Output scale of column c: float32(float32(alpha · a_scale) · b_scale[c]), then / y_scale if there is
    one.

    Without y_scale the result is float32: accumulator · scale.
    """
    a, b = node.input(0, "a"), node.input(3, "b")
    if a.rank != 2 or b.rank != 2:
        raise Refusal("a and b must be matrices", "correct the shapes")
    a_zero = scalar_zero_point(node, 2, "a_zero_point", a.dtype)
    b_zero = common_zero_point(node, 5, "b_zero_point", b.dtype)
    if node.attributes.get("transA", 0):
        a = _transposed(a)
    if node.attributes.get("transB", 0):
        b = _transposed(b)
    scales = _scales(node, (1, 4, 7), node.floats("alpha", 1.0))
    _check_columns(scales, b)
    bias = _gemm_bias(node, b)
    acc = multiply(node, context, a, b, a_zero=a_zero, b_zero=b_zero, offset=bias)
    if node.optional(7) is not None:
        y_zero = scalar_zero_point(node, 8, "y_zero_point", UINT8)
        return _requantised(node, context, acc, scales, y_zero=y_zero, bias=bias)
    if node.optional(8) is not None:
        raise Refusal("y_zero_point stands without y_scale", "give both or neither")
    return _scaled(node, context, acc, scales, bias)


def _transposed(value: Value) -> Value:
    if value.batched:
        value.axis(0)  # refuses: the batch axis would be summed over
    return value.transpose((1, 0))


def _scales(node: Node, positions: tuple[int, int, int], alpha: np.float32) -> NDArray[Any]:
    """float32(alpha · a_scale · b_scale / y_scale), each operation rounded, from the left."""
    a_scale = scalar_scale(node, positions[0], "a_scale")
    b_scale = scale_array(node, positions[1], "b_scale")
    with np.errstate(over="ignore", under="ignore"):
        scales: NDArray[Any] = (alpha * a_scale) * b_scale
        if node.optional(positions[2]) is not None:
            scales = scales / scalar_scale(node, positions[2], "y_scale")
    check_scales(scales, "the product of the scales")
    return scales


def _check_columns(scales: NDArray[Any], b: Value) -> None:
    columns = b.dims[-1] if b.rank == 2 else 1
    if scales.ndim > 1 or scales.size not in (1, columns):
        raise Refusal(f"b_scale has dims {list(scales.shape)}", "quantise per tensor or per column")


def _gemm_bias(node: Node, b: Value) -> NDArray[Any] | None:
    """C as constant, ready to broadcast over the rows and columns."""
    if node.optional(6) is None:
        return None
    bias = node.constant(6, "C", (INT32,))
    if bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1) or bias.size not in (1, b.dims[-1]):
        raise Refusal(f"C has dims {list(bias.shape)}", "use one value, or one for each column")
    return bias.reshape(-1)


def multiply(
    node: Node,
    context: Context,
    a: Value,
    b: Value,
    *,
    a_zero: int,
    b_zero: int,
    offset: NDArray[Any] | None = None,
    part: str = "accumulators",
) -> Value:
    """numpy.matmul of (a − a_zero) and (b − b_zero) as int32; `offset` only counts toward the bound."""
    check_activations(a, "a")
    check_weights(b, "b")
    left, right, lead = _stack(a, b)
    rows, inner = left.dims[-2:]
    columns = right.dims[-1]
    if right.dims[-2] != inner:
        raise Refusal(f"{list(a.dims)} and {list(b.dims)} do not multiply", "correct the shapes")
    interval = check_accumulator(_reach(a, right, a_zero, b_zero, inner) + _magnitude(offset))
    axes = len(lead)
    stacked = [forms.variable(axis) for axis in range(axes)]
    row, column, step = (forms.variable(axes + k) for k in range(3))
    return context.emit(
        node,
        dtype=INT32,
        domain=(*lead, rows, columns),
        reduction=(inner,),
        operands=[
            context.operand(left, [*stacked, row, step]),
            context.operand(right, [*stacked, step, column]),
        ],
        expression=multiply_add(a_zero, b_zero),
        batched=a.batched or b.batched,
        dims=_result_dims(a, b, lead, rows, columns),
        interval=interval,
        part=part,
    )


def _magnitude(offset: NDArray[Any] | None) -> int:
    return 0 if offset is None else int(np.max(np.abs(offset.astype(np.int64))))


def _reach(a: Value, right: Value, a_zero: int, b_zero: int, inner: int) -> int:
    """The greatest magnitude of an accumulator."""
    largest = int(shifted(a, a_zero).magnitude)
    if right.array is None:
        return largest * int(shifted(right, b_zero).magnitude) * inner
    totals = np.abs(right.array.astype(np.int64) - b_zero).sum(axis=-2)
    return largest * int(np.max(totals))


def _stack(a: Value, b: Value) -> tuple[Value, Value, tuple[int, ...]]:
    """Both with a row and a column axis, and the leading axes broadcast to each other."""
    if a.rank == 0 or b.rank == 0:
        raise Refusal("a scalar does not multiply as a matrix", "correct the shapes")
    if b.batched and b.rank <= 2:
        b.axis(0)  # refuses: the batch axis would be summed over
    left = a if len(a.dims) >= 2 else a.with_view((1, *a.dims), (0, *a.strides))
    right = b if len(b.dims) >= 2 else b.with_view((*b.dims, 1), (*b.strides, 0))
    if a.batched and a.rank <= 2:
        if a.rank == 1 or b.rank > 2:
            a.axis(0)
        return left, right, ()
    one, other = _leading(a, left), _leading(b, right)
    lead, _, _ = broadcast([one, other])
    return left.expand((*lead, *left.dims[-2:])), right.expand((*lead, *right.dims[-2:])), lead


def _leading(value: Value, matrix: Value) -> Value:
    """A stand-in with the leading axes alone, for broadcasting."""
    return replace(matrix, dims=matrix.dims[:-2], strides=matrix.strides[:-2], batched=value.batched)


def _result_dims(a: Value, b: Value, lead: tuple[int, ...], rows: int, columns: int) -> tuple[int, ...]:
    """As numpy.matmul: an axis added to a vector is taken away again; a batched matrix's rows are the
    batch."""
    dims = list(lead)
    if a.rank > 1 and not (a.batched and a.rank == 2):
        dims.append(rows)
    if b.rank > 1:
        dims.append(columns)
    return tuple(dims)


def _with_bias(acc: Value, bias: NDArray[Any] | None) -> tuple[list[Value], Expression]:
    if bias is None:
        return [acc], Expression().operand(0)
    return [acc, constant_value(bias, INT32)], Expression().operand(0).operand(1).add()


def _push_scale(values: list[Value], scales: NDArray[Any]) -> Expression:
    if scales.size == 1:
        return Expression().float(float(scales.reshape(-1)[0]))
    values.append(constant_value(scales, FLOAT))
    return Expression().operand(len(values) - 1)


def _requantised(
    node: Node,
    context: Context,
    acc: Value,
    scales: NDArray[Any],
    *,
    y_zero: int,
    bias: NDArray[Any] | None = None,
) -> Value:
    values, expression = _with_bias(acc, bias)
    push = _push_scale(values, scales)
    code = requantise(expression, push, UINT8, y_zero)
    return context.elementwise(node, UINT8, values, code, interval=dtype_interval(UINT8))


def _scaled(
    node: Node, context: Context, acc: Value, scales: NDArray[Any], bias: NDArray[Any] | None
) -> Value:
    values, expression = _with_bias(acc, bias)
    code = expression.i2f().then(_push_scale(values, scales)).fmul()
    reach = float(np.float32(acc.interval.magnitude)) * float(np.max(scales))
    if reach > float(np.finfo(np.float32).max):
        raise Refusal("a result can leave float32", "use smaller scales")
    bound = float(np.nextafter(np.float32(reach), np.float32(np.inf)))
    interval = Interval(-bound, bound, negative_zero=False)
    return context.elementwise(node, FLOAT, values, code, interval=interval, dequantised=True)
