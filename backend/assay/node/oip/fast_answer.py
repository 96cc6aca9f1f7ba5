"""An inference's answer as HTTP bytes: what is the same in every answer of a version is put together once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from assay.commitments.tensors import array_bytes
from assay.node.http.messages import BINARY, JSON, STATUS_LINES
from assay.node.oip import protocol as oip
from assay.node.oip.protocol import Array, InferRequest
from assay.node.receipts.entries import LoggedReceipt
from assay.types import Domain, TensorSpec

_OK: Final = STATUS_LINES[200]
_BINARY: Final = b"".join(
    (_OK, b"content-type: ", BINARY, b"\r\ncontent-length: %d\r\ninference-header-content-length: %d\r\n")
)
_JSON: Final = _OK + b"content-type: " + JSON + b"\r\ncontent-length: %d\r\n"
REMEMBERED: Final = 256


class AnswerWriter:
    """For one version's outputs."""

    def __init__(self, domain: Domain, outputs: Sequence[TensorSpec]) -> None:
        self._domain = domain
        self._outputs = outputs
        self._heads: dict[tuple[Any, ...], bytes] = {}

    def check(self, request: InferRequest, outputs: Sequence[Array]) -> None:
        """Raises InputError if JSON is asked for values that it cannot carry."""
        if request.outputs is not None or not request.binary_default:
            oip.requested_outputs(request, self._outputs, outputs)

    def render(
        self, name: str, number: int, request: InferRequest, outputs: Sequence[Array], receipt: LoggedReceipt
    ) -> tuple[bytes, bytes]:
        """(status line and headers but the last empty line, body), as `oip.render_response` has it."""
        text = _receipt_text(receipt)
        if request.outputs is not None or not request.binary_default:
            wanted = oip.requested_outputs(request, self._outputs, outputs)
            parameters = {"receipt": text.decode()}
            response = oip.render_response(name, str(number), request.id, wanted, parameters)
            if response.json_length is None:
                return _JSON % len(response.body), response.body
            return _BINARY % (len(response.body), response.json_length), response.body
        chunks = [array_bytes(array) for array in outputs]
        head = self._head(name, number, outputs, chunks)
        if request.id is not None:
            head += b'"id":' + orjson.dumps(request.id) + b","
        head += b'"parameters":{"receipt":' + orjson.dumps(text.decode()) + b"}}"
        body = b"".join([head, *chunks])
        return _BINARY % (len(body), len(head)), body

    def _head(
        self, name: str, number: int, outputs: Sequence[Array], chunks: Sequence[bytes | memoryview]
    ) -> bytes:
        """The JSON up to the outputs."""
        sizes = [len(chunk) for chunk in chunks]
        key = (name, number, *[array.shape for array in outputs], *sizes)
        head = self._heads.get(key)
        if head is None:
            tensors = [
                {
                    "name": spec.name,
                    "datatype": spec.dtype,
                    "shape": list(array.shape),
                    "parameters": {"binary_data_size": size},
                }
                for spec, array, size in zip(self._outputs, outputs, sizes, strict=True)
            ]
            document = {"model_name": name, "model_version": str(number), "outputs": tensors}
            head = orjson.dumps(document)[:-1] + b","
            if len(self._heads) >= REMEMBERED:
                self._heads.clear()
            self._heads[key] = head
        return head


def _receipt_text(logged: LoggedReceipt) -> bytes:
    """The receipt object as `receipt_to_json` has it: hexadecimal digits and decimals need no escaping."""
    receipt, key = logged.issued, logged.key
    public = b',"public":true' if logged.public else b""
    return (
        (
            f'{{"node":"{logged.node}","consumer":"{key.consumer}","version_id":"0x{key.version_id.hex()}",'
            f'"input_hash":"0x{receipt.input_hash.hex()}","output_hash":"0x{receipt.output_hash.hex()}",'
            f'"price":"{receipt.price}","sequence":{receipt.sequence},"executed_at":{receipt.executed_at},'
            f'"signature":"0x{receipt.signature.hex()}","digest":"0x{receipt.digest.hex()}"'
        ).encode()
        + public
        + b"}"
    )
