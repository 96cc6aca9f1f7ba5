"""Operators that compute each row by itself, and what must hold of them for it. Pure. Source: ONNX's operator
definitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper

MAX_SMALL: Final = 4096
"""Bytes of constants whose values are looked at: axes, shapes, pads."""


@dataclass(frozen=True, slots=True)
class Value:
    """`dims` None: unknown; -1 in it: any size."""

    is_rows: bool
    dims: tuple[int, ...] | None

    @property
    def rank(self) -> int | None:
        return None if self.dims is None else len(self.dims)


class Obstacle(Exception):  # noqa: N818 - named after what was found
    """Why a node may mix rows."""


def keep_small(tensor: onnx.TensorProto, name: str, small: dict[str, Any]) -> None:
    if tensor.ByteSize() <= MAX_SMALL and tensor.data_type != onnx.TensorProto.STRING:
        try:
            small[name] = numpy_helper.to_array(tensor)
        except Exception:  # malformed: not known
            return


class Node:
    """A node with what is known of its inputs."""

    def __init__(
        self, node: onnx.NodeProto, opset: int, values: dict[str, Value], small: dict[str, Any]
    ) -> None:
        self.proto = node
        self.opset = opset
        self.values = values
        self.small = small
        self.attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        self.inputs = [values.get(name, Value(False, None)) if name else None for name in node.input]

    def rows(self, *indices: int) -> None:
        """These inputs are rows, all others constant."""
        for i, value in enumerate(self.inputs):
            if value is not None and value.is_rows != (i in indices):
                raise Obstacle(f"takes rows as input {i}" if value.is_rows else f"has constant input {i}")

    def rank(self, index: int = 0) -> int:
        value = self.inputs[index]
        rank = None if value is None else value.rank
        if rank is None or rank < 1:
            raise Obstacle(f"has an input {index} of unknown rank")
        return rank

    def constant(self, index: int, attribute: str = "") -> list[int] | None:
        """Integers of an attribute or of a constant input; None: neither is there."""
        if attribute in self.attributes:
            found = self.attributes[attribute]
            return [int(one) for one in (found if isinstance(found, list | tuple) else [found])]
        if index >= len(self.proto.input) or not self.proto.input[index]:
            return None
        name = self.proto.input[index]
        if name not in self.small:
            raise Obstacle(f"has an input {index} that is not a small constant")
        return [int(one) for one in np.asarray(self.small[name]).reshape(-1)]

    def axis(self, default: int, rank: int | None = None) -> int:
        axis = int(self.attributes.get("axis", default))
        return axis + (self.rank() if rank is None else rank) if axis < 0 else axis


Rule = Callable[[Node], None]


# --- rules: raise Obstacle unless rows stay rows ---------------------------------------------------------


def _elementwise(node: Node) -> None:
    """With numpy's broadcasting: rows must be the first axis of the result, and nothing else may be."""
    ranks = [node.rank(i) for i, value in enumerate(node.inputs) if value is not None and value.is_rows]
    if len(set(ranks)) > 1:
        raise Obstacle("broadcasts rows of unequal ranks")
    for i, value in enumerate(node.inputs):
        if value is None or value.is_rows:
            continue
        if value.dims is None or len(value.dims) > ranks[0]:
            raise Obstacle(f"broadcasts with a constant input {i} of more dimensions than rows have")
        if len(value.dims) == ranks[0] and value.dims[0] != 1:
            raise Obstacle(f"has a constant input {i} with a value for each row")


def _first(node: Node) -> None:
    """Rows in the first input, parameters in the others, one output: MaxPool's second one counts through all
    rows."""
    node.rows(0)
    if len([name for name in node.proto.output if name]) > 1:
        raise Obstacle("gives a second output")


def _ml(node: Node) -> None:
    """One dimension alone would be one row of features."""
    node.rows(0)
    if node.rank() != 2:
        raise Obstacle("takes other than rows of features")


def _normalization(node: Node) -> None:
    node.rows(0)
    if node.axis(-1) == 0:
        raise Obstacle("works along the rows")
    for value in node.inputs[1:]:
        if value is not None and (value.dims is None or len(value.dims) >= node.rank()):
            raise Obstacle("has a scale for each row")


def _scaled(node: Node) -> None:
    """QuantizeLinear and back: a scale for all, or along an axis that is not the rows'."""
    node.rows(0)
    scale = node.inputs[1]
    if scale is None or scale.dims is None or (prod(scale.dims) != 1 and node.axis(1) == 0):
        raise Obstacle("has a scale for each row")
    if int(node.attributes.get("block_size", 0)):
        raise Obstacle("has scales of blocks")


def _by_axis(default: int) -> Rule:
    """Works along one axis, which must not be the rows'."""

    def rule(node: Node) -> None:
        node.rows(0)
        if node.axis(default) == 0:
            raise Obstacle("works along the rows")

    return rule


def _softmax(node: Node) -> None:
    node.rows(0)
    if node.axis(1 if node.opset < 13 else -1) == 0:
        raise Obstacle("works along the rows")


def _reduce(node: Node) -> None:
    node.rows(0)
    axes = node.constant(1, "axes")
    if not axes or 0 in [axis % node.rank() for axis in axes]:
        raise Obstacle("reduces over the rows")


def _cumulative(node: Node) -> None:
    node.rows(0)
    axes = node.constant(1)
    if not axes or axes[0] % node.rank() == 0:
        raise Obstacle("sums over the rows")


def _gemm(node: Node) -> None:
    """Rows times constant plus a constant that is the same for each row."""
    node.rows(0)
    if node.attributes.get("transA", 0):
        raise Obstacle("transposes the rows")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and (bias.dims is None or (len(bias.dims) == 2 and bias.dims[0] != 1)):
        raise Obstacle("adds a constant with a value for each row")


def _qgemm(node: Node) -> None:
    node.rows(0)
    if node.attributes.get("transA", 0):
        raise Obstacle("transposes the rows")
    bias = node.inputs[6] if len(node.inputs) > 6 else None
    if bias is not None and (bias.dims is None or len(bias.dims) != 1):
        raise Obstacle("adds a constant with a value for each row")


def _matmul(left: int, right: int) -> Rule:
    """Rows times a constant, or rows times rows of the same rank, matrix by matrix."""

    def rule(node: Node) -> None:
        a, b = node.inputs[left], node.inputs[right]
        others = [value for i, value in enumerate(node.inputs) if i not in (left, right)]
        if a is None or b is None or not a.is_rows or any(one is not None and one.is_rows for one in others):
            raise Obstacle("takes rows elsewhere than on its left")
        rank = node.rank(left)
        if b.is_rows:
            if rank != node.rank(right) or rank < 3:
                raise Obstacle("multiplies rows with rows")
        elif b.dims is None or len(b.dims) > rank or (len(b.dims) == rank > 2 and b.dims[0] != 1):
            raise Obstacle("multiplies with a constant that has a matrix for each row")
        elif rank < 2:
            raise Obstacle("multiplies over the rows")
        if any(one is not None and (one.dims is None or prod(one.dims) != 1) for one in others[:3]):
            raise Obstacle("has a scale for each row")

    return rule


def _concat(node: Node) -> None:
    if not all(value is not None and value.is_rows for value in node.inputs):
        raise Obstacle("joins rows with a constant")
    if node.axis(1) == 0:
        raise Obstacle("joins along the rows")


def _qconcat(node: Node) -> None:
    tensors = range(2, len(node.inputs), 3)
    node.rows(*tensors)
    if node.axis(1, node.rank(2)) == 0:
        raise Obstacle("joins along the rows")


def _qlinear_binary(node: Node) -> None:
    """(A, scale, zero, B, scale, zero, scale, zero): elementwise in A and B."""
    parameters = [one for i, one in enumerate(node.inputs) if i not in (0, 3)]
    if any(
        one is not None and (one.is_rows or one.dims is None or prod(one.dims) != 1) for one in parameters
    ):
        raise Obstacle("has scales of more than one value")
    node.inputs = [node.inputs[0], node.inputs[3]]
    _elementwise(node)


def _flatten(node: Node) -> None:
    node.rows(0)
    if node.axis(1) != 1:
        raise Obstacle("makes rows of other than the first axis")


def _transpose(node: Node) -> None:
    node.rows(0)
    order = node.attributes.get("perm")
    if not order or order[0] != 0:
        raise Obstacle("moves the rows to another axis")


def _reshape(node: Node) -> None:
    node.rows(0)
    shape = node.constant(1, "shape")
    if not shape:
        raise Obstacle("has a shape that is not constant")
    if shape[0] == 0 and not node.attributes.get("allowzero", 0):
        return
    value = node.inputs[0]
    dims = value.dims if value is not None else None
    rest = shape[1:]
    if shape[0] != -1 or dims is None or min((*dims[1:], *rest), default=1) < 1:
        raise Obstacle("has a shape that may not keep the rows")
    if prod(dims[1:]) != prod(rest):
        raise Obstacle("makes rows of parts of rows")


def _squeeze(node: Node) -> None:
    node.rows(0)
    axes = node.constant(1, "axes")
    if not axes or 0 in [axis % node.rank() for axis in axes]:
        raise Obstacle("may take the rows' axis away")


def _unsqueeze(node: Node) -> None:
    node.rows(0)
    axes = node.constant(1, "axes")
    if not axes or 0 in [axis % (node.rank() + len(axes)) for axis in axes]:
        raise Obstacle("puts an axis before the rows")


def _slice(node: Node) -> None:
    node.rows(0)
    axes = node.constant(3, "axes")
    if not axes or 0 in [axis % node.rank() for axis in axes]:
        raise Obstacle("may cut rows off")


def _split(node: Node) -> None:
    node.rows(0)
    if node.axis(0) == 0:
        raise Obstacle("parts the rows")


def _pad(node: Node) -> None:
    node.rows(0)
    pads = node.constant(1, "pads")
    rank = node.rank()
    if len(node.inputs) > 3 or not pads or len(pads) != 2 * rank or pads[0] or pads[rank]:
        raise Obstacle("may add rows")


def _gather(node: Node) -> None:
    """Rows of indices into a constant, or constant indices into rows."""
    data, indices = node.inputs
    if data is None or indices is None or data.is_rows == indices.is_rows:
        raise Obstacle("picks rows by rows")
    axis = node.axis(0, node.rank())
    if indices.is_rows != (axis == 0):
        raise Obstacle("picks along the rows" if data.is_rows else "puts the rows on another axis")


def _resize(node: Node) -> None:
    node.rows(0)
    index = 1 if node.proto.op_type == "Upsample" or node.opset < 11 else 2
    name = node.proto.input[index] if index < len(node.proto.input) else ""
    scales = node.small.get(name)
    if scales is None or len(node.inputs) > index + 1 or not scales.size or float(scales.reshape(-1)[0]) != 1:
        raise Obstacle("may change the number of rows")


def _batch_normalization(node: Node) -> None:
    node.rows(0)
    if node.attributes.get("training_mode", 0) or len([name for name in node.proto.output if name]) > 1:
        raise Obstacle("takes its mean over the rows")
    if not node.attributes.get("spatial", 1):
        raise Obstacle("is not spatial")


_UNARY: Final = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu "
    "HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink "
    "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Tan Tanh ThresholdedRelu"
)
_BROADCAST: Final = (
    "Add And BitwiseAnd BitwiseOr BitwiseXor BitShift Clip Div Equal Greater GreaterOrEqual Less LessOrEqual "
    "Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor"
)
_FIRST: Final = (
    "AveragePool Conv ConvTranspose DepthToSpace Dropout GlobalAveragePool GlobalMaxPool "
    "InstanceNormalization LRN MaxPool QLinearConv ConvInteger SpaceToDepth GroupNormalization"
)
_REDUCTIONS: Final = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
_ML: Final = (
    "Binarizer Imputer LinearClassifier LinearRegressor Normalizer SVMClassifier SVMRegressor Scaler "
    "TreeEnsembleClassifier TreeEnsembleRegressor"
)
_MICROSOFT_FIRST: Final = "QLinearAveragePool QLinearGlobalAveragePool QLinearLeakyRelu QLinearSigmoid"

RULES: Final[dict[tuple[str, str], Rule]] = {
    **{("", name): _elementwise for name in (*_UNARY.split(), *_BROADCAST.split())},
    **{("", name): _first for name in _FIRST.split()},
    **{("", f"Reduce{name}"): _reduce for name in _REDUCTIONS.split()},
    **{("ai.onnx.ml", name): _ml for name in _ML.split()},
    **{("com.microsoft", name): _first for name in _MICROSOFT_FIRST.split()},
    **{
        (domain, name): _scaled
        for domain in ("", "com.microsoft")
        for name in ("QuantizeLinear", "DequantizeLinear")
    },
    **{("", name): _softmax for name in ("Softmax", "LogSoftmax", "Hardmax")},
    **{("", name): _by_axis(0) for name in ("ArgMax", "ArgMin")},
    ("", "TopK"): _by_axis(-1),
    ("", "LpNormalization"): _by_axis(-1),
    ("", "LayerNormalization"): _normalization,
    ("", "RMSNormalization"): _normalization,
    ("", "CumSum"): _cumulative,
    ("", "Gemm"): _gemm,
    ("com.microsoft", "QGemm"): _qgemm,
    ("", "MatMul"): _matmul(0, 1),
    ("", "MatMulInteger"): _matmul(0, 1),
    ("", "QLinearMatMul"): _matmul(0, 3),
    ("", "Concat"): _concat,
    ("com.microsoft", "QLinearConcat"): _qconcat,
    ("com.microsoft", "QLinearAdd"): _qlinear_binary,
    ("com.microsoft", "QLinearMul"): _qlinear_binary,
    ("com.microsoft", "QLinearSoftmax"): _softmax,
    ("", "Flatten"): _flatten,
    ("", "Transpose"): _transpose,
    ("", "Reshape"): _reshape,
    ("", "Squeeze"): _squeeze,
    ("", "Unsqueeze"): _unsqueeze,
    ("", "Slice"): _slice,
    ("", "Split"): _split,
    ("", "Pad"): _pad,
    ("", "Gather"): _gather,
    ("", "Resize"): _resize,
    ("", "Upsample"): _resize,
    ("", "BatchNormalization"): _batch_normalization,
}
"""By domain and operator."""
