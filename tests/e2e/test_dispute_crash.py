"""`kill -9` of a real node in the middle of a dispute: it answers after each restart, and wins."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from assay.commitments.receipts import receipt_from_json
from assay.exact.game import Phase, Side
from assay.node.doctor import Doctor

from tests.support.defence import BOND, DefenceWorld, defence_world
from tests.support.exact_version import row

pytestmark = pytest.mark.e2e

KILLS = 1
SELECTIONS = (Phase.SELECT, Phase.SELECT_ELEMENT, Phase.SELECT_SEGMENT)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[DefenceWorld]:
    with defence_world(tmp_path, move_window=900, dispute_window=3_600, node_thaw=30 * 86_400) as made:
        made.node.offer(made.published, 0)
        try:
            yield made
        finally:
            if made.node.process is not None:
                made.node.stop()


def test_node__killed_in_a_dispute__answers_after_the_restart_and_wins(world: DefenceWorld) -> None:
    world.node.start()
    answer = world.node.infer(world.published, row(rows=2).tolist(), datatype="UINT8", public=True)
    signed = receipt_from_json(world.network.domain, json.loads(answer.json()["parameters"]["receipt"]))
    world.node.kill()
    number = world.open(signed).dispute_id
    findings = {finding.name: finding for finding in Doctor(world.node.folder).examine()}
    assert "the node has not seen them yet" in findings["disputes"].detail
    world.node.start()
    kills = 0
    while (record := wait_for_node(world, number)).is_open:
        if kills < KILLS:
            world.node.kill()
            world.challenge(kills)
            world.node.start()
            kills += 1
        else:
            world.challenge(kills)
    assert kills == KILLS
    assert record.closing is not None
    assert (record.closing.node_won, record.closing.phase) == (True, Phase.PROVE_STEP)
    assert world.network.token.balance_of(world.node.operator) == BOND
    node_moves = sum(1 for move in record.moves if move.phase not in SELECTIONS) + 1
    assert world.sent() == node_moves
    wait_for_metric(world, "assay_node_disputes_open 0.0")


def wait_for_node(world: DefenceWorld, number: int, seconds: float = 90.0) -> Any:
    """The dispute once the node has played, or won."""
    deadline = time.monotonic() + seconds
    while (record := world.record(number)).side is Side.NODE:
        log = (world.node.folder / "node.log").read_text()
        assert time.monotonic() < deadline, f"the node does not answer:\n{log[-3000:]}"
        time.sleep(0.1)
    return record


def wait_for_metric(world: DefenceWorld, line: str, seconds: float = 30.0) -> None:
    """The node sees the closing with its next look at the chain."""
    deadline = time.monotonic() + seconds
    while line not in (text := httpx.get(f"{world.node.url}/metrics", timeout=10).text):
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
