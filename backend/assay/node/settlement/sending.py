"""What sends a node's transactions: the settler and, where there is a dispute game, the defender."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from assay.chain.contracts import DisputeGame
from assay.chain.deployments import TOKEN
from assay.chain.outbox import Outbox
from assay.chain.sender import Sender
from assay.commitments.signing import SigningKey
from assay.errors import FatalError
from assay.node.config import ARTIFACTS, MIB, NodeConfig
from assay.node.disputes.defender import Defender
from assay.node.disputes.dispute_log import DisputeLog
from assay.node.disputes.tracing import LogTraces, TraceSource
from assay.node.models.artifacts import ArtifactCache
from assay.node.payments.chain_ledger import ChainLedger
from assay.node.receipts.database import Database
from assay.node.receipts.retention import Retention
from assay.node.settlement.batches import BatchStore
from assay.node.settlement.repeating import RepeatingThread
from assay.node.settlement.settler import Settler
from assay.node.settlement.worth import SettlerRules
from assay.node.x402.pruning import PaymentPruner
from assay.node.x402.transfers import Transfers


@dataclass(frozen=True, slots=True)
class RunningThreads:
    """The threads that run, and what they have open."""

    settler: RepeatingThread
    store: BatchStore
    sender: Sender
    outbox: Outbox
    grace_seconds: int
    defender: RepeatingThread | None = None
    disputes: DisputeLog | None = None

    @property
    def leads(self) -> bool:
        """Whether this process settles."""
        return self.settler.is_alive()

    def stop(self) -> None:
        """End the threads; what they have under way goes on with the next start."""
        if self.defender is not None:
            self.defender.stop(self.grace_seconds)
        self.settler.stop(self.grace_seconds)
        self.sender.close()
        if not self.settler.is_alive():
            self.store.close()
        if self.disputes is not None and self.defender is not None and not self.defender.is_alive():
            self.disputes.close()
        if not self.settler.is_alive() and not (self.defender and self.defender.is_alive()):
            self.outbox.close()


@dataclass(frozen=True, slots=True)
class Sending:
    """Starts the threads, each time anew. `wrap_traces` as of `NodeProcess`; `fail` hears of a FatalError
    from any thread."""

    folder: Path
    config: NodeConfig
    signer: SigningKey
    ledger: ChainLedger
    wrap_traces: Callable[[TraceSource], TraceSource]
    fail: Callable[[FatalError], None]
    grace_seconds: int

    def start(self, log: Database, outbox: Outbox) -> RunningThreads:
        """What the threads write goes to `log` and `outbox`. Raises RetryableError, FatalError."""
        poll = self.config.settlement.poll_seconds
        store = BatchStore(log, self.config.node)
        sender = Sender(self.ledger.client, self.signer, outbox)
        settler = Settler(
            store,
            self.ledger.settlement,
            sender,
            self.config.node,
            settler_rules(self.config),
            retention=None if self.ledger.deployment.has_disputes else self._retention(),
        )
        thread = RepeatingThread("settler", settler.step, poll, self.fail)
        running = RunningThreads(thread, store, sender, outbox, self.grace_seconds)
        if self.ledger.deployment.has_disputes:
            disputes = DisputeLog(log)
            guard = RepeatingThread("defender", self._defender(log, disputes, sender).step, poll, self.fail)
            running = replace(running, defender=guard, disputes=disputes)
            guard.start()
        thread.start()
        return running

    def _retention(self) -> Retention:
        rules = self.config.settlement
        window = self.ledger.settlement.dispute_window()
        transfers = Transfers(self.ledger.client, self.ledger.deployment.address(TOKEN))
        return Retention(window, rules.free_receipts, rules.keep_seconds, PaymentPruner(transfers))

    def _defender(self, log: Database, disputes: DisputeLog, sender: Sender) -> Defender:
        config, ledger = self.config, self.ledger
        artifacts = ArtifactCache(self.folder / ARTIFACTS, config.hub_url)
        traces = LogTraces(log, ledger.models, artifacts, config.limits.artifact_mib * MIB)
        game = DisputeGame(ledger.client, ledger.deployment)
        return Defender(
            game, disputes, sender, config.node, self.wrap_traces(traces), retention=self._retention()
        )


def settler_rules(config: NodeConfig) -> SettlerRules:
    rules = config.settlement
    return SettlerRules(
        max_receipts=rules.max_receipts,
        max_value=rules.max_value,
        max_age_seconds=rules.max_age_seconds,
        min_age_seconds=rules.min_age_seconds,
        native_price=rules.native_price,
        gas_share=rules.gas_share,
        free_receipts=rules.free_receipts,
        min_claim=rules.min_claim,
    )
