"""A real node process on a real chain, asked over HTTP: the protocol, payment, limits, settlement."""

from __future__ import annotations

import json
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from assay.commitments.receipts import receipt_from_json, receipts_tree
from assay.commitments.signing import verify_signer
from assay.commitments.tensors import commit_tensors
from assay.node.config import LimitsConfig, SettlementConfig
from assay.types import ZERO_ADDRESS, ReceiptStatus, TensorSpec, VersionStatus
from tritonclient.utils import InferenceServerException

from tests.support.nodes import Consumer, Network, NodeUnderTest, Published, local_network, sequences
from tests.support.onnx_models import (
    echo_model,
    linear_manifest,
    linear_model,
    logarithm_model,
    manifest_of,
)

PRICE = 5
WINDOW = 60
ROW = [[1.0, 2.0, 3.0, 4.0]]


@dataclass
class World:
    network: Network
    node: NodeUnderTest
    free: Published
    paid: Published
    echo: Published
    logarithm: Published

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.node.url + path, timeout=10.0)

    def consumer(self, funds: int = 1000) -> Consumer:
        return self.network.add_consumer((self.node.operator, funds))

    def pay(
        self, consumer: Consumer, amount: int, count: int, rows: list[list[float]] = ROW
    ) -> httpx.Response:
        voucher = consumer.voucher(self.node.operator, self.paid.version_id, amount, count)
        return self.node.infer(self.paid, rows, **voucher)

    def channel(self, consumer: Consumer) -> dict[str, Any]:
        return dict(self.get(f"/v1/channels/0x{self.paid.version_id.hex()}/{consumer.address}").json())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with local_network(tmp_path_factory.mktemp("node"), dispute_window=WINDOW) as network:
        node = network.add_node(
            limits=LimitsConfig(max_body_mib=1, max_unacknowledged=3, max_elements=100_000),
            settlement=SettlementConfig(poll_seconds=0.2, max_age_seconds=1),
        )
        triple = [("n", "INT64"), ("s", "BYTES"), ("b", "BOOL")]
        echo_manifest = manifest_of(
            [TensorSpec(name, dtype, (-1, 2)) for name, dtype in triple],
            [TensorSpec(f"{name}_out", dtype, (-1, 2)) for name, dtype in triple],
        )
        log_manifest = manifest_of([TensorSpec("x", "FP32", (-1, 2))], [TensorSpec("y", "FP32", (-1, 2))])
        made = World(
            network,
            node,
            network.publish("linear", linear_model(), linear_manifest()),
            network.publish("paid", linear_model(seed=1), linear_manifest()),
            network.publish("echo", echo_model(), echo_manifest),
            network.publish("logarithm", logarithm_model(), log_manifest),
        )
        for published in (made.free, made.echo, made.logarithm):
            node.offer(published, 0)
        node.offer(made.paid, PRICE)
        with node.running():
            yield made


def receipt_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return dict(json.loads(response.json()["parameters"]["receipt"]))


def wait_until(check: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


# The Open Inference Protocol, by the stock client


@pytest.fixture
def stock(world: World) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(f"127.0.0.1:{world.node.port}")
    yield client
    client.close()


def triton_input(array: np.ndarray, name: str, dtype: str, binary: bool) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), dtype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("qualified", [True, False])
def test_tritonclient__unpaid_model__works_unchanged(
    world: World, stock: triton.InferenceServerClient, binary: bool, qualified: bool
) -> None:
    name = f"{world.free.publisher}/linear" if qualified else "linear"
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    assert stock.is_server_live()
    assert stock.is_server_ready()
    assert stock.is_model_ready(name)
    assert stock.get_server_metadata()["name"] == "assay"
    metadata = stock.get_model_metadata(name, "1")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    wanted = triton.InferRequestedOutput("y", binary_data=binary)
    answer = stock.infer(name, [triton_input(rows, "x", "FP32", binary)], outputs=[wanted], request_id="7")
    found = answer.as_numpy("y")
    assert found.shape == (3, 3)
    assert answer.get_response()["id"] == "7"
    receipt = receipt_from_json(
        world.network.domain, json.loads(answer.get_response()["parameters"]["receipt"])
    )
    assert receipt.receipt.input_hash == commit_tensors([rows])
    assert receipt.receipt.output_hash == commit_tensors([found])
    assert receipt.receipt.consumer == ZERO_ADDRESS


def test_tritonclient__all_outputs_by_default__come_in_binary(
    world: World, stock: triton.InferenceServerClient
) -> None:
    numbers = np.array([[1, -2]], np.int64)
    texts = np.array([["käse", ""]], dtype=object)
    flags = np.array([[True, False]])
    answer = stock.infer(
        "echo",
        [
            triton_input(flags, "b", "BOOL", True),
            triton_input(numbers, "n", "INT64", False),
            triton_input(texts, "s", "BYTES", True),
        ],
    )
    np.testing.assert_array_equal(answer.as_numpy("n_out"), numbers)
    np.testing.assert_array_equal(answer.as_numpy("b_out"), flags)
    assert [text.decode() for text in answer.as_numpy("s_out").reshape(-1)] == ["käse", ""]


def test_tritonclient__voucher_in_parameters__pays(world: World, stock: triton.InferenceServerClient) -> None:
    consumer = world.consumer()
    voucher = consumer.voucher(world.node.operator, world.paid.version_id, PRICE, 0)
    rows = np.ones((1, 4), np.float32)
    answer = stock.infer("paid", [triton_input(rows, "x", "FP32", True)], "1", parameters=voucher)
    receipt = json.loads(answer.get_response()["parameters"]["receipt"])
    assert (receipt["consumer"], receipt["sequence"], receipt["price"]) == (consumer.address, 1, str(PRICE))


def test_tritonclient__error__is_readable(world: World, stock: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as caught:
        stock.infer("paid", [triton_input(np.ones((1, 4), np.float32), "x", "FP32", True)])
    assert "voucher_consumer" in str(caught.value)


def test_infer__output_that_json_cannot_carry__asks_for_binary(world: World) -> None:
    response = world.node.infer(world.logarithm, [[0.0, 1.0]])
    assert (response.status_code, response.json()["code"]) == (400, "input_output_form")
    answer = world.node.infer(world.logarithm, [[0.0, 1.0]], binary_data_output=True)
    length = int(answer.headers["inference-header-content-length"])
    assert struct.unpack("<2f", answer.content[length:]) == (-np.inf, 0.0)


# Payment


def test_infer__paid__gives_a_receipt_that_checks(world: World) -> None:
    consumer = world.consumer()
    response = world.pay(consumer, PRICE, 0)
    signed = receipt_from_json(world.network.domain, receipt_of(response))
    receipt = signed.receipt
    verify_signer(
        bytes.fromhex(receipt_of(response)["digest"][2:]), signed.signature, world.node.signer.address
    )
    outputs = np.array(response.json()["outputs"][0]["data"], np.float32).reshape(1, 3)
    assert receipt.input_hash == commit_tensors([np.array(ROW, np.float32)])
    assert receipt.output_hash == commit_tensors([outputs])
    assert (receipt.node, receipt.price, receipt.sequence) == (world.node.operator, PRICE, 1)
    stored = world.get(f"/v1/receipts/{receipt_of(response)['digest']}").json()
    assert stored == receipt_of(response)


def test_infer__repeated__costs_nothing_and_gives_the_same_receipt(world: World) -> None:
    consumer = world.consumer()
    first = receipt_of(world.pay(consumer, PRICE, 0))
    assert receipt_of(world.pay(consumer, PRICE, 0)) == first
    assert receipt_of(world.pay(consumer, 2 * PRICE, 1))["sequence"] == 2
    assert receipt_of(world.pay(consumer, PRICE, 0)) == first
    assert world.channel(consumer)["sequence"] == 2


def test_infer__repeated_at_the_same_time__gives_one_receipt(world: World) -> None:
    consumer = world.consumer()
    found: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: found.append(receipt_of(world.pay(consumer, PRICE, 0))))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({receipt["digest"] for receipt in found}) == 1
    assert len(found) == 6


def test_infer__vouchers_out_of_order__are_both_served(world: World) -> None:
    consumer = world.consumer()
    receipts = [receipt_of(world.pay(consumer, amount, 0)) for amount in (2 * PRICE, PRICE)]
    assert sequences(receipts) == [1, 2]
    assert world.channel(consumer)["amount"] == str(2 * PRICE)


def test_infer__voucher_in_a_header__pays(world: World) -> None:
    consumer = world.consumer()
    for n in (1, 2):  # the first is new to the node, the second is known
        fields = consumer.voucher(world.node.operator, world.paid.version_id, n * PRICE, n - 1)
        header = {name.removeprefix("voucher_"): value for name, value in fields.items()}
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4]}]}
        raw = np.array(ROW, np.float32).tobytes()
        body["inputs"][0]["parameters"] = {"binary_data_size": len(raw)}  # type: ignore[assignment]
        head = json.dumps(body).encode()
        response = httpx.post(
            f"{world.node.url}{world.paid.path}/infer",
            content=head + raw,
            headers={
                "Assay-Voucher": json.dumps(header),
                "Inference-Header-Content-Length": str(len(head)),
            },
        )
        receipt = receipt_of(response)
        assert (receipt["consumer"], receipt["sequence"]) == (consumer.address, n)


def test_infer__not_paid__is_told_what_would_pay(world: World) -> None:
    consumer = world.consumer()
    receipt_of(world.pay(consumer, PRICE, 0))
    refused = world.pay(consumer, PRICE + 1, 0).json()
    told = refused["payment"]
    assert refused["code"] == "voucher_short"
    assert (told["price"], told["node"]) == (str(PRICE), world.node.operator)
    assert told["channel"]["charged"] == str(PRICE)
    assert receipt_of(world.pay(consumer, int(told["channel"]["charged"]) + int(told["price"]), 1))
    offered = json.loads(world.get(world.paid.path).headers["assay-offer"])
    assert offered == {name: value for name, value in told.items() if name != "channel"}
    assert world.node.infer(world.paid, ROW).json()["payment"] == offered


@pytest.mark.parametrize(
    ("amount", "count", "rows", "code"),
    [
        (PRICE, 0, [[9.0, 9.0, 9.0, 9.0]], "voucher_stale"),
        (PRICE + 1, 0, ROW, "voucher_short"),
        (2 * PRICE, 2, ROW, "voucher_stale"),
        (1001, 1, ROW, "escrow_short"),
    ],
)
def test_infer__voucher_that_does_not_pay__is_refused(
    world: World, amount: int, count: int, rows: list[list[float]], code: str
) -> None:
    consumer = world.consumer()
    receipt_of(world.pay(consumer, PRICE, 0))
    response = world.pay(consumer, amount, count, rows)
    assert (response.status_code, response.json()["code"]) == (402, code)
    assert world.channel(consumer)["sequence"] == 1


def test_infer__voucher_of_another__is_refused(world: World) -> None:
    consumer, other = world.consumer(), world.consumer()
    voucher = consumer.voucher(world.node.operator, world.paid.version_id, PRICE, 0)
    response = world.node.infer(world.paid, ROW, **voucher | {"voucher_consumer": other.address})
    assert (response.status_code, response.json()["code"]) == (402, "voucher_signature")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("voucher_signature", "0x00"),
        ("voucher_signature", 7),
        ("voucher_amount", 5),
        ("voucher_amount", "-5"),
        ("voucher_amount", str(1 << 128)),
        ("voucher_count", str(1 << 64)),
        ("voucher_consumer", "0x12"),
    ],
)
def test_infer__malformed_voucher__is_refused(world: World, field: str, value: object) -> None:
    voucher = {
        "voucher_consumer": world.node.operator,
        "voucher_amount": "5",
        "voucher_count": "0",
        "voucher_signature": "0x" + "11" * 65,
    }
    response = world.node.infer(world.paid, ROW, **voucher | {field: value})
    assert (response.status_code, response.json()["code"]) == (400, "input_voucher")


def test_infer__too_many_unacknowledged__waits_for_a_count(world: World) -> None:
    consumer = world.consumer()
    for n in range(1, 5):
        receipt_of(world.pay(consumer, n * PRICE, 0))
    response = world.pay(consumer, 5 * PRICE, 0)
    assert (response.status_code, response.json()["code"]) == (402, "unacknowledged")
    receipt_of(world.pay(consumer, 5 * PRICE, 4))


def test_infer__thaw_about_to_end__is_no_cover(world: World) -> None:
    consumer = world.network.add_consumer()
    chain = world.network.chain
    wallet = chain.accounts[9]
    world.network.mint(wallet, 100)
    world.network.send_as(wallet, world.network.token.approve(world.network.settlement.address, 100))
    consumer.key = type(consumer.key)(bytes.fromhex(chain.keys[9]))
    world.network.send_as(wallet, world.network.settlement.fund(consumer.address, world.node.operator, 100))
    receipt_of(world.pay(consumer, PRICE, 0))
    world.network.send_as(wallet, world.network.settlement.begin_thaw(world.node.operator, 100))
    chain.increase_time(2 * 86_400 - 200)
    for n in range(2, 20):  # a voucher of its own each: repeated, one that was served stays served
        reply = world.pay(consumer, n * PRICE, n - 1)
        if reply.status_code == 402:
            break
        time.sleep(0.5)
    assert reply.json()["code"] == "escrow_short"


def test_vouchers__acknowledgement__is_held(world: World) -> None:
    consumer = world.consumer()
    receipt_of(world.pay(consumer, PRICE, 0))
    voucher = consumer.voucher(world.node.operator, world.paid.version_id, PRICE, 1)
    body = {
        "version_id": "0x" + world.paid.version_id.hex(),
        "consumer": consumer.address,
        "amount": str(PRICE),
        "count": 1,
        "signature": voucher["voucher_signature"],
    }
    answer = httpx.post(f"{world.node.url}/v1/vouchers", json=body)
    assert answer.status_code == 200, answer.text
    channel = world.channel(consumer)
    assert (channel["amount"], channel["count"], channel["signature"]) == (str(PRICE), 1, body["signature"])
    assert httpx.post(f"{world.node.url}/v1/vouchers", json=body | {"amount": "0"}).status_code == 402


# Settlement


def test_settlement__traffic__is_posted_published_collected_and_claimed(world: World) -> None:
    network, node = world.network, world.node
    consumer = world.consumer(40)
    receipts = [receipt_of(world.pay(consumer, n * PRICE, n - 1)) for n in range(1, 4)]
    wait_until(lambda: world.channel(consumer)["settled"] == str(3 * PRICE))
    assert network.settlement.escrow(consumer.address, node.operator).balance == 40 - 3 * PRICE
    before = network.token.balance_of(node.operator)

    batch_id = find_batch(world, receipts[0]["digest"])
    head, *lines = world.get(f"/v1/batches/{batch_id}").text.splitlines()
    header = json.loads(head)
    published = [json.loads(line) for line in lines]
    assert header["count"] == len(published)
    digests = [bytes.fromhex(receipt["digest"][2:]) for receipt in published]
    tree = receipts_tree(digests)
    assert header["receipts_root"] == "0x" + tree.root.hex()
    assert {receipt["digest"] for receipt in receipts} <= {receipt["digest"] for receipt in published}

    def status() -> ReceiptStatus:
        index = digests.index(bytes.fromhex(receipts[0]["digest"][2:]))
        receipt = receipt_from_json(network.domain, receipts[0]).receipt
        identifier = bytes.fromhex(batch_id[2:])
        return network.settlement.receipt_status(identifier, receipt, tree.proof(index), index)  # type: ignore[arg-type]

    assert status() == ReceiptStatus.PENDING
    network.chain.increase_time(WINDOW)
    assert status() == ReceiptStatus.FINAL
    wait_until(lambda: network.token.balance_of(node.operator) > before)


def find_batch(world: World, digest: str) -> str:
    log = sqlite3.connect(f"file:{world.node.folder}/receipts.sqlite3?mode=ro", uri=True)
    (batch_id,) = log.execute(
        "SELECT b.batch_id FROM batches b JOIN batch_ranges g ON g.batch = b.id JOIN receipts r ON"
        " r.channel = g.channel AND r.sequence BETWEEN g.first_sequence AND g.last_sequence"
        " WHERE r.digest = ?",
        (bytes.fromhex(digest[2:]),),
    ).fetchone()
    log.close()
    return "0x" + bytes(batch_id).hex()


# Other paths, limits, hostile requests


def test_node__describes_itself(world: World) -> None:
    about = world.get("/v1/node").json()
    assert about["node"] == world.node.operator
    assert about["signer"] == world.node.signer.address
    assert about["chain_id"] == 31337
    assert about["settlement"] == world.network.settlement.address
    offers = {offer["model"]: offer for offer in about["offers"]}
    assert offers[f"{world.paid.publisher}/paid"]["price"] == str(PRICE)
    before = about["requests"]["received"]
    world.node.infer(world.free, ROW)
    world.node.infer(world.paid, ROW)
    after = world.get("/v1/node").json()["requests"]
    assert (after["received"], after["in_deadline"] > about["requests"]["in_deadline"]) == (before + 2, True)


def test_metrics__requests__are_counted(world: World) -> None:
    receipt_of(world.node.infer(world.free, ROW))
    world.node.infer(world.paid, ROW)
    text = world.get("/metrics").text
    assert 'assay_node_failures_total{code="voucher_missing"}' in text
    assert "assay_node_receipts_total" in text
    answered = float(text.split('assay_node_request_seconds_count{stage="log"} ')[1].split()[0])
    assert answered >= 1
    assert 'assay_node_request_seconds_bucket{le="0.0001",stage="admit"}' in text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v2/models/unknown", 404),
        ("GET", "/v2/models/linear/versions/9", 404),
        ("GET", "/v2/models/linear/versions/1/infer", 405),
        ("POST", "/v2/health/live", 405),
        ("GET", "/v1/receipts/0x12", 400),
        ("GET", "/v1/receipts/0x" + "00" * 32, 404),
        ("GET", "/v1/batches/0x" + "00" * 32, 404),
        ("GET", "/v1/batches/zz", 400),
        ("GET", "/v1/channels/0x" + "00" * 32, 404),
        ("GET", "/v1/channels/0x" + "00" * 32 + "/0x12", 400),
        ("POST", "/v1/vouchers", 400),
        ("DELETE", "/v1/node", 405),
    ],
)
def test_any_path__wrong_request__is_answered_with_error_and_code(
    world: World, method: str, path: str, status: int
) -> None:
    response = httpx.request(method, world.node.url + path)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error", "code", "cure"}


def test_infer__body_above_the_limit__is_too_large(world: World) -> None:
    url = f"{world.node.url}{world.free.path}/infer"
    response = httpx.post(url, content=b" " * (1 << 20) + b" ")
    assert (response.status_code, response.json()["code"]) == (413, "too_large")

    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * 65_536

    try:
        chunked = httpx.post(url, content=endless())
        assert chunked.status_code == 413
    except httpx.TransportError:
        pass  # the node closed the connection while the client was still sending


def test_infer__compressed_body__is_refused(world: World) -> None:
    response = httpx.post(
        f"{world.node.url}{world.free.path}/infer", content=b"x", headers={"content-encoding": "gzip"}
    )
    assert (response.status_code, response.json()["code"]) == (400, "input_encoding")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2 HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        b"GET /v2 HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 200_000,
        b"GET /" + b"z" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_connection__head_above_the_limit__is_ended(world: World, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", world.node.port), timeout=10) as sock:
        answer = b""
        try:
            sock.sendall(head)
            while part := sock.recv(65_536):
                answer += part
        except ConnectionError:
            pass
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431")
    assert world.get("/v2/health/ready").status_code == 200


def test_connection__second_head_in_two_parts_after_a_big_body__is_served(world: World) -> None:
    path = f"{world.free.path}/infer".encode()
    body = b" " * 100_000
    first = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (path, len(body))
    with socket.create_connection(("127.0.0.1", world.node.port), timeout=10) as sock:
        sock.sendall(first)
        for start in range(0, len(body), 20_000):
            sock.sendall(body[start : start + 20_000])
            time.sleep(0.02)
        assert sock.recv(65_536).startswith(b"HTTP/1.1 400")
        sock.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost:")
        time.sleep(0.2)
        sock.sendall(b" x\r\n\r\n")
        assert sock.recv(65_536).startswith(b"HTTP/1.1 200")


def test_connection__endless_trailers__are_ended(world: World) -> None:
    path = f"{world.free.path}/infer".encode()
    head = b"POST %s HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" % path
    with socket.create_connection(("127.0.0.1", world.node.port), timeout=10) as sock:
        sock.sendall(head)
        try:
            for _ in range(2_000):
                sock.sendall(b"x: " + b"y" * 16_000 + b"\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 431 ")
        except ConnectionError:
            pass  # as many as came in one part: it is ended without a word
    assert world.get("/v2/health/ready").status_code == 200


def test_infer__price_change_and_revocation__are_followed(world: World) -> None:
    network, node = world.network, world.node
    extra = network.publish("linear", linear_model(seed=5), linear_manifest())
    network.send(network.models.set_status(world.logarithm.version_id, VersionStatus.DEPRECATED))
    assert world.node.infer(world.logarithm, [[1.0, 1.0]]).status_code == 200
    network.send(network.models.set_status(world.logarithm.version_id, VersionStatus.REVOKED))
    wait_until(lambda: world.node.infer(world.logarithm, [[1.0, 1.0]]).status_code == 409)
    assert node.infer(extra, ROW).json()["code"] == "model_unknown"
    network.send_as(node.operator, network.nodes.withdraw_offer(world.echo.version_id))
    wait_until(lambda: world.get("/v2/models/echo/ready").status_code == 404)
