"""Elementwise arithmetic with broadcasting: Add, Sub, Mul, Div, Min, Max, Clip, Relu.

float32: one IEEE operation an element, the same on every CPU as long as no NaN (whose bits differ) and no
choice between −0 and +0 arises; both are refused. Integers wrap in two's complement.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import isnan
from typing import Final

import numpy as np

from assay.exact.assembler import Expression
from assay.exact.lowering import ranges
from assay.exact.lowering.context import Context
from assay.exact.lowering.registry import Node, operator
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import (
    FLOAT,
    INT8,
    INT16,
    INT32,
    INT64,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    Interval,
    Value,
    constant_value,
    dtype_interval,
    dtype_name,
)
from assay.exact.program import MAX_OPERANDS, Source

NUMBERS: Final = (FLOAT, UINT8, INT8, UINT16, INT16, INT32, INT64, UINT32, UINT64)
WIDE: Final = (FLOAT, INT32, INT64, UINT32, UINT64)
"""What onnxruntime computes before operator set 14."""
ORDERED: Final = (FLOAT, UINT8, INT8, INT32, INT64, UINT32, UINT64)
"""What onnxruntime has minima, maxima and Clip for, from operator set 12 on."""
RECTIFIED: Final = (FLOAT, INT8, INT32)
_NEUTRAL: Final = "onnxruntime's optimiser leaves this zero out, which keeps -0 where the result is +0"
Rule = Callable[[Interval, Interval], Interval]


def _operands(node: Node) -> tuple[Value, Value]:
    dtypes = NUMBERS if node.version >= 14 else WIDE
    first = node.input(0, "A", dtypes)
    return first, node.input(1, "B", (first.dtype,))


def _binary(
    node: Node, context: Context, *, integers: Rule, floats: Rule, integer: Expression, float_: Expression
) -> Value:
    a, b = _operands(node)
    pushed = Expression().operand(0).operand(1)
    if a.dtype == FLOAT:
        interval = floats(a.interval, b.interval)
    else:
        exact = integers(a.interval, b.interval)
        interval = ranges.wrapped(exact.low, exact.high, a.dtype)
    return context.elementwise(
        node,
        a.dtype,
        [a, b],
        pushed.then(float_ if a.dtype == FLOAT else integer),
        interval=interval,
        dequantised=a.dequantised or b.dequantised,
    )


def _is_single(value: Value) -> bool:
    """One element that onnxruntime may know before it runs: a constant, or computed from constants."""
    return value.size == 1 and not value.batched and value.source is not Source.INPUT


def _may_be_neutral(value: Value, *, negative: bool) -> bool:
    """Whether it may be the zero that changes −0 to +0: +0 added, or −0 subtracted."""
    if not _is_single(value) or value.dtype != FLOAT or not ranges.has_zero(value.interval):
        return False
    return value.array is None or value.interval.negative_zero == negative


@operator("Add", versions=(7, 13, 14))
def lower_add(node: Node, context: Context) -> Value:
    a, b = _operands(node)
    for added, other in ((a, b), (b, a)):
        if ranges.has_negative_zero(other) and _may_be_neutral(added, negative=False):
            raise Refusal(_NEUTRAL, "leave it out")
    return _binary(
        node,
        context,
        integers=lambda x, y: Interval(x.low + y.low, x.high + y.high),
        floats=ranges.add,
        integer=Expression().add(),
        float_=Expression().fadd(),
    )


@operator("Sub", versions=(7, 13, 14))
def lower_sub(node: Node, context: Context) -> Value:
    a, b = _operands(node)
    if ranges.has_negative_zero(a) and _may_be_neutral(b, negative=True):
        raise Refusal(_NEUTRAL, "leave it out")
    return _binary(
        node,
        context,
        integers=lambda x, y: Interval(x.low - y.high, x.high - y.low),
        floats=ranges.subtract,
        integer=Expression().sub(),
        float_=Expression().fsub(),
    )


def _corners(x: Interval, y: Interval, operation: Callable[[float, float], float]) -> Interval:
    results = [operation(a, b) for a, b in product((x.low, x.high), (y.low, y.high))]
    return Interval(min(results), max(results))


def _is_reciprocal(context: Context, value: Value) -> bool:
    kernel = context.origin(value, "Div")
    dividend = None if kernel is None else context.constant(kernel.operands[0])
    return dividend is not None and bool(np.any(dividend == 1))


@operator("Mul", versions=(7, 13, 14))
def lower_mul(node: Node, context: Context) -> Value:
    if any(_is_reciprocal(context, value) for value in _operands(node)):
        raise Refusal("onnxruntime's optimiser makes y / x of (1 / x) · y", "divide instead")
    return _binary(
        node,
        context,
        integers=lambda x, y: _corners(x, y, lambda a, b: a * b),
        floats=ranges.multiply,
        integer=Expression().mul(),
        float_=Expression().fmul(),
    )


@operator("Div", versions=(7, 13, 14))
def lower_div(node: Node, context: Context) -> Value:
    """Integers: toward zero. The divisor's bounds must exclude 0, on which onnxruntime's process ends."""
    a, b = _operands(node)
    if a.dtype != FLOAT:
        _check_division(a, b)
    elif _is_single(a) and _may_be(a, 1):
        raise Refusal("onnxruntime's optimiser may merge 1 / x with a Mul after it", "divide once, by x")
    return _binary(
        node,
        context,
        integers=lambda x, y: _corners(x, y, _truncated),
        floats=ranges.divide,
        integer=Expression().div(),
        float_=Expression().fdiv(),
    )


def _truncated(a: float, b: float) -> float:
    quotient = abs(int(a)) // abs(int(b))
    return quotient if (a < 0) == (b < 0) else -quotient


def _check_division(a: Value, b: Value) -> None:
    if _may_be(b, 0):
        raise Refusal(
            "its divisor may be zero, which ends onnxruntime's process", "divide by constants, not 0"
        )
    least = dtype_interval(a.dtype).low
    if least < 0 and a.interval.low == least and _may_be(b, -1):
        raise Refusal("it may divide the least integer by -1, which ends onnxruntime's process", "bound it")


def _may_be(value: Value, number: int) -> bool:
    if value.array is not None:
        return bool((value.array == number).any())
    return value.interval.low <= number <= value.interval.high


def _extremum(node: Node, context: Context, *, greatest: bool) -> Value:
    """Min and Max of one tensor or more; several kernels where they are more than one kernel reads."""
    dtypes = ORDERED if node.version >= 12 else (FLOAT,)
    values = [node.input(position, f"input {position}", dtypes) for position in range(len(node.inputs))]
    dtype = values[0].dtype
    if any(value.dtype != dtype for value in values):
        raise Refusal("its inputs differ in dtype", "cast them")
    if dtype == FLOAT:
        ranges.check_zeros(values)
    rule = ranges.maximum if greatest else ranges.minimum
    while len(values) > 1:
        taken = values[:MAX_OPERANDS]
        expression = Expression().operand(0)
        for position in range(1, len(taken)):
            expression = _choose(expression.operand(position), dtype, greatest=greatest)
        joined = context.elementwise(
            node,
            dtype,
            taken,
            expression,
            interval=rule(value.interval for value in taken),
            dequantised=any(value.dequantised for value in taken),
        )
        values = [joined, *values[MAX_OPERANDS:]]
    return values[0]


def _choose(pushed: Expression, dtype: int, *, greatest: bool) -> Expression:
    if dtype == FLOAT:
        return pushed.fmax() if greatest else pushed.fmin()
    return pushed.max() if greatest else pushed.min()


@operator("Min", versions=(8, 12, 13))
def lower_min(node: Node, context: Context) -> Value:
    return _extremum(node, context, greatest=False)


@operator("Max", versions=(8, 12, 13))
def lower_max(node: Node, context: Context) -> Value:
    return _extremum(node, context, greatest=True)


@operator("Clip", versions=(6, 11, 12, 13), attributes=("min", "max"))
def lower_clip(node: Node, context: Context) -> Value:
    """Constant bounds; first the maximum with `min`, then the minimum with `max`."""
    x = node.input(0, "input", ORDERED if node.version >= 12 else (FLOAT,))
    low, high = (_clip_bound(node, x.dtype, position, name) for position, name in ((1, "min"), (2, "max")))
    if node.version < 11 and low and high and low.interval.low > high.interval.low:
        raise Refusal("min is above max", "exchange them")
    expression, interval = Expression().operand(0), x.interval
    for bound, greatest in ((low, True), (high, False)):
        if bound is None:
            continue
        if x.dtype == FLOAT:
            _check_bound(interval, bound)
        value = bound.interval.low
        pushed = expression.float(value) if x.dtype == FLOAT else _push(expression, int(value))
        expression = _choose(pushed, x.dtype, greatest=greatest)
        rule = ranges.maximum if greatest else ranges.minimum
        interval = rule((interval, bound.interval))
    if low is None and high is None:
        return x
    return context.elementwise(node, x.dtype, [x], expression, interval=interval, dequantised=x.dequantised)


def _push(expression: Expression, value: int) -> Expression:
    """An integer of any dtype; those from 2^63 on as 2^63 + the rest."""
    top = 1 << 63
    return (
        expression.integer(value)
        if value < top
        else expression.integer(value - top).integer(1).integer(63).shl().add()
    )


def _check_bound(interval: Interval, bound: Value) -> None:
    """Refuses a bound of a zero that meets one of the other sign."""
    meets = ranges.has_zero(interval) and ranges.has_zero(bound.interval)
    if meets and (interval.negative_zero or bound.interval.negative_zero):
        raise Refusal("it may choose between -0 and +0, which CPUs order differently", ranges.ZERO_CURE)


def _clip_bound(node: Node, dtype: int, position: int, name: str) -> Value | None:
    if node.version < 11:
        stored = node.attributes.get(name)
        if stored is not None and isnan(stored):
            raise Refusal(f"{name} is NaN", "give a number")
        return None if stored is None else constant_value(np.array(node.floats(name, 0.0)), FLOAT)
    if node.optional(position) is None:
        return None
    if node.constant(position, name, (dtype,)).size != 1:
        raise Refusal(f"{name} is not one value", "store one value as an initialiser")
    return node.input(position, name)


@operator("Relu", versions=(6, 13, 14))
def lower_relu(node: Node, context: Context) -> Value:
    x = node.input(0, "X", RECTIFIED if node.version >= 14 else (FLOAT,))
    if ranges.has_negative_zero(x):
        raise Refusal(
            f"a {dtype_name(x.dtype)} Relu of -0 gives -0 on x86 and +0 on aarch64",
            "quantise with QOperator, which folds Relu into the output's range",
        )
    zero = constant_value(np.zeros(()), x.dtype).interval
    pushed = Expression().operand(0).integer(0)
    return context.elementwise(
        node,
        x.dtype,
        [x],
        _choose(pushed, x.dtype, greatest=True),
        interval=ranges.maximum((x.interval, zero)),
        dequantised=x.dequantised,
    )
