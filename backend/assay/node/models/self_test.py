"""A version's self-test: a few inputs and the hashes that they must give. Pure.

Canonical JSON, sha256 in the manifest as `self_test`: `{"artifact": sha256 hex, "vectors": [{"inputs": {name:
hex}, "shapes": {name: dims}, "input_hash", "output_hash"}]}`; tensor bytes row-major little-endian.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from assay.commitments.parsing import FieldError, get_field, parse_hash
from assay.commitments.public_data import NamedTensor
from assay.commitments.tensors import commit_tensors
from assay.errors import RequestError
from assay.node.errors import ArtifactRefused
from assay.types import Hash32, TensorSpec

if TYPE_CHECKING:
    from assay.node.oip.protocol import Array

MAX_SELF_TEST: Final = 64 << 20
MAX_VECTORS: Final = 64
_CODE: Final = "self_test"


@dataclass(frozen=True, slots=True)
class Vector:
    """`inputs` by name: dims and bytes."""

    inputs: dict[str, tuple[tuple[int, ...], bytes]] = field(repr=False)
    input_hash: Hash32
    output_hash: Hash32

    def arrays(self, specs: Sequence[TensorSpec]) -> list[Array]:
        """The inputs in signature order, checked against `input_hash`. Raises ArtifactRefused `self_test`."""
        if set(self.inputs) != {spec.name for spec in specs}:
            raise _refused(f"it is for inputs {', '.join(self.inputs)}")
        try:
            arrays = [NamedTensor(spec.name, spec.dtype, *self.inputs[spec.name]).array for spec in specs]
            found = commit_tensors(arrays)
        except (RequestError, ValueError) as error:
            raise _refused(str(error)) from None
        if found != self.input_hash:
            raise _refused(f"its inputs hash to 0x{found.hex()}, it says 0x{self.input_hash.hex()}")
        return arrays


def parse_self_test(raw: bytes, artifact: str) -> list[Vector]:
    """The vectors of the artifact with this sha256 in hex. Raises ArtifactRefused `self_test`."""
    try:
        document = orjson.loads(raw)
        named = get_field(document, "artifact", code=_CODE)
        rows = get_field(document, "vectors", code=_CODE)
        if named != artifact:
            raise _refused(f"it is of artifact {str(named)[:80]}")
        if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_VECTORS:
            raise _refused(f"it must have 1 to {MAX_VECTORS} vectors")
        return [_vector(row) for row in rows]
    except (FieldError, ValueError) as error:
        raise _refused(str(error)) from None


def _vector(row: Any) -> Vector:
    inputs = get_field(row, "inputs", code=_CODE)
    shapes = get_field(row, "shapes", code=_CODE)
    if not isinstance(inputs, dict) or not isinstance(shapes, dict) or set(inputs) != set(shapes):
        raise FieldError("inputs", "and shapes must name the same tensors", code=_CODE)
    return Vector(
        {name: (_dims(shapes[name], name), _bytes(inputs[name], name)) for name in inputs},
        parse_hash(get_field(row, "input_hash", code=_CODE), "input_hash", code=_CODE),
        parse_hash(get_field(row, "output_hash", code=_CODE), "output_hash", code=_CODE),
    )


def _dims(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(dim) is int and 0 <= dim < 1 << 32 for dim in value):
        raise FieldError(name, "expected a list of dims", code=_CODE)
    return tuple(value)


def _bytes(value: Any, name: str) -> bytes:
    if not isinstance(value, str):
        raise FieldError(name, "expected hexadecimal digits", code=_CODE)
    return bytes.fromhex(value)


def _refused(problem: str) -> ArtifactRefused:
    return ArtifactRefused(
        f"the version's self-test cannot be used: {problem}; its publisher must publish it anew", code=_CODE
    )
