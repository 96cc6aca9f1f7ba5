"""What quantised contractions share: weights that saturate on no CPU, accumulators that stay inside int32.

x86 CPUs without VNNI multiply u8 by s8 in pairs whose sum saturates at int16 (`vpmaddubsw`): 255 · (64 + 64)
is
the most that fits, so s8 weights must lie in −64 … 64. u8 × u8 is multiplied in wider lanes everywhere.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.exact.assembler import Expression
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import INT8, UINT8, Interval, Value

MAX_WEIGHT: Final = 64
MAX_ACCUMULATOR: Final = (1 << 31) - 1


def check_activations(value: Value, what: str) -> None:
    """Refuses signed activations: their kernels differ between CPU classes."""
    if value.dtype == INT8:
        raise Refusal(f"{what} is int8", "quantise activations as uint8")
    if value.dtype != UINT8:
        raise Refusal(f"{what} is not uint8", "quantise activations as uint8")


def check_weights(value: Value, what: str) -> None:
    """Refuses weights whose products can saturate on some CPU."""
    if value.dtype == UINT8:
        return
    if value.dtype != INT8:
        raise Refusal(f"{what} is neither int8 nor uint8", "quantise weights to 8 bits")
    if value.interval.magnitude > MAX_WEIGHT:
        raise Refusal(
            f"{what} reaches outside -{MAX_WEIGHT}...{MAX_WEIGHT}, where CPUs without VNNI saturate",
            "quantise with reduce_range, or with uint8 weights",
        )


def shifted(value: Value, zero_points: NDArray[Any] | int) -> Interval:
    """Bounds of `value − zero point`."""
    low, high = int(np.min(zero_points)), int(np.max(zero_points))
    return Interval(value.interval.low - high, value.interval.high - low)


def check_accumulator(bound: float) -> Interval:
    """Bounds of an accumulator whose magnitude is at most `bound`. Refuses what int32 cannot hold."""
    if bound > MAX_ACCUMULATOR:
        raise Refusal(
            f"its accumulator can reach {int(bound)}, beyond int32",
            "use a shorter reduction or smaller weights",
        )
    return Interval(-bound, bound)


def multiply_add(x_zero: int, w_zero: int) -> Expression:
    """`acc + (x − x_zero) · (w − w_zero)` over operands 0 and 1."""
    product = _minus(Expression().acc().operand(0), x_zero)
    return _minus(product.operand(1), w_zero).mul().add()


def _minus(expression: Expression, zero: int) -> Expression:
    return expression.integer(zero).sub() if zero else expression
