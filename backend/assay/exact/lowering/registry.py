"""Which function lowers which operator: by domain, type and the definition in force under the model's
opset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.exact.lowering.graph import DEFAULT_DOMAIN, OPSETS, RawNode, attribute_value
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import Value, dtype_name

if TYPE_CHECKING:
    from assay.exact.lowering.context import Context


@dataclass(frozen=True)
class Node:
    """A node about to be lowered: its inputs as values (None: left out), its attributes as plain values."""

    name: str
    op_type: str
    version: int
    """Of the operator's definition that is in force (ONNX's "since version")."""
    inputs: tuple[Value | None, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def optional(self, position: int) -> Value | None:
        return self.inputs[position] if position < len(self.inputs) else None

    def input(self, position: int, what: str, dtypes: Sequence[int] = ()) -> Value:
        """An input that must be there, of one of the dtypes. `what` names it in the refusal."""
        value = self.optional(position)
        if value is None:
            raise Refusal(f"{what} is missing", "export the model again")
        if dtypes and value.dtype not in dtypes:
            known = ", ".join(map(dtype_name, dtypes))
            raise Refusal(f"{what} is {dtype_name(value.dtype)}", f"the profile has it for {known}")
        return value

    def constant(self, position: int, what: str, dtypes: Sequence[int] = ()) -> NDArray[Any]:
        """An input that must be a constant: its values."""
        array = self.input(position, what, dtypes).array
        if array is None:
            raise Refusal(f"{what} is computed, not constant", "store it as an initialiser")
        return array

    def floats(self, name: str, default: float) -> np.float32:
        """A float attribute, as the float32 that the file stores."""
        return np.float32(self.attributes.get(name, default))


Lowering = Callable[[Node, "Context"], Value | tuple[Value, ...]]


@dataclass(frozen=True)
class Entry:
    lower: Lowering
    versions: tuple[int, ...]
    attributes: frozenset[str]


REGISTRY: dict[tuple[str, str], Entry] = {}


def operator(
    op_type: str, versions: Sequence[int], attributes: Sequence[str] = (), domain: str = DEFAULT_DOMAIN
) -> Callable[[Lowering], Lowering]:
    """Registers a lowering for every definition of the operator from the least of `versions` to `OPSETS`'
    end.

    All of those definitions must be listed (a test compares them with onnx's own); a node with an attribute
    that is not listed is refused. Outputs of the lowering are the node's first outputs; others are refused
    if used.
    """

    def register(lower: Lowering) -> Lowering:
        if (domain, op_type) in REGISTRY:
            raise ValueError(f"{domain}::{op_type} is registered twice")
        REGISTRY[domain, op_type] = Entry(lower, tuple(sorted(versions)), frozenset(attributes))
        return lower

    return register


def find_entry(raw: RawNode, opsets: Mapping[str, int]) -> tuple[Entry, int]:
    """The lowering of a node and its definition's version. Raises Refusal."""
    if raw.domain not in OPSETS:
        raise Refusal(f"operators of domain {raw.domain!r} are not in the profile", "use ONNX's own")
    entry = REGISTRY.get((raw.domain, raw.op_type))
    if entry is None:
        cure = "quantise the model (assay model quantize), or replace the operator by those of SPEC.md §10"
        raise Refusal("the operator is not in the profile", cure)
    opset = opsets.get(raw.domain, OPSETS[raw.domain].start)
    known = [version for version in entry.versions if version <= opset]
    if opset not in OPSETS[raw.domain] or not known:
        cure = f"convert the model to an operator set from {entry.versions[0]} on"
        raise Refusal(f"its definition in operator set {opset} is not in the profile", cure)
    for name in raw.attributes:
        if name not in entry.attributes:
            raise Refusal(f"attribute {name!r} is not in the profile", "export without it")
    return entry, known[-1]


def bind(raw: RawNode, version: int, inputs: Sequence[Value | None]) -> Node:
    """The node with its values. Raises Refusal."""
    attributes = {name: attribute_value(raw.attributes[name]) for name in sorted(raw.attributes)}
    return Node(raw.name, raw.op_type, version, tuple(inputs), raw.outputs, attributes)
