"""Run by test_deploy.py as a process: the deployer as `ape run deploy` calls it, without Ape around it."""

from __future__ import annotations

import sys
from pathlib import Path

from assay.chain.client import ChainClient
from assay.chain.keys import load_key

from scripts.deployment.deployer import Deployer
from scripts.deployment.plan import Terms


def run(url: str, keystore: str, folder: str) -> None:
    key = load_key(Path(keystore), "test")
    owner = key.address
    terms = Terms(None, owner, owner, True, 2, 100, 60, 60, 120, bond=1, slash_amount=2, move_window=1)
    with ChainClient(url) as client:
        report = Deployer(client, key, Path(folder), terms, 1, print).run()
    print("done", *report.deployed)


if __name__ == "__main__":
    run(*sys.argv[1:4])
