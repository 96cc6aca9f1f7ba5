"""ONNX to programs (SPEC.md §10): `lower`, or `check_model` for what keeps a file out and why.

Conventions for operator families, one module each, imported below so that they register:

- `@operator("QLinearConv", versions=(10,), attributes=(...))` over `def lower_…(node: Node, context:
  Context) -> Value`
  (or a tuple, the node's first outputs). `versions` lists every ONNX definition of the operator from the
  first that is
  supported to the end of `graph.OPSETS`; `node.version` is the one in force. com.microsoft:
  `domain=MICROSOFT`, version 1.
- `raise Refusal(reason, cure)` for whatever is not known to be bit-equal; it becomes the node's Finding.
- A `Value` is a strided view (`dims` without the batch axis, which `batched` tells of). Turn ONNX axes into
  axes of `dims`
  with `value.axis(k)`, which refuses the batch axis. Views: `transpose`, `slice`, `expand`,
  `context.reshape`. Constants have
  `value.array`; other constants are made by `constant_value(array, dtype)`. Do not fold arithmetic: emit
  kernels on constants.
- Kernels: `context.elementwise(node, dtype, values, expression)` broadcasts; all else by `context.emit` with
  `context.operand(value, [form per axis], pad=, bounds=)`; forms over loop variables by
  `forms.variable/build/add/scale`,
  output axes first, then reduction axes. An operand reads its pad outside its bounds.
- `interval` bounds the values of a result (float: never NaN; an endpoint may be infinite): give it wherever
  it is narrower
  than the dtype, and refuse where NaN could arise. `dequantised` marks floats that came through
  DequantizeLinear: pass it
  on (`any(v.dequantised for v in values)`); QuantizeLinear refuses them, because onnxruntime fuses such
  graphs.
- Extents of 0 do not occur but in constants.
"""

from assay.exact.lowering import (
    arithmetic,
    casting,
    convolution,
    joining,
    linear,
    matrices,
    pooling,
    qbinary,
    qpools,
    qtables,
    selection,
    shaping,
)
from assay.exact.lowering.adjusting import adjust_scales
from assay.exact.lowering.lower import check_model, lower
from assay.exact.lowering.report import Finding, Report, UnsupportedModel

FAMILIES = (
    arithmetic,
    casting,
    convolution,
    joining,
    linear,
    matrices,
    pooling,
    qbinary,
    qpools,
    qtables,
    selection,
    shaping,
)
"""Modules whose operators are registered."""

__all__ = ["FAMILIES", "Finding", "Report", "UnsupportedModel", "adjust_scales", "check_model", "lower"]
