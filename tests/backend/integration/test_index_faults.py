"""The index under RPC faults and `kill -9`: late, never wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from assay.chain.client import ChainClient
from assay.db.engine import open_engine, write_transaction
from assay.errors import FatalError, RetryableError
from assay.index.batches import BatchChecker
from assay.index.daemon import Daemon
from assay.index.download import Limits
from assay.index.fetch import Fetcher
from assay.index.follower import Follower, Outcome

from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.index_tables import contents, follow, new_database, new_follower
from tests.support.index_world import World, index_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Read only: every test follows it into a database of its own."""
    with index_world(tmp_path_factory.mktemp("faults")) as made:
        version = made.publish()
        node = made.add_node("http://node.test", {version: 10})
        for turn in range(6):
            made.serve(node, version, made.consumer(turn % 2), 1 + turn)
            made.chain.mine(7)
        yield made


@pytest.fixture(scope="module")
def expected(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    engine = new_database(tmp_path_factory.mktemp("expected"))
    follow(new_follower(engine, world.rpc, world.deployment))
    return contents(engine)


@pytest.fixture
def proxy(world: World) -> Iterator[FaultProxy]:
    with fault_proxy(world.chain.url) as made:
        yield made


def settle(follower: Follower, tries: int = 60) -> int:
    """Step to the head as the daemon does: again after a RetryableError. Returns how often that was."""
    failures = 0
    for _ in range(tries):
        try:
            if follower.step().outcome is Outcome.AT_HEAD:
                return failures
        except RetryableError:
            failures += 1
    raise AssertionError(f"not at the head after {tries} steps, {failures} of them failed")


@pytest.mark.parametrize(
    ("fault", "method"),
    [
        (Fault.RATE_LIMIT, None),
        (Fault.SERVER_ERROR, "eth_getLogs"),
        (Fault.DROP, "eth_getLogs"),
        (Fault.DROP_AFTER_FORWARD, "eth_getBlockByNumber"),
        (Fault.MALFORMED, "eth_getLogs"),
        (Fault.MALFORMED, "eth_getTransactionByHash"),
        (Fault.LATENCY, None),
        (Fault.STALE_HEAD, None),
        (Fault.EMPTY_LOGS, "eth_getLogs"),
    ],
)
def test_step__rpc_faults__delay_but_change_nothing(
    world: World,
    expected: dict[str, list[dict[str, Any]]],
    proxy: FaultProxy,
    tmp_path: Path,
    fault: Fault,
    method: str | None,
) -> None:
    engine = new_database(tmp_path)
    with ChainClient(proxy.url, timeout=2.0, attempts=2, sleep=lambda seconds: None) as client:
        follower = new_follower(engine, client, world.deployment, max_range=16)
        proxy.inject(fault, method, times=5, seconds=0.02, blocks=3)
        settle(follower)
        proxy.clear()
        settle(follower)
    assert contents(engine) == expected


def test_step__logs_always_empty__never_advances_past_the_first_event(
    world: World, proxy: FaultProxy, tmp_path: Path
) -> None:
    engine = new_database(tmp_path)
    with ChainClient(proxy.url, attempts=1) as client:
        follower = new_follower(engine, client, world.deployment)
        proxy.inject(Fault.EMPTY_LOGS, "eth_getLogs", times=None)
        for _ in range(12):
            with pytest.raises(RetryableError, match="left out logs"):
                while follower.step().outcome is Outcome.ADVANCED:
                    pass
        assert contents(engine)["events"] == []
        assert follower.position().number < 3


def test_window__undecodable_log__stops_loudly_where_it_is(world: World, tmp_path: Path) -> None:
    engine = new_database(tmp_path)
    deployment = world.deployment
    contracts = {
        deployment.addresses[name]: (name, deployment.contract_abi(other))
        for name, other in (
            ("ModelRegistry", "ModelRegistry"),
            ("NodeRegistry", "ModelRegistry"),
            ("Settlement", "Settlement"),
        )
    }
    follower = Follower(engine, Fetcher(world.rpc, contracts), deployment, max_range=1)
    follower.prepare()
    with pytest.raises(FatalError, match="cannot decode NodeRegistry log"):
        follow(follower)
    stuck = follower.position()
    with pytest.raises(FatalError, match="cannot decode"):
        follower.step()
    assert follower.position() == stuck


RUN = """
import sys
from pathlib import Path
from assay.chain.client import ChainClient
from assay.chain.deployments import Deployment
from assay.db.engine import open_engine, upgrade
from assay.index.fetch import Fetcher
from assay.index.follower import Follower, Outcome
url, folder, database = sys.argv[1:]
engine = open_engine(database)
upgrade(engine)
client = ChainClient(url)
deployment = Deployment.load(Path(folder), client.chain_id)
follower = Follower(engine, Fetcher.of(client, deployment), deployment, max_range=4)
follower.prepare()
while follower.step().outcome is Outcome.ADVANCED:
    pass
"""


def test_run__somebody_writes_for_longer_than_writers_are_waited_for__goes_on_afterwards(
    world: World, expected: dict[str, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a batch of a million receipts is written."""
    monkeypatch.setattr("assay.db.engine.SQLITE_BUSY_MS", 100)
    engine = new_database(tmp_path)
    follower = new_follower(engine, world.rpc, world.deployment)
    checker = BatchChecker(engine, world.deployment.domain, Limits(seconds=0.2))
    daemon, failures = Daemon(follower, checker, None, poll=0.05), list[BaseException]()

    def run() -> None:
        try:
            daemon.run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    with write_transaction(engine):
        thread.start()
        thread.join(1.5)
    deadline = time.monotonic() + 60
    while thread.is_alive() and follower.position().number < world.rpc.block_number():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    daemon.stop()
    thread.join(60)
    assert failures == []
    assert contents(engine) == expected


def test_backfill__killed_at_every_kind_of_request__ends_with_the_same_tables(
    world: World, expected: dict[str, list[dict[str, Any]]], proxy: FaultProxy, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'index.sqlite3'}"
    command = [sys.executable, "-c", RUN, proxy.url, str(world.deployment.folder.parent), url]
    for skip, method in enumerate(
        ("eth_getLogs", "eth_getTransactionByHash", "eth_getBlockByNumber"), start=2
    ):
        process = subprocess.Popen(command)
        _kill_at(proxy, process, method, skip)
        assert process.wait(60) == -signal.SIGKILL
        proxy.clear()
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
    engine = open_engine(url)
    assert contents(engine) == expected
    engine.dispose()


def _kill_at(proxy: FaultProxy, process: subprocess.Popen[bytes], method: str, skip: int) -> None:
    def hook() -> None:
        nonlocal skip
        skip -= 1
        if skip < 0:
            os.kill(process.pid, signal.SIGKILL)
        else:
            proxy.on(method, hook, after=True)

    proxy.on(method, hook, after=True)


def test_run__killed_mid_backfill_and_started_again__catches_up(
    world: World, expected: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The real command, as a user runs it."""
    url = f"sqlite:///{tmp_path / 'index.sqlite3'}"
    options = [
        "--rpc",
        world.chain.url,
        "--deployments",
        str(world.deployment.folder.parent),
        "--database",
        url,
    ]
    command = [sys.executable, "-c", "from assay.cli import main; main()", "index"]
    run = subprocess.Popen(
        [*command, "run", *options, "--no-probes", "--max-range", "1"], stderr=subprocess.DEVNULL
    )
    try:
        _wait_for_events(tmp_path / "index.sqlite3")
    finally:
        run.kill()
        run.wait(10)
    ended = subprocess.run(
        [*command, "backfill", *options, "--json"], capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    engine = open_engine(url)
    assert contents(engine) == expected
    engine.dispose()


def _wait_for_events(path: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists():
            engine = open_engine(f"sqlite:///{path}")
            try:
                if contents(engine)["events"]:
                    return
            except Exception:
                pass
            finally:
                engine.dispose()
        time.sleep(0.05)
    raise AssertionError("the index wrote nothing in 60 s")
