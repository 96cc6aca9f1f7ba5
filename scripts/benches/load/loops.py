"""The generator's loops: one thread, epoll, and no allocation that can be made before."""

from __future__ import annotations

import gc
import select
import socket
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from scripts.benches.load.grpc import GrpcStream
from scripts.benches.load.plan import Buffers, Load, Plan
from scripts.benches.load.wire import answer_length, status_of

RECEIVE = 1 << 15
STALL_SECONDS = 30.0
"""Without any answer: the server hangs."""


class ServerGoneError(ConnectionError):
    """The server closed a connection under load, or stopped answering."""


class Connections:
    """`size` open connections that speak HTTP/1.1, each with at most one request under way."""

    def __init__(self, port: int, size: int) -> None:
        self._sockets: list[socket.socket] = []
        self._poll = select.epoll()
        self._index: dict[int, int] = {}
        for _ in range(size):
            self._open(port)
        self._rest = [b""] * size

    def _open(self, port: int) -> socket.socket:
        one = socket.create_connection(("127.0.0.1", port), timeout=STALL_SECONDS)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll.register(one, select.EPOLLIN)
        self._index[one.fileno()] = len(self._sockets)
        self._sockets.append(one)
        return one

    def close(self) -> None:
        self._poll.close()
        for one in self._sockets:
            one.close()

    def send(self, index: int, buffers: Buffers) -> None:
        """All of it: there is room, for a connection carries one request at a time."""
        sent = self._sockets[index].sendmsg(buffers)
        whole = sum(map(len, buffers))
        if sent < whole:
            self._sockets[index].sendall(b"".join(buffers)[sent:])

    def wait(self, seconds: float) -> None:
        """Until something can be read, to the microsecond (epoll alone counts milliseconds)."""
        select.select([self._poll], [], [], seconds)

    def receive(self, seconds: float) -> Iterator[tuple[int, int, bytes]]:
        """(connection, status, whole answer) for those that have come. Raises ServerGoneError, OSError."""
        for number, _ in self._poll.poll(seconds):
            index = self._index[number]
            try:
                data = self._sockets[index].recv(RECEIVE)
            except ConnectionError:
                data = b""
            if found := self._parse(index, data) if data else self._lost(index):
                yield index, *found

    def _lost(self, index: int) -> tuple[int, bytes] | None:
        raise ServerGoneError(f"the server closed connection {index} under load")

    def _parse(self, index: int, data: bytes) -> tuple[int, bytes] | None:
        if self._rest[index]:
            data = self._rest[index] + data
        length = answer_length(data)
        if not length or len(data) < length:
            self._rest[index] = data
            return None
        self._rest[index] = b""
        return status_of(data), data


class GrpcConnections(Connections):
    """The same for unary gRPC calls. Status 200: the call was answered with a message; else 500."""

    def __init__(self, port: int, size: int) -> None:
        self._streams: list[GrpcStream] = []
        super().__init__(port, size)

    def _open(self, port: int) -> socket.socket:
        one = super()._open(port)
        self._streams.append(GrpcStream())
        one.sendall(self._streams[-1].opening)
        return one

    def send(self, index: int, buffers: Buffers) -> None:
        block, message = buffers
        self._sockets[index].sendall(self._streams[index].request(block, message))

    def _parse(self, index: int, data: bytes) -> tuple[int, bytes] | None:
        answer = self._streams[index].receive(self._sockets[index], data)
        return None if answer is None else (200 if answer else 500, answer)


def connect(plan: Plan) -> Connections:
    return (GrpcConnections if plan.is_grpc else Connections)(plan.port, plan.connections)


def ask(plan: Plan, seconds: float = 5.0) -> tuple[int, bytes] | None:
    """(status, answer) of one request of `plan`; None if the server does not answer. Raises OSError."""
    connections = connect(replace(plan, connections=1))
    try:
        connections.send(0, next(plan.streams()[0]))
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for _, status, answer in connections.receive(left):
                return status, answer
        return None
    finally:
        connections.close()


class Recorder:
    """Counts answers; those after `begin` are measured."""

    def __init__(self, connections: int, begin: float) -> None:
        self._begin = begin
        self._times = array("d")
        self._statuses: Counter[int] = Counter()
        self._refusal = b""
        self._last = [b""] * connections
        self.sent = [0] * connections

    def record(self, index: int, status: int, answer: bytes, now: float, seconds: float) -> None:
        self._statuses[status] += 1
        self._last[index] = answer
        if status != 200:
            self._refusal = self._refusal or answer
        elif now >= self._begin:
            self._times.append(seconds)

    def load(self, end: float, busy: float, ran_out: bool) -> Load:
        return Load(
            seconds=end - self._begin,
            times=np.array(self._times),
            statuses=dict(self._statuses),
            sent=tuple(self.sent),
            busy=busy,
            ran_out=ran_out,
            refusal=self._refusal,
            last=tuple(self._last),
        )


def run(plan: Plan) -> Load:
    """Raises ServerGoneError, OSError."""
    streams = plan.streams()
    connections = connect(plan)
    gc.collect()
    gc.disable()
    try:
        return (run_open if plan.rate else run_closed)(plan, streams, connections)
    finally:
        gc.enable()
        connections.close()


def run_closed(plan: Plan, streams: list[Iterator[Buffers]], connections: Connections) -> Load:
    """Ends when the time is over or the first connection has nothing to send; what is under way then is
    answered, and counts as sent, but not as measured."""
    clock = time.perf_counter
    started, used = clock(), time.process_time()
    begin = started + plan.warmup_seconds
    end = begin + plan.seconds
    recorder = Recorder(len(streams), begin)
    sent_at = [0.0] * len(streams)
    under_way = 0
    stopped = busy = 0.0
    ran_out = False

    for i, stream in enumerate(streams):
        sent_at[i] = clock()
        connections.send(i, next(stream))
        recorder.sent[i] += 1
        under_way += 1
    last = clock()
    while under_way:
        for i, status, answer in connections.receive(1.0):
            last = now = clock()
            under_way -= 1
            if stopped:
                continue
            recorder.record(i, status, answer, now, now - sent_at[i])
            request = next(streams[i], None)
            if request is None or now >= end:
                stopped, ran_out, busy = now, request is None, time.process_time() - used
                continue
            sent_at[i] = clock()
            connections.send(i, request)
            recorder.sent[i] += 1
            under_way += 1
        if clock() - last > STALL_SECONDS:
            raise ServerGoneError(f"no answer for {STALL_SECONDS:g} s")
    return recorder.load(stopped, busy / (stopped - started), ran_out)


def run_open(plan: Plan, streams: list[Iterator[Buffers]], connections: Connections) -> Load:
    """One request is due every 1 / rate seconds. Which finds no free connection waits for one, and the wait
    counts: nothing that the server does can slow the arrivals down."""
    assert plan.rate is not None
    clock = time.perf_counter
    started, used = clock(), time.process_time()
    step = 1.0 / plan.rate
    begin = started + plan.warmup_seconds
    end = begin + plan.seconds
    recorder = Recorder(len(streams), begin)
    free = deque(range(len(streams)))
    due_at = [0.0] * len(streams)
    due = started
    last = started
    ran_out = False
    while True:
        now = clock()
        while free and due <= now and due < end and not ran_out:
            i = free.popleft()
            request = next(streams[i], None)
            if request is None:
                ran_out, end = True, now
                break
            due_at[i] = due
            connections.send(i, request)
            recorder.sent[i] += 1
            due += step
        if now >= end and len(free) + ran_out >= len(streams):
            break
        if free and now < end:
            connections.wait(max(0.0, due - clock()))
        for i, status, answer in connections.receive(0.0 if free and now < end else 1.0):
            last = now = clock()
            recorder.record(i, status, answer, now, now - due_at[i])
            free.append(i)
        if clock() - last > STALL_SECONDS:
            raise ServerGoneError(f"no answer for {STALL_SECONDS:g} s")
    return recorder.load(end, (time.process_time() - used) / (clock() - started), ran_out)
