"""What a node's answer may be: strangers that answer slowly, endlessly, or cannot be reached at all."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from assay.client import NodeUnreachable
from assay.client.transport import NodeHttp, parse_specs
from assay.types import Address, Hash32

SECONDS = 0.6
HEAD = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that gives every connection to `answer`; yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@pytest.fixture
def http() -> Iterator[NodeHttp]:
    opened = NodeHttp(SECONDS)
    yield opened
    opened.close()


def drip(connection: socket.socket, start: bytes, piece: bytes) -> None:
    connection.recv(1 << 16)
    connection.sendall(start)
    while True:
        connection.sendall(piece)
        time.sleep(0.05)


def hardly_read(connection: socket.socket) -> None:
    while connection.recv(1 << 12):
        time.sleep(0.05)


SLOW: dict[str, Callable[[socket.socket], None]] = {
    "header": lambda peer: drip(peer, HEAD, b"a"),
    "interim answers": lambda peer: drip(peer, b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "body": lambda peer: drip(peer, HEAD + b"Content-Length: 100000\r\n\r\n", b"a"),
    "head of a chunk": lambda peer: drip(peer, HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"),
    "reading": hardly_read,
}


@pytest.mark.parametrize("way", list(SLOW))
def test_infer__node_drips__ends_at_the_deadline(http: NodeHttp, way: str) -> None:
    with serving(SLOW[way]) as url:
        started = time.monotonic()
        with pytest.raises(NodeUnreachable) as caught:
            http.infer(url, "/v2/models/m/versions/1", bytes(32 << 20), 10)
        assert caught.value.sent
        assert time.monotonic() - started < SECONDS + 1


def test_infer__after_a_late_answer__has_all_its_time_again(http: NodeHttp) -> None:
    turns = itertools.count()

    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        if next(turns):
            time.sleep(SECONDS / 2)
            connection.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
        time.sleep(2 * SECONDS)

    with serving(answer) as url:
        with pytest.raises(NodeUnreachable):
            http.get(url, "/")
        assert http.get(url, "/").status == 200


def test_get__name_with_many_dead_addresses__ends_at_the_deadline(
    http: NodeHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(lambda connection: None) as url:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{i}", 80)) for i in range(1, 99)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)

        def connect(*args: Any, **options: Any) -> socket.socket:
            time.sleep(0.2)
            raise TimeoutError

        monkeypatch.setattr(socket, "create_connection", connect)
        started = time.monotonic()
        with pytest.raises(NodeUnreachable) as caught:
            http.get(url, "/")
        assert not caught.value.sent
        assert time.monotonic() - started < SECONDS + 1


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "http://",
        "http://[",
        "http://[::1",
        "http://a]b",
        "http://a\u2100b",
        "http://xn--a",
        "http://a..b",
        "http://" + "a" * 200,
        "http://127.0.0.1:99999999",
        "http://\ud800",
        "http://\x00",
        "file:///etc/passwd",
        "ftp://127.0.0.1",
        "127.0.0.1:1",
    ],
)
def test_get__endpoint_that_is_no_url__is_a_node_that_cannot_be_reached(
    http: NodeHttp, endpoint: str
) -> None:
    with pytest.raises(NodeUnreachable) as caught:
        http.get(endpoint, "/")
    assert not caught.value.sent
    assert http.probe(endpoint) is None


def test_get__node_sets_cookies__its_neighbour_gets_none(http: NodeHttp) -> None:
    heard: list[bytes] = []

    def bake(connection: socket.socket) -> None:
        heard.append(connection.recv(1 << 16))
        connection.sendall(HEAD + b"Set-Cookie: a=" + b"x" * 4000 + b"; Path=/\r\nContent-Length: 0\r\n\r\n")

    with serving(bake) as first, serving(bake) as second:
        for url in (first, second, first):
            assert http.get(url, "/").status == 200
    assert len(heard) == 3
    assert not any(b"cookie" in request.lower() for request in heard)


@pytest.mark.parametrize("sequence", [-1, (1 << 62) + 1, (1 << 64) - 1])
def test_channel__sequence_that_no_memory_holds__is_a_malformed_answer(http: NodeHttp, sequence: int) -> None:
    content = json.dumps({"amount": "0", "count": 0, "sequence": sequence, "signature": None}).encode()

    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(HEAD + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)

    with serving(answer) as url, pytest.raises(NodeUnreachable, match="malformed channel"):
        http.channel(url, Hash32(b"\x01" * 32), Address("0x" + "11" * 20))


@pytest.mark.parametrize(
    "text",
    [
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1e999]}]}',
        '{"inputs": [{"name": "x", "datatype": ["FP32"], "shape": [1]}]}',
        '{"inputs": [{"name": "x", "datatype": {}, "shape": []}]}',
        '{"inputs": [3]}',
        '{"inputs": null}',
        "[]",
    ],
)
def test_parse_specs__whatever_a_node_says_of_its_model__is_a_node_without_metadata(text: str) -> None:
    with pytest.raises(NodeUnreachable, match="no usable 'inputs'"):
        parse_specs(json.loads(text), "inputs")
