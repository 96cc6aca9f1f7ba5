"""What a request's head asks of the connection: one host, plain framing, no upgrade; HTTP/1.0."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest
from assay.node.http.exchange import Limits

from tests.support.http_app import RunningApp, post, post_chunked, read_answer, running_app

pytestmark = pytest.mark.network

UPGRADE = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAAAAIAAAABAAMAAABk")
"""What HTTP/2 clients send with plain HTTP, Java's own by default with every request."""


@pytest.fixture(scope="module")
def app() -> Iterator[RunningApp]:
    with running_app(Limits(max_body=100_000), delay=None) as running:
        yield running


def answers(app: RunningApp, data: bytes, count: int = 1) -> list[tuple[int, bytes, bytes]]:
    """Those to `data`, and to one more request on the same connection."""
    with app.connect() as sock:
        sock.sendall(data)
        buffered = bytearray()
        found = [read_answer(sock, buffered) for _ in range(count)]
        sock.sendall(post(b"ok"))
        assert read_answer(sock, buffered)[2] == b"ko"
    return found


def until_closed(app: RunningApp, data: bytes) -> bytes:
    with app.connect() as sock:
        sock.sendall(data)
        received = b""
        while part := sock.recv(65_536):
            received += part
    return received


@pytest.mark.parametrize("lines", ["", "host: a\r\nHost: b\r\n", "host: a b\r\n", "host: a, b\r\n"])
def test_connection__no_host_or_several__is_refused(app: RunningApp, lines: str) -> None:
    """RFC 9112 §3.2: what is in front of the node may have taken the other one."""
    message = f"POST /echo HTTP/1.1\r\n{lines}content-length: 2\r\n\r\nab".encode()
    ((status, _, body),) = answers(app, message)
    assert status == 400 and b"input_http" in body


def test_connection__no_host_over_http_1_0__is_served(app: RunningApp) -> None:
    assert until_closed(app, b"POST /echo HTTP/1.0\r\ncontent-length: 2\r\n\r\nab").endswith(b"\r\n\r\nba")


def test_connection__body_of_another_transfer_coding__is_refused(app: RunningApp) -> None:
    """It would be taken for what it is packed in."""
    message = post_chunked([b"ab"]).replace(b"chunked", b"gzip, chunked")
    ((status, _, body),) = answers(app, message)
    assert status == 400 and b"input_encoding" in body


@pytest.mark.parametrize("body", [b"", b"ab" * 20_000])
def test_connection__upgrade_asked_for__is_served_without(app: RunningApp, body: bytes) -> None:
    ((status, _, found),) = answers(app, post(body, "/echo", *UPGRADE))
    assert (status, found) == (200, body[::-1])


def test_connection__upgrades_among_pipelined_requests__all_are_served(app: RunningApp) -> None:
    chunked = post_chunked([b"abc", b"def"]).replace(
        b"\r\n\r\n", ("\r\n" + "\r\n".join(UPGRADE)).encode() + b"\r\n\r\n", 1
    )
    data = post(b"12", "/echo", *UPGRADE) + chunked + post(b"34") + post(b"56", "/echo", *UPGRADE)
    assert [body for _, _, body in answers(app, data, 4)] == [b"21", b"fedcba", b"43", b"65"]


def test_connection__upgrade_in_small_parts__is_served(app: RunningApp) -> None:
    with app.connect() as sock:
        for byte in post(b"ab", "/echo", *UPGRADE):
            sock.sendall(bytes([byte]))
        assert read_answer(sock)[2] == b"ba"


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_connection__curl_that_would_rather_speak_http_2__is_answered(app: RunningApp) -> None:
    url = f"http://127.0.0.1:{app.address[1]}/echo"
    command = ["curl", "--silent", "--http2", "--data-binary", "abc", url]
    assert subprocess.run(command, capture_output=True, timeout=20, check=True).stdout == b"cba"


def test_connection__connect__is_refused_and_closed(app: RunningApp) -> None:
    received = until_closed(app, b"CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\n\r\n" + post(b"ab"))
    assert received.startswith(b"HTTP/1.1 404") and received.count(b"HTTP/1.1") == 1


def test_connection__expect_over_http_1_0__is_not_told_to_send(app: RunningApp) -> None:
    message = b"POST /echo HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nab"
    assert until_closed(app, message).startswith(b"HTTP/1.1 200")


def test_connection__stream_over_http_1_0__does_not_promise_to_live(app: RunningApp) -> None:
    """Its end is the connection's."""
    received = until_closed(app, b"GET /stream/3 HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"connection: close" in head and len(body) == 3 * 10_007


def test_connection__head_refused_before_its_body__has_no_body(app: RunningApp) -> None:
    message = b"HEAD /nothing HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
    received = until_closed(app, message)
    assert received.startswith(b"HTTP/1.1 404") and received.endswith(b"\r\n\r\n")
