"""Sliding windows of convolutions and pools: attributes, padding and where each window reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from assay.exact.lowering import forms
from assay.exact.lowering.registry import Node
from assay.exact.lowering.report import Refusal
from assay.exact.program import MAX_STEPS, Affine, Bound


@dataclass(frozen=True)
class Window:
    """Per spatial axis: output index o and tap k read `o · stride + k · dilation − begin` of `size`."""

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    outputs: tuple[int, ...]

    def index(self, axis: int, output: int, tap: int) -> Affine:
        """The element read on a spatial axis; `output` and `tap` are numbers of loop variables."""
        return forms.build(-self.begins[axis], [(output, self.strides[axis]), (tap, self.dilations[axis])])

    def bounds(self, indices: Sequence[Affine]) -> list[Bound]:
        """For the axes on which a window can leave the tensor."""
        bounds = []
        for axis, form in enumerate(indices):
            furthest = (
                (self.outputs[axis] - 1) * self.strides[axis]
                + (self.kernel[axis] - 1) * self.dilations[axis]
                - self.begins[axis]
            )
            if self.begins[axis] or furthest >= self.sizes[axis]:
                bounds.append(Bound(form, self.sizes[axis]))
        return bounds


def read_window(node: Node, sizes: Sequence[int], kernel: Sequence[int], *, ceil: bool = False) -> Window:
    """The window of a node over spatial dims `sizes`, from ONNX's attributes. Refuses what is not static or
    sane."""
    rank = len(sizes)
    if tuple(node.attributes.get("kernel_shape", kernel)) != tuple(kernel) or len(kernel) != rank:
        raise Refusal("kernel_shape does not fit the tensors", "correct the attribute")
    if prod(kernel) > MAX_STEPS:
        reason = f"the window has {prod(kernel)} places, at most {MAX_STEPS} are taken"
        raise Refusal(reason, "use a smaller one")
    strides = _listed(node, "strides", (1,) * rank)
    dilations = _listed(node, "dilations", (1,) * rank)
    reach = [(taps - 1) * step + 1 for taps, step in zip(kernel, dilations, strict=True)]
    begins, ends = _read_pads(node, sizes, strides, dilations, reach)
    outputs = []
    for axis, size in enumerate(sizes):
        room = size + begins[axis] + ends[axis] - reach[axis]
        if room < 0:
            raise Refusal("the window is larger than the padded tensor", "correct the shapes")
        count = room // strides[axis] + 1
        if ceil and room % strides[axis] and count * strides[axis] < size + begins[axis]:
            count += 1
        outputs.append(count)
    return Window(tuple(sizes), tuple(kernel), strides, dilations, tuple(begins), tuple(ends), tuple(outputs))


def _listed(node: Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = tuple(node.attributes.get(name, default))
    if len(value) != len(default) or min(value, default=1) < 1:
        raise Refusal(f"{name} {list(value)} does not fit {len(default)} spatial axes", "correct it")
    return value


def _read_pads(
    node: Node, sizes: Sequence[int], strides: Sequence[int], dilations: Sequence[int], reach: Sequence[int]
) -> tuple[list[int], list[int]]:
    mode = node.attributes.get("auto_pad", "NOTSET")
    rank = len(sizes)
    if mode == "VALID":
        return [0] * rank, [0] * rank
    if mode == "NOTSET":
        pads = tuple(node.attributes.get("pads", (0,) * 2 * rank))
        if len(pads) != 2 * rank or min(pads, default=0) < 0:
            raise Refusal(f"pads {list(pads)} do not fit {rank} spatial axes", "use pads from 0")
        return list(pads[:rank]), list(pads[rank:])
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise Refusal(f"auto_pad {mode!r} is unknown", "write the pads out")
    if any(step != 1 for step in dilations):
        raise Refusal("onnxruntime has no auto_pad with dilations", "write the pads out")
    totals = [
        ((size + step - 1) // step - 1) * step + far - size
        for size, step, far in zip(sizes, strides, reach, strict=True)
    ]
    if min(totals) < 0:
        raise Refusal("auto_pad with strides beyond the window is read in two ways", "write the pads out")
    smaller = [total // 2 for total in totals]
    larger = [total - half for total, half in zip(totals, smaller, strict=True)]
    return (smaller, larger) if mode == "SAME_UPPER" else (larger, smaller)
