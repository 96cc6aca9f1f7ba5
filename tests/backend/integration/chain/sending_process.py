"""What test_sender_crash.py runs in a process: mints once with a fixed key, and kills itself at a step."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from assay.chain.client import ChainClient
from assay.chain.contracts import Token
from assay.chain.deployments import Deployment
from assay.chain.keys import load_key
from assay.chain.outbox import Intent, Outbox
from assay.chain.sender import Sender


def run(url: str, deployments: str, keystore: str, folder: str, die_at: str, amount: int) -> None:
    def on_step(step: str, intent: Intent) -> None:
        if step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with (
        ChainClient(url) as client,
        Outbox(Path(folder) / "outbox.sqlite3") as outbox,
        Sender(client, load_key(Path(keystore), "test"), outbox, on_step=on_step) as sender,
    ):
        token = Token(client, Deployment.load(deployments, client.chain_id))
        sender.resume()
        sender.send(token.mint(sender.address, amount), key="mint")
