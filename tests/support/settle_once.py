"""A settler without its node, and one step of it that may kill its own process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from assay.chain.client import ChainClient
from assay.chain.contracts import Settlement
from assay.chain.deployments import Deployment
from assay.chain.keys import load_key
from assay.chain.outbox import Outbox
from assay.chain.sender import Sender
from assay.commitments.signing import SigningKey
from assay.node.receipts.database import SqliteDatabase
from assay.node.settlement.batches import BatchStore
from assay.node.settlement.settler import Settler
from assay.node.settlement.worth import SettlerRules
from assay.types import Address

from tests.support.nodes import PASSWORD


@contextmanager
def open_settler(
    url: str,
    deployments: Path,
    folder: Path,
    operator: Address,
    signer: SigningKey,
    rules: SettlerRules,
    on_step: Callable[[str], None] = lambda name: None,
) -> Iterator[Settler]:
    """A settler over the log in `folder`; `on_step` hears of its boundaries, and of the sender's as
    `send:…`."""
    with ChainClient(url) as client, Outbox(folder / "outbox.sqlite3") as outbox:
        settlement = Settlement(client, Deployment.load(deployments, client.chain_id))
        store = BatchStore(SqliteDatabase(folder / "receipts.sqlite3"), operator)
        with Sender(client, signer, outbox, on_step=lambda step, _: on_step(f"send:{step}")) as sender:
            yield Settler(store, settlement, sender, operator, rules, on_step=on_step)
        store.close()


def settle_once(url: str, deployments: Path, folder: Path, operator: Address, boundary: str) -> None:
    """Kills this process at `boundary`."""

    def on_step(name: str) -> None:
        if name == boundary:
            os.kill(os.getpid(), signal.SIGKILL)

    signer = load_key(folder / "signer.json", PASSWORD)
    with open_settler(url, deployments, folder, operator, signer, SettlerRules(), on_step) as settler:
        settler.step(close_all=True)
