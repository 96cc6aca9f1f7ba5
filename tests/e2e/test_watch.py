"""Real `assay watch` processes against a node that lies: killed in the middle of a game, started again, they
win; `assay dispute` tells what happened.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from assay.chain.disputes import DisputeRecord
from assay.commitments.receipts import receipt_file_to_json
from assay.exact.dispute import CHALLENGER_PHASES
from assay.exact.game import Phase, Side

from tests.support.watched import MOVE_WINDOW, PASSWORD, SLASH, WatchedWorld, watched_world

pytestmark = pytest.mark.e2e

ASSAY = (sys.executable, "-c", "from assay.cli import main; main()")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[WatchedWorld]:
    with watched_world(tmp_path) as made:
        yield made


@dataclass
class Assay:
    """The command line with a funded account, its own data folder and nothing else from outside."""

    world: WatchedWorld
    folder: Path

    def __post_init__(self) -> None:
        self.keystore = self.world.keystore("watcher")
        self.password = self.folder / "password"
        self.password.write_text(PASSWORD)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return kept | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "ASSAY_RPC_URLS": json.dumps([self.world.chain.url]),
            "ASSAY_DEPLOYMENTS": str(self.world.folder / "deployments"),
            "ASSAY_HUB_URL": str(self.world.hub),
            "ASSAY_DATA": str(self.folder / "data"),
            "ASSAY_ACCOUNT": str(self.keystore),
            "ASSAY_PASSWORD_FILE": str(self.password),
            "ASSAY_LOG_JSON": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def run(self, *arguments: str) -> Any:
        """One command's JSON."""
        done = subprocess.run(
            [*ASSAY, *arguments, "--json"],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
        return json.loads(done.stdout)

    @contextlib.contextmanager
    def watching(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """`assay watch` in the background; killed at the end if it still runs."""
        with (self.folder / "watch.log").open("ab") as log:
            process = subprocess.Popen(
                [*ASSAY, "watch", "--all", "--poll", "0.1", *arguments],
                env=self.environment,
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def assay(world: WatchedWorld, tmp_path: Path) -> Assay:
    return Assay(world, tmp_path)


def until(check: Callable[[], bool], assay: Assay, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            pytest.fail("it does not happen:\n" + (assay.folder / "watch.log").read_text()[-4000:])
        time.sleep(0.05)


def only(world: WatchedWorld) -> DisputeRecord:
    (record,) = world.disputes().values()
    return record


def test_watch__killed_at_every_move_of_the_game__plays_each_once_and_wins(
    world: WatchedWorld, assay: Assay
) -> None:
    wrong, right = world.node.answer(changes={3: 1}), world.node.answer()
    world.node.post([right, wrong])
    for moves in (0, 1, 2):  # opened, first selection, second selection
        with assay.watching() as process:
            until(lambda moves=moves: count(world) > moves, assay)  # type: ignore[misc]
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
        world.node.play()
    assert only(world).state.phase is Phase.PROVE_STEP  # which the node cannot do
    world.chain.increase_time(MOVE_WINDOW + 1)
    with assay.watching("--json") as process:
        until(lambda: not only(world).is_open, assay)
        until(lambda: '"dispute closed"' in (assay.folder / "watch.log").read_text(), assay)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    record = only(world)
    assert record.opened.digest == wrong.digest
    assert record.closing is not None
    assert not record.closing.node_won
    money = json.loads(output)["profit_and_loss"]
    assert (money["disputes"], money["won"], money["slash_share"]) == (1, 1, str(SLASH // 2))
    assert money["transactions"] == 5  # approval, opening, two selections, time-out: each once
    assert assay.run("watch", "--report")["profit_and_loss"] == money
    show(world, assay, record)


def count(world: WatchedWorld) -> int:
    """Own transactions that were mined: the opening and the selections."""
    records = world.disputes().values()
    return sum(1 + sum(move.phase in CHALLENGER_PHASES for move in record.moves) for record in records)


def show(world: WatchedWorld, assay: Assay, record: DisputeRecord) -> None:
    shown = assay.run("dispute", "show", str(record.dispute_id))
    claim = shown["claim"]
    said = f"claimed element 3 of row 0 of /dense is {claim['claimed']}; it is {claim['true']}"
    assert shown["verdict"] == f"node {world.node.operator} {said}"
    assert int(claim["claimed"]) == (int(claim["true"]) + 1) % 256
    assert shown["outcome"]["slashed"] == str(SLASH)
    assert shown["gas"]["challenger"]["transactions"] == 4


def test_watch__interrupted__ends_cleanly_and_reports_an_honest_node(
    world: WatchedWorld, assay: Assay
) -> None:
    world.node.post([world.node.answer(), world.node.answer(public=False)])
    world.node.post([world.node.answer()], serve_data=False)
    with assay.watching("--json") as process:
        log = assay.folder / "watch.log"
        until(lambda: log.read_text().count('"receipt examined"') >= 2, assay)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    (node,) = json.loads(output)["nodes"]
    assert node["public_data"] == {"available": 1, "withheld": 1}
    assert node["verdicts"] == {"right": 1, "unchecked": 1}
    assert world.disputes() == {}


def test_dispute_open__private_receipt_and_its_tensors__plays_to_the_end(
    world: WatchedWorld, assay: Assay
) -> None:
    wrong = world.node.answer(changes={0: 9}, public=False)
    receipt, tensors = assay.folder / "receipt.json", assay.folder / "tensors.json"
    receipt.write_text(json.dumps(receipt_file_to_json(world.contracts.domain, wrong.signed)))
    tensors.write_text(json.dumps(wrong.data.to_json()))
    arguments = ("dispute", "open", str(receipt), "--tensors", str(tensors), "--json")
    process = subprocess.Popen(
        [*ASSAY, *arguments], env=assay.environment, cwd=assay.folder, stdout=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < deadline:
            world.node.play()
            if any(record.is_open and record.side is Side.NODE for record in world.disputes().values()):
                world.chain.increase_time(MOVE_WINDOW + 1)
            time.sleep(0.1)
        output, _ = process.communicate(timeout=10)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 0
    assert json.loads(output)["state"] == "challenger_won"
    assert world.contracts.settlement.is_void(wrong.digest)
