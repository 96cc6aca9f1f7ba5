"""What a client can make grpc hold of a node's memory, measured in a real process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
from assay.node.config import GrpcConfig, LimitsConfig

from tests.support.nodes import NodeUnderTest, Published, free_port, local_network
from tests.support.onnx_models import linear_manifest, linear_model

MIB = 1 << 20
MESSAGE = 8 * MIB
BUFFER = 64 * MIB
IN_PROGRESS = 16 * MIB
CALLS = 64
METHOD = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeUnderTest, str]]:
    with local_network(tmp_path_factory.mktemp("grpc")) as network:
        port = free_port()
        node = network.add_node(
            limits=LimitsConfig(max_body_mib=MESSAGE // MIB, max_mib_in_progress=IN_PROGRESS // MIB),
            grpc=GrpcConfig(port=port, buffer_mib=BUFFER // MIB),
        )
        published: Published = network.publish("linear", linear_model(), linear_manifest())
        node.offer(published, 0)
        with node.running():
            yield node, f"127.0.0.1:{port}"


class Peak:
    """The greatest resident memory of a process while it is watched."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._stop = threading.Event()
        self.before = self.most = process.memory_info().rss

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.most = max(self.most, self._process.memory_info().rss)

    @property
    def growth(self) -> int:
        return self.most - self.before


def flood(address: str, body: bytes) -> list[grpc.StatusCode]:
    """As many calls at once, each with a whole message, over connections of their own."""

    def call(_: int) -> grpc.StatusCode:
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, options=options) as channel:
            try:
                channel.unary_unary(METHOD)(body, timeout=60)
            except grpc.RpcError as error:
                return grpc.StatusCode(error.code())
        return grpc.StatusCode.OK

    with ThreadPoolExecutor(CALLS) as pool:
        return list(pool.map(call, range(CALLS)))


def test_model_infer__many_large_messages_at_once__stay_within_the_buffer(
    target: tuple[NodeUnderTest, str], tmp_path: Path
) -> None:
    node, address = target
    assert node.process is not None
    name = b"linear"
    head = b"\x0a" + bytes([len(name)]) + name  # model_name
    raw = MESSAGE - 64
    length = bytes([raw & 127 | 128, raw >> 7 & 127 | 128, raw >> 14 & 127 | 128, raw >> 21])
    body = head + b"\x3a" + length + bytes(raw)  # raw_input_contents
    with Peak(psutil.Process(node.process.pid)) as peak:
        codes = flood(address, body)
    refused = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE}
    assert set(codes) <= refused, codes
    assert codes.count(grpc.StatusCode.INVALID_ARGUMENT) > 0  # read, and found to have no input
    assert peak.growth < BUFFER + IN_PROGRESS + 6 * MESSAGE < CALLS * MESSAGE, peak.growth / MIB
