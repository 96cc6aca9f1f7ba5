"""tritonclient's gRPC clients, sync and asyncio, unchanged, against a real node process; then bare grpc, for
what they do not show: statuses, trailing metadata, typed contents, limits, the drain."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from assay.commitments.receipts import receipt_digest, receipt_from_json
from assay.commitments.signing import verify_signer
from assay.commitments.tensors import commit_tensors
from assay.node.grpc.messages import load_messages
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.support.oip_world import KINDS, PRICE, World, X, kinds_arrays, oip_world

TIMEOUT = 20.0


@pytest.fixture
def world(clients_world: World) -> World:
    return clients_world


@pytest.fixture
def client(world: World) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(world.grpc) as found:
        yield found


@pytest.fixture
def stub(world: World) -> Iterator[Any]:
    """The standard stub, from Triton's generated code."""
    with grpc.insecure_channel(world.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def given(array: Any = X, name: str = "x", datatype: str = "FP32") -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def typed_request(world: World, **fields: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name=world.name(world.free), id="seven", **fields)
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend(X.reshape(-1).tolist())
    return request


def refused(call: Any) -> tuple[str, str]:
    """gRPC status and message of a refusal."""
    with pytest.raises(InferenceServerException) as caught:
        call()
    return str(caught.value.status()).removeprefix("StatusCode."), str(caught.value.message())


def receipt_of(result: triton.InferResult) -> dict[str, Any]:
    return dict(json.loads(result.get_response().parameters["receipt"].string_param))


def test_server__health_and_metadata__as_the_protocol_has_them(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    found = client.get_server_metadata(as_json=True)
    assert found["name"] == "assay" and "statistics" in found["extensions"]


def test_model__metadata_ready_and_config__for_every_spelling(
    client: triton.InferenceServerClient, world: World
) -> None:
    for name in (world.free.name, world.name(world.free)):
        assert client.is_model_ready(name) and client.is_model_ready(name, "1")
        found = client.get_model_metadata(name, "1", as_json=True)
        assert (found["name"], found["versions"], found["platform"]) == (name, ["1"], "onnxruntime_onnx")
        assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}]
        config = client.get_model_config(name).config
        assert config.parameters["batching"].string_value.startswith("up to ")
        assert (config.name, list(config.input[0].dims), config.input[0].data_type) == (name, [-1, 4], 11)
    assert refused(lambda: client.is_model_ready("nobody"))[0] == "NOT_FOUND"
    assert refused(lambda: client.get_model_metadata(world.free.name, "9"))[0] == "NOT_FOUND"


def test_infer__raw__outputs_and_receipt(client: triton.InferenceServerClient, world: World) -> None:
    result = client.infer(world.name(world.free), [given()], "1", request_id="seven")
    y = result.as_numpy("y")
    response = result.get_response()
    assert (response.id, response.model_version, y.shape) == ("seven", "1", (1, 3))
    assert response.raw_output_contents
    receipt = receipt_from_json(world.network.domain, receipt_of(result))
    assert receipt.receipt.input_hash == commit_tensors([X])
    assert receipt.receipt.output_hash == commit_tensors([y])
    verify_signer(
        receipt_digest(world.network.domain, receipt.receipt), receipt.signature, world.node.signer.address
    )


def test_infer__typed_contents__answered_in_kind(stub: Any, world: World) -> None:
    typed = stub.ModelInfer(typed_request(world), timeout=TIMEOUT)
    raw = service_pb2.ModelInferRequest(model_name=world.free.name, raw_input_contents=[X.tobytes()])
    raw.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    other = stub.ModelInfer(raw, timeout=TIMEOUT)
    assert not typed.raw_output_contents and not other.outputs[0].HasField("contents")
    assert (
        np.array(typed.outputs[0].contents.fp32_contents, np.float32).tobytes()
        == other.raw_output_contents[0]
    )


def test_infer__every_datatype__comes_back(client: triton.InferenceServerClient, world: World) -> None:
    arrays = kinds_arrays()
    result = client.infer(world.kinds.name, [given(arrays[name], name, kind) for name, kind, _ in KINDS])
    for name, array in arrays.items():
        found = result.as_numpy(f"{name}_out")
        if array.dtype == object:
            found = np.vectorize(bytes.decode, otypes=[object])(found)
        assert np.array_equal(found, array), name


def test_infer__some_outputs__in_the_order_asked_for(
    client: triton.InferenceServerClient, world: World
) -> None:
    arrays = kinds_arrays()
    outputs = [triton.InferRequestedOutput(f"{name}_out") for name in ("i64", "b")]
    inputs = [given(arrays[name], name, kind) for name, kind, _ in KINDS]
    response = client.infer(world.kinds.name, inputs, outputs=outputs).get_response()
    assert [output.name for output in response.outputs] == ["i64_out", "b_out"]


def test_infer__priced_model__paid_by_parameters(client: triton.InferenceServerClient, world: World) -> None:
    consumer = world.consumer()
    for count in range(2):
        voucher: dict[str, Any] = world.voucher(consumer, PRICE * (count + 1), count)
        if count:  # numbers may be integers
            voucher |= {name: int(voucher[name]) for name in ("voucher_amount", "voucher_count")}
        receipt = receipt_of(client.infer(world.paid.name, [given()], parameters=voucher))
        assert (receipt["consumer"], receipt["sequence"]) == (consumer.address, count + 1)
        assert receipt["price"] == str(PRICE)


def test_infer__priced_model__paid_by_metadata(client: triton.InferenceServerClient, world: World) -> None:
    consumer = world.consumer()
    voucher = {
        name.removeprefix("voucher_"): value for name, value in world.voucher(consumer, PRICE, 0).items()
    }
    headers = {"assay-voucher": json.dumps(voucher)}
    receipt = receipt_of(client.infer(world.paid.name, [given()], headers=headers))
    assert (receipt["consumer"], receipt["sequence"]) == (consumer.address, 1)
    again = receipt_of(client.infer(world.paid.name, [given()], headers=headers))
    assert again == receipt  # repeated: the same receipt, paid once


@pytest.mark.parametrize("header", ["{", "[]", '{"consumer": 1}'])
def test_infer__malformed_voucher_metadata__refused(
    client: triton.InferenceServerClient, world: World, header: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(world.paid.name, [given()], headers={"assay-voucher": header})
    assert caught.value.message().startswith(("input_voucher: ", "voucher_missing: "))


def test_prices__before_paying__in_trailing_metadata(stub: Any, world: World) -> None:
    _, call = stub.ModelMetadata.with_call(
        service_pb2.ModelMetadataRequest(name=world.paid.name), timeout=TIMEOUT
    )
    offer = json.loads(dict(call.trailing_metadata())["assay-offer"])
    assert offer == {
        "node": world.node.operator,
        "version_id": "0x" + world.paid.version_id.hex(),
        "price": str(PRICE),
        "assurance": "signed",
        "chain_id": world.network.domain.chain_id,
        "settlement": world.network.domain.settlement,
    }


def test_prices__refused_for_payment__what_would_pay(stub: Any, world: World) -> None:
    """What the consumer's channel owes is there once it is known who asks."""
    consumer = world.consumer()
    request = service_pb2.ModelInferRequest(model_name=world.paid.name, raw_input_contents=[X.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])

    def payment(amount: int) -> dict[str, Any]:
        for name, value in world.voucher(consumer, amount, 0).items():
            request.parameters[name].string_param = value
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, timeout=TIMEOUT)
        return dict(json.loads(dict(caught.value.trailing_metadata())["assay-payment"]))

    assert payment(PRICE - 1)["price"] == str(PRICE)
    for name, value in world.voucher(consumer, PRICE, 0).items():
        request.parameters[name].string_param = value
    stub.ModelInfer(request, timeout=TIMEOUT)
    channel = payment(PRICE + 1)["channel"]
    assert (channel["consumer"], channel["charged"], channel["sequence"]) == (consumer.address, str(PRICE), 1)


def test_statistics__after_requests__count_them(client: triton.InferenceServerClient, world: World) -> None:
    arrays = kinds_arrays()
    inputs = [given(arrays[name], name, kind) for name, kind, _ in KINDS]

    def model_stats() -> Any:
        return client.get_inference_statistics(world.kinds.name).model_stats[0]

    before = model_stats()
    client.infer(world.kinds.name, inputs)
    refused(lambda: client.infer(world.kinds.name, inputs[1:]))
    after = model_stats()
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
    assert after.execution_count == before.execution_count + 1
    assert after.inference_count == before.inference_count + 2
    assert len(client.get_inference_statistics().model_stats) == 4


def test_repository__without_or_with_another_token__refused(
    client: triton.InferenceServerClient, world: World
) -> None:
    calls = (
        client.get_model_repository_index,
        lambda **options: client.load_model(world.free.name, **options),
        lambda **options: client.unload_model(world.free.name, **options),
    )
    for call in calls:
        assert refused(call)[0] == "UNAUTHENTICATED"
        wrong = refused(lambda call=call: call(headers={"authorization": "Bearer wrong"}))
        assert wrong[0] == "PERMISSION_DENIED"
    assert client.is_model_ready(world.free.name)


def test_repository__operator__index_unload_load(client: triton.InferenceServerClient, world: World) -> None:
    def index() -> dict[str, Any]:
        return {entry.name: entry for entry in client.get_model_repository_index(headers=world.token).models}

    name = world.name(world.kinds)
    assert (index()[name].version, index()[name].state) == ("1", "READY")
    client.unload_model(name, headers=world.token)
    assert index()[name].state == "UNAVAILABLE" and "operator" in index()[name].reason
    assert not client.is_model_ready(name)
    client.load_model(name, headers=world.token)
    assert client.is_model_ready(name)


def test_extensions__not_there__unimplemented(client: triton.InferenceServerClient) -> None:
    for call in (
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        client.get_trace_settings,
        client.get_log_settings,
    ):
        status, message = refused(call)
        assert status == "UNIMPLEMENTED" and message.startswith("unsupported: ")


def test_stream__requests__answered_in_order_and_errors_do_not_end_it(world: World) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(world.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for i, name in enumerate((world.free.name, "nobody", world.free.name)):
            client.async_stream_infer(name, [given()], request_id=str(i), enable_empty_final_response=True)
        found = [answers.get(timeout=TIMEOUT) for _ in range(3)]
        client.stop_stream()
    assert [error is None for _, error in found] == [True, False, True]
    assert [result.get_response().id for result, error in found if error is None] == ["0", "2"]
    assert found[0][0].get_response().parameters["triton_final_response"].bool_param
    assert "model_unknown" in str(found[1][1])


def test_errors__status_trailing_metadata_and_cure(stub: Any, world: World) -> None:
    request = typed_request(world)
    request.inputs[0].datatype = "FP64"
    del request.inputs[0].contents.fp32_contents[:]
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=TIMEOUT)
    error = caught.value
    trailing = dict(error.trailing_metadata())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert trailing["assay-code"] == "input_dtype" and "metadata" in trailing["assay-cure"]
    assert error.details().startswith("input_dtype: ") and trailing["assay-cure"] in error.details()


def test_limits__message_too_large__resource_exhausted(
    client: triton.InferenceServerClient, world: World
) -> None:
    many = np.zeros((90_000, 4), np.float32)  # 1.4 MB
    assert refused(lambda: client.infer(world.free.name, [given(many)]))[0] == "RESOURCE_EXHAUSTED"
    assert client.is_server_live()


def test_limits__compressed_bomb__resource_exhausted(
    client: triton.InferenceServerClient, world: World
) -> None:
    many = np.zeros((90_000, 4), np.float32)

    def call() -> object:
        return client.infer(world.free.name, [given(many)], compression_algorithm="gzip")

    assert refused(call)[0] == "RESOURCE_EXHAUSTED"
    small = client.infer(world.free.name, [given()], compression_algorithm="gzip")
    assert small.as_numpy("y").shape == (1, 3)


def test_deadline__given_up__receipt_is_issued_all_the_same(stub: Any, world: World) -> None:
    """A client that does not wait pays nothing twice: its voucher sent again has the receipt."""
    consumer = world.consumer()
    request = service_pb2.ModelInferRequest(model_name=world.paid.name, raw_input_contents=[X.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    for name, value in world.voucher(consumer, PRICE, 0).items():
        request.parameters[name].string_param = value
    for deadline in (0.001, 0.002, 0.004):
        try:
            stub.ModelInfer(request, timeout=deadline)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    response = stub.ModelInfer(request, timeout=TIMEOUT)
    assert json.loads(response.parameters["receipt"].string_param)["sequence"] == 1


def test_own_messages__through_a_bare_channel__same_service(world: World) -> None:
    """The node's own classes, as a client of this project would use them."""
    kinds = load_messages()
    with grpc.insecure_channel(world.grpc) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelReady",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=kinds.ModelReadyResponse.FromString,
        )
        assert call(kinds.ModelReadyRequest(name=world.free.name), timeout=TIMEOUT).ready


def test_aio__everything_once__as_the_sync_client(world: World) -> None:
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(world.grpc) as client:
            assert await client.is_server_live() and await client.is_server_ready()
            name = world.name(world.free)
            assert await client.is_model_ready(name, "1")
            assert list((await client.get_model_metadata(name)).versions) == ["1"]
            results = await asyncio.gather(*(client.infer(name, [given()]) for _ in range(8)))
            assert all(result.as_numpy("y").shape == (1, 3) for result in results)
            voucher = world.voucher(world.consumer(), PRICE, 0)
            assert (await client.infer(world.paid.name, [given()], parameters=voucher)).as_numpy(
                "y"
            ) is not None
            assert len((await client.get_model_repository_index(headers=world.token)).models) == 4
            with pytest.raises(InferenceServerException) as caught:
                await client.infer("nobody", [given()])
            assert caught.value.status() == "StatusCode.NOT_FOUND"

    asyncio.run(ask())


def test_stop__calls_in_progress__answered_and_new_ones_refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    answered, errors = [], []
    with oip_world(tmp_path_factory.mktemp("drain")) as world:

        def ask() -> None:
            with grpc.insecure_channel(world.grpc) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                while True:
                    try:
                        reply = stub.ModelInfer(typed_request(world), timeout=TIMEOUT)
                        answered.append(json.loads(reply.parameters["receipt"].string_param))
                    except grpc.RpcError as error:
                        errors.append(error.code())
                        return

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + TIMEOUT
        while len(answered) < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert world.node.stop() == 0
        for thread in threads:
            thread.join(TIMEOUT)
        assert len(answered) >= 20
        assert set(errors) == {grpc.StatusCode.UNAVAILABLE}
        assert sorted(receipt["sequence"] for receipt in answered) == list(range(1, len(answered) + 1))
