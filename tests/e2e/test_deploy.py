"""`ape run deploy` on real chains: a testnet id, a chain that Ape starts, crashes, refusals, verification."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from assay.chain.client import ChainClient
from assay.chain.contracts import Settlement
from assay.chain.deployments import Deployment
from assay.chain.keys import create_keystore
from assay.errors import ConfigurationError
from assay.types import ZERO_ADDRESS, Address

from scripts.deployment.plan import MAX_MOVES, Terms, check_terms, check_token
from scripts.deployment.sourcify import verify
from tests.support.anvil import ACCOUNTS, ROOT, Anvil, anvil
from tests.support.deploy import deploy_contract
from tests.support.fault_proxy import fault_proxy

pytestmark = pytest.mark.e2e
SEPOLIA, BASE_SEPOLIA = 11155111, 84532
OWNER = Address("0x" + "11" * 20)
ALL = ["ModelRegistry", "StepVerifier", "NodeRegistry", "Settlement", "DisputeGame"]


def ape_deploy(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("ape")), "run", "deploy", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@dataclass
class Sourcify:
    """A stand-in for the verification server: keeps what it was sent, is done on the second poll."""

    url: str
    submitted: dict[str, dict[str, Any]] = field(default_factory=dict)
    polls: int = 0


@pytest.fixture
def sourcify() -> Iterator[Sourcify]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            is_known = self.path in state.submitted
            state.submitted[self.path] = body
            self.answer(409 if is_known else 202, {"verificationId": "job"})

        def do_GET(self) -> None:
            state.polls += 1
            done = state.polls % 2 == 0
            self.answer(200, {"isJobCompleted": done, "contract": {"match": "exact_match"} if done else None})

        def answer(self, status: int, content: dict[str, Any]) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Sourcify(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def sepolia() -> Iterator[Anvil]:
    with anvil(chain_id=SEPOLIA) as chain:
        yield chain


def test_deploy__testnet_chain_id__continues_verifies_changes_nothing(
    sepolia: Anvil, sourcify: Sourcify, tmp_path: Path
) -> None:
    key = create_keystore(tmp_path / "key.json", "secret", scrypt_n=1 << 10)
    (tmp_path / "password").write_text("secret\n")
    sepolia.set_balance(key.address, 10**18)
    with ChainClient(sepolia.url) as client:
        token, _, _ = deploy_contract(client, "mocks/MockToken.vy", "T", "T", deployer=ACCOUNTS[0])
        options = ["--network", f"ethereum:sepolia:{sepolia.url}", "--account", tmp_path / "key.json"]
        options += ["--password-file", tmp_path / "password", "--deployments", tmp_path / "deployments"]
        options += ["--confirmations", "1", "--token", token, "--json"]
        first = ape_deploy(*options, "--verify", "--sourcify-url", sourcify.url)
        assert first.returncode == 0, first.stdout + first.stderr
        report = json.loads(first.stdout)
        assert report["deployed"] == ALL
        assert set(report["verified"].values()) == {"verified: exact_match"}
        assert report["explorer"]["Settlement"].startswith("https://sepolia.etherscan.io/address/0x")

        deployment = Deployment.load(tmp_path / "deployments", SEPOLIA)
        settlement = Settlement(client, deployment)
        assert settlement.read("token") == token
        assert settlement.treasury() == key.address
        assert settlement.dispute_window() == deployment.record("Settlement")["arguments"]["dispute_window"]
        assert_reproducible(deployment, client, sourcify)

        home = tmp_path / "deployments" / str(SEPOLIA)
        before = {path.name: path.read_bytes() for path in home.glob("*.json")}
        second = ape_deploy(*options)
        assert second.returncode == 0, second.stdout + second.stderr
        assert json.loads(second.stdout)["reused"] == ALL
        assert {path.name: path.read_bytes() for path in home.glob("*.json")} == before
        assert client.get_transaction_count(key.address) == 5

        other = ape_deploy(*options, "--fee-bps", "7")
        assert other.returncode == ConfigurationError.exit_code
        assert "fee_bps: 100 there, 7 here" in json.loads(other.stdout)["error"]


def test_deploy__base_sepolia__url_from_the_environment(tmp_path: Path) -> None:
    key = create_keystore(tmp_path / "key.json", "secret", scrypt_n=1 << 10)
    (tmp_path / "password").write_text("secret\n")
    with anvil(chain_id=BASE_SEPOLIA) as chain, ChainClient(chain.url) as client:
        chain.set_balance(key.address, 10**18)
        token, _, _ = deploy_contract(client, "mocks/MockToken.vy", "T", "T", deployer=ACCOUNTS[0])
        options = ["--network", "base:sepolia", "--account", tmp_path / "key.json", "--token", token]
        options += ["--password-file", tmp_path / "password", "--deployments", tmp_path / "deployments"]
        options += ["--confirmations", "1", "--json"]
        done = ape_deploy(*options, BASE_SEPOLIA_RPC_URL=chain.url)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["chain_id"] == BASE_SEPOLIA
    settlement = report["addresses"]["Settlement"]
    assert report["explorer"]["Settlement"] == f"https://sepolia.basescan.org/address/{settlement}"


def assert_reproducible(deployment: Deployment, client: ChainClient, sourcify: Sourcify) -> None:
    """What was sent for verification compiles, by Vyper alone, to the code that was deployed."""
    from vyper.cli.vyper_json import compile_json

    record = deployment.record("ModelRegistry")
    body = sourcify.submitted[f"/v2/verify/{SEPOLIA}/{record['address']}"]
    assert body["compilerVersion"].startswith("0.4.3+commit.")
    path, name = body["contractIdentifier"].split(":")
    code = compile_json(body["stdJsonInput"])["contracts"][path][name]["evm"]["bytecode"]["object"]
    sent = client.request("eth_getTransactionByHash", [record["transaction"]])["input"]
    assert sent.startswith(code if code.startswith("0x") else "0x" + code)
    assert not any(source.startswith(("/", ".")) for source in body["stdJsonInput"]["sources"])


def test_deploy__ape_starts_its_own_chain__table_and_folder(tmp_path: Path) -> None:
    done = ape_deploy("--network", "ethereum:local:foundry", "--deployments", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    deployment = Deployment.load(tmp_path, 31337)
    assert deployment.record("Token")["contract"] == "MockToken"
    for address in deployment.addresses.values():
        assert address in done.stdout


def test_deploy__network_is_another_chain__one_line(tmp_path: Path) -> None:
    with anvil(chain_id=31337) as chain:
        done = ape_deploy("--network", f"ethereum:sepolia:{chain.url}", "--deployments", tmp_path)
    assert done.returncode == ConfigurationError.exit_code
    assert "31337" in done.stderr and "Traceback" not in done.stderr


def test_deployer__killed_again_and_again__each_contract_once(tmp_path: Path) -> None:
    key = create_keystore(tmp_path / "key.json", "test", scrypt_n=1 << 10)
    with anvil() as chain, fault_proxy(chain.url) as proxy:
        chain.set_balance(key.address, 10**18)
        arguments = [proxy.url, str(tmp_path / "key.json"), str(tmp_path / "deployments")]
        for attempt in range(6):
            command = [sys.executable, "-m", "tests.e2e.deploying_process", *arguments]
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

            def kill(pid: int = process.pid) -> None:
                os.kill(pid, signal.SIGKILL)

            if attempt < 5:
                proxy.on("eth_sendRawTransaction", kill, after=attempt % 2 == 0)
            _, error = process.communicate(timeout=120)
            if process.returncode != -signal.SIGKILL:
                break
        assert process.returncode == 0, error
        with ChainClient(chain.url) as client:
            deployment = Deployment.load(tmp_path / "deployments", 31337)
            assert client.get_transaction_count(key.address) == 6
            assert all(client.get_code(address) for address in deployment.addresses.values())


def terms(**changes: Any) -> Terms:
    values: dict[str, Any] = {"token": None, "owner": OWNER, "treasury": OWNER, "has_disputes": True}
    values |= {"min_stake": 2, "fee_bps": 0, "dispute_window": 60, "escrow_thaw": 60}
    values |= {"bond": 1, "slash_amount": 2, "move_window": 1, "node_thaw": 60 + MAX_MOVES}
    return Terms(**values | changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"fee_bps": 501}, "--fee-bps"),
        ({"fee_bps": -1}, "--fee-bps"),
        ({"min_stake": 0}, "--min-stake"),
        ({"min_stake": 2**96}, "--min-stake"),
        ({"dispute_window": 0}, "--dispute-window"),
        ({"dispute_window": 366 * 86_400}, "--dispute-window"),
        ({"escrow_thaw": 366 * 86_400}, "--escrow-thaw"),
        ({"node_thaw": 59 + MAX_MOVES}, "--node-thaw"),
        ({"node_thaw": 59, "has_disputes": False}, "--node-thaw"),
        ({"bond": 0}, "--bond"),
        ({"slash_amount": 3}, "--slash-amount"),
        ({"slash_amount": 1}, "--slash-amount"),
        ({"move_window": 0}, "--move-window"),
        ({"owner": ZERO_ADDRESS}, "--owner"),
    ],
)
def test_check_terms__out_of_bounds__names_the_option(changes: dict[str, Any], named: str) -> None:
    check_terms(terms(), is_local=True)
    with pytest.raises(ConfigurationError, match=named):
        check_terms(terms(**changes), is_local=True)


def test_check_terms__public_network_without_token__refused() -> None:
    with pytest.raises(ConfigurationError, match="public network"):
        check_terms(terms(), is_local=False)


def test_check_token__no_code__refused(sepolia: Anvil) -> None:
    with ChainClient(sepolia.url) as client, pytest.raises(ConfigurationError, match="no code"):
        check_token(client, OWNER)


def test_deployer__account_without_funds__refused_before_sending(sepolia: Anvil, tmp_path: Path) -> None:
    from scripts.deployment.deployer import Deployer

    key = create_keystore(tmp_path / "key.json", "secret", scrypt_n=1 << 10)
    with ChainClient(sepolia.url) as client:
        token, _, _ = deploy_contract(client, "mocks/MockToken.vy", "T", "T", deployer=ACCOUNTS[0])
        deployer = Deployer(client, key, tmp_path / "d", terms(token=token), 1, lambda line: None)
        with pytest.raises(ConfigurationError, match=r"0\.000000 ETH"):
            deployer.run()
        assert client.get_transaction_count(key.address) == 0


def test_verify__server_unreachable__told_not_raised(tmp_path: Path) -> None:
    record = {"input": "X.input.json", "compiler": "vyper 0.4.3", "identifier": "X.vy:X"}
    (tmp_path / "X.json").write_text(json.dumps(record | {"transaction": "0x", "address": OWNER}))
    (tmp_path / "X.input.json").write_text("{}")
    assert "cannot be reached" in verify("http://127.0.0.1:9", tmp_path, "X", SEPOLIA)
