"""Keeps a view of the chain of bounded age, so that a request in steady state costs no RPC call.

A view may be a little old without risk: escrow of (consumer, node) leaves only through this node's own
batches or after `escrow_thaw_period`, which is far longer than the age allowed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog

from assay.chain.views import Escrow
from assay.errors import RetryableError
from assay.node.errors import Unavailable
from assay.node.payments.accounts import Channel
from assay.node.payments.ledger import NO_ESCROW, Ledger, NodeView, safe_balance
from assay.node.receipts.entries import ChannelKey
from assay.node.receipts.log import ReceiptLog
from assay.types import Address, Hash32

MAX_ACCOUNTS: Final = 20_000
REFRESHED_PER_POLL: Final = 256
RECENT_SECONDS: Final = 300.0
MIN_REFRESH_SECONDS: Final = 0.5
READS_AT_ONCE: Final = 2
"""Of accounts that requests wait for: one under way, and one for those that came since."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Account:
    """A consumer with this node: one escrow, one channel a version. Times are the clock's, monotonic."""

    consumer: Address
    channels: dict[Hash32, Channel] = field(default_factory=dict)
    escrow: Escrow = NO_ESCROW
    fetched_at: float | None = None
    used_at: float = 0.0
    refreshing: asyncio.Future[None] | None = None
    promised: int | None = None
    """At least what is owed, as of the last sum and what was added to it since; None: to be summed anew."""

    @property
    def owed(self) -> int:
        return sum(channel.owed for channel in self.channels.values())

    @property
    def is_known(self) -> bool:
        """Whether escrow and every channel were read from the chain."""
        return self.fetched_at is not None and all(c.settled is not None for c in self.channels.values())

    @property
    def busy(self) -> bool:
        return self.refreshing is not None or any(channel.pending for channel in self.channels.values())


class Follower:
    """Belongs to one event loop. `start` fetches the first view, then polls every `poll_seconds`."""

    def __init__(
        self,
        ledger: Ledger,
        log: ReceiptLog,
        versions: Callable[[], Iterable[Hash32]],
        *,
        poll_seconds: float = 2.0,
        max_age_seconds: float = 30.0,
        thaw_margin_seconds: int = 300,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._receipts = log
        self._versions = versions
        self._poll_seconds = poll_seconds
        self._max_age = max_age_seconds
        self._thaw_margin = thaw_margin_seconds
        self._clock = clock
        self._accounts: OrderedDict[Address, Account] = OrderedDict()
        self._view: NodeView | None = None
        self._viewed_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._wanted: deque[Account] = deque()
        """To be read again for requests that wait; `refreshing` tells them."""
        self._reads: set[asyncio.Task[None]] = set()
        self._error = ""

    async def start(self) -> None:
        """Raises RetryableError if the chain cannot be read."""
        await self.poll()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @property
    def view(self) -> NodeView:
        """The newest view. Raises Unavailable if it is older than allowed."""
        if self._view is None or self._clock() - self._viewed_at > self._max_age:
            raise Unavailable(
                f"this node has not read the chain for {self._max_age:g} s ({self._error or 'starting'}); "
                "try another node, or again later",
                retry_after=5,
            )
        return self._view

    @property
    def last_view(self) -> NodeView | None:
        """The newest view, however old."""
        return self._view

    @property
    def view_age(self) -> float:
        """Seconds since the chain was last read."""
        return self._clock() - self._viewed_at

    def accounts(self) -> tuple[Account, ...]:
        """Those that are known at present."""
        return tuple(self._accounts.values())

    async def poll(self) -> None:
        """Read the node's view, and of the accounts that are in use the oldest: so many that each is read
        again when its view has reached half of the age allowed."""
        started = self._clock()
        versions = tuple(self._versions())
        view = await asyncio.to_thread(self._ledger.node_view, versions)
        _tell_standing(self._view, view)
        self._view, self._viewed_at = view, started
        now = self._clock()
        recent = [a for a in self._accounts.values() if a.fetched_at and now - a.used_at < RECENT_SECONDS]
        recent.sort(key=lambda account: account.fetched_at or 0.0)
        share = math.ceil(len(recent) * 2 * self._poll_seconds / self._max_age)
        await self._fetch(recent[: min(share, REFRESHED_PER_POLL)], (view.block, started))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.poll()
                self._error = ""
            except RetryableError as error:
                if not self._error:
                    _log.warning("chain unreachable", error=str(error))
                self._error = str(error)
            except Exception as error:  # without a view nothing is served: go on, and say why
                _log.error("chain not followed; it is tried again", exc_info=error)
                self._error = f"{type(error).__name__}: {error}"

    def account(self, consumer: Address) -> Account:
        """The consumer's account, read from the log when it is first asked for."""
        account = self._accounts.get(consumer)
        if account is None:
            states = self._receipts.channels_of(consumer)
            account = self.open_account(consumer)
            for state in states:
                account.channels[state.key.version_id] = Channel.of(state)
        else:
            self._accounts.move_to_end(consumer)
        account.used_at = self._clock()
        return account

    def known(self, consumer: Address) -> Account | None:
        """The account, if it is held."""
        return self._accounts.get(consumer)

    def open_account(self, consumer: Address) -> Account:
        """The account, without a look at the log: empty if it was not held. Raises Unavailable `busy`."""
        account = self._accounts.get(consumer)
        if account is None:
            self._make_room()
            account = self._accounts[consumer] = Account(consumer)
            account.used_at = self._clock()
        return account

    def touch(self, account: Account) -> None:
        """It is in use."""
        account.used_at = self._clock()
        self._accounts.move_to_end(account.consumer)

    def stays_covered(self, account: Account, channel: Channel, amount: int) -> bool:
        """Whether the escrow, as last seen, covers all that is owed once the channel owes `amount`, and the
        chain paid no more than the log knows of. What is owed is summed over the channels only if what was
        added to the last sum does not suffice. Raises Unavailable."""
        if channel.settled is None or account.fetched_at is None:
            return False
        if self._clock() - account.fetched_at > self._max_age:
            return False
        if channel.is_behind_chain:
            return False
        more, safe = max(amount - channel.held_amount, 0), self.safe_balance(account)
        if account.promised is None or account.promised + more > safe:
            if not account.is_known:
                return False
            account.promised = account.owed
        if account.promised + more > safe:
            return False
        account.promised += more
        return True

    def channel(self, account: Account, version_id: Hash32) -> Channel:
        channel = account.channels.get(version_id)
        if channel is None:
            channel = Channel.of(self._receipts.channel(ChannelKey(version_id, account.consumer)))
            account.channels[version_id] = channel
            account.promised = None
        return channel

    def settled(self, key: ChannelKey) -> int:
        """What the chain was last seen to have paid on a channel; 0 while nobody asked."""
        account = self._accounts.get(key.consumer)
        channel = account.channels.get(key.version_id) if account else None
        return (channel.settled or 0) if channel else 0

    def _make_room(self) -> None:
        while len(self._accounts) >= MAX_ACCOUNTS:
            for consumer, account in self._accounts.items():
                if not account.busy:
                    del self._accounts[consumer]
                    break
            else:
                raise Unavailable("too many consumers are being served at once; try again", code="busy")

    def is_covered(self, account: Account, more: int) -> bool:
        """Whether the escrow, as last seen and not too long ago, covers what is owed plus `more`."""
        if not account.is_known or self._clock() - (account.fetched_at or 0.0) > self._max_age:
            return False
        return account.owed + more <= self.safe_balance(account)

    def safe_balance(self, account: Account) -> int:
        """What of the escrow, as last seen, stays until it is paid. Raises Unavailable."""
        return safe_balance(account.escrow, self.view.timestamp + self._thaw_margin)

    async def refresh(self, account: Account) -> None:
        """Read one account again, unless that was just done; those that are wanted meanwhile are read
        together. Raises Unavailable if the chain cannot be read."""
        if account.is_known and self._clock() - (account.fetched_at or 0.0) < MIN_REFRESH_SECONDS:
            return
        while True:
            if account.refreshing is None:
                account.refreshing = asyncio.get_running_loop().create_future()
                self._wanted.append(account)
                self._read_wanted()
            try:
                await asyncio.shield(account.refreshing)
            except RetryableError as error:
                raise Unavailable(
                    f"this node cannot read the chain: {error}; try again", retry_after=5
                ) from None
            if account.is_known:  # else a channel was opened meanwhile
                return

    def _read_wanted(self, ended: asyncio.Task[None] | None = None) -> None:
        if ended is not None:
            self._reads.discard(ended)
            if ended.cancelled():  # with everybody who waits: the loop ends
                self._wanted.clear()
        while self._wanted and len(self._reads) < READS_AT_ONCE:
            count = min(len(self._wanted), REFRESHED_PER_POLL)
            self._start_read([self._wanted.popleft() for _ in range(count)])

    def _start_read(self, accounts: list[Account]) -> None:
        task = asyncio.create_task(self._read(accounts))
        self._reads.add(task)
        task.add_done_callback(self._read_wanted)

    async def _read(self, accounts: list[Account]) -> None:
        """For whoever waits for one of them, who also hears what went wrong."""
        failure: BaseException | None = None
        try:
            await self._fetch(accounts)
        except BaseException as error:
            failure = error
            if not isinstance(error, Exception):
                raise
        finally:
            for account in accounts:
                waiting, account.refreshing = account.refreshing, None
                assert waiting is not None
                if failure is None:
                    waiting.set_result(None)
                elif isinstance(failure, Exception):
                    waiting.set_exception(failure)
                    waiting.exception()  # is heard, also where nobody waits any more
                else:
                    waiting.cancel()

    async def _fetch(self, accounts: list[Account], at: tuple[int, float] | None = None) -> None:
        """`at`: a block, and the clock's time when it was the newest; None: the newest block now."""
        if not accounts:
            return
        block, started = at or (None, self._clock())
        wanted = {account.consumer: tuple(account.channels) for account in accounts}
        views = await asyncio.to_thread(self._ledger.account_views, wanted, block)
        for account in accounts:
            view = views[account.consumer]
            account.escrow = view.escrow
            account.fetched_at = started
            account.promised = None
            for version_id, settled in view.settled.items():
                account.channels[version_id].settled = settled


def _tell_standing(before: NodeView | None, now: NodeView) -> None:
    """In the log, when the stake stops or begins to be enough."""
    if now.active == (before is None or before.active):
        return
    if now.active:
        _log.info("the stake is enough again", stake=now.stake)
    else:
        _log.warning(
            "below the minimum stake: every request is refused; `assay node init` adds stake",
            stake=now.stake,
            min_stake=now.min_stake,
        )
