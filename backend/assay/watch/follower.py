"""What the chain says, into the watcher's store: posted batches and the game's events, reorgs undone.

One window of blocks a step. All that is done with an event is safe to do again, so a reorg deeper than the
block hashes that are kept starts over at the deployment's block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import structlog

from assay.chain.client import ChainClient
from assay.chain.contracts import Settlement
from assay.chain.dispute_game import DisputeGame
from assay.chain.errors import LogRangeTooLarge
from assay.chain.values import Block, LogReceipt
from assay.errors import RetryableError
from assay.types import BatchKey, Hash32
from assay.watch.policy import Policy
from assay.watch.store import Store
from assay.watch.values import PostedBatch

MAX_WINDOW: Final = 5_000
GAME_EVENTS: Final = ("DisputeOpened", "Moved", "DisputeClosed", "Equivocated", "Contradicted")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Position:
    """How far the store has followed the chain, and the head's number and time."""

    number: int
    head: int
    time: int

    @property
    def at_head(self) -> bool:
        return self.number >= self.head


class ChainFollower:
    """`batches` False: they are found by somebody else (the index), only the game is followed."""

    def __init__(
        self, settlement: Settlement, game: DisputeGame, store: Store, policy: Policy, *, batches: bool = True
    ) -> None:
        self._client: ChainClient = settlement.client
        self._settlement, self._game, self._store, self._policy = settlement, game, store, policy
        self._window = MAX_WINDOW
        self._topics = {game.abi.topic(name): name for name in GAME_EVENTS}
        self._batch_topic = settlement.abi.topic("BatchPosted") if batches else ""

    def step(self) -> Position:
        """One window on. Raises RetryableError, FatalError on logs that the ABI does not explain."""
        head = self._client.get_block("latest")
        start = self._ancestor(head) + 1
        if start > head.number:
            return Position(head.number, head.number, head.timestamp)
        end = min(head.number, start + self._window - 1)
        last = head if end == head.number else self._client.get_block(end)
        try:
            logs = self._logs(start, end)
        except LogRangeTooLarge:
            if self._window == 1:
                raise
            self._window = max(1, self._window // 8)
            return Position(start - 1, head.number, head.timestamp)
        if self._client.get_block(end).hash != last.hash:
            raise RetryableError(f"block {end} changed while its logs were read; they are read again")
        self._store.advance((end, last.hash), self._posted(logs), self._played(logs))
        return Position(end, head.number, head.timestamp)

    def _logs(self, start: int, end: int) -> list[LogReceipt]:
        topics = [*self._topics, *([self._batch_topic] if self._batch_topic else [])]
        return self._client.get_logs(start, end, [self._settlement.address, self._game.address], [topics])

    def _ancestor(self, head: Block) -> int:
        """The newest followed block that the chain still has; rewinds the store to it."""
        known = self._store.blocks()
        if known and known[0][0] > head.number and self._is_prefix(known, head.number):
            return known[0][0]  # the endpoint lags
        for number, block_hash in known:
            if number <= head.number and self._client.get_block(number).hash == block_hash:
                if number != known[0][0]:
                    log.warning("reorg", depth=known[0][0] - number, ancestor=number)
                    self._store.rewind(number)
                return number
        first = self._settlement.deployment.block - 1
        if known:
            log.warning("reorg deeper than what is kept; starting over", block=first)
            self._store.rewind(first)
        return first

    def _is_prefix(self, known: list[tuple[int, Hash32]], head: int) -> bool:
        """Whether what is known up to block `head` is what the chain has there."""
        number, block_hash = next((block for block in known if block[0] <= head), (0, None))
        return block_hash is None or self._client.get_block(number).hash == block_hash

    def _posted(self, logs: list[LogReceipt]) -> Iterator[PostedBatch]:
        for entry in logs:
            if entry["topics"][0] == self._batch_topic:
                event = self._settlement.decode_log(entry)
                key = BatchKey(
                    event.args["node"], Hash32(event.args["version_id"]), Hash32(event.args["receipts_root"])
                )
                if self._policy.covers(key.node, key.version_id):
                    yield PostedBatch(Hash32(event.args["batch_id"]), key, event.block_number)

    def _played(self, logs: list[LogReceipt]) -> Iterator[tuple[LogReceipt, str]]:
        for entry in logs:
            if (name := self._topics.get(entry["topics"][0])) is not None:
                self._game.decode_log(entry)
                yield entry, name
