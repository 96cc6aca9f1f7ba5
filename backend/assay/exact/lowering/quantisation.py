"""What quantised operators share: scales and zero points, and the requantisation of onnxruntime's MLAS.

MLAS `MlasRequantizeOutput`: float32(accumulator) · scale, clamped in float32 to dtype's ends − zero point,
rounded to the nearest integer (ties to even), + zero point. All of it is exact float32 arithmetic.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.exact.assembler import Expression
from assay.exact.lowering.registry import Node
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import FLOAT, INT8, UINT8, dtype_interval

QUANTISED: Final = (UINT8, INT8)
SCALE_CURE: Final = "change its output scale a little (assay model quantize does)"
"""Where another scale nearby is in the profile: `adjusting` finds it."""
_REQUANTISE: Final = "quantise again with positive, normal, finite scales"


def scale_array(node: Node, position: int, what: str) -> NDArray[Any]:
    """A constant float32 scale (scalar or 1-D): finite, normal and positive."""
    scales = node.constant(position, what, (FLOAT,))
    check_scales(scales, what)
    return scales


def check_scales(scales: NDArray[Any], what: str) -> None:
    """Refuses what is not positive and finite, and subnormals, which a CPU may flush to zero."""
    tiny = np.finfo(np.float32).tiny
    if not scales.size or not bool(np.all(np.isfinite(scales) & (scales >= tiny))):
        raise Refusal(f"{what} is zero, negative, subnormal or not finite", _REQUANTISE)


def scalar_scale(node: Node, position: int, what: str) -> np.float32:
    return np.float32(_single(scale_array(node, position, what), what))


def scalar_zero_point(node: Node, position: int, what: str, dtype: int) -> int:
    """A constant zero point of the tensor's dtype; 0 where it is left out."""
    if node.optional(position) is None:
        return 0
    return int(_single(node.constant(position, what, (dtype,)), what))


def common_zero_point(node: Node, position: int, what: str, dtype: int) -> int:
    """A constant zero point, one for all channels even where it is given for each; 0 where it is left out."""
    if node.optional(position) is None:
        return 0
    zeros = node.constant(position, what, (dtype,))
    if not zeros.size or not bool(np.all(zeros == zeros.reshape(-1)[0])):
        raise Refusal(f"{what} differs between channels", "quantise weights symmetrically")
    return int(zeros.reshape(-1)[0])


def _single(array: NDArray[Any], what: str) -> Any:
    if array.size != 1 or array.ndim > 1:
        raise Refusal(f"{what} has dims {list(array.shape)}, one value is needed", "quantise per tensor")
    return array.reshape(-1)[0]


def requantise(expression: Expression, scale: Expression, dtype: int, zero_point: int) -> Expression:
    """Appends the requantisation of an int32 on the stack; `scale` pushes a float32."""
    scaled = expression.i2f().then(scale).fmul()
    return round_to(scaled, dtype, zero_point)


def round_to(expression: Expression, dtype: int, zero_point: int) -> Expression:
    """A float32 on the stack to a quantised value: clamp, round half to even, add the zero point."""
    ends = dtype_interval(dtype)
    low, high = float(ends.low - zero_point), float(ends.high - zero_point)
    clamped = expression.float(low).fmax().float(high).fmin()
    return clamped.f2i().integer(zero_point).add()
