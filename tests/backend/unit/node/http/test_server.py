"""Connections are accepted at once, however much each round of the event loop has to do; hosts share them."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from dataclasses import dataclass, field
from math import inf

import pytest
import uvloop
from assay.node.http.server import ACCEPTED, Connections, Listener

pytestmark = pytest.mark.network


def run(scenario: object) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)  # type: ignore[arg-type]


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        transport.write(b"hello")
        transport.close()


def test_listener__many_wait_when_it_starts__takes_them_in_a_few_rounds() -> None:
    count = 3 * ACCEPTED

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        made: list[asyncio.Protocol] = []
        finished = asyncio.Event()
        rounds = 0

        def protocol() -> asyncio.Protocol:
            made.append(Greeter())
            if len(made) == count:
                finished.set()
            return made[-1]

        def count_rounds() -> None:
            nonlocal rounds
            rounds += 1
            if not finished.is_set():
                loop.call_soon(count_rounds)

        listener = Listener(loop, socket.create_server(("127.0.0.1", 0), backlog=count), protocol)
        with contextlib.ExitStack() as stack:
            address = listener.address
            clients = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(count)]
            listener.start()
            loop.call_soon(count_rounds)
            async with asyncio.timeout(20):
                await finished.wait()
            assert rounds < count / 4  # one a round, as uvloop's own server has it, takes `count`
            for client in clients:
                assert await asyncio.to_thread(client.recv, 10) == b"hello"
        listener.close()
        listener.close()

    run(scenario())


def test_listener__no_file_descriptors_left__accepts_again_later() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        listener = Listener(loop, socket.create_server(("127.0.0.1", 0)), Greeter)
        listener.start()
        client = socket.socket()
        client.settimeout(10)
        used = client.fileno()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
        taken = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(socket.socket())
            client.connect(listener.address)
            await asyncio.sleep(0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for one in taken:
                one.close()
        assert await asyncio.to_thread(client.recv, 10) == b"hello"
        client.close()
        listener.close()

    run(scenario())


@dataclass(eq=False)
class Waiter:
    """A connection that waits for its client until `deadline`."""

    peer: str
    deadline: float = inf
    ended: list[str] = field(default_factory=list)

    def expire(self) -> None:
        self.ended.append("expired")

    def finish(self) -> None:
        raise AssertionError("the server goes on")

    def abort(self) -> None:
        self.ended.append("aborted")


def test_add__one_host_has_all_connections__another_takes_the_place_of_its_longest_wait() -> None:
    connections = Connections(4)
    flood = [Waiter("flood", deadline) for deadline in (inf, 7.0, 5.0, 6.0)]
    assert all(connections.add(one) for one in flood)
    assert not connections.add(Waiter("flood", 8.0))
    assert connections.add(Waiter("other", 9.0))
    assert [one.ended for one in flood] == [[], [], ["expired"], []]


def test_add__all_hosts_have_as_many__nobody_is_displaced() -> None:
    connections = Connections(2)
    both = [Waiter("a", 5.0), Waiter("b", 5.0)]
    assert all(connections.add(one) for one in both)
    assert not connections.add(Waiter("c", 5.0))
    assert not any(one.ended for one in both)


def test_add__host_whose_requests_are_all_in_work__is_not_displaced() -> None:
    connections = Connections(3)
    working = [Waiter("busy") for _ in range(3)]
    assert all(connections.add(one) for one in working)
    assert not connections.add(Waiter("other", 5.0))
    for one in working:
        connections.remove(one)
    assert not connections._of_host["busy"] and connections.add(Waiter("other", 5.0))
