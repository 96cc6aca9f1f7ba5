"""A node process that serves over HTTP and gRPC what the protocol's clients are tested with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from assay.commitments.manifest import Manifest
from assay.node.config import GrpcConfig, LimitsConfig
from assay.node.operator_token import FILE
from assay.types import TensorSpec, VersionStatus
from onnx import TensorProto, helper

from tests.support.nodes import Consumer, Network, NodeUnderTest, Published, free_port, local_network
from tests.support.onnx_models import build_model, linear_manifest, linear_model, manifest_of

PRICE = 5
KINDS = (
    ("b", "BOOL", TensorProto.BOOL),
    ("s", "BYTES", TensorProto.STRING),
    ("h", "FP16", TensorProto.FLOAT16),
    ("d", "FP64", TensorProto.DOUBLE),
    ("i8", "INT8", TensorProto.INT8),
    ("u16", "UINT16", TensorProto.UINT16),
    ("i64", "INT64", TensorProto.INT64),
    ("u64", "UINT64", TensorProto.UINT64),
)
X = np.arange(4, dtype=np.float32).reshape(1, 4)


def every_kind() -> tuple[bytes, Manifest]:
    """A model that gives back inputs of many datatypes, shape (-1, 2) each, and its manifest."""
    rows = ["n", 2]
    inputs = [helper.make_tensor_value_info(name, kind, rows) for name, _, kind in KINDS]
    outputs = [helper.make_tensor_value_info(f"{name}_out", kind, rows) for name, _, kind in KINDS]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _, _ in KINDS]
    specs = [TensorSpec(name, datatype, (-1, 2)) for name, datatype, _ in KINDS]
    given = [TensorSpec(f"{spec.name}_out", spec.dtype, spec.shape) for spec in specs]
    return bytes(build_model(nodes, inputs, outputs).SerializeToString()), manifest_of(specs, given)


def kinds_arrays() -> dict[str, Any]:
    """Two rows of extreme values for each input of `every_kind`."""
    return {
        "b": np.array([[True, False], [False, False]]),
        "s": np.array([["a", ""], ["ö" * 3, "x y"]], dtype=object).astype(np.object_),
        "h": np.array([[1.5, -65504], [6e-8, 0]], np.float16),
        "d": np.array([[1e300, -1e-300], [0.1, 3]], np.float64),
        "i8": np.array([[-128, 127], [0, 1]], np.int8),
        "u16": np.array([[0, 65535], [1, 2]], np.uint16),
        "i64": np.array([[-(1 << 63), (1 << 63) - 1], [0, 1]], np.int64),
        "u64": np.array([[0, (1 << 64) - 1], [1 << 63, 2]], np.uint64),
    }


@dataclass
class World:
    network: Network
    node: NodeUnderTest
    grpc_port: int
    free: Published
    paid: Published
    kinds: Published
    revoked: Published

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.node.port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def token(self) -> dict[str, str]:
        """The operator's header (gRPC: metadata)."""
        return {"authorization": f"Bearer {(self.node.folder / FILE).read_text().strip()}"}

    def name(self, published: Published) -> str:
        return f"{published.publisher}/{published.name}"

    def consumer(self, funds: int = 1_000) -> Consumer:
        return self.network.add_consumer((self.node.operator, funds))

    def voucher(self, consumer: Consumer, amount: int, count: int) -> dict[str, str]:
        return consumer.voucher(self.node.operator, self.paid.version_id, amount, count)


@contextlib.contextmanager
def oip_world(
    folder: Path, more: Mapping[str, tuple[bytes, Manifest]] = MappingProxyType({}), **limits_given: Any
) -> Iterator[World]:
    """A free, a paid, a many-typed and a revoked model, and `more` free ones; small limits."""
    with local_network(folder) as network:
        port = free_port()
        limits = LimitsConfig(
            **{"max_body_mib": 1, "max_unacknowledged": 3, "max_elements": 100_000, **limits_given}
        )
        node = network.add_node(limits=limits, grpc=GrpcConfig(port=port))
        linear = linear_model(), linear_manifest()
        world = World(
            network,
            node,
            port,
            free=network.publish("free", *linear),
            paid=network.publish("paid", *linear),
            kinds=network.publish("kinds", *every_kind()),
            revoked=network.publish("revoked", *linear),
        )
        for name, (artifact, manifest) in more.items():
            node.offer(network.publish(name, artifact, manifest), 0)
        for published in (world.free, world.paid, world.kinds, world.revoked):
            node.offer(published, PRICE if published is world.paid else 0)
        with node.running():
            network.send(network.models.set_status(world.revoked.version_id, VersionStatus.REVOKED))
            yield world
