"""A consumer re-executes receipts from its own copy: exact, wrong in a named element, or nobody can tell."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from assay.chain.keys import create_keystore
from assay.cli import main
from assay.client import Client
from assay.client.recheck import Recheck, disputable_until, recheck
from assay.commitments.public_data import ReceiptData
from assay.commitments.receipts import receipt_file_to_json
from assay.errors import RequestError, RetryableError
from assay.hub.client import HubClient
from assay.node.receipts.entries import LoggedReceipt
from assay.node.receipts.log import read_data
from assay.types import Hash32
from click.testing import Result

from tests.support.cli import RUNNER
from tests.support.defence import BOND, DISPUTE_WINDOW, MOVE_WINDOW, DefenceWorld, defence_world
from tests.support.nodes import Published


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DefenceWorld]:
    with defence_world(tmp_path_factory.mktemp("recheck")) as made:
        with HubClient(made.network.folder / "store") as hub:
            hub.put(made.version.artifact)
        yield made


@pytest.fixture
def client(world: DefenceWorld, tmp_path: Path) -> Iterator[Client]:
    with Client(
        rpc_urls=[world.network.chain.url],
        deployments=world.network.deployments,
        hub_url=str(world.network.folder / "store"),
        data=tmp_path / "client",
    ) as made:
        yield made


def data_of(world: DefenceWorld, logged: LoggedReceipt) -> ReceiptData:
    connection = world.log.database.connect()
    data = read_data(connection, logged.digest)
    connection.close()
    assert data is not None
    return data


def keep(client: Client, world: DefenceWorld, logged: LoggedReceipt) -> ReceiptData:
    """As if the client had asked for it."""
    data = data_of(world, logged)
    client.store.keep_copy("0x" + logged.digest.hex(), data.to_bytes(), 1 << 20)
    file = receipt_file_to_json(world.network.domain, logged.signed)
    client.store.add_receipt(file["digest"], json.dumps(file))
    return data


def test_recheck__true_answer__is_exact(world: DefenceWorld, client: Client) -> None:
    logged = world.issue()
    keep(client, world, logged)
    found = recheck(client, world.network.domain, logged.signed, None)
    assert (found.verdict, found.digest) == (Recheck.EXACT, logged.digest)


def test_recheck__element_changed__is_wrong_and_named(world: DefenceWorld, client: Client) -> None:
    logged = world.issue(lie={4: 1})
    data = keep(client, world, logged)
    found = recheck(client, world.network.domain, logged.signed, None)
    assert found.verdict is Recheck.WRONG
    claimed = int(data.outputs[0].array.reshape(-1)[4])
    assert str(claimed) in found.reason
    assert str(claimed - 1) in found.reason
    until = disputable_until(client, logged.signed)
    assert until == logged.signed.receipt.executed_at + DISPUTE_WINDOW


def test_recheck__tensors_of_another_receipt__are_refused(world: DefenceWorld, client: Client) -> None:
    logged, other = world.issue(), world.issue()
    with pytest.raises(RequestError) as caught:
        recheck(client, world.network.domain, logged.signed, data_of(world, other))
    assert caught.value.code == "data_mismatch"


def test_recheck__no_copy_and_no_node__says_where_to_look(world: DefenceWorld, client: Client) -> None:
    with pytest.raises(RequestError) as caught:
        recheck(client, world.network.domain, world.issue().signed, None)
    assert caught.value.code == "data_unknown"
    assert "Recheck it from the folder that asked for it" in str(caught.value)


def test_recheck__receipt_of_another_chain__is_refused(world: DefenceWorld, client: Client) -> None:
    with pytest.raises(RequestError) as caught:
        recheck(client, replace(world.network.domain, chain_id=1), world.issue().signed, None)
    assert caught.value.code == "wrong_chain"


def issue_of(world: DefenceWorld, published: Published) -> LoggedReceipt:
    known, world.published = world.published, published
    try:
        return world.issue()
    finally:
        world.published = known


def test_recheck__version_without_a_program__is_not_exact(world: DefenceWorld, client: Client) -> None:
    signed_only = world.network.publish("signed", world.version.artifact, world.version.manifest)
    found = recheck(client, world.network.domain, issue_of(world, signed_only).signed, None)
    assert found.verdict is Recheck.NOT_EXACT
    assert "no program" in found.reason


def test_recheck__root_that_the_artifact_does_not_give__is_not_exact(
    world: DefenceWorld, client: Client
) -> None:
    claimed = world.network.publish_exact("claimed", world.version, Hash32(b"\x22" * 32))
    logged = issue_of(world, claimed)
    found = recheck(client, world.network.domain, logged.signed, data_of(world, logged))
    assert found.verdict is Recheck.NOT_EXACT
    assert "lowers to" in found.reason


def test_recheck__hub_without_the_artifact__is_to_be_tried_again(
    world: DefenceWorld, client: Client, tmp_path: Path
) -> None:
    logged = world.issue()
    client.manifests._hub_url = str(tmp_path / "empty")
    with pytest.raises(RetryableError, match="cannot be had"):
        recheck(client, world.network.domain, logged.signed, data_of(world, logged))


# --- the command -----------------------------------------------------------------------------------------


@pytest.fixture
def run(world: DefenceWorld, client: Client, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    for name, text in {
        "ASSAY_RPC_URLS": json.dumps([world.network.chain.url]),
        "ASSAY_DEPLOYMENTS": str(world.network.deployments),
        "ASSAY_HUB_URL": str(world.network.folder / "store"),
        "ASSAY_DATA": str(client.data.parent),
        "COLUMNS": "200",
    }.items():
        monkeypatch.setenv(name, text)
    return lambda *arguments: RUNNER.invoke(main, ["receipt", "recheck", *arguments, "--no-api"])


def test_command__digest_of_an_exact_receipt__says_so(
    world: DefenceWorld, client: Client, run: Callable[..., Result]
) -> None:
    logged = world.issue()
    keep(client, world, logged)
    result = run("0x" + logged.digest.hex())
    assert result.exit_code == 0, result.output
    assert "exact: receipt 0x" + logged.digest.hex() in result.stdout


def test_command__wrong_receipt__names_the_element_and_what_to_do(
    world: DefenceWorld, client: Client, run: Callable[..., Result]
) -> None:
    logged = world.issue(lie={1: -3})
    keep(client, world, logged)
    digest = "0x" + logged.digest.hex()
    result = run(digest)
    assert result.exit_code == 6
    assert "is wrong" in result.stderr
    assert f"assay receipt recheck {digest} --dispute" in result.stderr
    answer: dict[str, Any] = json.loads((as_json := run(digest, "--json")).stdout)
    assert as_json.exit_code == 6
    assert (answer["verdict"], answer["digest"]) == ("wrong", digest)
    assert answer["disputable_until"] > 0


def test_command__receipt_and_tensors_from_files__need_no_copy(
    world: DefenceWorld, run: Callable[..., Result], tmp_path: Path
) -> None:
    logged = world.issue()
    (tmp_path / "receipt.json").write_text(
        json.dumps(receipt_file_to_json(world.network.domain, logged.signed))
    )
    (tmp_path / "tensors.json").write_text(json.dumps(data_of(world, logged).to_json()))
    result = run(str(tmp_path / "receipt.json"), "--tensors", str(tmp_path / "tensors.json"), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["verdict"] == "exact"


def test_command__version_that_is_not_exact__exits_as_refused(
    world: DefenceWorld, run: Callable[..., Result], tmp_path: Path
) -> None:
    name = f"signed-{world.network.operators}"
    logged = issue_of(world, world.network.publish(name, world.version.artifact, world.version.manifest))
    (tmp_path / "receipt.json").write_text(
        json.dumps(receipt_file_to_json(world.network.domain, logged.signed))
    )
    result = run(str(tmp_path / "receipt.json"))
    assert result.exit_code == 2
    assert "not exact" in result.stderr


def test_command__dispute__plays_it_to_its_end_and_wins(
    world: DefenceWorld,
    client: Client,
    run: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The node is not there to answer: its time-out is claimed."""
    key = create_keystore(tmp_path / "challenger.json", "test", scrypt_n=2)
    (tmp_path / "password").write_text("test\n")
    monkeypatch.setenv("ASSAY_ACCOUNT", str(tmp_path / "challenger.json"))
    monkeypatch.setenv("ASSAY_PASSWORD_FILE", str(tmp_path / "password"))
    world.network.chain.set_balance(key.address, 10**18)
    world.network.mint(key.address, BOND)
    logged = world.issue(lie={2: 1})
    keep(client, world, logged)
    ended = threading.Event()

    def let_time_pass() -> None:
        while not ended.wait(0.5):
            if any(record.is_open for record in world.records().values()):
                world.network.chain.increase_time(MOVE_WINDOW + 1)

    clock = threading.Thread(target=let_time_pass)
    clock.start()
    try:
        result = run("0x" + logged.digest.hex(), "--dispute")
    finally:
        ended.set()
        clock.join()
    assert result.exit_code == 0, result.output
    (record,) = world.records().values()
    assert record.closing is not None
    assert not record.closing.node_won
    assert record.challenger == key.address
    assert world.network.token.balance_of(key.address) == BOND + record.closing.to_challenger
    assert world.network.settlement.is_void(logged.digest)
