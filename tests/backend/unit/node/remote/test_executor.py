"""Whatever an executor says of itself, and in its headers, is read or refused by name."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import orjson
import pytest
from assay.node.errors import Unavailable
from assay.node.remote.connection import Answer, Connection
from assay.node.remote.executor import Executor, NotTheVersion, Target
from assay.node.remote.tensors import BadAnswer
from assay.types import TensorSpec
from hypothesis import given
from hypothesis import strategies as st

X = (TensorSpec("x", "FP32", (-1, 2)),)
Y = (TensorSpec("y", "FP32", (-1,)),)
DIGITS = b"9" * 5000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**53) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "datatype", "shape"]), inner, max_size=3)
    ),
    max_leaves=8,
)


class Scripted:
    """A connection to an executor with these documents; a run gets `answer`."""

    def __init__(self, server: Any, model: Any, answer: Answer | None = None) -> None:
        self.server, self.model, self.answer = server, model, answer

    async def request(self, method: str, path: str, *_: Any, seconds: float) -> Answer:
        if method == "POST":
            assert self.answer is not None
            return self.answer
        document = self.server if path == "/v2" else {} if path.endswith("/ready") else self.model
        return Answer(200, {}, orjson.dumps(document))

    def verify(self) -> bool:
        return asyncio.run(executor().verify(cast(Connection, self)))


def executor() -> Executor:
    return Executor(Target("http://host", "model"), X, Y)


@pytest.mark.parametrize(
    ("extensions", "binary"),
    [(None, False), ([], False), (["binary_tensor_data"], True), ([5, {}, "statistics"], False)],
)
def test_verify__extensions__say_whether_it_speaks_binary(extensions: Any, binary: bool) -> None:
    assert Scripted({"extensions": extensions}, {}).verify() is binary


@pytest.mark.parametrize("extensions", [5, True, "binary_tensor_data", {"binary_tensor_data": 1}])
def test_verify__extensions_that_are_no_list__are_refused(extensions: Any) -> None:
    with pytest.raises(BadAnswer, match="extensions are no list"):
        Scripted({"extensions": extensions}, {}).verify()


@pytest.mark.parametrize("tensors", [5, "x", {"name": "x"}, [5], [{}], [{"name": ["x"]}], [{"name": None}]])
@pytest.mark.parametrize("kind", ["inputs", "outputs"])
def test_verify__metadata_that_is_no_list_of_tensors__is_refused(kind: str, tensors: Any) -> None:
    with pytest.raises(BadAnswer, match=kind):
        Scripted({}, {kind: tensors}).verify()


@given(JSON, JSON, JSON)
def test_verify__any_json__is_read_or_refused(extensions: Any, inputs: Any, outputs: Any) -> None:
    world = Scripted({"extensions": extensions}, {"inputs": inputs, "outputs": outputs})
    with contextlib.suppress(BadAnswer, NotTheVersion):
        assert world.verify() in (True, False)


def run(answer: Answer) -> None:
    connection = cast(Connection, Scripted({}, {}, answer))
    asyncio.run(executor().run(connection, [], binary=False))


@pytest.mark.parametrize("length", [DIGITS, b"3", b"-1", b"", b"two"])
def test_run__length_of_the_json_part_that_is_none__is_refused(length: bytes, monkeypatch: Any) -> None:
    monkeypatch.setattr("assay.node.remote.executor.encode_request", lambda *_, binary: (b"", None))
    with pytest.raises(BadAnswer, match="Content-Length"):
        run(Answer(200, {b"inference-header-content-length": length}, b"{}"))


@pytest.mark.parametrize(
    ("told", "seconds"), [(DIGITS, 1), (b"7", 7), (b"900", 60), (b"0", 1), (b"soon", 1), (b"-5", 1)]
)
def test_run__retry_after__is_bounded(told: bytes, seconds: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("assay.node.remote.executor.encode_request", lambda *_, binary: (b"", None))
    with pytest.raises(Unavailable) as refused:
        run(Answer(503, {b"retry-after": told}))
    assert refused.value.retry_after == seconds
