"""Bytes on the wire: requests made before the clock runs, answers told apart as they come in."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

OIP_TYPES = {"float32": "FP32", "uint8": "UINT8"}
_SEQUENCE = re.compile(rb'sequence\\*":\s*([0-9]+)')
_DIGEST = re.compile(rb'digest\\*":\s*\\*"0x([0-9a-f]{64})')


def answer_length(data: bytes) -> int:
    """Bytes of the HTTP answer that `data` begins with; 0 while its head is not whole.

    Raises ValueError if the head has no Content-Length.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return 0
    at = data.find(b"ontent-length:", 0, end)
    if at < 0:
        at = data[:end].lower().find(b"ontent-length:")
        if at < 0:
            raise ValueError(f"an answer without Content-Length: {data[:200]!r}")
    return end + 4 + int(data[at + 14 : data.find(b"\r", at)])


def status_of(answer: bytes) -> int:
    """The status of a whole HTTP answer."""
    return int(answer[9:12])


def receipt_of(answer: bytes) -> tuple[int, bytes] | None:
    """(sequence, digest) of the receipt in an answer, read without parsing the rest."""
    sequence, digest = _SEQUENCE.search(answer), _DIGEST.search(answer)
    if sequence is None or digest is None:
        return None
    return int(sequence[1]), bytes.fromhex(digest[1].decode())


def plain_request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A whole POST request."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass(frozen=True)
class InferRequest:
    """One row for a version, in the Open Inference Protocol's binary form.

    `render(parameters)` is a request's bytes: what differs, then the tensor, which every request shares.
    """

    path: str
    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes = field(repr=False)

    @classmethod
    def of(cls, path: str, name: str, row: NDArray[Any]) -> InferRequest:
        return cls(path, name, OIP_TYPES[row.dtype.name], row.shape, row.tobytes())

    def render(self, parameters: dict[str, Any]) -> tuple[bytes, bytes]:
        tensor = {
            "name": self.name,
            "datatype": self.datatype,
            "shape": list(self.shape),
            "parameters": {"binary_data_size": len(self.raw)},
        }
        document = {"inputs": [tensor], "parameters": {"binary_data_output": True, **parameters}}
        head = json.dumps(document, separators=(",", ":")).encode()
        lines = (
            f"POST {self.path}/infer HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            "content-type: application/octet-stream\r\n"
            f"inference-header-content-length: {len(head)}\r\n"
            f"content-length: {len(head) + len(self.raw)}\r\n\r\n"
        )
        return lines.encode() + head, self.raw
