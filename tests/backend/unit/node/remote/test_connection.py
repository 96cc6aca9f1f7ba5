"""One answer to one request, whatever else comes with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from assay.node.remote.connection import Connection, ConnectionFailed

FIRST = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst"
SECOND = b"HTTP/1.1 500 No\r\ncontent-length: 6\r\nx-of: second\r\n\r\nsecond"


def with_connection(reply: bytes, test: Callable[[Connection], Awaitable[None]]) -> None:
    """To a server that sends `reply` for each request's head."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            connection = await Connection.open("127.0.0.1", port, max_body=1000, seconds=5)
            try:
                await test(connection)
            finally:
                connection.close()
                await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.network
def test_request__one_answer_each__keeps_the_connection() -> None:
    async def test(connection: Connection) -> None:
        for _ in range(3):
            assert (await connection.request("GET", "/", seconds=5)).body == b"first"
        assert connection.is_open

    with_connection(FIRST, test)


@pytest.mark.network
@pytest.mark.parametrize("rest", [SECOND, SECOND[:30], b"HTTP"])
def test_request__second_answer_in_the_same_packet__changes_nothing_and_ends_the_connection(
    rest: bytes,
) -> None:
    async def test(connection: Connection) -> None:
        answer = await connection.request("GET", "/", seconds=5)
        assert (answer.status, answer.body, b"x-of" in answer.headers) == (200, b"first", False)
        assert not connection.is_open
        with pytest.raises(ConnectionFailed):
            await connection.request("GET", "/", seconds=5)

    with_connection(FIRST + rest, test)


@pytest.mark.network
def test_request__answered_with_another_protocol__ends_the_connection_and_breaks_nothing() -> None:
    broken: list[dict[str, Any]] = []

    async def test(connection: Connection) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
        answer = await connection.request("GET", "/", seconds=5)
        assert answer.status == 101
        assert not connection.is_open

    with_connection(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nx", test)
    assert not broken
