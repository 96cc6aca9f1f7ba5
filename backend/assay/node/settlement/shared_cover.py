"""What is at risk stays below the stake where several processes of a node admit at once.

Each has a budget in the log: what it admits, beside what the log's tables had when it last looked, comes to
no more. Budgets are taken in turns, under an advisory lock: one's part of what neither the tables nor
another's budget has taken already. So what is in the tables and what anybody has admitted never exceed the
stake together.

A process that was not heard of for `FRESH_SECONDS` has no budget any more; it admits nothing long before.
"""

from __future__ import annotations

import time
import uuid
from asyncio import to_thread
from collections.abc import Callable
from typing import Final

from assay.node.errors import Unavailable
from assay.node.receipts.database import Database
from assay.node.receipts.dialect import lock_key
from assay.node.receipts.schema import UINT128_MAX, from_blob, to_blob
from assay.node.receipts.unbatched import Exposure, read_exposure
from assay.node.settlement.cover import StakeCover

FRESH_SECONDS: Final = 30.0
RETRY_AFTER: Final = 2
_NOW: Final = "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"


class SharedCover(StakeCover):
    """As its base; `poll` also takes the next budget."""

    def __init__(
        self,
        database: Database,
        stake: Callable[[], int | None],
        *,
        poll_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(database, stake, poll_seconds=min(poll_seconds, FRESH_SECONDS / 6))
        self._clock = clock
        self._process = uuid.uuid4().hex
        self._left = 0
        """Of the budget: what may be admitted until the next one. What was admitted, and is in the log by
        now, is no part of it any more."""
        self._taken_at = float("-inf")
        self._wish = 0
        """The greatest price that was refused for want of a budget since the last one was taken."""

    @property
    def _own(self) -> int:
        return self._in_work + sum(self._finished)

    @property
    def _budget(self) -> int:
        return self._own + self._left

    def admit(self, price: int) -> None:
        """As the base's. Raises Unavailable `stake_exhausted` also while others have taken what is left."""
        is_fresh = self._clock() - self._taken_at < FRESH_SECONDS / 2
        if price and self._stake() is not None and not (is_fresh and price <= self._left):
            self._wish = max(self._wish, price)
            raise Unavailable(
                f"this process may put {max(self._left, 0)} at risk for now, {price} is asked "
                "for: what else the stake covers is with the node's other processes, or at risk already; ask "
                "again, or use another node",
                code="stake_exhausted",
                retry_after=RETRY_AFTER,
            )
        super().admit(price)
        self._left -= price

    def give_up(self, price: int) -> None:
        super().give_up(price)
        self._left += price

    async def _look(self) -> Exposure:
        """Half of what was left is given back, so that others get it who want it."""
        asked_at, own, wish, stake = self._clock(), self._own, self._wish, self._stake()
        is_fresh = asked_at - self._taken_at < FRESH_SECONDS / 2
        self._left, self._wish = max(self._left, 0) // 2 if is_fresh else 0, 0
        kept = self._budget
        exposure, budget = await to_thread(self._take, own, kept, wish, stake or 0)
        self._left += budget - kept  # less what was admitted meanwhile
        self._taken_at = asked_at
        return exposure

    def _take(self, own: int, kept: int, wish: int, stake: int) -> tuple[Exposure, int]:
        """The exposure of the tables, and the budget: at least `kept`, which is a part of the last one."""
        with self._database.session() as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(?)", (lock_key("cover"),))
            exposure = read_exposure(connection)
            others = connection.execute(
                f"SELECT budget FROM covers WHERE process <> ? AND seen_at > {_NOW} - ?",  # noqa: S608
                (self._process, FRESH_SECONDS),
            ).fetchall()
            free = max(stake - exposure.total - sum(from_blob(row[0]) for row in others) - own, 0)
            part = max(free // (len(others) + 2), min(free, wish))  # one part for who comes next
            budget = min(max(kept, own + part), UINT128_MAX)
            connection.execute(
                f"INSERT INTO covers (process, budget, seen_at) VALUES (?, ?, {_NOW})"  # noqa: S608
                " ON CONFLICT (process) DO UPDATE SET budget = excluded.budget, seen_at = excluded.seen_at",
                (self._process, to_blob(budget)),
            )
            connection.execute(
                f"DELETE FROM covers WHERE seen_at < {_NOW} - ?",  # noqa: S608
                (10 * FRESH_SECONDS,),
            )
        return exposure, budget
