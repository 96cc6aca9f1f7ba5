"""Where, comparisons and logic. Comparisons see −0 = +0 on every CPU; NaN cannot occur."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from assay.exact.assembler import Expression
from assay.exact.lowering import ranges
from assay.exact.lowering.arithmetic import NUMBERS
from assay.exact.lowering.context import Context
from assay.exact.lowering.registry import Node, operator
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import BOOL, FLOAT, INT8, INT32, INT64, UINT8, UINT32, Value

CHOSEN: Final = (FLOAT, UINT8, INT8, INT32, INT64, UINT32)
"""What onnxruntime has Where for."""
EQUAL_10: Final = (BOOL, INT32, INT64)
"""What onnxruntime compares for equality before operator set 11."""


@operator("Where", versions=(9, 16))
def lower_where(node: Node, context: Context) -> Value:
    condition = node.input(0, "condition", (BOOL,))
    x = node.input(1, "X", CHOSEN)
    y = node.input(2, "Y", (x.dtype,))
    if ranges.has_negative_zero(x) or ranges.has_negative_zero(y):
        raise Refusal(
            "onnxruntime's Where turns -0 into +0, or not, depending on how it broadcasts", ranges.ZERO_CURE
        )
    return context.elementwise(
        node,
        x.dtype,
        [condition, x, y],
        Expression().operand(0).operand(1).operand(2).select(),
        interval=ranges.union((x, y)),
        dequantised=x.dequantised or y.dequantised,
    )


def _compare(node: Node, context: Context, dtypes: tuple[int, ...], *names: str, swap: bool = False) -> Value:
    """`names` are the comparison of integers and of float32; `swap` exchanges the operands."""
    a = node.input(0, "A", dtypes)
    b = node.input(1, "B", (a.dtype,))
    first, second = (1, 0) if swap else (0, 1)
    pushed = Expression().operand(first).operand(second)
    compared: Callable[[], Expression] = getattr(pushed, names[a.dtype == FLOAT])
    return context.elementwise(node, BOOL, [a, b], compared())


@operator("Equal", versions=(7, 11, 13, 19))
def lower_equal(node: Node, context: Context) -> Value:
    return _compare(node, context, (BOOL, *NUMBERS) if node.version >= 11 else EQUAL_10, "eq", "feq")


@operator("Less", versions=(9, 13))
def lower_less(node: Node, context: Context) -> Value:
    return _compare(node, context, NUMBERS, "lt", "flt")


@operator("LessOrEqual", versions=(12, 16))
def lower_less_or_equal(node: Node, context: Context) -> Value:
    return _compare(node, context, NUMBERS, "le", "fle")


@operator("Greater", versions=(9, 13))
def lower_greater(node: Node, context: Context) -> Value:
    return _compare(node, context, NUMBERS, "lt", "flt", swap=True)


@operator("GreaterOrEqual", versions=(12, 16))
def lower_greater_or_equal(node: Node, context: Context) -> Value:
    return _compare(node, context, NUMBERS, "le", "fle", swap=True)


def _logic(node: Node, context: Context, expression: Expression) -> Value:
    a, b = node.input(0, "A", (BOOL,)), node.input(1, "B", (BOOL,))
    return context.elementwise(node, BOOL, [a, b], expression)


@operator("And", versions=(7,))
def lower_and(node: Node, context: Context) -> Value:
    return _logic(node, context, Expression().operand(0).operand(1).and_())


@operator("Or", versions=(7,))
def lower_or(node: Node, context: Context) -> Value:
    return _logic(node, context, Expression().operand(0).operand(1).or_())


@operator("Xor", versions=(7,))
def lower_xor(node: Node, context: Context) -> Value:
    return _logic(node, context, Expression().operand(0).operand(1).xor())


@operator("Not", versions=(1,))
def lower_not(node: Node, context: Context) -> Value:
    value = node.input(0, "X", (BOOL,))
    return context.elementwise(node, BOOL, [value], Expression().operand(0).integer(0).eq())
