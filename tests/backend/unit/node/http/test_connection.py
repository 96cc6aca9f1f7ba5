"""The node's HTTP/1.1 connections over real sockets: order, framing, and every limit."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from assay.node.http import exchange
from assay.node.http.exchange import Exchange, Limits
from assay.node.http.messages import Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.http_app import RunningApp, post, post_chunked, read_answer, running_app

pytestmark = pytest.mark.network

SMALL = Limits(
    max_body=100_000,
    max_connections=4,
    head_seconds=0.5,
    body_seconds=0.5,
    write_seconds=0.5,
    idle_seconds=0.5,
)


@pytest.fixture(scope="module")
def app() -> Iterator[RunningApp]:
    with running_app(Limits(max_body=100_000)) as running:
        yield running


@pytest.fixture(scope="module")
def quick() -> Iterator[RunningApp]:
    with running_app(Limits(max_body=100_000), delay=None) as running:
        yield running


@pytest.fixture
def small() -> Iterator[RunningApp]:
    with running_app(SMALL) as running:
        yield running


def is_ended(sock: socket.socket) -> bool:
    """Whether the server has closed: nothing but what it sent before comes any more."""
    try:
        while sock.recv(65_536):
            pass
    except ConnectionError:
        pass
    return True


def send_slowly(sock: socket.socket, data: bytes, seconds: float) -> None:
    with contextlib.suppress(ConnectionError):
        for n in range(len(data)):
            sock.sendall(data[n : n + 1])
            time.sleep(seconds)


BODIES = st.lists(st.tuples(st.binary(max_size=3000), st.booleans()), min_size=1, max_size=12)


@pytest.mark.parametrize("which", ["app", "quick"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=BODIES, cuts=st.lists(st.integers(1, 4000), max_size=20))
def test_connection__pipelined_and_split_anywhere__answers_each_in_order(
    app: RunningApp, quick: RunningApp, which: str, bodies: list[tuple[bytes, bool]], cuts: list[int]
) -> None:
    running = {"app": app, "quick": quick}[which]
    stream = b"".join(
        post_chunked([body[i : i + 700] for i in range(0, len(body), 700)]) if chunked else post(body)
        for body, chunked in bodies
    )
    with running.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        at = 0
        for cut in cuts:
            sock.sendall(stream[at : at + cut])
            at += cut
        sock.sendall(stream[at:])
        buffered = bytearray()
        for body, _ in bodies:
            assert read_answer(sock, buffered)[::2] == (200, body[::-1])
        assert not buffered


def test_connection__thousands_pipelined_in_one_segment__are_all_answered(quick: RunningApp) -> None:
    with quick.connect() as sock:
        sock.sendall(post(b"ab") * 3000)
        buffered = bytearray()
        assert {read_answer(sock, buffered)[2] for _ in range(3000)} == {b"ba"}


def test_connection__head_request__has_no_body(app: RunningApp) -> None:
    with app.connect() as sock:
        sock.sendall(b"HEAD /stream/1 HTTP/1.1\r\nhost: x\r\n\r\n" + post(b"12"))
        received = b""
        while b"21" not in received:
            received += sock.recv(1000)
    head, _, rest = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert rest.startswith(b"HTTP/1.1 200")


def test_connection__expect_continue__is_told_to_send(app: RunningApp) -> None:
    with app.connect() as sock:
        message = post(b"abc", "/echo", "expect: 100-continue")
        sock.sendall(message[:-3])
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert read_answer(sock)[2] == b"cba"


def test_connection__expect_continue_with_too_large_a_body__is_told_not_to(app: RunningApp) -> None:
    with app.connect() as sock:
        sock.sendall(
            b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100001\r\nexpect: 100-continue\r\n\r\n"
        )
        assert read_answer(sock)[0] == 413
        assert is_ended(sock)


def test_connection__half_closed_by_the_client__is_answered_and_closed(app: RunningApp) -> None:
    with app.connect() as sock:
        sock.sendall(post(b"ab"))
        sock.shutdown(socket.SHUT_WR)
        assert read_answer(sock)[2] == b"ba"
        assert is_ended(sock)


@pytest.mark.parametrize(
    ("version", "header", "lives"),
    [
        ("1.1", "", True),
        ("1.1", "connection: close\r\n", False),
        ("1.0", "", False),
        ("1.0", "connection: keep-alive\r\n", True),
    ],
)
def test_connection__keep_alive__is_as_asked(app: RunningApp, version: str, header: str, lives: bool) -> None:
    with app.connect(1.0) as sock:
        sock.sendall(f"POST /echo HTTP/{version}\r\nhost: x\r\ncontent-length: 1\r\n{header}\r\na".encode())
        _, head, _ = read_answer(sock)
        assert (b"connection: close" in head) == (not lives)
        if lives:
            sock.sendall(post(b"b"))
            assert read_answer(sock)[2] == b"b"
        else:
            assert is_ended(sock)


def test_connection__stream__comes_in_chunks(app: RunningApp) -> None:
    with app.connect() as sock:
        sock.sendall(b"GET /stream/50 HTTP/1.1\r\nhost: x\r\n\r\n")
        _, _, body = read_answer(sock)
    assert [piece.rstrip(b"x") for piece in body.split(b",")[:-1]][1:3] == [
        b"x" * 10_000 + b"000001",
        b"x" * 10_000 + b"000002",
    ]
    assert len(body) == 50 * 10_007


def test_connection__short_refused_body__keeps_the_connection(app: RunningApp) -> None:
    with app.connect() as sock:
        sock.sendall(post(b"x" * 5000, "/nothing") + post(b"ab"))
        buffered = bytearray()
        assert read_answer(sock, buffered)[0] == 404
        assert read_answer(sock, buffered)[2] == b"ba"


def test_connection__long_refused_body__is_answered_while_it_is_sent(app: RunningApp) -> None:
    with app.connect() as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 90000000\r\n\r\n")
        sock.sendall(b"x" * 2_000_000)
        assert read_answer(sock)[0] == 413
    assert app.app.open == 0


def test_connection__endless_trailer__is_refused_soon(app: RunningApp) -> None:
    """One field that never ends: the parser would put all of it together again for each part."""
    with app.connect() as sock:
        sock.sendall(post_chunked([b"abc"])[:-2] + b"x-trailer: ")
        for _ in range(200):
            sock.sendall(b"a" * 65_536)
        assert read_answer(sock)[0] == 431


def test_connection__trailers_in_small_parts_after_a_long_body__are_taken(app: RunningApp) -> None:
    message = post_chunked([b"ab" * 20_000, b"c" * 40_000])[:-2] + b"x-trailer: 1\r\n\r\n"
    with app.connect() as sock:
        for start in range(0, len(message), 30_000):
            sock.sendall(message[start : start + 30_000])
            time.sleep(0.01)
        assert read_answer(sock)[2] == b"c" * 40_000 + b"ba" * 20_000


def test_connection__body_in_crumbs__is_put_together(app: RunningApp) -> None:
    body = bytes(range(250)) * 20
    with app.connect() as sock:
        sock.sendall(post_chunked([body[i : i + 1] for i in range(len(body))]) + post(b"ab"))
        buffered = bytearray()
        assert [read_answer(sock, buffered)[2] for _ in range(2)] == [body[::-1], b"ba"]


def test_take__crumbs__take_little_more_than_their_bytes() -> None:
    exchange = Exchange(Request("POST", b"/", b"", {}, ""), None, 0.0)  # type: ignore[arg-type]
    tracemalloc.start()
    try:
        for _ in range(500_000):
            exchange.take(b"%02d" % 10)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    assert b"".join(exchange.parts) == b"10" * 500_000


@pytest.mark.parametrize(
    ("target", "status"), [("http://h/echo", 200), ("HTTPS://h:1/echo", 200), ("http://h", 404)]
)
def test_connection__target_as_to_a_proxy__is_what_its_path_says(
    app: RunningApp, target: str, status: int
) -> None:
    with app.connect() as sock:
        sock.sendall(post(b"ab", target))
        assert read_answer(sock)[0] == status


def test_connection__end_after_many_requests__all_are_answered(quick: RunningApp) -> None:
    """Whoever sends everything, says so, and reads later has every answer."""
    with quick.connect() as sock:

        def send() -> None:
            for _ in range(200):
                sock.sendall(post(b"ab" * 49_000))
            sock.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send)
        sending.start()
        time.sleep(0.3)  # answers fill the buffers
        buffered = bytearray()
        for _ in range(200):
            assert read_answer(sock, buffered)[::2] == (200, b"ba" * 49_000)
        sending.join()
        assert is_ended(sock)


def test_connection__answers_are_not_read__no_more_requests_are(quick: RunningApp) -> None:
    with quick.connect(timeout=0.5) as sock:
        sent = 0
        with contextlib.suppress(TimeoutError):
            for _ in range(1000):
                sent += sock.send(post(b"ab" * 49_000))
            pytest.fail(f"{sent} bytes of requests were taken, and no answer was")
        quick.app.served.clear()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
        (b"POST /echo HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 6000 + b"\r\n", 431),
        (b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\na", 400),
        (b"DELETE /echo HTTP/1.1\r\nhost: x\r\n\r\n", 405),
    ],
)
def test_connection__bad_request__is_refused_after_those_before_it(
    app: RunningApp, data: bytes, status: int
) -> None:
    with app.connect() as sock:
        sock.sendall(post(b"ab") + data)
        buffered = bytearray()
        assert read_answer(sock, buffered)[2] == b"ba"
        assert read_answer(sock, buffered)[0] == status


# Time


@pytest.mark.parametrize("sent", [b"", b"POST /ec", post(b"a"), post(b"a") + b"PO"])
def test_connection__nothing_more_comes__is_closed(small: RunningApp, sent: bytes) -> None:
    with small.connect() as sock:
        sock.sendall(sent)
        assert is_ended(sock)


def test_connection__head_drips_in__is_closed(small: RunningApp) -> None:
    with small.connect() as sock:
        started = time.monotonic()
        send_slowly(sock, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20, 0.02)
        assert is_ended(sock)
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("head", ["content-length: 1000", "transfer-encoding: chunked"])
def test_connection__body_drips_in__is_given_up_in_time(small: RunningApp, head: str) -> None:
    """Each part in time is not enough: some hundred such requests would keep everybody else out."""
    with small.connect() as sock:
        sock.sendall(f"POST /echo HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n".encode())
        send_slowly(sock, b"1\r\nx\r\n" * 15, 0.01)
        assert read_answer(sock)[0] == 408
        assert is_ended(sock)
    wait_until_none(small)


def test_connection__slow_but_steady_body__is_read() -> None:
    with running_app(Limits(body_seconds=0.3, body_rate=20)) as running, running.connect() as sock:
        message = post(b"x" * 30)
        sock.sendall(message[:-30])
        send_slowly(sock, b"x" * 30, 0.02)
        assert read_answer(sock)[0] == 200


def test_connection__answer_is_not_taken__is_ended_with_bounded_memory(small: RunningApp) -> None:
    with small.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"GET /stream/100000 HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(1.5)
        sent = small.app.sent
        assert 0 < sent < 2_000
        wait_until_none(small)
        assert small.app.sent == sent


def test_connection__stream_slower_than_its_client__is_sent_to_its_end() -> None:
    """The time to take an answer runs while the client has something to take."""
    limits = Limits(write_seconds=0.5, body_rate=1 << 27)
    with running_app(limits) as running, running.connect() as sock:
        sock.sendall(b"GET /drip/12 HTTP/1.1\r\nhost: x\r\n\r\n")
        status, _, body = read_answer(sock)
    assert (status, len(body)) == (200, 20_000_012)


@pytest.mark.parametrize("length", ["{:020d}", "{} "])
def test_connection__length_in_another_form__counts_as_such(app: RunningApp, length: str) -> None:
    """The parser takes zeros before it and spaces after it: so must the limits."""
    with app.connect() as sock:
        sock.sendall(
            f"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: {length.format(3)}\r\n\r\nabc".encode()
        )
        assert read_answer(sock)[::2] == (200, b"cba")
        head = f"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: {length.format(1_100_001)}\r\n\r\n"
        sock.sendall(head.encode())
        assert read_answer(sock)[0] == 413  # before any of it was sent


def wait_until_none(running: RunningApp) -> None:
    """Until the application holds nothing of any request."""
    deadline = time.monotonic() + 5
    while running.app.open or len(running.app.connections):
        assert time.monotonic() < deadline, (running.app.open, len(running.app.connections))
        time.sleep(0.02)


def test_connection__one_too_many__is_told_so() -> None:
    with running_app(Limits(max_connections=2)) as running, contextlib.ExitStack() as stack:
        first = stack.enter_context(running.connect())
        second = stack.enter_context(running.connect())
        third = stack.enter_context(running.connect())
        for sock in (first, second, third):
            sock.sendall(post(b"ab"))
        assert [read_answer(sock)[0] for sock in (first, second)] == [200, 200]
        status, head, _ = read_answer(third)
        assert (status, b"retry-after" in head) == (503, True)
        assert is_ended(third)


def connect_from(running: RunningApp, host: str) -> socket.socket:
    return socket.create_connection(running.address, 10, (host, 0))


def ask(sock: socket.socket) -> int:
    sock.sendall(post(b"ab"))
    return read_answer(sock)[0]


def test_connection__all_are_one_host_s__another_host_takes_an_idle_one() -> None:
    """Not one whose body is on its way."""
    with running_app(Limits(max_connections=3)) as running, contextlib.ExitStack() as stack:
        idle, first, second = (stack.enter_context(running.connect()) for _ in range(3))
        message = post(b"abc")
        for sock in (first, second):
            sock.sendall(message[:-1])
        assert ask(idle) == 200
        assert ask(stack.enter_context(connect_from(running, "127.0.0.2"))) == 200
        assert is_ended(idle)
        for sock in (first, second):
            sock.sendall(message[-1:])
            assert read_answer(sock)[2] == b"cba"


def test_connection__body_gives_way_to_another_host__is_told_to_come_again() -> None:
    """It was not slow."""
    with running_app(Limits(max_connections=3)) as running, contextlib.ExitStack() as stack:
        first, second, third = (stack.enter_context(running.connect()) for _ in range(3))
        for sock in (first, second, third):
            sock.sendall(post(b"abc")[:-1])
            time.sleep(0.05)
        assert ask(stack.enter_context(connect_from(running, "127.0.0.2"))) == 200
        status, head, body = read_answer(first)
        assert (status, b"retry-after: 1" in head, b"busy" in body) == (503, True, True)
        second.sendall(b"c")
        assert read_answer(second)[2] == b"cba"


def test_connection__one_host_s_pool_keeps_all__it_gets_another_for_one_that_it_does_not_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running_app(Limits(max_connections=3)) as running, contextlib.ExitStack() as stack:
        monkeypatch.setattr(exchange, "SPARE_SECONDS", 60.0)
        pool = [stack.enter_context(running.connect()) for _ in range(3)]
        for sock in pool:
            assert ask(sock) == 200
            time.sleep(0.02)  # the loop's clock counts milliseconds
        assert ask(stack.enter_context(running.connect())) == 503  # each may be asked again at once
        monkeypatch.setattr(exchange, "SPARE_SECONDS", 0.0)
        deadline = time.monotonic() + 10
        while ask(stack.enter_context(running.connect())) != 200:  # until the next sweep
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert is_ended(pool[0])
        assert [ask(sock) for sock in pool[1:]] == [200] * 2


@pytest.mark.parametrize(("line", "held"), [("started: 1", 1), ("other: 1", 0)])
def test_connection__client_leaves_amid_its_request__is_held_while_it_is_worked_on(
    line: str, held: int
) -> None:
    """Or whoever leaves at once could have any number of bodies in memory."""
    with running_app(delay=0.6) as running:
        with running.connect() as sock:
            sock.sendall(post(b"ab", "/echo", line))
            time.sleep(0.2)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset it
        time.sleep(0.2)
        assert (running.app.served, running.app.open) == ([b"ab"], held)
        time.sleep(0.5)
        assert running.app.open == 0


# Stopping


def test_serve__closed_amid_requests__answers_those_that_are_whole() -> None:
    with running_app(delay=0.4) as running, contextlib.ExitStack() as stack:
        busy = stack.enter_context(running.connect())
        pipelined = stack.enter_context(running.connect())
        idle = stack.enter_context(running.connect())
        half = stack.enter_context(running.connect())
        busy.sendall(post(b"ab"))
        pipelined.sendall(post(b"ab") + post(b"cd"))
        half.sendall(post(b"abc")[:-1])
        time.sleep(0.1)
        running.close()
        assert is_ended(idle)
        assert is_ended(half)
        _, head, body = read_answer(busy)
        assert (body, b"connection: close" in head) == (b"ba", True)
        buffered = bytearray()
        assert [read_answer(pipelined, buffered)[2] for _ in range(2)] == [b"ba", b"dc"]
        assert is_ended(pipelined)


def test_serve__grace_is_over__ends_what_is_left() -> None:
    with running_app(delay=30, grace_seconds=0.2) as running, running.connect() as sock:
        sock.sendall(post(b"ab"))
        time.sleep(0.1)
        running.close()
        assert is_ended(sock)
    assert running.app.open == 0
