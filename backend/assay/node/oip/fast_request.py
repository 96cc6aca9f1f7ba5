"""The usual request, read fast: every input a binary tensor of numbers, whole and finite. Pure.

What is not so, right or wrong, is left to `oip`, which reads everything and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import isfinite, prod
from typing import Any, Final

import numpy as np
import orjson

from assay.commitments.tensors import OIP_TO_NUMPY, OIP_TO_ONNX, hash_commitments, tensor_header, tensor_root
from assay.errors import RequestError
from assay.node.oip import protocol as oip
from assay.node.oip.protocol import Array, InferRequest, RequestedOutput
from assay.node.payments import voucher_slip
from assay.node.receipts.entries import HeldVoucher
from assay.types import Address, Hash32, TensorSpec

REMEMBERED: Final = 4096
MAX_REMEMBERED_BYTES: Final = 2048
MAX_REMEMBERED_PARAMETERS: Final = 16
_VOUCHER: Final = frozenset((voucher_slip.CONSUMER, *voucher_slip.NAMES))


@dataclass(frozen=True, slots=True)
class Part:
    """Where a tensor is behind the JSON, and what its commitment begins with."""

    offset: int
    size: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    head: bytes
    is_float: bool


@dataclass(frozen=True, slots=True)
class Head:
    """What the JSON of a request says; `parts` in signature order. With a `consumer`, `parameters` are
    without the voucher, whose values stand apart."""

    parts: tuple[Part, ...]
    size: int
    outputs: tuple[RequestedOutput, ...] | None
    binary_default: bool
    id: str | None
    parameters: dict[str, Any]
    consumer: Address | None = None


@dataclass(slots=True)
class Found:
    """A request that was read, the commitment of its inputs, and its voucher and consumer, if they are not
    among its parameters."""

    request: InferRequest
    input_hash: Hash32
    consumer: Address | None
    voucher: HeldVoucher | None


class FastReader:
    """For one version's signature. Remembers heads, those with a voucher by what is left without it: they
    come again."""

    def __init__(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_elements: int
    ) -> None:
        self._specs = {spec.name: (i, spec) for i, spec in enumerate(inputs)}
        self._outputs = outputs
        self._max_elements = max_elements
        self._heads: dict[bytes, Head] = {}

    def read(self, body: bytes, json_length: int | None) -> Found | None:
        """As `oip.parse_request`, `commit_tensors` and `parse_voucher` have it; None: ask them."""
        if json_length is None or not 0 < json_length <= len(body):
            return None
        raw = body[:json_length]
        voucher = None
        head = self._heads.get(raw)
        if head is None:
            cut = voucher_slip.cut(raw)
            if cut is not None:
                head, voucher = self._heads.get(cut[0]), cut[1]
            if head is None:
                head = self._read_head(raw, cut)
            if head is None:
                return None
            if head.consumer is None:
                voucher = None
        elif head.consumer is not None:  # the gap itself was sent
            return None
        if json_length + head.size != len(body):
            return None
        arrays, commitments = [], []
        for part in head.parts:
            start = json_length + part.offset
            data = body[start : start + part.size]  # bytes of its own are aligned, however long the JSON is
            flat = np.frombuffer(data, part.dtype)
            if part.is_float and not _is_finite(flat):
                return None
            arrays.append(flat.reshape(part.shape))
            commitments.append(sha256(part.head + tensor_root(data)).digest())
        request = InferRequest(tuple(arrays), head.outputs, head.binary_default, head.id, head.parameters)
        return Found(request, hash_commitments(commitments), head.consumer, voucher)

    def _read_head(self, raw: bytes, cut: tuple[bytes, HeldVoucher] | None) -> Head | None:
        try:
            header = orjson.loads(raw)
            head = self._understand(header)
        except (orjson.JSONDecodeError, RequestError, AttributeError, TypeError):
            return None
        is_large = len(raw) > MAX_REMEMBERED_BYTES
        if head is None or is_large or len(head.parameters) > MAX_REMEMBERED_PARAMETERS:
            return head
        key, parameters = raw, head.parameters
        if cut is not None:
            consumer = voucher_slip.consumer_of(raw, cut[1], parameters)
            if consumer is None:
                return head
            key, others = cut[0], {k: v for k, v in parameters.items() if k not in _VOUCHER}
            head = replace(head, parameters=others, consumer=consumer)
        elif "voucher_signature" in parameters:
            return head
        if len(self._heads) >= REMEMBERED:
            self._heads.clear()
        self._heads[key] = head
        return head

    def _understand(self, header: dict[str, Any]) -> Head | None:
        tensors = header.get("inputs")
        parameters = header.get("parameters", {})
        if type(tensors) is not list or type(parameters) is not dict or parameters.get("sequence_id"):
            return None
        if len(tensors) != len(self._specs):
            return None
        parts: list[Part | None] = [None] * len(tensors)
        offset = 0
        for tensor in tensors:
            index, part = self._part(tensor, offset)
            if part is None or parts[index] is not None:
                return None
            parts[index] = part
            offset += part.size
        default = parameters.get("binary_data_output", False) is True
        wanted, name = header.get("outputs"), header.get("id")
        if name is not None and type(name) is not str:
            return None
        outputs = oip.requested(wanted, self._outputs, default)
        found = tuple([part for part in parts if part is not None])
        return Head(found, offset, outputs, default, name, oip.without_lists(parameters))

    def _part(self, tensor: dict[str, Any], offset: int) -> tuple[int, Part | None]:
        index, spec = self._specs.get(tensor.get("name"), (0, None))  # type: ignore[arg-type]
        options = tensor.get("parameters")
        if (
            spec is None
            or type(options) is not dict
            or "data" in tensor
            or "shared_memory_region" in options
            or tensor.get("datatype") != spec.dtype
        ):
            return index, None
        size, shape, dtype = options.get("binary_data_size"), tensor.get("shape"), OIP_TO_NUMPY[spec.dtype]
        if type(size) is not int or type(shape) is not list or len(shape) != len(spec.shape):
            return index, None
        for dim, want in zip(shape, spec.shape, strict=True):
            if type(dim) is not int or not (0 < dim < 1 << 32 if want == -1 else dim == want):
                return index, None
        elements = prod(shape)
        if (
            not 0 < elements <= self._max_elements
            or size != elements * dtype.itemsize
            or dtype.kind not in "fiu"
        ):
            return index, None
        head = tensor_header(OIP_TO_ONNX[spec.dtype], shape)
        return index, Part(offset, size, dtype, tuple(shape), head, dtype.kind == "f")


def _is_finite(flat: Array) -> bool:
    """A sum of squares is finite only if every number is; great numbers are looked at one by one."""
    if flat.dtype.itemsize > 2 and isfinite(flat.dot(flat)):
        return True
    return bool(np.isfinite(flat).all())
