"""`assay node init`, `doctor` and `status` as a person types them, on a real chain."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from assay.chain.keys import create_keystore
from assay.types import Address

from tests.support.nodes import ASSAY, PASSWORD, SCRYPT_N, STAKE, Network, Published, free_port, local_network
from tests.support.onnx_models import linear_manifest, linear_model

OPERATOR = 5


@dataclass
class Shell:
    network: Network
    published: Published
    folder: Path
    port: int

    @property
    def operator(self) -> Address:
        return Address(self.network.chain.accounts[OPERATOR])

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*ASSAY, "node", *words, "--data", str(self.folder)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def json(self, *words: str) -> dict[str, Any]:
        return dict(json.loads(self.run(*words, "--json").stdout))

    def init(self, *words: str) -> subprocess.CompletedProcess[str]:
        network = self.network
        account = network.folder / "operator.json"
        options = ["--account", str(account), "--password-file", str(network.folder / "password")]
        options += ["--rpc", network.chain.url, "--deployments", str(network.deployments)]
        options += ["--hub", network.hub_url, "--port", str(self.port), "--json", *words]
        return self.run("init", *options)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with local_network(tmp_path) as network:
        published = network.publish("linear", linear_model(), linear_manifest())
        secret = bytes.fromhex(network.chain.keys[OPERATOR])
        create_keystore(tmp_path / "operator.json", PASSWORD, secret=secret, scrypt_n=SCRYPT_N)
        (tmp_path / "password").write_text(PASSWORD)
        yield Shell(network, published, tmp_path / "node", free_port())


def changes(done: subprocess.CompletedProcess[str]) -> dict[str, bool]:
    assert done.returncode == 0, done.stderr
    return {step["step"]: step["changed"] for step in json.loads(done.stdout)["steps"]}


def test_init_doctor_status__new_operator__ends_healthy_and_changes_nothing_twice(shell: Shell) -> None:
    network = shell.network
    serve = ("--serve", f"{shell.published.publisher}/linear@1=0.5")
    assert shell.run("doctor").returncode == 1

    poor = shell.init(*serve)
    assert poor.returncode == 5
    assert "stake needs" in json.loads(poor.stdout)["error"]

    network.mint(shell.operator, STAKE)
    done = changes(shell.init(*serve))
    assert (done["stake"], done["offer"], done["gas of the signer"]) == (True, True, True)
    assert (shell.folder / "signer.password").stat().st_mode & 0o777 == 0o600
    assert (shell.folder / "signer.json").stat().st_mode & 0o777 == 0o600
    assert not any(changes(shell.init(*serve)).values())
    offer = network.nodes.offer_of(shell.operator, shell.published.version_id)
    assert (offer.active, offer.price) == (True, 5 * 10**17)

    healthy = shell.json("doctor")
    assert healthy["ok"], healthy
    found = shell.json("status")
    assert (found["registered"], found["staked"], found["running"]) == (True, True, False)
    assert found["receipts"] == 0


def test_doctor__things_missing__names_each_with_its_cure(shell: Shell) -> None:
    network = shell.network
    network.mint(shell.operator, STAKE)
    changes(shell.init("--serve", f"{shell.published.publisher}/linear@1=0"))
    signer = network.nodes.node(shell.operator).signer
    network.chain.set_balance(signer, 0)
    network.send_as(shell.operator, network.nodes.begin_unstake(1))
    for file in (network.folder / "hub").iterdir():
        file.unlink()
    (shell.folder / "signer.password").write_text("wrong")

    found = shell.run("doctor", "--json")
    assert found.returncode == 1
    failed = {check["name"]: check for check in json.loads(found.stdout)["checks"] if not check["ok"]}
    version = f"version {shell.published.publisher}/linear@1"
    assert set(failed) == {"signer key", "stake", version}
    assert "password" in failed["signer key"]["detail"]
    assert all(check["cure"] for check in failed.values())

    (shell.folder / "signer.password").chmod(0o600)
    network.chain.process.kill()
    network.chain.process.wait()
    down = shell.json("doctor")
    assert [check["name"] for check in down["checks"] if not check["ok"]] == ["signer key", "RPC"]


def test_init__another_operators_folder__is_refused(shell: Shell) -> None:
    shell.network.mint(shell.operator, STAKE)
    changes(shell.init())
    other = shell.network.folder / "other.json"
    create_keystore(other, PASSWORD, scrypt_n=SCRYPT_N)
    refused = shell.run(
        "init", "--account", str(other), "--password-file", str(shell.network.folder / "password")
    )
    assert refused.returncode == 5
    assert "belongs to operator" in refused.stderr
