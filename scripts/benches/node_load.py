"""Load on one server from a process of its own: `python -m scripts.benches.node_load HOST PORT FILE`.

FILE holds, for each connection, the raw HTTP requests that it sends one after another (pickled
`list[list[bytes]]`,
written by the bench). Prints `{"requests", "seconds", "p50_us", "p99_us", "failures"}`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import pickle
import sys
import time
from pathlib import Path
from typing import cast

import uvloop


class Stream(asyncio.Protocol):
    """Sends the next request when the answer to the last is whole."""

    def __init__(self, requests: list[bytes], done: asyncio.Future[None], seconds: list[float]) -> None:
        self._requests, self._done, self._seconds = iter(requests), done, seconds
        self._buffer = b""
        self.failures: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._next()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().index(b"content-length: ") + 16
        if len(body) < int(head[at:].split(b"\r", 1)[0]):
            return
        self._seconds.append(time.perf_counter() - self._sent)
        if not head.startswith(b"HTTP/1.1 200"):
            self.failures.append(self._buffer[:300])
        self._buffer = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed the connection"))

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._done.set_result(None)
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(request)


async def drive(host: str, port: int, work: list[list[bytes]]) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    seconds: list[float] = []
    streams = []
    started = time.perf_counter()
    waiting = []
    for requests in work:
        done = loop.create_future()
        waiting.append(done)
        _, stream = await loop.create_connection(
            functools.partial(Stream, requests, done, seconds), host, port
        )
        streams.append(stream)
    await asyncio.gather(*waiting)
    elapsed = time.perf_counter() - started
    seconds.sort()
    failures = [failure.decode(errors="replace") for stream in streams for failure in stream.failures]
    return {
        "requests": len(seconds),
        "seconds": elapsed,
        "p50_us": seconds[len(seconds) // 2] * 1e6,
        "p99_us": seconds[len(seconds) * 99 // 100] * 1e6,
        "failures": failures[:3],
    }


if __name__ == "__main__":
    host, port, file = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(drive(host, int(port), pickle.loads(Path(file).read_bytes())))
    print(json.dumps(found))
