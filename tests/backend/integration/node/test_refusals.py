"""Every refusal of SPEC.md §7's table, produced: over HTTP, and over gRPC where it can be asked for there."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import numpy as np
import pytest
from assay.node.refusals import REFUSALS
from assay.types import TensorSpec
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.nodes import Consumer
from tests.support.oip_world import PRICE, World, oip_world
from tests.support.onnx_models import build_model, logarithm_model, manifest_of, tensor, value

TESTS: Final = Path(__file__).parents[3]
CONCURRENT: Final = 6
X: Final = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.0]}
ELSEWHERE: Final = {
    "input_rows": ("backend/unit/node/models/test_exactness.py", '"input_rows"'),
    "output_nan": ("backend/unit/node/models/test_exactness.py", '"output_nan"'),
    "output_shape": ("backend/unit/node/models/test_exactness.py", '"output_shape"'),
    "input_body": ("backend/unit/node/http/test_connection.py", "== 408"),
    "internal": ("backend/unit/node/test_refusals.py", '"internal"'),
    "not_reproducible": ("backend/unit/node/test_receipt_views.py", '"not_reproducible"'),
    "stake_exhausted": ("backend/unit/node/settlement/test_cover.py", '"stake_exhausted"'),
    "expired": ("backend/unit/node/test_receipt_views.py", '"expired"'),
}
"""Codes that need what this world has not, and the test that produces each; those with `payment` in their
name are x402's."""


def picking_model() -> bytes:
    """`y = table[x]`: valid input that is out of its range fails in the run."""
    model = build_model(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [value("x", ["rows"], TensorProto.INT64)],
        [value("y", ["rows"])],
        [tensor("table", np.ones(3, np.float32))],
    )
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    flat = [TensorSpec("x", "FP32", (-1, 2))], [TensorSpec("y", "FP32", (-1, 2))]
    picking = [TensorSpec("x", "INT64", (-1,))], [TensorSpec("y", "FP32", (-1,))]
    more = {
        "logarithm": (logarithm_model(), manifest_of(*flat)),
        "picking": (picking_model(), manifest_of(*picking)),
    }
    with oip_world(
        tmp_path_factory.mktemp("refusals"), more, max_concurrent=CONCURRENT, max_mib_in_progress=32
    ) as found:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and ask(found, "revoked").json().get("code") != "version_revoked":
            time.sleep(0.1)
        yield found


def ask(world: World, model: str, *inputs: Any, **fields: Any) -> httpx.Response:
    """One JSON inference; `fields` are the request's, `headers` HTTP's."""
    headers = fields.pop("headers", {})
    body = {"inputs": list(inputs or [X]), **fields}
    return httpx.post(f"http://{world.http}/v2/models/{model}/infer", json=body, headers=headers, timeout=20)


def post(world: World, path: str, content: bytes = b"", **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"http://{world.http}{path}", content=content, headers=names, timeout=20)


def get(world: World, path: str) -> httpx.Response:
    return httpx.get(f"http://{world.http}{path}", timeout=20)


def raw(world: World, request: bytes) -> httpx.Response:
    """Bytes that no HTTP client would send, and what comes back until the connection ends."""
    with socket.create_connection(("127.0.0.1", world.node.port), timeout=20) as sock:
        sock.sendall(request)
        answer = b"".join(iter(lambda: sock.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return httpx.Response(int(head.split(b" ")[1]), content=body)


def x(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**X, **changes}.items() if value is not None}


def paid(world: World, consumer: Consumer, amount: int, count: int, **changes: Any) -> httpx.Response:
    return ask(world, "paid", parameters={**world.voucher(consumer, amount, count), **changes})


def short_escrow(world: World) -> httpx.Response:
    return paid(world, world.consumer(PRICE - 1), PRICE, 0)


def stale(world: World) -> httpx.Response:
    consumer = world.consumer()
    assert paid(world, consumer, PRICE, 0).status_code == 200
    voucher = world.voucher(consumer, PRICE, 0)
    return ask(world, "paid", x(data=[0, 0, 0, 0]), parameters=voucher)


def forged(world: World) -> httpx.Response:
    signature = world.voucher(world.consumer(), PRICE, 0)["voucher_signature"]
    return paid(world, world.consumer(), PRICE, 0, voucher_signature=signature)


def unacknowledged(world: World) -> httpx.Response:
    consumer = world.consumer()
    for number in range(1, 5):
        assert paid(world, consumer, PRICE * number, 0).status_code == 200
    return paid(world, consumer, PRICE * 5, 0)


def busy(world: World) -> httpx.Response:
    """More bodies than a host's part of the memory, none of them there: others are served beside them."""
    head = f"POST /v2/models/free/infer HTTP/1.1\r\nhost: a\r\ncontent-length: {1 << 20}\r\n\r\n{{"
    transport = httpx.HTTPTransport(local_address="127.0.0.2")
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", world.node.port), timeout=20))
            sock.sendall(head.encode())
        deadline = time.monotonic() + 10
        while (answer := ask(world, "free")).status_code == 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        other = stack.enter_context(httpx.Client(transport=transport, timeout=20))
        url = f"http://{world.http}/v2/models/free/infer"
        assert other.post(url, json={"inputs": [X]}).status_code == 200
        return answer


def unloaded(world: World) -> httpx.Response:
    path = "/v2/repository/models/logarithm"
    assert post(world, f"{path}/unload", **world.token).status_code == 200
    try:
        return ask(world, "logarithm", x(shape=[1, 2], data=[1, 2]))
    finally:
        assert post(world, f"{path}/load", **world.token).status_code == 200


def private(world: World) -> httpx.Response:
    receipt = ask(world, "free").json()["parameters"]["receipt"]
    digest = receipt.partition('"digest":"')[2][:66]
    return get(world, f"/v1/receipts/{digest}/data")


INFER = "/v2/models/free/infer"
LOAD = "/v2/repository/models/{}/load"
HTTP: Final[Mapping[str, Callable[[World], httpx.Response]]] = {
    "input_json": lambda w: post(w, INFER, b"{"),
    "input_header": lambda w: post(w, INFER, b"{}", inference_header_content_length="99"),
    "input_encoding": lambda w: post(w, INFER, b"{}", content_encoding="gzip"),
    "input_http": lambda w: raw(w, b"WHAT IS THIS\r\n\r\n"),
    "input_unknown": lambda w: ask(w, "free", x(name="q")),
    "input_missing": lambda w: post(w, INFER, b'{"inputs": []}'),
    "input_duplicate": lambda w: ask(w, "free", X, X),
    "input_dtype": lambda w: ask(w, "free", x(datatype="FP64")),
    "input_shape": lambda w: ask(w, "free", x(shape=[4])),
    "input_size": lambda w: ask(w, "free", x(data=None, parameters={"binary_data_size": 3})),
    "input_data": lambda w: ask(w, "free", x(data=["1", "2", "3", "4"])),
    "input_not_finite": lambda w: ask(w, "free", x(data=[1e39, 0, 0, 0])),
    "input_output_form": lambda w: ask(w, "logarithm", x(shape=[1, 2], data=[-1, 2])),
    "input_unsupported": lambda w: ask(w, "free", parameters={"sequence_id": 1}),
    "input_public": lambda w: ask(w, "free", parameters={"public": 1}),
    "input_voucher": lambda w: paid(w, w.consumer(), PRICE, 0, voucher_amount="five"),
    "field_invalid": lambda w: get(w, "/v1/receipts/none"),
    "operator_token": lambda w: post(w, LOAD.format("free")),
    "operator_denied": lambda w: post(w, LOAD.format("free"), authorization="Bearer wrong"),
    "voucher_missing": lambda w: ask(w, "paid"),
    "voucher_signature": forged,
    "voucher_stale": stale,
    "voucher_short": lambda w: paid(w, w.consumer(), PRICE - 1, 0),
    "escrow_short": short_escrow,
    "unacknowledged": unacknowledged,
    "model_unknown": lambda w: ask(w, "nobody"),
    "not_found": lambda w: get(w, "/v3"),
    "private": private,
    "method": lambda w: get(w, INFER),
    "version_revoked": lambda w: ask(w, "revoked"),
    "load_refused": lambda w: post(w, LOAD.format("revoked"), **w.token),
    "too_large": lambda w: post(w, INFER, b" " * ((1 << 20) + 1)),
    "headers_too_large": lambda w: raw(w, b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"a" * 40_000 + b"\r\n\r\n"),
    "run_failed": lambda w: ask(w, "picking", x(datatype="INT64", shape=[1], data=[9])),
    "unsupported": lambda w: get(w, "/v2/logging"),
    "not_ready": unloaded,
    "busy": busy,
}


def test_table__every_code__is_produced_by_a_test() -> None:
    payments = {code for code in REFUSALS if "payment" in code}
    assert set(HTTP) | set(ELSEWHERE) | payments == set(REFUSALS)
    missing = [code for code, (path, text) in ELSEWHERE.items() if text not in (TESTS / path).read_text()]
    assert missing == []
    x402 = "".join(path.read_text() for path in (TESTS / "backend").rglob("*.py") if "x402" in str(path))
    assert [code for code in payments if f'"{code}"' not in x402] == []


@pytest.mark.parametrize("code", HTTP)
def test_http__each_refusal__status_code_reason_and_cure(world: World, code: str) -> None:
    answer = HTTP[code](world)
    refusal = REFUSALS[code]
    assert (answer.status_code, answer.json().get("code")) == (refusal.status, code), answer.text
    assert set(answer.json()) - {"payment"} == {"error", "code", "cure"}  # what it would cost is beside it
    assert answer.json()["cure"] == refusal.cure and len(answer.json()["error"]) > 10
    assert ("retry-after" in answer.headers) == (refusal.status == 503)


@dataclass
class Call:
    """A gRPC method, its request, the metadata."""

    method: str
    request: Any
    metadata: Mapping[str, str] = field(default_factory=dict)


def infer(model: str, voucher: Mapping[str, str] | None = None, **changes: Any) -> Call:
    request = service_pb2.ModelInferRequest(model_name=model)
    given = {**X, **changes}
    rows = request.inputs.add(name=given["name"], datatype=given["datatype"], shape=given["shape"])
    contents = rows.contents.int64_contents if given["datatype"] == "INT64" else rows.contents.fp32_contents
    contents.extend(given["data"])
    for name, text in (voucher or {}).items():
        request.parameters[name].string_param = text
    return Call("ModelInfer", request)


def with_parameter(call: Call, **flags: bool) -> Call:
    for name, flag in flags.items():
        call.request.parameters[name].bool_param = flag
    return call


def load(model: str, **metadata: str) -> Call:
    return Call("RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name=model), metadata)


def grpc_stale(world: World) -> Call:
    consumer = world.consumer()
    assert paid(world, consumer, PRICE, 0).status_code == 200
    return infer("paid", world.voucher(consumer, PRICE, 0), data=[0, 0, 0, 0])


GRPC: Final[Mapping[str, Callable[[World], Call]]] = {
    "input_unknown": lambda w: infer("free", name="q"),
    "input_missing": lambda w: Call("ModelInfer", service_pb2.ModelInferRequest(model_name="free")),
    "input_dtype": lambda w: infer("free", datatype="FP64", data=[]),
    "input_shape": lambda w: infer("free", shape=[4]),
    "input_size": lambda w: infer("free", data=[1.0]),
    "input_data": lambda w: infer("free", datatype="FP64"),
    "input_not_finite": lambda w: infer("free", data=[float("nan"), 0, 0, 0]),
    "input_unsupported": lambda w: with_parameter(infer("free"), sequence_id=True),
    "input_public": lambda w: infer("free", {"public": "yes"}),
    "input_voucher": lambda w: infer("paid", {**w.voucher(w.consumer(), PRICE, 0), "voucher_count": "-1"}),
    "operator_token": lambda w: load("free"),
    "operator_denied": lambda w: load("free", authorization="Bearer wrong"),
    "voucher_missing": lambda w: infer("paid"),
    "voucher_short": lambda w: infer("paid", w.voucher(w.consumer(), PRICE - 1, 0)),
    "voucher_stale": grpc_stale,
    "escrow_short": lambda w: infer("paid", w.voucher(w.consumer(PRICE - 1), PRICE, 0)),
    "model_unknown": lambda w: infer("nobody"),
    "version_revoked": lambda w: infer("revoked"),
    "load_refused": lambda w: load("revoked", **w.token),
    "too_large": lambda w: infer("free", shape=[30_000, 4], data=[]),
    "run_failed": lambda w: infer("picking", datatype="INT64", shape=[1], data=[9]),
    "unsupported": lambda w: Call("TraceSetting", service_pb2.TraceSettingRequest()),
}


@pytest.mark.parametrize("code", GRPC)
def test_grpc__each_refusal__status_details_and_trailing_metadata(world: World, code: str) -> None:
    call = GRPC[code](world)
    with grpc.insecure_channel(world.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        method = getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), call.method)
        method(call.request, timeout=20, metadata=tuple(call.metadata.items()))
    error, refusal = caught.value, REFUSALS[code]
    trailing = dict(error.trailing_metadata())
    assert (error.code().name, trailing.get("assay-code")) == (refusal.grpc, code), error.details()
    assert trailing["assay-cure"] == refusal.cure.replace("%", "%25")
    assert error.details().startswith(f"{code}: ") and error.details().endswith(f" Cure: {refusal.cure}.")
