"""What the manifests copy into a container is the folder that `assay node run` needs there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import assay
import pytest
import yaml
from assay.chain.keys import create_keystore
from assay.node.config import LogConfig, NodeConfig, load_config, resolve_path, write_config
from assay.node.startup import load_signer
from assay.types import Address

OPERATIONS = Path(assay.__file__).parents[1] / "operations"
CHAIN_ID = 31337
SECRETS = ("signer.json", "signer.password", "pgpass")


def compose_command() -> str:
    compose = yaml.safe_load((OPERATIONS / "compose.yaml").read_text())
    (command,) = compose["services"]["node"]["command"]
    return str(command).replace("exec assay node run", "echo")


def kubernetes_command() -> str:
    documents = yaml.safe_load_all((OPERATIONS / "kubernetes" / "node.yaml").read_text())
    (deployment,) = (one for one in documents if one["kind"] == "Deployment")
    (settings,) = deployment["spec"]["template"]["spec"]["initContainers"]
    (command,) = settings["args"]
    return str(command)


def written_folder(folder: Path) -> Path:
    """As the comments of the manifests tell operators to make it."""
    signer = create_keystore(folder / "signer.json", "test", scrypt_n=2)
    (folder / "signer.password").write_text("test\n")
    (folder / "pgpass").write_text("postgres:5432:assay:assay:secret\n")
    for name in SECRETS:
        (folder / name).chmod(0o600)
    records = folder / "deployments" / str(CHAIN_ID)
    records.mkdir(parents=True)
    (records / "Settlement.json").write_text("{}")
    config = NodeConfig(
        operator=Address(signer.address),
        endpoint="https://node.example",
        host="0.0.0.0",
        rpc_urls=["http://rpc:8545"],
        chain_id=CHAIN_ID,
        deployments="deployments",
        hub_url="http://hub:8600",
        log=LogConfig(url="postgresql://assay@postgres/assay"),
    )
    write_config(folder, config)
    return folder


@pytest.mark.parametrize("made", [compose_command, kubernetes_command])
def test_command__of_a_container__makes_a_folder_that_a_node_starts_from(
    tmp_path: Path, made: Callable[[], str]
) -> None:
    written, node = written_folder(tmp_path / "written"), tmp_path / "data"
    node.mkdir()
    command = made()
    for there, here in (
        ("/var/lib/assay/node", node),
        ("/config", written),
        ("/secret", written),
        ("/deployments/*", written / "deployments" / str(CHAIN_ID) / "*"),
    ):
        command = command.replace(f" {there}", f" {here}")
    environment = {"ASSAY_CHAIN_ID": str(CHAIN_ID), "PATH": "/usr/bin:/bin"}
    subprocess.run(["/bin/sh", "-ec", command], env=environment, check=True, timeout=30, capture_output=True)
    config = load_config(node)
    assert load_signer(node, config).address == config.operator
    assert (resolve_path(node, config.deployments) / str(CHAIN_ID) / "Settlement.json").is_file()
    assert (node / "signer.password").stat().st_mode & 0o077 == 0
