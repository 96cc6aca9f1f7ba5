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
from assay.node.http.exchange import Loss
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
    """A connection that waits for its client until `deadline`, or one in work, or a new one."""

    peer: str
    deadline: float = inf
    given: Loss = Loss.AN_EXCHANGE
    ended: list[str] = field(default_factory=list)

    @property
    def loss(self) -> Loss | None:
        return None if self.ended or self.deadline == inf else self.given

    def expire(self) -> None:
        raise AssertionError("no deadline passed")

    def give_way(self) -> None:
        self.ended.append("gave way")

    def finish(self) -> None:
        raise AssertionError("the server goes on")

    def abort(self) -> None:
        self.ended.append("aborted")


def flood(*deadlines: float, loss: Loss = Loss.AN_EXCHANGE) -> list[Waiter]:
    return [Waiter("flood", deadline, loss) for deadline in deadlines]


def test_add__one_host_has_all_connections__another_takes_the_place_of_its_longest_wait() -> None:
    connections = Connections(4)
    first = flood(inf, 7.0, 5.0, 6.0)
    assert all(connections.add(one) for one in first)
    assert not connections.add(Waiter("flood"))
    assert connections.add(Waiter("other"))
    assert [one.ended for one in first] == [[], [], ["gave way"], []]


def test_add__host_with_most_has_idle_connections__those_end_before_requests_that_come() -> None:
    """The time for a body is shorter than that between two requests."""
    connections = Connections(4)
    first = flood(3.0, 4.0) + flood(60.0, loss=Loss.A_REQUEST) + flood(70.0, loss=Loss.NOTHING)
    assert all(connections.add(one) for one in first)
    assert connections.add(Waiter("other"))
    assert connections.add(Waiter("another"))
    assert [one.ended for one in first] == [[], [], ["gave way"], ["gave way"]]


def test_add__many_newcomers_in_one_round__each_takes_a_place_of_its_own() -> None:
    """A connection that ends is open until the next round of the event loop."""
    connections = Connections(8)
    first = flood(*range(1, 9))
    assert all(connections.add(one) for one in first)
    assert sum(connections.add(Waiter(f"other {n}")) for n in range(8)) == 8
    assert all(one.ended == ["gave way"] for one in first)
    assert not connections.add(Waiter("last"))


def test_add__own_pool_has_more_than_it_uses__a_newcomer_takes_the_oldest() -> None:
    connections = Connections(3)
    first = flood(3.0, loss=Loss.A_REQUEST) + flood(5.0, 4.0, loss=Loss.NOTHING)
    assert all(connections.add(one) for one in first)
    assert connections.add(Waiter("flood"))
    assert [one.ended for one in first] == [[], [], ["gave way"]]


def test_add__look_was_in_vain__is_not_repeated_before_the_next_sweep() -> None:
    connections = Connections(1)
    (only,) = flood(inf)
    assert connections.add(only)
    assert not connections.add(Waiter("flood"))
    only.deadline, only.given = 5.0, Loss.NOTHING
    assert not connections.add(Waiter("flood"))
    connections.sweep(0.0)
    assert connections.add(Waiter("flood"))


def test_add__all_hosts_have_as_many__nobody_is_displaced() -> None:
    connections = Connections(2)
    both = [Waiter("a", 5.0), Waiter("b", 5.0)]
    assert all(connections.add(one) for one in both)
    assert not connections.add(Waiter("c"))
    assert not any(one.ended for one in both)


def test_add__host_whose_requests_are_all_in_work__is_not_displaced() -> None:
    connections = Connections(3)
    working = [Waiter("busy") for _ in range(3)]
    assert all(connections.add(one) for one in working)
    assert not connections.add(Waiter("other"))
    for one in working:
        connections.remove(one)
    assert not connections._of_host["busy"] and connections.add(Waiter("other"))
