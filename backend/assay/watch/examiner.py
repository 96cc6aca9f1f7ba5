"""Asks nodes for the data of chosen receipts, re-executes, and notes what is wrong.

Several nodes are asked at once (places.py); what they give is judged in one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from assay.chain.contracts import NodeRegistry
from assay.errors import RequestError, RetryableError
from assay.index.download import Interrupted, ShouldStop, Unreachable, go_on
from assay.index.places import Places
from assay.index.turns import STEP_SECONDS
from assay.types import Address
from assay.watch.evidence import Evidence
from assay.watch.examine import DEFAULT_MAX_MEMORY, Finding, examine, signed_data
from assay.watch.programs import NoProgramError, Programs
from assay.watch.store import Store
from assay.watch.values import DataState, SeenReceipt, Verdict

FIRST_WAIT, MAX_WAIT = 2.0, 600.0
PROGRAM_WAIT: Final = 5.0
DEFAULT_MAX_WORK: Final = 1 << 40
IN_HAND: Final = 8 << 20
"""Bytes of data that wait to be judged; a turn that has as many ends."""
Given = tuple[SeenReceipt, bytes | Unreachable]

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
        places: Places[list[Given]] | None = None,
    ) -> None:
        self._nodes, self._store, self._programs, self._evidence = nodes, store, programs, evidence
        self._max_work, self._max_memory, self._clock = max_work, max_memory, clock
        self._places = places or Places("data", patience=evidence.patience)
        self.tally = Tally()

    @property
    def is_busy(self) -> bool:
        """Whether nodes are being asked."""
        return self._places.is_busy

    def step(self, limit: int = 20, should_stop: ShouldStop = go_on, wait: float = 0.0) -> int:
        """Judge what nodes gave, and ask the next, for so many receipts each in a turn; how many turns began
        or ended. Where none did, one is waited for `wait` seconds. Raises RetryableError if the chain does
        not answer."""
        ended = self._judge_given(0.0, should_stop)
        now = self._clock()
        begun = self._places.fill(
            self._store.due_receipt_nodes(now), partial(self._ask, now, limit), should_stop
        )
        return ended + begun or self._judge_given(wait, should_stop)

    def close(self) -> None:
        """End what is under way; it is asked for again another time."""
        self._places.close()

    def _ask(self, now: float, limit: int, node: Address, should_stop: ShouldStop) -> list[Given]:
        """What a node gave or did not give, in its turn."""
        started, given, in_hand = time.monotonic(), list[Given](), 0
        endpoint = self._nodes.node(node).endpoint
        for seen in self._store.due_receipts(now, node, limit):
            try:
                body = self._evidence.kept(seen.digest)
                body = body or self._evidence.fetch(endpoint, seen.digest, should_stop)
                given.append((seen, body))
                in_hand += len(body)
            except Unreachable as error:
                given.append((seen, error))
            except Interrupted:
                break
            if should_stop() or in_hand >= IN_HAND or time.monotonic() >= started + STEP_SECONDS:
                break
        return given

    def _judge_given(self, wait: float, should_stop: ShouldStop) -> int:
        turns = self._places.ended(wait)
        for given in turns:
            started = at = time.monotonic()
            for seen, body in given:
                if should_stop():
                    break
                self._record(seen, self._judge(seen, body))
                before, at = at, time.monotonic()
                self._places.charge(seen.signed.receipt.node, at - before)
                if at >= started + STEP_SECONDS:  # the rest is asked for again, after others'
                    break
        return len(turns)

    def _judge(self, seen: SeenReceipt, body: bytes | Unreachable) -> Finding:
        if isinstance(body, Unreachable):
            return Finding(DataState.WITHHELD, Verdict.UNCHECKED, str(body))
        receipt = seen.signed.receipt
        try:
            data = signed_data(receipt, body)
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
