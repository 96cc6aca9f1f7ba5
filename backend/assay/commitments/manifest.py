"""A version's manifest (SPEC.md §4): inputs, outputs, licence, digests of its model card and self-test."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
import rfc8785

from assay.commitments.parsing import FieldError, get_field
from assay.commitments.tensors import OIP_TO_ONNX
from assay.types import Hash32, TensorSpec

_CODE = "manifest_invalid"
_SHA256_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FIELDS = frozenset(("inputs", "outputs", "licence", "model_card", "self_test"))


@dataclass(frozen=True, slots=True)
class Manifest:
    """`model_card` and `self_test` are sha256 digests of documents in the hub; the batch dimension is -1."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    licence: str
    model_card: Hash32
    self_test: Hash32

    def to_bytes(self) -> bytes:
        """Canonical JSON (RFC 8785)."""
        return rfc8785.dumps(
            {
                "inputs": [_spec_to_json(spec) for spec in self.inputs],
                "outputs": [_spec_to_json(spec) for spec in self.outputs],
                "licence": self.licence,
                "model_card": self.model_card.hex(),
                "self_test": self.self_test.hex(),
            }
        )

    @property
    def digest(self) -> Hash32:
        """`manifest_hash`."""
        return Hash32(sha256(self.to_bytes()).digest())

    @classmethod
    def from_bytes(cls, raw: bytes) -> Manifest:
        """Parse canonical JSON. Raises FieldError `manifest_invalid`, also if the bytes are not canonical."""
        try:
            data = orjson.loads(raw)
        except ValueError:
            raise FieldError("manifest", "is not JSON", code=_CODE) from None
        manifest = cls(
            inputs=_specs_from_json(data, "inputs"),
            outputs=_specs_from_json(data, "outputs"),
            licence=_parse_text(get_field(data, "licence", code=_CODE), "licence"),
            model_card=_parse_digest(get_field(data, "model_card", code=_CODE), "model_card"),
            self_test=_parse_digest(get_field(data, "self_test", code=_CODE), "self_test"),
        )
        if unknown := sorted(set(data) - _FIELDS):
            raise FieldError(unknown[0], "is not a field of a manifest", code=_CODE)
        if manifest.to_bytes() != raw:
            raise FieldError(
                "manifest", "is not canonical JSON (RFC 8785); write it with to_bytes", code=_CODE
            )
        return manifest


def _spec_to_json(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


def _specs_from_json(data: Any, field: str) -> tuple[TensorSpec, ...]:
    specs = get_field(data, field, code=_CODE)
    if not isinstance(specs, list) or not specs:
        raise FieldError(field, "expected a list of at least one tensor", code=_CODE)
    return tuple(_spec_from_json(spec, f"{field}[{i}]") for i, spec in enumerate(specs))


def _spec_from_json(data: Any, field: str) -> TensorSpec:
    name = _parse_text(get_field(data, "name", code=_CODE), f"{field}.name")
    dtype = get_field(data, "dtype", code=_CODE)
    shape = get_field(data, "shape", code=_CODE)
    if not isinstance(dtype, str) or dtype not in OIP_TO_ONNX:
        raise FieldError(f"{field}.dtype", f"expected one of {', '.join(OIP_TO_ONNX)}", code=_CODE)
    if not isinstance(shape, list) or not all(type(dim) is int and dim >= -1 for dim in shape):
        raise FieldError(f"{field}.shape", "expected a list of integers from -1", code=_CODE)
    return TensorSpec(name, dtype, tuple(shape))


def _parse_text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise FieldError(field, f"expected a string, got {type(value).__name__}", code=_CODE)
    return value


def _parse_digest(value: Any, field: str) -> Hash32:
    if not isinstance(value, str) or not _SHA256_HEX.fullmatch(value):
        raise FieldError(field, "expected the 64 lower-case hexadecimal digits of a sha256", code=_CODE)
    return Hash32(bytes.fromhex(value))
