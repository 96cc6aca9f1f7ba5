"""Holds what is at risk below the stake: the prices of all receipts that can still be proven wrong.

A lost dispute costs stake and gives the consumer its price back out of the batch. A node whose receipts are
worth more than its stake could earn by lying, so it takes no more paid requests until a window has passed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import structlog

from assay.errors import RetryableError
from assay.node.errors import Unavailable
from assay.node.receipts.database import Database
from assay.node.receipts.unbatched import Exposure, read_exposure

RETRY_AFTER: Final = 60

_log = structlog.get_logger(__name__)


class StakeCover:
    """Belongs to the event loop. `start` reads the log, then again every `poll_seconds`; `stake` answers what
    the chain was last seen to have, None while that is not known.

    To what was read are added the requests in work, however long they take, those that the last reading may
    have missed, until the next, and what `unread` answered before it: the prices of receipts that this
    process has and the log's tables have not, however long that takes. Where other processes share the log,
    `SharedCover` parts the stake among them.
    """

    def __init__(
        self,
        database: Database,
        stake: Callable[[], int | None],
        *,
        unread: Callable[[], int] = int,
        poll_seconds: float = 2.0,
    ) -> None:
        self._database = database
        self._stake = stake
        self._unread = unread
        self._poll_seconds = poll_seconds
        self._task: asyncio.Task[None] | None = None
        self._in_work = 0
        self._finished = [0, 0]
        self._in_journal = 0
        self.exposure = Exposure()

    @property
    def at_risk(self) -> int:
        return self.exposure.total + self._in_journal + self._in_work + sum(self._finished)

    def admit(self, price: int) -> None:
        """Count a paid request, until `finish` or `give_up`; 0: one that must be served. Raises Unavailable
        `stake_exhausted`."""
        stake = self._stake()
        if price and stake is not None and self.at_risk + price > stake:
            raise Unavailable(
                f"this node's receipts that can still be disputed are worth {self.at_risk}, its stake of "
                f"{stake} does not cover {price} more; use another node, or ask again when a batch is final",
                code="stake_exhausted",
                retry_after=RETRY_AFTER,
            )
        self._in_work += price

    def finish(self, price: int) -> None:
        """Its receipt is on disk."""
        self._in_work -= price
        self._finished[1] += price

    def give_up(self, price: int) -> None:
        """It got no receipt."""
        self._in_work -= price

    async def start(self) -> None:
        """Raises RetryableError, FatalError."""
        await self.poll()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def poll(self) -> None:
        (older, _), self._finished = self._finished, [self._finished[1], 0]
        in_journal = self._unread()  # what gets into the tables from here on may be counted twice, not missed
        try:
            self.exposure = await self._look()
        except BaseException:
            self._finished[0] += older  # no reading has seen it yet
            raise
        self._in_journal = in_journal

    async def _look(self) -> Exposure:
        return await asyncio.to_thread(self._read)

    def _read(self) -> Exposure:
        with self._database.session() as connection:
            return read_exposure(connection)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.poll()
            except RetryableError as error:
                _log.warning("receipts at risk not read", error=str(error))
            except Exception as error:  # else what was finished would only ever grow
                _log.error("receipts at risk not read; it is tried again", exc_info=error)
