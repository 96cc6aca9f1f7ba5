"""A version on another server, by the Open Inference Protocol v2: is it the one, is it ready, run it.

Source: the KServe `rest_predict_v2` specification and Triton's binary tensor data extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from assay.commitments.tensors import commit_tensors
from assay.errors import AssayError
from assay.node.errors import RunFailed, Unavailable
from assay.node.models.self_test import Vector
from assay.node.oip.protocol import HEADER_LENGTH, Array
from assay.node.remote.connection import Answer, Connection, ConnectionFailed
from assay.node.remote.tensors import BadAnswer, decode_answer, encode_request
from assay.types import TensorSpec

JSON: Final = (b"content-type", b"application/json")
BINARY: Final = (b"content-type", b"application/octet-stream")
_LENGTH: Final = HEADER_LENGTH.encode()
MAX_RETRY_AFTER: Final = 60
_MAX_DIGITS: Final = 18


class NotTheVersion(AssayError):  # noqa: N818 - named after what happened, as in assay.errors
    """What the executor runs is not the version: another signature, or other outputs for its self-test."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a version runs. `version` empty: the executor's choice. `seconds` for one answer."""

    url: str
    model: str
    version: str = ""
    seconds: float = 30.0
    max_body: int = 64 << 20
    json_only: bool = False

    @property
    def path(self) -> str:
        path = f"{urlsplit(self.url).path.rstrip('/')}/v2/models/{quote(self.model, safe='')}"
        return f"{path}/versions/{quote(self.version, safe='')}" if self.version else path

    @property
    def server_path(self) -> str:
        return f"{urlsplit(self.url).path.rstrip('/')}/v2"

    async def connect(self) -> Connection:
        """Raises ConnectionFailed."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        return await Connection.open(
            parts.hostname, parts.port or 80, max_body=self.max_body, seconds=min(self.seconds, 5.0)
        )


@dataclass(frozen=True, slots=True)
class Executor:
    """`inputs` and `outputs` are the version's signature; `vectors` of an exact version's self-test."""

    target: Target
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    vectors: tuple[Vector, ...] = ()

    async def verify(self, connection: Connection) -> bool:
        """Whether it speaks binary tensors; it is ready, has the version's signature, and reproduces the
        self-test on this connection. Raises ConnectionFailed, NotTheVersion, Unavailable, RunFailed."""
        server = (await self._get(connection, self.target.server_path)).json()
        binary = _speaks_binary(server) and not self.target.json_only
        await self.check_ready(connection)
        self._check_metadata((await self._get(connection, self.target.path)).json())
        for number, vector in enumerate(self.vectors, start=1):
            outputs = await self.run(connection, vector.arrays(self.inputs), binary=binary)
            if commit_tensors(outputs) != vector.output_hash:
                raise NotTheVersion(
                    f"the executor's outputs for self-test vector {number} are not the version's: it runs "
                    f"another model, or on a machine that computes otherwise"
                )
        return binary

    async def check_ready(self, connection: Connection) -> None:
        """Raises ConnectionFailed, Unavailable."""
        answer = await connection.request("GET", f"{self.target.path}/ready", seconds=self.target.seconds)
        if answer.status != 200:
            raise Unavailable(f"the executor says that it is not ready (status {answer.status})")

    async def _get(self, connection: Connection, path: str) -> Answer:
        answer = await connection.request("GET", path, seconds=self.target.seconds)
        if answer.status != 200:
            raise Unavailable(f"the executor answers GET {path} with status {answer.status}")
        return answer

    def _check_metadata(self, metadata: dict[str, Any]) -> None:
        """Where the executor describes its tensors, they must be the version's; it may have others."""
        for kind, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            told = _tensors_by_name(metadata, kind)
            for spec in specs if told else ():
                found = told.get(spec.name)
                if found is None or found.get("datatype") != spec.dtype or not _fits(found, spec):
                    raise NotTheVersion(
                        f"the executor's {kind} are {_describe(told)}; the version has {spec.name} "
                        f"{spec.dtype}{list(spec.shape)}"
                    )

    async def run(
        self, connection: Connection, arrays: Sequence[Array], *, binary: bool
    ) -> tuple[Array, ...]:
        """All outputs in signature order. Raises ConnectionFailed, Unavailable, RunFailed."""
        body, json_length = encode_request(self.inputs, arrays, self.outputs, binary=binary)
        headers = (JSON,) if json_length is None else (BINARY, (_LENGTH, b"%d" % json_length))
        answer = await connection.request(
            "POST", f"{self.target.path}/infer", body, headers, seconds=self.target.seconds
        )
        if answer.status != 200:
            raise _refusal(answer)
        return decode_answer(answer.body, _json_length(answer), self.outputs)


def _speaks_binary(server: dict[str, Any]) -> bool:
    """Raises BadAnswer."""
    extensions = server.get("extensions") or []
    if not isinstance(extensions, list):
        raise BadAnswer("its extensions are no list")
    return "binary_tensor_data" in extensions


def _tensors_by_name(metadata: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """Raises BadAnswer."""
    tensors = metadata.get(kind) or []
    if not isinstance(tensors, list):
        raise BadAnswer(f"its metadata's {kind} are no list")
    told: dict[str, dict[str, Any]] = {}
    for one in tensors:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise BadAnswer(f"one of its metadata's {kind} has no name")
        told[one["name"]] = one
    return told


def _number(value: bytes) -> int | None:
    """Of a header; None if it is none, or longer than any that is meant."""
    return int(value) if value.isdigit() and len(value) <= _MAX_DIGITS else None


def _json_length(answer: Answer) -> int | None:
    value = answer.headers.get(_LENGTH)
    if value is None:
        return None
    length = _number(value)
    if length is None or length > len(answer.body):
        raise BadAnswer("its Inference-Header-Content-Length is no length of its body")
    return length


def _refusal(answer: Answer) -> Unavailable | RunFailed:
    """What an error of the executor means to whoever asked this node."""
    try:
        reason = str(answer.json().get("error", ""))[:200]
    except ConnectionFailed:
        reason = ""
    told = f"the executor answered with status {answer.status}{': ' if reason else ''}{reason}"
    if answer.status in (404, 429, 502, 503, 504):
        wait = _number(answer.headers.get(b"retry-after", b"1")) or 1
        seconds = min(wait, MAX_RETRY_AFTER)
        return Unavailable(told, code="busy" if answer.status == 429 else "not_ready", retry_after=seconds)
    return RunFailed(told)


def _fits(found: dict[str, Any], spec: TensorSpec) -> bool:
    shape = found.get("shape")
    if not isinstance(shape, list) or not shape:
        return True
    return len(shape) == len(spec.shape) and all(
        have == want or -1 in (have, want) for have, want in zip(shape, spec.shape, strict=True)
    )


def _describe(told: dict[str, dict[str, Any]]) -> str:
    return ", ".join(
        f"{name[:40]} {str(one.get('datatype'))[:10]}{str(one.get('shape'))[:60]}"
        for name, one in list(told.items())[:8]
    )
