"""The generator against real sockets: a responder that always answers, and a server that refuses."""

from __future__ import annotations

import json
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from assay.commitments.signing import SigningKey
from assay.types import Domain, Hash32

from scripts.benches.load import overload
from scripts.benches.load.drive import RefusedError, drive, responding
from scripts.benches.load.loops import ServerGoneError, ask, run
from scripts.benches.load.overload import Caller, Overload, OverloadPlan
from scripts.benches.load.plan import Payment, Plan
from scripts.benches.load.wire import InferRequest, answer_length
from scripts.benches.soak_report import RECEIPT

pytestmark = pytest.mark.network
REQUEST = (b"x" * 40, b"y" * 60)


@contextmanager
def answering(answer: Callable[[int, bytes], bytes | None]) -> Iterator[int]:
    """A server that answers the n-th request of its life with `answer(n, request)`; None ends the
    connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    numbers = iter(range(1 << 30))

    def serve(one: socket.socket) -> None:
        with one:
            data = b""
            while piece := one.recv(1 << 16):
                data += piece
                if len(data) < (answer_length(data) or len(data) + 1):
                    continue
                reply = answer(next(numbers), data)
                data = b""
                if reply is None:
                    return
                one.sendall(reply)

    def accept() -> None:
        while True:
            try:
                one, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(one,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def reply(status: str, body: bytes, *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


def test_drive__closed_loop__counts_every_answer_once() -> None:
    with responding(100, 300, ()) as port:
        load = drive(Plan(port, 0.2, connections=4, warmup_seconds=0.05, fixed=REQUEST), ())
    assert sum(load.sent) - 4 <= load.statuses[200] <= sum(load.sent)
    assert 0 < len(load.times) <= sum(load.sent)
    assert 0 < load.percentile(50) <= load.percentile(99)
    assert all(len(answer) == 300 for answer in load.last)
    assert not load.ran_out and 0 < load.busy <= 1.1


def test_drive__open_loop__sends_what_is_due_whatever_comes_back() -> None:
    with responding(100, 300, ()) as port:
        load = drive(Plan(port, 0.5, connections=8, warmup_seconds=0.1, rate=200.0, fixed=REQUEST), ())
    assert sum(load.sent) == pytest.approx(120, abs=2)
    assert len(load.times) == pytest.approx(100, abs=10)


def test_drive__slow_server_in_an_open_loop__counts_the_wait_for_a_connection() -> None:
    """Each answer takes 50 ms, one connection, 100 due a second: the last waited for most of the others."""
    pause = threading.Event()

    def slow(number: int, request: bytes) -> bytes:
        pause.wait(0.05)
        return reply("200 OK", b"")

    request = (reply("x", b""),)
    with answering(slow) as port:
        load = run(Plan(port, 0.3, connections=1, warmup_seconds=0.0, rate=100.0, fixed=request))
    assert load.percentile(99) > 500


def test_drive__refused_requests__raise_with_the_first() -> None:
    request = (reply("x", b""),)
    with (
        answering(lambda number, _: reply("402 Payment Required", b"no money")) as port,
        pytest.raises(RefusedError, match="no money"),
    ):
        drive(Plan(port, 0.1, connections=1, warmup_seconds=0.0, fixed=request), ())


def test_run__server_closes_the_connection__raises() -> None:
    request = (reply("x", b""),)
    with (
        answering(lambda number, _: reply("200 OK", b"") if number < 5 else None) as port,
        pytest.raises(ServerGoneError),
    ):
        run(Plan(port, 5.0, connections=1, warmup_seconds=0.0, fixed=request))


def test_ask__server_that_answers__gives_status_and_answer() -> None:
    answer = reply("404 Not Found", b"?")
    with answering(lambda number, _: answer) as port:
        assert ask(Plan(port, 0.0, fixed=(reply("x", b""),))) == (404, answer)


def overload_plan(port: int, folder: Path) -> OverloadPlan:
    node = SigningKey(b"\1" * 32).address
    payment = Payment(Domain(1, node), node, Hash32(bytes(32)), 5, (), 0)
    infer = InferRequest.of("/v2/models/m/versions/1", "x", np.zeros((1, 2), np.float32))
    callers = (Caller(b"\2" * 32, 0.25, 4), Caller(b"\3" * 32, 0.75, 4))
    return OverloadPlan(port, 0.6, 300.0, 6, infer, payment, callers, folder / "receipts")


def test_overload__answers_refusals_and_broken_connections__are_told_apart(tmp_path: Path) -> None:
    """Of eight requests five get receipts, two a 503, one of them without Retry-After, and one nothing."""
    sent: list[tuple[str, int]] = []
    lock = threading.Lock()

    def answer(number: int, request: bytes) -> bytes | None:
        body = request.partition(b"\r\n\r\n")[2]
        parameters = json.loads(body[: -2 * 4])["parameters"]  # the tensor, two numbers, is last
        with lock:
            sent.append((parameters["voucher_consumer"], int(parameters["voucher_amount"])))
        match number % 8:
            case 6:
                return None
            case 5:
                return reply(
                    "503 Service Unavailable",
                    b'{"error":"7 wait; ask later","code":"busy"}',
                    "Retry-After: 1",
                )
            case 7:
                return reply("503 Service Unavailable", b'{"code":"busy"}')
        receipt = json.dumps({"sequence": number, "digest": "0x" + f"{number:064x}"})
        return reply("200 OK", json.dumps({"parameters": {"receipt": receipt}}).encode())

    with answering(answer) as port:
        plan = overload_plan(port, tmp_path)
        found = pickle.loads(pickle.dumps(Overload(plan).run()))
    tally = found.tally
    kept = np.fromfile(plan.receipts, RECEIPT)
    refused = sum(one["503 busy"] for one in tally.refused)
    assert sum(tally.offered) == pytest.approx(180, abs=20)
    assert tally.offered[1] > tally.offered[0]
    assert len(kept) == sum(tally.served) == len(found.latencies) > 0
    assert np.bincount(found.callers, minlength=2).tolist() == tally.served
    assert sorted(set(kept["sequence"])) == sorted(kept["sequence"])
    assert all(bytes(one["digest"]) == int(one["sequence"]).to_bytes(32, "big") for one in kept)
    assert refused > tally.without_retry_after > 0
    assert tally.reasons == {"": tally.without_retry_after, "# wait": refused - tally.without_retry_after}
    assert sum(tally.broken) > 0 and not tally.without_receipt and not found.undrained
    assert sum(tally.offered) == sum(tally.held_back) + sum(tally.served) + refused + sum(tally.broken)
    again = len(sent) - len(set(sent))
    assert 0 < again <= refused  # a voucher that was refused for want of room, and no other, is sent again


def test_overload__stopped_before_it_began__ends_in_order(tmp_path: Path) -> None:
    receipt = json.dumps({"sequence": 1, "digest": "0x" + "00" * 32}).encode()
    with answering(lambda number, _: reply("200 OK", receipt)) as port:
        run_ = Overload(overload_plan(port, tmp_path))
        run_.is_stopping = True
        found = run_.run()
    assert sum(found.tally.offered) == 0 and overload.RECEIPT.size == RECEIPT.itemsize
