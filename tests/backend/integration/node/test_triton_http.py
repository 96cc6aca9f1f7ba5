"""tritonclient's HTTP clients, sync and asyncio, unchanged, against a real node process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from assay.commitments.receipts import receipt_digest, receipt_from_json
from assay.commitments.signing import verify_signer
from assay.commitments.tensors import commit_tensors
from tritonclient.utils import InferenceServerException

from tests.support.oip_world import KINDS, PRICE, World, X, kinds_arrays


@pytest.fixture
def world(clients_world: World) -> World:
    return clients_world


@pytest.fixture
def client(world: World) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(world.http) as found:
        yield found


def given(
    array: Any = X, name: str = "x", datatype: str = "FP32", *, binary: bool = True
) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def kinds_inputs() -> list[triton.InferInput]:
    arrays = kinds_arrays()
    return [given(arrays[name], name, datatype) for name, datatype, _ in KINDS]


def refused(call: Any) -> tuple[str, str]:
    """HTTP status and message of a refusal."""
    with pytest.raises(InferenceServerException) as caught:
        call()
    return str(caught.value.status()), str(caught.value.message())


def names(world: World) -> list[str]:
    """The ways to name the free model: bare, in full, in full and quoted."""
    return [world.free.name, world.name(world.free), world.name(world.free).replace("/", "%2F")]


def test_server__health_and_metadata__as_the_protocol_has_them(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    found = client.get_server_metadata()
    assert found["name"] == "assay"
    assert found["extensions"] == [
        *("binary_tensor_data", "statistics", "model_configuration", "model_repository")
    ]


def test_model__metadata_ready_and_config__for_every_spelling(
    client: triton.InferenceServerClient, world: World
) -> None:
    for name in names(world)[:2]:
        assert client.is_model_ready(name) and client.is_model_ready(name, "1")
        found = client.get_model_metadata(name, "1")
        assert (found["name"], found["versions"]) == (name, ["1"])
        assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        config = client.get_model_config(name)
        assert (config["name"], config["max_batch_size"]) == (name, 0)
        assert config["parameters"]["batching"]["string_value"].startswith("up to ")
        assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 4]}]


@pytest.mark.parametrize("spelling", [0, 1, 2])
def test_paths__name_bare_whole_or_quoted__same_model(world: World, spelling: int) -> None:
    name = names(world)[spelling]
    for path in ("", "/ready", "/config", "/stats", "/versions/1", "/versions/1/ready", "/versions/1/stats"):
        answer = httpx.get(f"http://{world.http}/v2/models/{name}{path}", timeout=10)
        assert answer.status_code == 200, (path, answer.text)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    assert httpx.post(f"http://{world.http}/v2/models/{name}/infer", json=body, timeout=10).status_code == 200


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer__json_or_binary__outputs_and_receipt(
    client: triton.InferenceServerClient, world: World, binary_in: bool, binary_out: bool
) -> None:
    wanted = [triton.InferRequestedOutput("y", binary_data=binary_out)]
    result = client.infer(world.name(world.free), [given(binary=binary_in)], "1", wanted, request_id="seven")
    response = result.get_response()
    y = result.as_numpy("y")
    receipt = receipt_from_json(world.network.domain, json.loads(response["parameters"]["receipt"]))
    assert response["id"] == "seven" and response["model_version"] == "1" and y.shape == (1, 3)
    assert receipt.receipt.input_hash == commit_tensors([X])
    assert receipt.receipt.output_hash == commit_tensors([y.astype(np.float32)])
    verify_signer(
        receipt_digest(world.network.domain, receipt.receipt), receipt.signature, world.node.signer.address
    )


@pytest.mark.parametrize("binary", [True, False])
def test_infer__every_datatype__comes_back(
    client: triton.InferenceServerClient, world: World, binary: bool
) -> None:
    arrays = kinds_arrays()
    inputs = [
        given(arrays[name], name, datatype, binary=binary or datatype == "FP16")
        for name, datatype, _ in KINDS
    ]
    outputs = [
        triton.InferRequestedOutput(f"{name}_out", binary_data=binary or datatype == "FP16")
        for name, datatype, _ in KINDS
    ]
    result = client.infer(world.kinds.name, inputs, outputs=outputs)
    for name, array in arrays.items():
        found = result.as_numpy(f"{name}_out")
        if array.dtype == object and binary:
            found = np.vectorize(bytes.decode, otypes=[object])(found)
        assert np.array_equal(found, array), name


def test_infer__some_outputs__in_the_order_asked_for(
    client: triton.InferenceServerClient, world: World
) -> None:
    inputs = kinds_inputs()
    outputs = [
        triton.InferRequestedOutput("i64_out", binary_data=False),
        triton.InferRequestedOutput("b_out"),
    ]
    result = client.infer(world.kinds.name, inputs, outputs=outputs)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["i64_out", "b_out"]


def test_infer__priced_model__paid_by_parameters(client: triton.InferenceServerClient, world: World) -> None:
    consumer = world.consumer()
    for count in range(2):
        voucher = world.voucher(consumer, PRICE * (count + 1), count)
        result = client.infer(world.paid.name, [given()], parameters=voucher)
        receipt = json.loads(result.get_response()["parameters"]["receipt"])
        assert (receipt["consumer"], receipt["sequence"]) == (consumer.address, count + 1)
        assert receipt["price"] == str(PRICE)


def test_infer__priced_model__paid_by_header(client: triton.InferenceServerClient, world: World) -> None:
    consumer = world.consumer()
    voucher = world.voucher(consumer, PRICE, 0)
    fields = {name.removeprefix("voucher_"): value for name, value in voucher.items()} | {"count": 0}
    headers = {"Assay-Voucher": json.dumps(fields)}
    receipts = [
        json.loads(
            client.infer(world.paid.name, [given()], headers=headers).get_response()["parameters"]["receipt"]
        )
        for _ in range(2)
    ]
    assert (receipts[0]["consumer"], receipts[0]["sequence"]) == (consumer.address, 1)
    assert receipts[1] == receipts[0]  # repeated: the same receipt, paid once


def test_prices__before_paying__in_the_header(world: World) -> None:
    for path in ("", "/versions/1/ready"):
        answer = httpx.get(f"http://{world.http}/v2/models/{world.paid.name}{path}", timeout=10)
        offer = json.loads(answer.headers["assay-offer"])
        assert (offer["price"], offer["node"]) == (str(PRICE), world.node.operator)
        assert offer["version_id"] == "0x" + world.paid.version_id.hex()


def test_infer__priced_model_without_voucher__status_402(
    client: triton.InferenceServerClient, world: World
) -> None:
    status, message = refused(lambda: client.infer(world.paid.name, [given()]))
    assert status == "402" and "voucher" in message


def test_infer__compressed_body__refused(client: triton.InferenceServerClient, world: World) -> None:
    status, message = refused(
        lambda: client.infer(world.free.name, [given()], request_compression_algorithm="gzip")
    )
    assert status == "400" and "compressed" in message


def test_infer__async_request__same_answer(client: triton.InferenceServerClient, world: World) -> None:
    pending = [client.async_infer(world.free.name, [given()]) for _ in range(3)]
    first, *others = [request.get_result().as_numpy("y") for request in pending]
    assert all(np.array_equal(first, other) for other in others)


def test_statistics__after_requests__count_them(client: triton.InferenceServerClient, world: World) -> None:
    def model_stats() -> dict[str, Any]:
        return dict(client.get_inference_statistics(world.kinds.name)["model_stats"][0])

    inputs = kinds_inputs()
    before = model_stats()
    client.infer(world.kinds.name, inputs)
    refused(lambda: client.infer(world.kinds.name, inputs[1:]))
    after = model_stats()
    assert (after["name"], after["version"]) == (world.kinds.name, "1")
    grown = {
        kind: after["inference_stats"][kind]["count"] - before["inference_stats"][kind]["count"]
        for kind in ("success", "fail", "queue", "compute_infer")
    }
    assert grown == {"success": 1, "fail": 1, "queue": 1, "compute_infer": 1}
    assert after["inference_stats"]["success"]["ns"] > after["inference_stats"]["compute_infer"]["ns"] > 0
    assert after["execution_count"] == before["execution_count"] + 1
    assert after["inference_count"] == before["inference_count"] + 2  # rows
    assert abs(after["last_inference"] / 1000 - time.time()) < 60
    (batch,) = [batch for batch in after["batch_stats"] if batch["batch_size"] == 2]
    assert batch["compute_infer"]["count"] >= 1


def test_statistics__without_a_model__of_all(client: triton.InferenceServerClient, world: World) -> None:
    found = client.get_inference_statistics()["model_stats"]
    assert {entry["name"] for entry in found} == {
        world.name(published) for published in (world.free, world.paid, world.kinds, world.revoked)
    }


def test_repository__without_or_with_another_token__refused(
    client: triton.InferenceServerClient, world: World
) -> None:
    calls = (
        client.get_model_repository_index,
        lambda **options: client.load_model(world.free.name, **options),
        lambda **options: client.unload_model(world.free.name, **options),
    )
    for call in calls:
        assert refused(call)[0] == "401"
        assert refused(lambda call=call: call(headers={"Authorization": "Bearer wrong"}))[0] == "403"
    assert client.is_model_ready(world.free.name)


def test_repository__operator__index_unload_load(client: triton.InferenceServerClient, world: World) -> None:
    def index() -> dict[str, dict[str, str]]:
        return {entry["name"]: entry for entry in client.get_model_repository_index(headers=world.token)}

    name = world.name(world.kinds)
    entry = index()[name]
    assert (entry["version"], entry["state"], entry["reason"]) == ("1", "READY", "")
    client.unload_model(name, headers=world.token)
    entry = index()[name]
    assert entry["state"] == "UNAVAILABLE" and "operator" in entry["reason"]
    assert not client.is_model_ready(name)
    assert refused(lambda: client.infer(name, [given()]))[0] == "503"
    client.load_model(name, headers=world.token)
    assert client.is_model_ready(name) and index()[name]["state"] == "READY"


def test_repository__load_of_unknown_or_with_config__refused(
    client: triton.InferenceServerClient, world: World
) -> None:
    assert refused(lambda: client.load_model("nobody", headers=world.token))[0] == "404"
    status, message = refused(lambda: client.load_model(world.free.name, headers=world.token, config="{}"))
    assert status == "400" and "config" in message


def test_repository__load_of_revoked__refused_with_reason(
    client: triton.InferenceServerClient, world: World
) -> None:
    deadline = time.monotonic() + 30
    while client.is_model_ready(world.revoked.name) and time.monotonic() < deadline:
        time.sleep(0.1)
    status, message = refused(lambda: client.load_model(world.revoked.name, headers=world.token))
    assert status == "409" and "revoked" in message


def test_extensions__not_there__refused_by_name(client: triton.InferenceServerClient, world: World) -> None:
    calls = {
        "shared memory": (
            client.get_system_shared_memory_status,
            client.get_cuda_shared_memory_status,
            lambda: client.register_system_shared_memory("region", "/key", 64),
            client.unregister_system_shared_memory,
        ),
        "trace settings": (
            client.get_trace_settings,
            lambda: client.get_trace_settings(world.free.name),
            lambda: client.update_trace_settings(settings={"trace_level": "OFF"}),
        ),
        "log settings": (client.get_log_settings, lambda: client.update_log_settings({"log_info": False})),
    }
    for what, refusing in calls.items():
        for call in refusing:
            status, message = refused(call)
            assert status == "501" and what in message
    generate = httpx.post(f"http://{world.http}/v2/models/{world.free.name}/generate", json={}, timeout=10)
    assert (generate.status_code, generate.json()["code"]) == (501, "unsupported")


def test_infer__parts_not_there__refused(client: triton.InferenceServerClient, world: World) -> None:
    shared = triton.InferInput("x", [1, 4], "FP32")
    shared.set_shared_memory("region", 16)
    classes = [triton.InferRequestedOutput("y", class_count=2)]
    for call in (
        lambda: client.infer(world.free.name, [shared]),
        lambda: client.infer(world.free.name, [given()], outputs=classes),
        lambda: client.infer(world.free.name, [given()], sequence_id=5, sequence_start=True),
    ):
        status, message = refused(call)
        assert status == "400" and "not supported" in message


def test_aio__everything_once__as_the_sync_client(world: World) -> None:
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(world.http) as client:
            assert await client.is_server_live() and await client.is_server_ready()
            name = world.name(world.free)
            assert await client.is_model_ready(name, "1")
            assert (await client.get_model_metadata(name))["versions"] == ["1"]
            result = await client.infer(name, [given()])
            assert result.as_numpy("y").shape == (1, 3)
            voucher = world.voucher(world.consumer(), PRICE, 0)
            assert (await client.infer(world.paid.name, [given()], parameters=voucher)).as_numpy(
                "y"
            ) is not None
            stats = await client.get_inference_statistics(name, "1")
            assert stats["model_stats"][0]["inference_stats"]["success"]["count"] >= 1
            assert len(await client.get_model_repository_index(headers=world.token)) == 4
            with pytest.raises(InferenceServerException) as caught:
                await client.infer("nobody", [given()])
            assert caught.value.status() == "404"

    asyncio.run(ask())
