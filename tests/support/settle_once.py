"""One settler step in a process that may kill itself: `python -m tests.support.settle_once URL DEPLOYMENTS
FOLDER NODE BOUNDARY`."""

from __future__ import annotations

import os
import signal
import sys
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


def main() -> None:
    url, deployments, folder, operator, boundary = sys.argv[1:]

    def on_step(name: str) -> None:
        if name == boundary:
            os.kill(os.getpid(), signal.SIGKILL)

    signer = load_key(Path(folder) / "signer.json", PASSWORD)
    with open_settler(
        url, Path(deployments), Path(folder), Address(operator), signer, SettlerRules(), on_step
    ) as settler:
        settler.step(close_all=True)


if __name__ == "__main__":
    main()
