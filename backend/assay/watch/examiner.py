"""Asks nodes for the data of chosen receipts, re-executes, and notes what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from assay.chain.contracts import NodeRegistry
from assay.errors import RequestError, RetryableError
from assay.index.download import Unreachable
from assay.watch.evidence import Evidence
from assay.watch.examine import DEFAULT_MAX_MEMORY, Finding, examine, signed_data
from assay.watch.programs import NoProgramError, Programs
from assay.watch.store import Store
from assay.watch.values import DataState, SeenReceipt, Verdict

FIRST_WAIT, MAX_WAIT = 2.0, 600.0
PROGRAM_WAIT: Final = 5.0
DEFAULT_MAX_WORK: Final = 1 << 40

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Tally:
    """Of this process."""

    right: int = 0
    wrong: int = 0
    withheld: int = 0


class Examiner:
    """`step` judges the receipts that are due; what a node gives cannot end it."""

    def __init__(
        self,
        nodes: NodeRegistry,
        store: Store,
        programs: Programs,
        evidence: Evidence,
        *,
        max_work: int = DEFAULT_MAX_WORK,
        max_memory: int = DEFAULT_MAX_MEMORY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._nodes, self._store, self._programs, self._evidence = nodes, store, programs, evidence
        self._max_work, self._max_memory, self._clock = max_work, max_memory, clock
        self.tally = Tally()

    def step(self, limit: int = 20, should_stop: Callable[[], bool] = lambda: False) -> int:
        """How many were looked at. Raises RetryableError if the chain does not answer."""
        due = self._store.due_receipts(self._clock(), limit)
        for receipt in due:
            if should_stop():
                break
            self._record(receipt, self._judge(receipt))
        return len(due)

    def _judge(self, seen: SeenReceipt) -> Finding:
        receipt = seen.signed.receipt
        endpoint = self._nodes.node(receipt.node).endpoint
        try:
            body = self._evidence.kept(seen.digest) or self._evidence.fetch(endpoint, seen.digest)
            data = signed_data(receipt, body)
        except Unreachable as error:
            return Finding(DataState.WITHHELD, Verdict.UNCHECKED, str(error))
        except RequestError as error:
            return Finding(DataState.INCONSISTENT, Verdict.UNCHECKED, str(error))
        try:
            program = self._programs.get(receipt.version_id)
        except NoProgramError as error:
            return Finding(DataState.AVAILABLE, Verdict.SKIPPED, str(error))
        except RetryableError as error:
            return Finding(DataState.UNASKED, Verdict.UNCHECKED, str(error))
        finding = examine(receipt, data, program, max_work=self._max_work, max_memory=self._max_memory)
        if finding.verdict is Verdict.WRONG:
            self._evidence.keep(seen.digest, body)
        return finding

    def _record(self, seen: SeenReceipt, finding: Finding) -> None:
        wait = min(MAX_WAIT, FIRST_WAIT * 2 ** min(seen.attempts, 16))
        if finding.data is DataState.UNASKED:
            wait = PROGRAM_WAIT
        next_at = self._clock() + wait
        self._store.record_verdict(seen.digest, finding.data, finding.verdict, finding.reason, next_at)
        self._count(finding)
        level = "warning" if finding.verdict is Verdict.WRONG else "info"
        getattr(log, level)(
            "receipt examined",
            digest="0x" + seen.digest.hex(),
            node=seen.signed.receipt.node,
            data=str(finding.data),
            verdict=str(finding.verdict),
            reason=finding.reason,
        )

    def _count(self, finding: Finding) -> None:
        match finding:
            case Finding(verdict=Verdict.RIGHT):
                self.tally.right += 1
            case Finding(verdict=Verdict.WRONG):
                self.tally.wrong += 1
            case Finding(data=DataState.WITHHELD | DataState.INCONSISTENT):
                self.tally.withheld += 1
