"""A node's log and its defender on a real chain, and a challenger who points wherever it is told to.

with defence_world(tmp_path) as world:
    receipt = world.issue(); world.open(receipt)
    with world.defender() as defender:
        world.play(defender)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from assay.chain.client import ChainClient
from assay.chain.contracts import DisputeGame, ModelRegistry
from assay.chain.deployments import Deployment
from assay.chain.disputes import DisputeRecord, fetch_disputes
from assay.chain.outbox import Outbox
from assay.chain.sender import Sender, SenderOptions
from assay.commitments.public_data import ReceiptData, named_tensors
from assay.commitments.tensors import commit_tensors
from assay.exact.dispute import Side
from assay.node.disputes.defender import Defender
from assay.node.disputes.dispute_log import DisputeLog, DisputeRow, read_disputes
from assay.node.disputes.tracing import LogTraces, TraceSource
from assay.node.models.artifacts import ArtifactCache
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.entries import ChannelKey, Issue, LoggedReceipt
from assay.node.receipts.log import ReceiptLog
from assay.types import ZERO_ADDRESS, Address, SignedReceipt
from numpy.typing import NDArray

from tests.support.exact_version import ExactVersion, exact_version, row
from tests.support.game_players import point
from tests.support.nodes import Network, NodeUnderTest, Published, local_network

BOND = 10
SLASH = 400
MOVE_WINDOW = 60
DISPUTE_WINDOW = 600
Steps = Callable[[str], None]


@dataclass
class DefenceWorld:
    """Account 9 challenges. `node` is registered and not started: its log is in the test's hands."""

    network: Network
    node: NodeUnderTest
    version: ExactVersion
    published: Published
    log: ReceiptLog
    game: DisputeGame
    moves: int = 0
    _issued: int = field(default=0)

    @property
    def challenger(self) -> Address:
        return Address(self.network.chain.accounts[9])

    # --- receipts -----------------------------------------------------------------------------------------

    def issue(
        self, x: NDArray[Any] | None = None, *, lie: dict[int, int] | None = None, keep: bool = True
    ) -> LoggedReceipt:
        """A free receipt; `lie` adds to elements of its output, `keep` False loses its tensors."""
        self._issued += 1
        x = row(self._issued, rows=2) if x is None else x
        y = self.version.run(x).copy()
        for element, difference in (lie or {}).items():
            y.reshape(-1)[element] += np.int32(difference)
        data = ReceiptData(named_tensors(["x"], [x]), named_tensors(["y"], [y]))
        key = ChannelKey(self.published.version_id, ZERO_ADDRESS)
        item = Issue(key, commit_tensors([x]), commit_tensors([y]), 0)
        (logged,) = self.log.write([replace(item, data=data.to_bytes() if keep else None)], self.node.signer)
        assert logged is not None
        return logged

    # --- the challenger -----------------------------------------------------------------------------------

    def open(self, signed: SignedReceipt) -> DisputeRecord:
        """Dispute it, in no batch."""
        self.network.mint(self.challenger, BOND)
        self.send(self.network.token.approve(self.game.address, BOND))
        self.send(self.game.open(signed))
        return max(self.records().values(), key=lambda record: record.dispute_id)

    def send(self, call: Any) -> None:
        self.network.send_as(self.challenger, call)

    def records(self) -> dict[int, DisputeRecord]:
        return fetch_disputes(self.network.client, self.game, self.network.deployment.block)

    def record(self, number: int) -> DisputeRecord:
        return self.records()[number]

    def challenge(self, place: int = 0) -> int:
        """Point at `place` in each dispute in which the challenger is to move; how many moves."""
        sent = 0
        for record in self.records().values():
            if record.side is Side.CHALLENGER:
                move = point(record.state, record.data, place)
                assert move is not None
                self.send(self.game.move(record.dispute_id, record.state, move))
                sent += 1
        return sent

    # --- the defender -------------------------------------------------------------------------------------

    def traces(self) -> LogTraces:
        return LogTraces(
            self.log.database,
            ModelRegistry(self.network.client, self.network.deployment),
            ArtifactCache(self.node.folder / "artifacts", self.network.hub_url),
            1 << 20,
        )

    @contextlib.contextmanager
    def defender(
        self,
        *,
        traces: TraceSource | None = None,
        on_send: Steps = lambda name: None,
        **options: Any,
    ) -> Iterator[Defender]:
        """As after a start of the node; `on_send` hears of the sender's boundaries and may raise there."""
        with contextlib.ExitStack() as stack:
            outbox = stack.enter_context(Outbox(self.node.folder / "outbox.sqlite3"))
            sender = stack.enter_context(
                Sender(
                    self.network.client,
                    self.node.signer,
                    outbox,
                    SenderOptions(poll_interval=0.05),
                    on_step=lambda name, intent: on_send(name),
                )
            )
            disputes = DisputeLog(self.log.database)
            stack.callback(disputes.close)
            source = traces or self.traces()
            yield Defender(self.game, disputes, sender, self.node.operator, source, **options)

    def play(self, defender: Defender, places: Callable[[], int] = lambda: 0, rounds: int = 60) -> None:
        """Both by turns until every dispute is closed."""
        for _ in range(rounds):
            defender.step()
            self.challenge(places())
            if not any(record.is_open for record in self.records().values()):
                defender.step()
                return
        raise AssertionError(f"disputes do not end: {[r.state for r in self.records().values()]}")

    def rows(self) -> list[DisputeRow]:
        return read_disputes(self.log.database)

    def sent(self) -> int:
        """Transactions of the node's signer that were mined."""
        return self.network.client.get_transaction_count(self.node.signer.address, "latest")


@contextlib.contextmanager
def defence_world(folder: Path, **deployment: Any) -> Iterator[DefenceWorld]:
    options = {
        "disputes": True,
        "bond": BOND,
        "slash_amount": SLASH,
        "move_window": MOVE_WINDOW,
        "dispute_window": DISPUTE_WINDOW,
    }
    with local_network(folder, **(options | deployment)) as network:
        version = exact_version()
        published = network.publish_exact("exact", version)
        node = network.add_node()
        client: ChainClient = network.client
        found: Deployment = network.deployment
        log = ReceiptLog(
            SqliteDatabase(node.folder / "receipts.sqlite3"),
            network.domain,
            node.operator,
            clock=network.chain.timestamp,
        )
        try:
            yield DefenceWorld(network, node, version, published, log, DisputeGame(client, found))
        finally:
            log.close()
