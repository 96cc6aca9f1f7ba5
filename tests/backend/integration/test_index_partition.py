"""However the chain is cut into windows, the tables come out the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from assay.index.follower import Outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.index_tables import close_databases, contents, new_database, new_follower
from tests.support.index_world import World, index_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with index_world(tmp_path_factory.mktemp("partition")) as made:
        version = made.publish()
        node = made.add_node("http://node.test", {version: 10})
        made.chain.mine(150)  # so that a part lies below what can be rolled back
        for turn in range(4):
            made.serve(node, version, made.consumer(turn % 2), 2)
        made.send(node.operator, made.nodes.rotate_signer(made.key("second").address))
        made.send(node.operator, made.nodes.withdraw_offer(version))
        made.finish()
        made.send(made.accounts[0], made.settlement.collect([batch.key for batch in made.batches]))
        yield made


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    engine = new_database(tmp_path_factory.mktemp("whole"))
    follower = new_follower(engine, world.rpc, world.deployment, max_range=10_000)
    while follower.step().outcome is Outcome.ADVANCED:
        pass
    return contents(engine)


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(cuts=st.lists(st.integers(1, 200), max_size=12), window=st.sampled_from([1, 3, 50, 10_000]))
def test_step__any_partition_into_windows__gives_the_same_tables(
    world: World,
    whole: dict[str, list[dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
    window: int,
) -> None:
    engine = new_database(tmp_path_factory.mktemp("cut"))
    follower = new_follower(engine, world.rpc, world.deployment, max_range=max(window, 3))
    for cut in sorted(cuts):
        while follower.step(until=cut).outcome is Outcome.ADVANCED:
            pass
    while follower.step().outcome is Outcome.ADVANCED:
        pass
    assert contents(engine) == whole
    assert [row["block_number"] for row in whole["journal"]], "a part can be rolled back"


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_databases()
