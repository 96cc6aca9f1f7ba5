"""What other processes have written, read for the event loop: in a thread, one query for all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from assay.errors import RetryableError
from assay.node.errors import Unavailable
from assay.node.receipts.database import Database
from assay.node.receipts.entries import ChannelState
from assay.node.receipts.rows import CHANNEL, channel_state
from assay.types import Address, Hash32

MAX_CONSUMERS: Final = 256


@dataclass(frozen=True, slots=True)
class Seen:
    """All channels of a consumer at one moment, and which of the payments asked about have a receipt."""

    channels: Sequence[ChannelState]
    paid: frozenset[Hash32]


@dataclass(slots=True)
class _Question:
    payments: set[Hash32]
    answers: list[asyncio.Future[Seen]] = field(default_factory=list)


class SharedReader:
    """Belongs to one event loop; at most one query is under way."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._questions: dict[Address, _Question] = {}
        self._task: asyncio.Task[None] | None = None

    async def read(self, consumer: Address, payments: set[Hash32]) -> Seen:
        """Raises Unavailable while the database is away."""
        question = self._questions.setdefault(consumer, _Question(set()))
        question.payments |= payments
        answer: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        question.answers.append(answer)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        try:
            while self._questions:
                taken = dict(list(self._questions.items())[:MAX_CONSUMERS])
                for consumer in taken:
                    del self._questions[consumer]
                await self._answer(taken)
        finally:
            self._task = None

    async def _answer(self, questions: Mapping[Address, _Question]) -> None:
        payments = {payment for question in questions.values() for payment in question.payments}
        outcome: dict[Address, Seen] | Exception
        try:
            outcome = await asyncio.to_thread(self._query, list(questions), list(payments))
        except RetryableError as error:
            outcome = Unavailable(
                f"this node cannot read its receipts log: {error}; try again", retry_after=2
            )
        except Exception as error:
            outcome = error
        for consumer, question in questions.items():
            for answer in question.answers:
                if answer.done():
                    continue
                if isinstance(outcome, Exception):
                    answer.set_exception(outcome)
                else:
                    answer.set_result(outcome[consumer])

    def _query(self, consumers: list[Address], payments: list[Hash32]) -> dict[Address, Seen]:
        found: dict[Address, list[ChannelState]] = {consumer: [] for consumer in consumers}
        with self._database.session() as connection:
            rows = connection.execute(f"SELECT {CHANNEL} FROM channels WHERE consumer = ANY(?)", (consumers,))  # noqa: S608
            for row in rows:
                state = channel_state(row)
                found[state.key.consumer].append(state)
            paid: frozenset[Hash32] = frozenset()
            if payments:
                query = "SELECT voucher FROM receipts WHERE voucher = ANY(?)"
                paid = frozenset(Hash32(row[0]) for row in connection.execute(query, (payments,)))
        return {consumer: Seen(states, paid) for consumer, states in found.items()}
