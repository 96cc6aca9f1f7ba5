"""How many messages are received at a time, and who gives way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from assay.errors import RequestError
from assay.node.errors import InputError, Unavailable
from assay.node.grpc.reading import Reader, ReadingRules
from assay.node.grpc.server import places_of
from assay.types import Address

MESSAGE = object()


class Sender:
    """A call whose message comes when it is told to."""

    def __init__(self) -> None:
        self.sent = asyncio.Event()
        self.begun = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        self.begun = True
        await self.sent.wait()
        yield MESSAGE


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


def begin(reader: Reader, sender: Sender, host: str = "a") -> asyncio.Task[Any]:
    return asyncio.create_task(reader.read(aiter(sender), host))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_read__places_are_taken__waits_unread_and_goes_on() -> None:
    async def scenario() -> None:
        reader = Reader(ReadingRules(4, patience_seconds=60))
        senders = [Sender() for _ in range(4)]
        tasks = [begin(reader, sender) for sender in senders]
        await settled()
        assert [sender.begun for sender in senders] == [True, True, False, False]
        other = Sender()
        another = begin(reader, other, "b")  # who has none finds a place that others leave
        await settled()
        assert other.begun
        for sender in (*senders, other):
            sender.sent.set()
        assert await asyncio.gather(*tasks, another) == [MESSAGE] * 5
        assert reader._places.taken == 0

    run(scenario())


def test_read__nobody_waits__a_slow_sender_has_its_time() -> None:
    async def scenario() -> None:
        reader = Reader(ReadingRules(2, read_seconds=0.3, patience_seconds=0.0))
        with pytest.raises(RequestError) as caught:
            await reader.read(aiter(Sender()), "a")
        assert (caught.value.status, caught.value.code) == (408, "input_body")
        assert reader._places.taken == 0

    run(scenario())


def test_read__others_wait__who_reads_for_long_gives_way() -> None:
    """Calls that never send a message keep nobody from being read."""

    async def scenario() -> None:
        reader = Reader(ReadingRules(2, patience_seconds=0.1))
        idle = begin(reader, Sender())
        await settled()
        quick = Sender()
        quick.sent.set()
        assert await begin(reader, quick) is MESSAGE
        with pytest.raises(Unavailable) as caught:  # it may come again when fewer do
            await idle
        assert caught.value.code == "busy"
        assert reader._places.taken == 0

    run(scenario())


def test_read__host_with_its_share_wants_more__others_keep_theirs() -> None:
    """To end somebody's slow message would not even help: the host has as many places as it may have."""

    async def scenario() -> None:
        reader = Reader(ReadingRules(8, patience_seconds=0.1, wait_seconds=1.0))
        slow = Sender()
        modest = begin(reader, slow, "modest")
        await settled()
        greedy = [begin(reader, Sender(), "greedy") for _ in range(9)]
        await asyncio.sleep(0.8)
        assert sum(task.done() for task in greedy) > 0  # in the end it waits for itself alone
        slow.sent.set()
        assert await modest is MESSAGE
        for task in greedy:
            task.cancel()
        await asyncio.gather(*greedy, return_exceptions=True)
        assert reader._places.taken == 0

    run(scenario())


def test_read__all_places_are_slow_hosts_of_one_call_each__a_newcomer_is_read() -> None:
    async def scenario() -> None:
        reader = Reader(ReadingRules(2, patience_seconds=0.1))
        slow = [begin(reader, Sender(), host) for host in "ab"]
        await settled()
        quick = Sender()
        quick.sent.set()
        assert await begin(reader, quick, "c") is MESSAGE
        assert [task.done() for task in slow] == [True, False]
        slow[1].cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    run(scenario())


def test_read__no_place_in_time__busy() -> None:
    async def scenario() -> None:
        reader = Reader(ReadingRules(1, wait_seconds=0.1, patience_seconds=60))
        slow = Sender()
        first = begin(reader, slow)
        await settled()
        with pytest.raises(Unavailable) as caught:
            await begin(reader, Sender())
        assert caught.value.code == "busy"
        slow.sent.set()
        assert await first is MESSAGE

    run(scenario())


def test_read__client_goes_away__leaves_its_place_wherever_it_was() -> None:
    async def scenario() -> None:
        reader = Reader(ReadingRules(1, patience_seconds=60))
        reading, waiting = begin(reader, Sender()), begin(reader, Sender())
        await settled()
        for task in (waiting, reading):
            task.cancel()
        await asyncio.gather(reading, waiting, return_exceptions=True)
        assert reading.cancelled() and waiting.cancelled()
        quick = Sender()
        quick.sent.set()
        assert await begin(reader, quick) is MESSAGE
        assert reader._places.taken == 0 and not reader._waiting

    run(scenario())


def test_read__many_of_one_host_wait__each_costs_one_look_a_place() -> None:
    async def scenario() -> None:
        reader = Reader(ReadingRules(4, wait_seconds=60))
        looks, take = 0, reader._places.take

        def counted(host: Address) -> None:
            nonlocal looks
            looks += 1
            take(host)

        reader._places = SimpleNamespace(take=counted, free=reader._places.free)  # type: ignore[assignment]
        senders = [Sender() for _ in range(50)]
        for sender in senders:
            sender.sent.set()
        assert await asyncio.gather(*[begin(reader, sender) for sender in senders]) == [MESSAGE] * 50
        assert looks < 3 * 50

    run(scenario())


def test_read__call_without_a_message__says_so() -> None:
    class Nothing:
        async def __aiter__(self) -> AsyncIterator[Any]:
            for _ in ():
                yield MESSAGE

    async def scenario() -> None:
        with pytest.raises(InputError, match="without a message"):
            await Reader(ReadingRules(1)).read(aiter(Nothing()), "a")

    run(scenario())


def test_places_of__budget__holds_calls_and_streams_together() -> None:
    message = (16 << 20) + 65_536
    places = places_of(512 << 20, 16 << 20)
    assert 2 * places * message <= 512 << 20 < 2 * (places + 1) * message
    assert places_of(1, 16 << 20) == 1
