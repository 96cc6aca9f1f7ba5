"""Collects kernels while nodes are lowered: operands from views, elementwise kernels, copies, the program's
end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, Final

from numpy.typing import NDArray

from assay.commitments.tensors import array_bytes, tensor_root
from assay.exact.assembler import Expression
from assay.exact.decode import decode_header, decode_kernel
from assay.exact.errors import RecordError
from assay.exact.lowering import forms
from assay.exact.lowering.graph import TensorInfo
from assay.exact.lowering.registry import Node
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import Interval, Value, dtype_interval, row_major
from assay.exact.program import (
    MAX_KERNELS,
    Affine,
    Bound,
    Kernel,
    Operand,
    Program,
    Signature,
    Source,
    encode_header,
    encode_kernel,
)

COPY: Final = Expression().operand(0)
_SMALLER: Final = "make the tensor smaller or split the operator"


class Context:
    """One program being built. `batched`: inputs and outputs have a batch axis, which views leave out."""

    def __init__(self, batched: bool) -> None:
        self.batched = batched
        self._inputs: list[Signature] = []
        self._kernels: list[Kernel] = []
        self._constants: dict[bytes, NDArray[Any]] = {}
        self._roots: dict[int, tuple[NDArray[Any], bytes]] = {}

    def add_input(self, info: TensorInfo) -> Value:
        """The next input of the program."""
        dims = tuple(int(dim) for dim in (info.dims or ())[int(self.batched) :])
        self._inputs.append(Signature(info.dtype, dims, name=info.name))
        return Value(
            dtype=info.dtype,
            dims=dims,
            batched=self.batched,
            source=Source.INPUT,
            index=len(self._inputs) - 1,
            elements=prod(dims),
            base=0,
            strides=row_major(dims),
            interval=dtype_interval(info.dtype),
        )

    def operand(
        self, value: Value, index: Sequence[Affine], *, pad: int = 0, bounds: Sequence[Bound] = ()
    ) -> Operand:
        """Reads `value` at the element whose index on each axis is a form of the loop variables.

        Outside the bounds it reads `pad`. Without bounds the index must stay inside the dims: only the end of
        the whole row is checked by a step.
        """
        return self.flat_operand(value, value.form(index), pad=pad, bounds=bounds)

    def flat_operand(
        self,
        value: Value,
        flat: Affine,
        *,
        pad: int = 0,
        bounds: Sequence[Bound] = (),
        indirect: tuple[int, int] | None = None,
    ) -> Operand:
        """Reads the tensor behind `value` at a flat element of its row; the view's strides are ignored."""
        root = b"" if value.data is None else self._root(value.data)
        return Operand(
            value.source, value.dtype, value.elements, flat, value.index, root, pad, tuple(bounds), indirect
        )

    def _root(self, data: NDArray[Any]) -> bytes:
        """Tensor root of a constant, hashed once an array; arrays are kept, so that their ids stay theirs."""
        if id(data) not in self._roots:
            root = bytes(tensor_root(array_bytes(data)))
            self._constants[root] = data
            self._roots[id(data)] = (data, root)
        return self._roots[id(data)][1]

    def emit(
        self,
        node: Node,
        *,
        dtype: int,
        domain: Sequence[int],
        operands: Sequence[Operand],
        expression: Expression,
        batched: bool,
        reduction: Sequence[int] = (),
        init: int = 0,
        dims: Sequence[int] | None = None,
        interval: Interval | None = None,
        dequantised: bool = False,
        part: str = "",
    ) -> Value:
        """Appends a kernel; its tensor as a contiguous view of `dims` (the domain unless given).

        `part` tells people what the kernel computes where a node takes several. `interval` bounds the values
        (all of the dtype unless given). Refuses what is beyond a limit of SPEC.md §10.
        """
        output = f"{node.outputs[0]} ({part})" if part else node.outputs[0]
        code = expression.code
        kernel = Kernel(
            dtype,
            tuple(domain),
            tuple(reduction),
            tuple(operands),
            code,
            init,
            node.name,
            node.op_type,
            output,
        )
        check_kernel(kernel)
        if len(self._kernels) >= MAX_KERNELS:
            raise Refusal(f"the program has more than {MAX_KERNELS} kernels", "split the model")
        self._kernels.append(kernel)
        shape = kernel.domain if dims is None else tuple(dims)
        return Value(
            dtype=dtype,
            dims=shape,
            batched=batched,
            source=Source.KERNEL,
            index=len(self._kernels) - 1,
            elements=kernel.elements,
            base=0,
            strides=row_major(shape),
            interval=interval or dtype_interval(dtype),
            dequantised=dequantised,
        )

    def elementwise(
        self,
        node: Node,
        dtype: int,
        values: Sequence[Value],
        expression: Expression,
        *,
        interval: Interval | None = None,
        dequantised: bool = False,
        part: str = "",
    ) -> Value:
        """One kernel over the values, broadcast to each other; operand k of the expression is values[k]."""
        dims, views, batched = broadcast(values)
        domain, steps = merge_axes(dims, [view.strides for view in views])
        operands = [
            self.flat_operand(view, forms.build(view.base, enumerate(strides)))
            for view, strides in zip(views, steps, strict=True)
        ]
        return self.emit(
            node,
            dtype=dtype,
            domain=domain,
            operands=operands,
            expression=expression,
            batched=batched,
            dims=dims,
            interval=interval,
            dequantised=dequantised,
            part=part,
        )

    def origin(self, value: Value, *op_types: str) -> Kernel | None:
        """The kernel of such an operator that made the tensor, or one that it was changed from element by
        element.

        For what onnxruntime's rewriting does to an operator because of the one before it.
        """
        source, index = value.source, value.index
        while source is Source.KERNEL:
            kernel = self._kernels[index]
            if kernel.op_type in op_types:
                return kernel
            computed = [one for one in kernel.operands if one.source is not Source.CONSTANT]
            if kernel.reduction or len(computed) != 1:
                return None
            source, index = computed[0].source, computed[0].index
        return None

    def constant(self, operand: Operand) -> NDArray[Any] | None:
        """The tensor of a constant operand of a kernel here."""
        return self._constants[operand.root] if operand.source is Source.CONSTANT else None

    def copy(self, node: Node, value: Value, part: str = "copied") -> Value:
        """The same values in a contiguous tensor of their own."""
        return self.elementwise(
            node,
            value.dtype,
            [value],
            COPY,
            interval=value.interval,
            dequantised=value.dequantised,
            part=part,
        )

    def reshape(self, node: Node, value: Value, dims: Sequence[int]) -> Value:
        """`value` under other dims of as many elements, without a kernel where its strides allow that."""
        return value.reshape(dims) or self.copy(node, value).with_view(dims, row_major(dims))

    def finish(self, outputs: Sequence[tuple[Node, Value]]) -> Program:
        """The program whose outputs are these; `node.outputs[0]` names each. Kernels that none needs are
        left out."""
        values = [self._as_kernel(node, value) for node, value in outputs]
        kept, numbers = _prune(self._kernels, [value.index for value in values])
        names = [node.outputs[0] for node, _ in outputs]
        signatures = tuple(
            Signature(value.dtype, value.dims, numbers[value.index], name)
            for name, value in zip(names, values, strict=True)
        )
        used = {op.root for kernel in kept for op in kernel.operands if op.source is Source.CONSTANT}
        constants = {root: self._constants[root] for root in sorted(used)}
        program = Program(self.batched, tuple(self._inputs), signatures, kept, constants)
        try:
            decode_header(encode_header(program))
        except (RecordError, OverflowError) as error:
            raise Refusal(f"the signature is beyond a limit of the profile ({error})", _SMALLER) from None
        return program

    def _as_kernel(self, node: Node, value: Value) -> Value:
        if self.batched and not value.batched:
            cure = "make it depend on the input, with the batch axis first"
            raise Refusal(f"output {node.outputs[0]!r} has no batch axis", cure)
        if value.source is Source.KERNEL and value.is_contiguous:
            return value
        return self.copy(node, value, part="")


def check_kernel(kernel: Kernel) -> None:
    """Refuses a kernel beyond a limit of SPEC.md §10, or that would read outside a row by mistake."""
    try:
        decode_kernel(encode_kernel(kernel))
    except (RecordError, OverflowError) as error:
        raise Refusal(f"it is beyond a limit of the profile ({error})", _SMALLER) from None


def broadcast(values: Sequence[Value]) -> tuple[tuple[int, ...], list[Value], bool]:
    """ONNX's multidirectional broadcasting, batch axis aside: common dims, the views, whether batched.

    Refuses what would line another axis up with the batch axis.
    """
    batched = any(value.batched for value in values)
    rank = max(value.rank for value in values)
    views = [_align(value, rank) for value in values] if batched else list(values)
    length = max(len(view.dims) for view in views)
    padded = [(1,) * (length - len(view.dims)) + view.dims for view in views]
    dims = tuple(max(extents) if 0 not in extents else 0 for extents in zip(*padded, strict=True))
    for view in padded:
        if any(extent not in (1, wanted) for extent, wanted in zip(view, dims, strict=True)):
            raise Refusal(f"dims {list(view)} do not broadcast to {list(dims)}", "correct the shapes")
    return dims, [view.expand(dims) for view in views], batched


def _align(value: Value, rank: int) -> Value:
    """Without the first axis where it would meet the batch axis."""
    if value.batched:
        if value.rank == rank:
            return value
        raise Refusal("broadcasting would line the batch axis up with another one", "reshape the operands")
    if value.rank < rank:
        return value
    if value.dims[0] != 1:
        raise Refusal(f"a constant's first axis of {value.dims[0]} meets the batch axis", "make that axis 1")
    return value.with_view(value.dims[1:], value.strides[1:])


def merge_axes(
    dims: Sequence[int], strides: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Fewer loop axes in the same order: drops those of extent 1, joins those that all operands pass
    evenly."""
    merged: list[tuple[int, tuple[int, ...]]] = []
    for axis, dim in enumerate(dims):
        if dim == 1:
            continue
        steps = tuple(one[axis] for one in strides)
        if merged and merged[-1][1] == tuple(dim * step for step in steps):
            merged[-1] = (merged[-1][0] * dim, steps)
        else:
            merged.append((dim, steps))
    domain = tuple(dim for dim, _ in merged)
    return domain, [tuple(steps[k] for _, steps in merged) for k in range(len(strides))]


def _prune(kernels: Sequence[Kernel], wanted: Sequence[int]) -> tuple[tuple[Kernel, ...], dict[int, int]]:
    """The kernels that the wanted ones need, renumbered in their order, and each one's new number."""
    needed: set[int] = set()
    pending = list(wanted)
    while pending:
        number = pending.pop()
        if number not in needed:
            needed.add(number)
            pending += [op.index for op in kernels[number].operands if op.source is Source.KERNEL]
    numbers = {old: new for new, old in enumerate(sorted(needed))}
    kept = []
    for old in sorted(needed):
        operands = tuple(
            replace(op, index=numbers[op.index]) if op.source is Source.KERNEL else op
            for op in kernels[old].operands
        )
        kept.append(replace(kernels[old], operands=operands))
    return tuple(kept), numbers
