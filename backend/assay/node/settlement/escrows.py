"""What consumers who owe have in escrow, and whether they have begun to take it out: read once, then kept by
the chain's events, one question a poll."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from assay.chain.contract import read_many
from assay.chain.errors import LogRangeTooLarge
from assay.chain.settlement import Settlement
from assay.chain.views import Escrow
from assay.types import Address

EVENTS: Final = ("Funded", "ThawBegun", "ThawCancelled", "EscrowWithdrawn")
FRESH_SECONDS: Final = 600.0
"""Until everything is read again: a reorg can take an event back."""


class EscrowBook:
    """Used by one thread. `read` answers as of the head it saw last."""

    def __init__(
        self,
        settlement: Settlement,
        node: Address,
        head: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`head`: the newest block's number."""
        self._settlement = settlement
        self._client = settlement.client
        self._find_head = head
        self._node = node
        self._clock = clock
        self._escrows: dict[Address, Escrow] = {}
        self._head = -1
        self._read_at = -FRESH_SECONDS
        topics = [settlement.abi.topic(name) for name in EVENTS]
        self._topics = (topics, None, "0x" + "00" * 12 + node[2:].lower())

    def read(self, consumers: Iterable[Address]) -> Mapping[Address, Escrow]:
        """Raises RetryableError."""
        wanted = set(consumers)
        if not wanted:
            self._escrows.clear()
            return {}
        head = self._find_head()
        self._follow(head)
        self._escrows = {c: escrow for c, escrow in self._escrows.items() if c in wanted}
        missing = sorted(wanted - self._escrows.keys())
        reads = [self._settlement.view("escrows", consumer, self._node) for consumer in missing]
        self._escrows.update(zip(missing, read_many(self._client, reads, head), strict=True))
        self._head = head
        return self._escrows

    def forget(self, consumers: Iterable[Address]) -> None:
        """A batch was posted: their escrow has paid."""
        for consumer in consumers:
            self._escrows.pop(consumer, None)

    def _follow(self, head: int) -> None:
        """Forget what events say has changed; everything, if too much may have happened."""
        if head < self._head or self._clock() - self._read_at >= FRESH_SECONDS:
            self._escrows.clear()
            self._read_at = self._clock()
            return
        if head == self._head:
            return
        try:
            logs = self._client.get_logs(self._head + 1, head, [self._settlement.address], self._topics)
        except LogRangeTooLarge:
            self._escrows.clear()
            return
        self.forget(event.args["consumer"] for event in self._settlement.decode_logs(logs))
