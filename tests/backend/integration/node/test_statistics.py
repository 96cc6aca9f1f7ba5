"""Every request that names a version is in its statistics, once, wherever it ended: by the hot path, by the
service, at its head, amid its body, over gRPC."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.oip_world import World, X

MIB = 1 << 20


@pytest.fixture
def world(clients_world: World) -> World:
    return clients_world


def binary_body(name: str = "x") -> tuple[bytes, int]:
    tensor = {"name": name, "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + X.tobytes(), len(head)


def post(world: World, content: Any, **headers: str) -> int:
    url = f"http://{world.http}/v2/models/{world.paid.name}/infer"
    return httpx.post(url, content=content, headers=headers, timeout=30).status_code


def hot(world: World) -> int:
    body, length = binary_body()
    return post(world, body, **{"inference-header-content-length": str(length)})


def hot_bad_name(world: World) -> int:
    body, length = binary_body("z")
    return post(world, body, **{"inference-header-content-length": str(length)})


def voucher_header(world: World) -> int:
    body, length = binary_body()
    headers = {"inference-header-content-length": str(length), "assay-voucher": "no voucher"}
    return post(world, body, **headers)


def length_header(world: World) -> int:
    return post(world, binary_body()[0], **{"inference-header-content-length": "x"})


def json_unpaid(world: World) -> int:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": X.reshape(-1).tolist()}
    return post(world, json.dumps({"inputs": [tensor]}).encode())


def garbage(world: World) -> int:
    return post(world, b"no JSON")


def too_large(world: World) -> int:
    return post(world, b"x" * (MIB + 1))


def too_large_in_chunks(world: World) -> int:
    def parts() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * (MIB // 16)

    return post(world, parts())


def infer_request(world: World) -> Any:
    request = service_pb2.ModelInferRequest(model_name=world.paid.name)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(X.tobytes())
    return request


@contextlib.contextmanager
def stub(world: World) -> Iterator[Any]:
    with grpc.insecure_channel(world.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def over_grpc(world: World, *metadata: tuple[str, str]) -> int:
    with stub(world) as made, pytest.raises(grpc.RpcError) as caught:
        made.ModelInfer(infer_request(world), timeout=30, metadata=metadata)
    return int(caught.value.code().value[0])


def grpc_voucher(world: World) -> int:
    return over_grpc(world, ("assay-voucher", "no voucher"))


def grpc_stream(world: World) -> int:
    with stub(world) as made:
        (answer,) = made.ModelStreamInfer(
            iter([infer_request(world)]), timeout=30, metadata=(("assay-voucher", "{}"),)
        )
    assert "pays for one request" in answer.error_message
    return 0


def counts(world: World) -> tuple[int, int]:
    """Requests that succeeded, and that did not."""
    url = f"http://{world.http}/v2/models/{world.paid.name}/stats"
    stats = httpx.get(url, timeout=30).json()["model_stats"][0]["inference_stats"]
    return stats["success"]["count"], stats["fail"]["count"]


@pytest.mark.parametrize(
    ("ask", "status"),
    [
        (hot, 402),
        (hot_bad_name, 400),
        (voucher_header, 400),
        (length_header, 400),
        (json_unpaid, 402),
        (garbage, 400),
        (too_large, 413),
        (too_large_in_chunks, 413),
        (over_grpc, grpc.StatusCode.FAILED_PRECONDITION.value[0]),
        (grpc_voucher, grpc.StatusCode.INVALID_ARGUMENT.value[0]),
        (grpc_stream, 0),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_statistics__request_that_is_refused__is_one_that_failed(
    world: World, ask: Callable[[World], int], status: int
) -> None:
    succeeded, failed = counts(world)
    assert ask(world) == status
    assert counts(world) == (succeeded, failed + 1)


def test_statistics__unknown_model_or_method__is_nobodys(world: World) -> None:
    before = counts(world)
    assert httpx.get(f"http://{world.http}/v2/models/{world.paid.name}/infer", timeout=30).status_code == 405
    assert httpx.post(f"http://{world.http}/v2/models/nothing/infer", timeout=30).status_code == 404
    assert counts(world) == before
