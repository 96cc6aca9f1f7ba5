"""Messages are received a bounded number at a time: grpc tells nobody how long one will be, and keeps what
has come of it until it is whole.

Calls are taken before their message is read. Reading one needs a place, of which each host may have as many
as it leaves free; who finds none waits a little. While somebody waits, whoever of the host that has most has
been reading for longer than `patience_seconds` gives way: so neither slow senders nor calls that never send
anything keep others from being read. A stream may bring a message whenever it likes, so it has a place for as
long as it is open.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass, field
from typing import Any, Final

from assay.errors import RequestError
from assay.node.errors import InputError, Unavailable
from assay.node.grpc.messages import Message
from assay.node.places import Places
from assay.types import Address

LOOK_SECONDS: Final = 0.25
"""Between two looks of one who waits at who reads too long."""


@dataclass(frozen=True, slots=True)
class ReadingRules:
    """`places`: messages that are received at the same time. One is there within `read_seconds`; who has no
    place after `wait_seconds` is refused."""

    places: int
    read_seconds: float = 60.0
    wait_seconds: float = 5.0
    patience_seconds: float = 2.0


@dataclass(eq=False, slots=True)
class _Reading:
    host: Address
    granted: asyncio.Future[None]
    since: float = 0.0
    task: asyncio.Task[Any] | None = None
    is_given_up: bool = False


@dataclass(slots=True)
class Reader:
    """Belongs to one event loop."""

    rules: ReadingRules
    _waiting: list[_Reading] = field(default_factory=list)
    _reading: list[_Reading] = field(default_factory=list)
    """Who began first comes first."""
    _places: Places = field(init=False)

    def __post_init__(self) -> None:
        self._places = Places(self.rules.places)

    async def read(self, requests: AsyncIterable[Message], host: str) -> Message:
        """The one message of a call. Raises Unavailable `busy`, RequestError `input_body`, InputError."""
        loop = asyncio.get_running_loop()
        mine = _Reading(Address(f"ip:{host}"), loop.create_future())
        await self._enter(mine)
        mine.since = loop.time()
        mine.task = asyncio.ensure_future(_next(requests))
        self._reading.append(mine)
        try:
            async with asyncio.timeout(self.rules.read_seconds):
                message = await mine.task
        except TimeoutError:
            raise self._too_slow() from None
        except asyncio.CancelledError:
            if mine.is_given_up:
                raise Unavailable(
                    f"the message was not there within {self.rules.patience_seconds:g} s, and others waited; "
                    "send it again, smaller, with fewer at a time or over HTTP",
                    code="busy",
                ) from None
            raise
        finally:
            mine.task.cancel()
            self._reading.remove(mine)
            self._leave(mine)
        if message is None:
            raise InputError("the call ended without a message", code="input_http")
        return message

    def _too_slow(self) -> RequestError:
        return RequestError(
            f"the message arrived too slowly: it may take {self.rules.read_seconds:g} s",
            status=408,
            code="input_body",
        )

    async def _enter(self, mine: _Reading) -> None:
        if not any(one.host == mine.host for one in self._waiting) and self._try(mine):
            return
        self._waiting.append(mine)
        try:
            async with asyncio.timeout(self.rules.wait_seconds):
                while not mine.granted.done():
                    self._hurry(mine.host)
                    await asyncio.wait([mine.granted], timeout=LOOK_SECONDS)
        except TimeoutError:
            if not mine.granted.done():
                raise Unavailable(
                    "too many messages are being received; send the request again, smaller or over HTTP",
                    code="busy",
                ) from None
        except BaseException:
            if mine.granted.done():
                self._leave(mine)
            raise
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)

    def _try(self, one: _Reading) -> bool:
        with contextlib.suppress(RequestError):
            self._places.take(one.host)
            one.granted.set_result(None)
            return True
        return False

    def _leave(self, mine: _Reading) -> None:
        self._places.free(mine.host)
        refused: set[Address] = set()
        for one in tuple(self._waiting):
            if one.host in refused:
                continue
            if self._try(one):
                self._waiting.remove(one)
            else:
                refused.add(one.host)

    def _hurry(self, host: Address) -> None:
        """Give up whoever has been reading for longest, if that is long, for one of `host` that waits: of the
        host that has most places, if the one that waits has none or much fewer, else of its own."""
        before = asyncio.get_running_loop().time() - self.rules.patience_seconds
        held = Counter(one.host for one in self._reading)
        most = max(held.values(), default=0)
        ready = {host} if 0 < held[host] >= most - 1 else {one for one in held if held[one] == most}
        slowest = next((one for one in self._reading if one.host in ready and not one.is_given_up), None)
        if slowest is not None and slowest.since < before and slowest.task is not None:
            slowest.is_given_up = True
            slowest.task.cancel()


async def _next(requests: AsyncIterable[Message]) -> Message | None:
    """The first; None without any. What gave it would hold it for as long as the call's error is kept."""
    found = aiter(requests)
    message = await anext(found, None)
    if isinstance(found, AsyncGenerator):
        await found.aclose()
    return message
