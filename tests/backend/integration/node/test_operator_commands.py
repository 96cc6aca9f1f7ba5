"""`assay node init`, `doctor` and `status`, as an operator types them, against a real chain."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from assay.chain.keys import create_keystore
from assay.chain.values import Call
from assay.cli import main
from assay.node.config import GrpcConfig, X402Config, load_config, write_config
from assay.node.setup import create_signer
from assay.types import Address
from click.testing import Result

from tests.support.cli import RUNNER
from tests.support.nodes import SCRYPT_N, STAKE, Network, Published, free_port, local_network
from tests.support.onnx_models import linear_manifest, linear_model

PRICE = 5
ETHER = 10**18


class Operator:
    """A funded account with a data folder; `run` types `assay node …` in its name."""

    def __init__(self, network: Network, home: Path, published: Published) -> None:
        self.network, self.home, self.published = network, home, published
        self.data, self.port = home / "node", free_port()
        self.address = create_keystore(home / "operator.json", "test", scrypt_n=2).address
        (home / "password").write_text("test\n")
        network.chain.set_balance(self.address, ETHER)
        network.mint(self.address, 2 * STAKE)

    @property
    def version(self) -> str:
        return f"{self.published.publisher}/{self.published.name}@{self.published.number}"

    @property
    def signer(self) -> Address:
        return self.network.nodes.node(self.address).signer

    def run(self, command: str, *args: str, code: int = 0) -> Result:
        environment = {
            "ASSAY_RPC_URLS": json.dumps([self.network.chain.url]),
            "ASSAY_DEPLOYMENTS": str(self.network.deployments),
            "ASSAY_HUB_URL": self.network.hub_url,
            "ASSAY_ACCOUNT": str(self.home / "operator.json"),
            "ASSAY_PASSWORD_FILE": str(self.home / "password"),
        }
        words = ["node", command, "--data", str(self.data), *args]
        result = RUNNER.invoke(main, words, env=environment, catch_exceptions=False)
        assert result.exit_code == code, result.output + result.stderr
        return result

    def init(self, *args: str) -> dict[str, bool]:
        """What each step changed."""
        served = f"{self.version}=0.{PRICE:018d}"
        options = ["--yes", "--json", "--port", str(self.port), "--serve", served, *args]
        steps = json.loads(self.run("init", *options).stdout)["steps"]
        return {step["step"]: step["changed"] for step in steps}

    def doctor(self, code: int) -> dict[str, dict[str, Any]]:
        report = json.loads(self.run("doctor", "--json", code=code).stdout)
        assert report["ok"] is (code == 0)
        return {check["name"]: check for check in report["checks"]}

    def configure(self, **options: Any) -> None:
        write_config(self.data, load_config(self.data).model_copy(update=options))

    def send(self, call: Call) -> None:
        self.network.chain.request("anvil_impersonateAccount", self.address)
        self.network.send_as(self.address, call)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """A node that `init` has set up and `doctor` has looked at."""
    with local_network(tmp_path_factory.mktemp("network")) as network:
        published = network.publish("linear", linear_model(), linear_manifest())
        operator = Operator(network, tmp_path_factory.mktemp("operator"), published)
        with pytest.MonkeyPatch.context() as cheap:  # each command after it opens the signer's keystore
            cheap.setitem(create_signer.__kwdefaults__, "scrypt_n", SCRYPT_N)
            assert all(operator.init().values())
        operator.doctor(code=0)
        yield operator


@pytest.fixture
def operator(ready: Operator, tmp_path: Path) -> Iterator[Operator]:
    """The same, to be spoilt: chain and folder are put back afterwards."""
    chain, kept = ready.network.chain, tmp_path / "kept"
    shutil.copytree(ready.data, kept)
    snapshot = chain.snapshot()
    yield ready
    chain.revert(snapshot)
    shutil.rmtree(ready.data)
    shutil.copytree(kept, ready.data)


def test_init__first__registers_stakes_and_offers(operator: Operator) -> None:
    nodes, node = operator.network.nodes, operator.network.nodes.node(operator.address)
    assert (node.stake, node.endpoint) == (STAKE, f"http://127.0.0.1:{operator.port}")
    assert nodes.offer_of(operator.address, operator.published.version_id).price == PRICE
    assert operator.network.client.get_balance(node.signer) > 0
    for name in ("signer.json", "signer.password"):
        assert (operator.data / name).stat().st_mode & 0o777 == 0o600


def test_init__again__changes_nothing(operator: Operator) -> None:
    sent = operator.network.client.get_transaction_count(operator.address)
    assert not any(operator.init().values())
    assert operator.network.client.get_transaction_count(operator.address) == sent


def test_init__other_stake_and_endpoint__changes_just_those(operator: Operator) -> None:
    changed = operator.init("--stake", f"0.{STAKE + 7:018d}", "--endpoint", "https://node.example")
    assert {name for name, is_new in changed.items() if is_new} == {"configuration", "endpoint", "stake"}
    node = operator.network.nodes.node(operator.address)
    assert (node.stake, node.endpoint) == (STAKE + 7, "https://node.example")


def test_init__new_key_of_a_registered_node__asks_for_the_rotation(operator: Operator) -> None:
    before = operator.signer
    (operator.data / "signer.json").unlink()
    refused = operator.run("init", "--yes", "--json", code=5)
    assert "--rotate-signer" in json.loads(refused.stdout)["error"]
    assert operator.signer == before
    assert operator.init("--rotate-signer")["signer rotation"]
    assert operator.signer != before


def test_init__stake_above_the_balance__says_what_is_missing(operator: Operator) -> None:
    refused = operator.run("init", "--yes", "--json", "--stake", "1", code=5)
    assert "send it the rest" in json.loads(refused.stdout)["error"]


def test_init__another_operators_folder__is_refused(operator: Operator) -> None:
    create_keystore(operator.home / "other.json", "test", scrypt_n=2)
    refused = operator.run("init", "--yes", "--json", "--account", str(operator.home / "other.json"), code=5)
    assert "belongs to operator" in json.loads(refused.stdout)["error"]
    (operator.home / "other.json").unlink()


def test_init__endpoint_that_is_no_url__is_refused_before_anything_is_written(operator: Operator) -> None:
    before = (operator.data / "node.toml").read_text()
    refused = operator.run("init", "--yes", "--json", "--endpoint", "node.example", code=5)
    assert "https://node.example" in json.loads(refused.stdout)["error"]
    assert (operator.data / "node.toml").read_text() == before
    assert operator.network.nodes.node(operator.address).endpoint == f"http://127.0.0.1:{operator.port}"


def test_init__version_that_nobody_published__is_refused_before_anything_is_written(
    operator: Operator,
) -> None:
    before = (operator.data / "node.toml").read_text()
    served = f"{operator.published.publisher}/lineer@1=1"
    refused = operator.run("init", "--yes", "--json", "--serve", served, code=5)
    assert "lineer version 1" in json.loads(refused.stdout)["error"]
    assert (operator.data / "node.toml").read_text() == before


def test_withdraw__a_version__is_offered_no_more_until_it_is_served_again(operator: Operator) -> None:
    nodes, version_id = operator.network.nodes, operator.published.version_id
    for is_changed in (True, False):
        steps = json.loads(operator.run("withdraw", "--json", operator.version).stdout)["steps"]
        assert [step["changed"] for step in steps] == [is_changed, is_changed]
        assert not nodes.offer_of(operator.address, version_id).active
        assert load_config(operator.data).versions == []
    assert nodes.node(operator.address).stake == STAKE
    assert operator.init()["offer"]
    assert nodes.offer_of(operator.address, version_id).active


def test_withdraw__by_another_account__changes_nothing(operator: Operator) -> None:
    create_keystore(operator.home / "other.json", "test", scrypt_n=2)
    account = ("--account", str(operator.home / "other.json"))
    refused = operator.run("withdraw", "--json", *account, operator.version, code=5)
    (operator.home / "other.json").unlink()
    assert "the account given is" in json.loads(refused.stdout)["error"]
    assert operator.network.nodes.offer_of(operator.address, operator.published.version_id).active


def test_doctor__after_init__finds_everything_in_order(operator: Operator) -> None:
    expected = {
        "configuration",
        "disk",
        "receipts log",
        "port",
        "signer key",
        "RPC",
        "contracts",
        "clock",
        "registration",
    }
    expected |= {"signer", "stake", "gas", "escrow thaw", "memory"}
    expected.add(f"version {operator.version}")
    assert set(operator.doctor(code=0)) == expected
    assert "✓ stake" in operator.run("doctor").stdout


def break_configuration(operator: Operator) -> None:
    (operator.data / "node.toml").unlink()


def misspell_a_setting(operator: Operator) -> None:
    path = operator.data / "node.toml"
    path.write_text(path.read_text().replace("\nport =", "\nprot ="))


def break_rpc(operator: Operator) -> None:
    operator.configure(rpc_urls=["http://127.0.0.1:9"])


def break_contracts(operator: Operator) -> None:
    operator.configure(deployments=str(operator.home / "nowhere"))


def break_password(operator: Operator) -> None:
    (operator.data / "signer.password").write_text("wrong")


def expose_password(operator: Operator) -> None:
    (operator.data / "signer.password").chmod(0o644)


def replace_key(operator: Operator) -> None:
    (operator.data / "signer.json").unlink()
    password = (operator.data / "signer.password").read_text().strip()
    create_keystore(operator.data / "signer.json", password, scrypt_n=2)


def break_registration(operator: Operator) -> None:
    operator.configure(operator="0x" + "11" * 20)


def take_stake(operator: Operator) -> None:
    operator.send(operator.network.nodes.begin_unstake(1))


def take_gas(operator: Operator) -> None:
    operator.network.chain.set_balance(operator.signer, 1)


def move_chain_ahead(operator: Operator) -> None:
    operator.network.chain.increase_time(3_600)


def take_offer(operator: Operator) -> None:
    operator.send(operator.network.nodes.withdraw_offer(operator.published.version_id))


def take_artifact(operator: Operator) -> None:
    shutil.rmtree(operator.data / "artifacts")
    operator.configure(hub_url=f"file://{operator.home / 'empty'}")


def take_versions(operator: Operator) -> None:
    operator.configure(versions=[])


@pytest.mark.parametrize(
    ("spoil", "name", "cure"),
    [
        (break_configuration, "configuration", "assay node init"),
        (misspell_a_setting, "configuration", "correct "),
        (break_rpc, "RPC", "rpc_urls"),
        (break_contracts, "contracts", "deployments"),
        (break_password, "signer key", "password_file"),
        (expose_password, "signer key", "chmod 600"),
        (replace_key, "signer", "--rotate-signer"),
        (break_registration, "registration", "assay node init"),
        (take_stake, "stake", "adds stake"),
        (take_gas, "gas", "send 0x"),
        (move_chain_ahead, "clock", "NTP"),
        (take_offer, "version VERSION", "offers it"),
        (take_artifact, "version VERSION", "push it to the hub"),
        (take_versions, "versions", "--serve"),
    ],
)
def test_doctor__one_thing_missing__names_it_and_its_cure(
    operator: Operator, spoil: Callable[[Operator], None], name: str, cure: str
) -> None:
    spoil(operator)
    found = operator.doctor(code=1)
    failed = {key: check["cure"] for key, check in found.items() if not check["ok"]}
    name = name.replace("VERSION", operator.version)
    assert cure in failed.pop(name)
    assert all(failed.values()), "every failed check has a cure"


@pytest.mark.parametrize("name", ["port", "gRPC port"])
def test_doctor__port_taken__says_which(operator: Operator, name: str) -> None:
    taken = operator.port if name == "port" else free_port()
    operator.configure(grpc=GrpcConfig(port=0 if name == "port" else taken))
    with socket.create_server(("127.0.0.1", taken)):
        found = operator.doctor(code=1)[name]
    assert str(taken) in found["detail"] and "node.toml" in found["cure"]
    assert operator.doctor(code=0)["port"]["ok"]


@contextmanager
def serving(path: str, answer: object, port: int = 0) -> Iterator[HTTPServer]:
    """One JSON document at `path`, and nothing elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200 if self.path == path else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("kind", "ok"),
    [
        ({"x402Version": 2, "scheme": "exact", "network": "eip155:31337"}, True),
        ({"x402Version": 2, "scheme": "exact", "network": "eip155:1"}, False),
        ("no kind", False),
    ],
)
def test_doctor__facilitator__must_settle_on_the_chain(operator: Operator, kind: object, ok: bool) -> None:
    with serving("/supported", {"kinds": [kind]}) as server:
        operator.configure(x402=X402Config(facilitator=f"http://127.0.0.1:{server.server_port}"))
        found = operator.doctor(code=0 if ok else 1)["x402 facilitator"]
    assert found["ok"] is ok and bool(found["cure"]) is not ok
    gone = operator.doctor(code=1)["x402 facilitator"]
    assert "assay facilitator run" in gone["cure"]


def test_status__after_init__tells_how_the_node_stands(operator: Operator) -> None:
    found = json.loads(operator.run("status", "--json").stdout)
    for name in ("synced", "registered", "staked", "funded"):
        assert found[name] is True, name
    assert found["running"] is found["ready"] is False
    assert (found["receipts"], found["last_receipt"]) == (0, None)
    assert (found["pending"], found["collectable"], found["claimable"]) == ("0", "0", "0")
    assert str(STAKE) in operator.run("status").stdout


def test_status__another_program_on_the_port__is_no_running_node(operator: Operator) -> None:
    with serving("/", {}, operator.port):
        found = json.loads(operator.run("status", "--json").stdout)
    assert found["running"] is found["ready"] is False


def test_status__signer_without_gas_and_stake_withdrawn__says_so(operator: Operator) -> None:
    take_gas(operator)
    take_stake(operator)
    found = json.loads(operator.run("status", "--json").stdout)
    assert (found["funded"], found["staked"], found["thawing"]) == (False, False, "1")


def test_status__unregistered__names_the_command(operator: Operator) -> None:
    break_registration(operator)
    refused = operator.run("status", "--json", code=5)
    assert "assay node init" in json.loads(refused.stdout)["error"]
