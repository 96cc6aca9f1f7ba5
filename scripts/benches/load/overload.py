"""More requests than a server can take, from many consumers, for minutes: `python -m … PLAN RESULT`.

Arrivals come at a fixed rate, whatever the server does; each is of a consumer drawn by its share. A consumer
signs its voucher when it sends, and acknowledges the receipts that it has by then. Every receipt that comes
is written down. Prints a line of JSON a second; ends early, and in order, on SIGTERM.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import pickle
import re
import signal
import struct
import sys
import time
from array import array
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from assay.commitments.signing import SigningKey

from scripts.benches.load.loops import Connections
from scripts.benches.load.plan import Buffers, Payment
from scripts.benches.load.wire import InferRequest, receipt_of

RECEIPT = struct.Struct("<IQ32s")
"""(caller, sequence, digest)."""
DRAIN_SECONDS = 20.0
_CODE = re.compile(rb'"code":\s*"([a-z_]+)"')
_REASON = re.compile(rb'"error":\s*"([^";,]{1,80})')
_NUMBER = re.compile(r"[0-9]+")
_RETRY_AFTER = re.compile(rb"^retry-after: *[0-9]+\r?$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Caller:
    """A consumer. `share` of the arrivals is its; more than `limit` requests it has never under way."""

    secret: bytes = field(repr=False)
    share: float
    limit: int


@dataclass(frozen=True)
class OverloadPlan:
    port: int
    seconds: float
    rate: float
    connections: int
    infer: InferRequest
    payment: Payment
    callers: tuple[Caller, ...]
    receipts: Path
    """Where `RECEIPT` records go."""


@dataclass
class Account:
    """What a caller knows. Its n-th voucher is for n times the price, so those that are accepted cover each
    other, in whatever order they come; one that was refused for want of room is sent again before another
    is signed."""

    caller: Caller
    payment: Payment
    answered: int = 0
    under_way: int = 0
    signed: int = 0
    refused: list[tuple[int, Buffers]] = field(default_factory=list)
    """Vouchers to send again, the lowest first."""

    def __post_init__(self) -> None:
        self.key = SigningKey(self.caller.secret)

    def request(self, infer: InferRequest) -> tuple[int, Buffers]:
        """(the voucher's number, the request)."""
        if self.refused:
            return heapq.heappop(self.refused)
        self.signed += 1
        amount = self.signed * self.payment.price
        return self.signed, infer.render(self.payment.sign_for(self.key, amount, self.answered))


@dataclass
class Tally:
    """What happened to each caller's arrivals."""

    offered: list[int]
    served: list[int]
    held_back: list[int]
    """Not sent, for the caller had its limit under way or no connection was free."""
    refused: list[Counter[str]]
    """By status and code."""
    reasons: Counter[str]
    """What the refusals said, without their numbers."""
    broken: list[int]
    """Connections that ended under a request."""
    without_retry_after: int = 0
    without_receipt: int = 0
    sample: bytes = b""
    """The first answer that was neither 200 nor 503."""

    @classmethod
    def of(cls, callers: int) -> Tally:
        zeros = [[0] * callers for _ in range(4)]
        return cls(zeros[0], zeros[1], zeros[2], [Counter() for _ in range(callers)], Counter(), zeros[3])


@dataclass(frozen=True)
class Overloaded:
    """`times` and `latencies` of the answers, seconds: when they came, and since when they were due;
    `callers`: whose they are."""

    seconds: float
    tally: Tally
    times: np.ndarray[tuple[int], np.dtype[np.float32]] = field(repr=False)
    latencies: np.ndarray[tuple[int], np.dtype[np.float32]] = field(repr=False)
    callers: np.ndarray[tuple[int], np.dtype[np.uint16]] = field(repr=False)
    refusal_latencies: np.ndarray[tuple[int], np.dtype[np.float32]] = field(repr=False)
    busy: float
    late: float
    """The most that an arrival was handled after it was due, seconds."""
    undrained: int
    """Requests under way that had no answer when the drain ended."""


class PatientConnections(Connections):
    """A connection that ends is opened again; its answer is then (0, b"")."""

    def __init__(self, port: int, size: int) -> None:
        self._port = port
        super().__init__(port, size)

    def _lost(self, index: int) -> tuple[int, bytes]:
        del self._index[self._sockets[index].fileno()]
        self._sockets[index].close()
        fresh = self._open(self._port)
        self._sockets.pop()
        self._sockets[index] = fresh
        self._index[fresh.fileno()] = index
        self._rest[index] = b""
        return 0, b""


class Overload:
    """One run."""

    def __init__(self, plan: OverloadPlan) -> None:
        self._plan = plan
        self._accounts = [Account(caller, plan.payment) for caller in plan.callers]
        self._connections = PatientConnections(plan.port, plan.connections)
        self._free = deque(range(plan.connections))
        self._under_way: dict[int, tuple[int, float, int, Buffers]] = {}
        self._tally = Tally.of(len(plan.callers))
        self._times, self._latencies, self._refusals = array("f"), array("f"), array("f")
        self._served = array("H")
        self._random = np.random.default_rng(0)
        self._drawn: list[int] = []
        self._late = 0.0
        self.is_stopping = False

    def run(self) -> Overloaded:
        plan, clock = self._plan, time.perf_counter
        step = 1.0 / plan.rate
        started = due = clock()
        used, spoken, end = time.process_time(), started, started + plan.seconds
        with plan.receipts.open("wb", buffering=1 << 20) as out:
            while (now := clock()) < end and not self.is_stopping:
                if due <= now:
                    self._late = max(self._late, now - due)
                while due <= now:
                    self._arrive(due)
                    due += step
                self._connections.wait(max(0.0, min(due, end) - clock()))
                self._receive(0.0, started, out)
                if now - spoken >= 1.0:
                    spoken = now
                    self._speak(now - started)
            stopped = clock()
            while self._under_way and clock() < stopped + DRAIN_SECONDS:
                self._receive(0.2, started, out)
        busy = (time.process_time() - used) / (clock() - started)
        self._connections.close()
        return Overloaded(
            seconds=stopped - started,
            tally=self._tally,
            times=np.array(self._times),
            latencies=np.array(self._latencies),
            callers=np.array(self._served, np.uint16),
            refusal_latencies=np.array(self._refusals),
            busy=busy,
            late=self._late,
            undrained=len(self._under_way),
        )

    def _draw(self) -> int:
        if not self._drawn:
            shares = np.array([caller.share for caller in self._plan.callers])
            self._drawn = self._random.choice(len(shares), 100_000, p=shares / shares.sum()).tolist()
        return self._drawn.pop()

    def _arrive(self, due: float) -> None:
        which = self._draw()
        account = self._accounts[which]
        self._tally.offered[which] += 1
        if account.under_way >= account.caller.limit or not self._free:
            self._tally.held_back[which] += 1
            return
        index = self._free.popleft()
        number, request = account.request(self._plan.infer)
        account.under_way += 1
        self._under_way[index] = which, due, number, request
        with contextlib.suppress(ConnectionError):  # its end is received like an answer
            self._connections.send(index, request)

    def _receive(self, seconds: float, started: float, out: BinaryIO) -> None:
        for index, status, answer in self._connections.receive(seconds):
            if index not in self._under_way:
                continue  # an idle connection was closed, and is open again
            which, due, number, request = self._under_way.pop(index)
            self._free.append(index)
            now = time.perf_counter()
            account = self._accounts[which]
            account.under_way -= 1
            if status == 200:
                account.answered += 1
                self._tally.served[which] += 1
                self._times.append(now - started)
                self._latencies.append(now - due)
                self._served.append(which)
                self._keep(which, answer, out)
            elif status == 0:
                self._tally.broken[which] += 1
            else:
                self._refusals.append(now - due)
                if status == 503:
                    heapq.heappush(account.refused, (number, request))
                self._refuse(which, status, answer)

    def _keep(self, which: int, answer: bytes, out: BinaryIO) -> None:
        receipt = receipt_of(answer)
        if receipt is None:
            self._tally.without_receipt += 1
        else:
            out.write(RECEIPT.pack(which, *receipt))

    def _refuse(self, which: int, status: int, answer: bytes) -> None:
        code = _CODE.search(answer)
        reason = _REASON.search(answer)
        self._tally.refused[which][f"{status} {code[1].decode() if code else ''}".strip()] += 1
        self._tally.reasons[_NUMBER.sub("#", reason[1].decode()) if reason else ""] += 1
        if status == 503:
            head = answer.partition(b"\r\n\r\n")[0]
            self._tally.without_retry_after += _RETRY_AFTER.search(head) is None
        else:
            self._tally.sample = self._tally.sample or answer[:600]

    def _speak(self, seconds: float) -> None:
        tally = self._tally
        refused = sum(sum(one.values()) for one in tally.refused)
        said = {"seconds": seconds, "offered": sum(tally.offered), "served": sum(tally.served)}
        print(json.dumps(said | {"refused": refused, "broken": sum(tally.broken)}), flush=True)


def main(plan: Path, result: Path) -> None:
    run = Overload(pickle.loads(plan.read_bytes()))
    signal.signal(signal.SIGTERM, lambda *_: setattr(run, "is_stopping", True))
    result.write_bytes(pickle.dumps(run.run()))


if __name__ == "__main__":
    from scripts.benches.load import overload  # so that what is pickled is of this module by its own name

    overload.main(Path(sys.argv[1]), Path(sys.argv[2]))
