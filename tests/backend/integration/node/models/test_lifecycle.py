"""A real node process whose versions come and go on a real chain, in little memory, among hostile files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
from assay.node.config import LimitsConfig, MemoryConfig, SettlementConfig
from assay.types import TensorSpec, VersionStatus
from onnx import TensorProto, helper

from tests.support.hostile_models import HOSTILE, Hostile
from tests.support.nodes import Network, NodeUnderTest, Published, local_network
from tests.support.onnx_models import build_model, linear_manifest, linear_model, manifest_of, tensor, value

ROW = [[1.0, 2.0, 3.0, 4.0]]
DEEP = bool(os.environ.get("ASSAY_DEEP"))
CHOSEN = ("endless-loop", "external-traversal", "great-claim", "many-nodes", "constant-of-shape", "cyclic")
HEAVY = 20 << 20
"""Bytes of weights."""


def heavy_model(seed: int) -> bytes:
    """Four numbers in, four out, and weights that take room."""
    weights = np.random.default_rng(seed).normal(size=(4, HEAVY // 16)).astype(np.float32)
    model = build_model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("ReduceMax", ["h"], ["y"], axes=[1]),
        ],
        [value("x", ["rows", 4])],
        [value("y", ["rows", 1])],
        [tensor("w", weights)],
    )
    return bytes(model.SerializeToString())


def sized_model() -> bytes:
    """As many zeros, added up, as the request's number says."""
    model = build_model(
        [
            helper.make_node("Reshape", ["x", "one"], ["n"]),
            helper.make_node("ConstantOfShape", ["n"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=1),
            helper.make_node("Reshape", ["sum", "shape"], ["y"]),
        ],
        [value("x", [1, 1], TensorProto.INT64)],
        [value("y", [1, 1])],
        [tensor("one", np.array([1], np.int64)), tensor("shape", np.array([1, 1], np.int64))],
    )
    return bytes(model.SerializeToString())


@dataclass
class World:
    network: Network
    node: NodeUnderTest

    def publish(self, name: str, artifact: bytes | None = None) -> Published:
        return self.network.publish(name, artifact or linear_model(), linear_manifest())

    def offer(self, published: Published) -> None:
        """On the chain alone: node.toml does not name it."""
        self.network.send_as(self.node.operator, self.network.nodes.offer(published.version_id, 0))

    def status(self, published: Published) -> int:
        return self.node.infer(published, ROW).status_code

    def error(self, published: Published) -> str:
        return str(self.node.infer(published, ROW).json().get("error"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with local_network(tmp_path_factory.mktemp("lifecycle")) as network:
        node = network.add_node(
            settlement=SettlementConfig(poll_seconds=0.2),
            limits=LimitsConfig(arena_mib=64, sandbox_mib=2048, sandbox_seconds=20),
            memory=MemoryConfig(budget_mib=30, min_resident_seconds=0.5),
            serve_offers=True,
        )
        with node.running():
            yield World(network, node)


def wait_until(check: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_serve_offers__offered_withdrawn_and_offered_again__is_served_while_it_is(world: World) -> None:
    published = world.publish("comes-and-goes")
    assert world.status(published) == 404
    world.offer(published)
    wait_until(lambda: world.status(published) == 200)
    world.network.send_as(world.node.operator, world.network.nodes.withdraw_offer(published.version_id))
    wait_until(lambda: world.status(published) == 404)
    wait_until(lambda: "unloaded" in (world.node.folder / "node.log").read_text())
    world.offer(published)
    wait_until(lambda: world.status(published) == 200)


def test_status__revoked_by_the_publisher__is_refused_by_name(world: World) -> None:
    published = world.publish("revoked")
    world.offer(published)
    wait_until(lambda: world.status(published) == 200)
    world.network.send(world.network.models.set_status(published.version_id, VersionStatus.REVOKED))
    wait_until(lambda: world.status(published) == 409)
    assert world.node.infer(published, ROW).json()["code"] == "version_revoked"


def test_memory__more_versions_than_fit__take_turns_by_who_is_asked_for(world: World) -> None:
    heavy = [
        world.network.publish(
            f"heavy-{seed}",
            heavy_model(seed),
            manifest_of([TensorSpec("x", "FP32", (-1, 4))], [TensorSpec("y", "FP32", (-1, 1))]),
        )
        for seed in range(2)
    ]
    for one in heavy:
        world.offer(one)
    for one in (*heavy, *heavy):
        response = world.node.infer(one, ROW)
        if response.status_code == 503:
            assert int(response.headers["retry-after"]) >= 1
        wait_until(lambda one=one: world.status(one) == 200)  # type: ignore[misc]
    statuses = {world.status(one) for one in heavy}
    assert statuses == {200, 503}
    assert httpx.get(f"{world.node.url}/v2/health/ready", timeout=10).status_code == 200


def test_memory__larger_than_the_budget__is_refused_by_name(world: World) -> None:
    weights = np.ones((4, 40 << 16), np.float32)  # 40 MiB
    model = build_model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("ReduceMax", ["h"], ["y"], axes=[1]),
        ],
        [value("x", ["rows", 4])],
        [value("y", ["rows", 1])],
        [tensor("w", weights)],
    )
    manifest = manifest_of([TensorSpec("x", "FP32", (-1, 4))], [TensorSpec("y", "FP32", (-1, 1))])
    published = world.network.publish("too-heavy", model.SerializeToString(), manifest)
    world.offer(published)
    wait_until(lambda: "refused (memory_budget)" in world.error(published))


def test_hostile_versions__beside_a_good_one__are_refused_by_name_and_it_serves_on(world: World) -> None:
    good = world.publish("good")
    world.offer(good)
    hostile: list[tuple[Hostile, Published]] = [
        (one, world.publish(f"hostile-{one.name}", one.build()))
        for one in HOSTILE
        if DEEP or one.name in CHOSEN
    ]
    for _, published in hostile:
        world.offer(published)
    wait_until(lambda: world.status(good) == 200)
    for one, published in hostile:
        wait_until(lambda published=published: "refused (" in world.error(published))  # type: ignore[misc]
        problem = world.error(published)
        assert any(f"refused ({code})" in problem for code in one.codes), (one.name, problem)
        assert world.status(good) == 200
    assert world.node.process is not None
    assert world.node.process.poll() is None


def test_run__grows_beyond_the_arena__fails_alone(world: World) -> None:
    """Small on zeros, hence loaded; what it becomes depends on the request."""
    manifest = manifest_of([TensorSpec("x", "INT64", (1, 1))], [TensorSpec("y", "FP32", (1, 1))])
    published = world.network.publish("sized", sized_model(), manifest)
    world.offer(published)

    def ask(size: int) -> httpx.Response:
        return world.node.infer(published, [[size]], datatype="INT64")

    wait_until(lambda: ask(10).status_code == 200)
    for size in (1 << 28, 1 << 40, (1 << 62) + 1, -5):
        response = ask(size)
        assert response.status_code == 500, (size, response.text)
        assert response.json()["code"] == "run_failed"
    assert ask(1000).status_code == 200
