"""What goes over the wire, against real servers on this machine."""

from __future__ import annotations

import base64
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from assay.chain import transport
from assay.chain.client import ChainClient
from assay.chain.errors import RpcUnavailable
from assay.chain.transport import AnswerTooLongError, Transport, TransportError
from assay.errors import AssayError, ConfigurationError

pytestmark = pytest.mark.network


class Server(ThreadingHTTPServer):
    """Answers a POST with `status` and what it was sent; keeps what it saw."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.callers: list[int] = []
        """The port that each request came from."""
        self.answer = b""
        self.closes = self.cuts = False
        """Whether it ends the connection after an answer, without a word; amid one."""
        self.headers = b""
        self.quiet: set[int] = set()
        """Ports from which nothing arrives any more: a machine on the way has forgotten the connection."""
        self.ended = threading.Event()

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        super().shutdown_request(request)
        self.ended.set()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["content-length"]))
        if self.client_address[1] in self.server.quiet:
            self.rfile.read(1)
            return
        self.server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.server.callers.append(self.client_address[1])
        body = self.server.answer or sent
        self.send_response(200)
        self.send_header("content-length", str(len(body) + self.server.cuts))
        self.flush_headers()
        self.wfile.write(self.server.headers)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.server.closes or self.server.cuts

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextlib.contextmanager
def opened(url: str) -> Iterator[Transport]:
    found = Transport(url, 5)
    try:
        yield found
    finally:
        found.close()


def test_post__many_in_a_row__over_one_connection(server: Server) -> None:
    with opened(f"http://{server.place}") as http:
        assert [http.post(b"%d" % i, 5) for i in range(3)] == [(200, b"0"), (200, b"1"), (200, b"2")]
    assert len(set(server.callers)) == 1 and server.seen[0][0] == "/"
    assert server.seen[0][1]["content-type"] == "application/json"


def test_post__server_ended_the_idle_connection__asked_over_a_new_one(server: Server) -> None:
    server.closes = True
    with opened(f"http://{server.place}") as http:
        assert http.post(b"1", 5) == (200, b"1")
        assert server.ended.wait(5)
        assert http.post(b"1", 5) == (200, b"1")
    assert len(set(server.callers)) == 2


def test_post__idle_connections_forgotten_on_the_way__no_request_waits_for_their_answers(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Firewalls drop what has been silent for minutes, and tell nobody. A burst leaves many such."""
    with opened(f"http://{server.place}") as http:
        busy = [http._pool._get_conn() for _ in range(2)]
        for connection in busy:
            connection.request("POST", "/", b"1")
            connection.getresponse().read()
        for connection in busy:
            http._pool._put_conn(connection)
        assert http.post(b"2", 5) == (200, b"2") and len(set(server.callers)) == 2
        server.quiet = set(server.callers)
        now = time.monotonic()
        monkeypatch.setattr(transport, "monotonic", lambda: now + transport.IDLE_SECONDS)
        assert http.post(b"3", 0.5) == (200, b"3")
        assert http.post(b"4", 0.5) == (200, b"4")
    assert len(set(server.callers)) == 3


def test_post__user_in_the_url__basic_authorization_and_whole_target(server: Server) -> None:
    with opened(f"http://al%40ice:se%2Fcret@{server.place}/v3/key?token=x") as http:
        http.post(b"1", 5)
    [(target, headers)] = server.seen
    assert target == "/v3/key?token=x"
    assert headers["authorization"] == "Basic " + base64.b64encode(b"al@ice:se/cret").decode()


@pytest.mark.parametrize(
    ("login", "sent"), [(":secret", ":secret"), ("alice", "alice:"), ("al%C3%AFce:p%E2%82%AC", "alïce:p€")]
)
def test_post__no_user_or_letters_beyond_ascii__basic_authorization(
    server: Server, monkeypatch: pytest.MonkeyPatch, login: str, sent: str
) -> None:
    """Some providers want a password alone."""
    expected = "Basic " + base64.b64encode(sent.encode()).decode()
    with opened(f"http://{login}@{server.place}/v3") as http:
        http.post(b"1", 5)
    assert server.seen[0][1]["authorization"] == expected
    monkeypatch.setenv("http_proxy", f"http://{login}@{server.place}")
    with opened("http://chain.example") as http:
        http.post(b"1", 5)
    assert server.seen[1][1]["proxy-authorization"] == expected and "authorization" not in server.seen[1][1]


def test_post__everything_logged__neither_key_nor_password_told(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), opened(f"http://me:secret@{server.place}/v3/key?t=key") as http:
        http.post(b"1", 5)
        server.cuts = True
        with pytest.raises(TransportError):
            http.post(b"1", 5)
        server.cuts, server.headers = False, b"no header\r\nx: y\r\n"
        http.post(b"1", 5)
    assert "Failed to parse headers" in caplog.text
    assert "POST" in caplog.text and "key" not in caplog.text and "secret" not in caplog.text


def test_post__answer_cut_off__told_and_the_connection_given_up(server: Server) -> None:
    with opened(f"http://{server.place}") as http:
        server.cuts = True
        with pytest.raises(TransportError):
            http.post(b"1", 5)
        server.cuts = False
        assert http.post(b"2", 5) == (200, b"2")
    assert len(server.callers) == 2, "nothing is sent twice"


def test_post__answer_over_the_limit__refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 10)
    with opened(f"http://{server.place}") as http:
        assert http.post(b"a" * 10, 5) == (200, b"a" * 10)
        with pytest.raises(AnswerTooLongError):
            http.post(b"a" * 11, 5)
        assert http.post(b"a", 5) == (200, b"a")


def test_post__more_at_once_than_connections__all_answered(server: Server) -> None:
    with opened(f"http://{server.place}") as http:
        answers: list[tuple[int, bytes]] = []
        threads = [
            threading.Thread(target=lambda: answers.append(http.post(b"1", 10)))
            for _ in range(transport.MAX_CONNECTIONS + 8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [(200, b"1")] * len(threads)
    assert len(set(server.callers)) <= transport.MAX_CONNECTIONS


def test_post__nobody_listens_or_answers__told_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        with opened(f"http://{place}") as http, pytest.raises(TransportError):
            http.post(b"1", 0.05)
    with opened(f"http://{place}") as http, pytest.raises(TransportError):
        http.post(b"1", 5)


def test_post__https_to_somebody_without_a_certificate__nothing_of_it_sent(server: Server) -> None:
    with opened(f"https://me:secret@{server.place}/key") as http, pytest.raises(TransportError):
        http.post(b"1", 5)
    assert server.seen == []


def test_post__proxy_in_the_environment__asked_for_the_whole_url(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://pro:xy@{server.place}")
    with opened("http://me:secret@chain.example:8545/v3?k=1") as http:
        http.post(b"1", 5)
    [(target, headers)] = server.seen
    assert (target, headers["host"]) == ("http://chain.example:8545/v3?k=1", "chain.example:8545")
    assert headers["proxy-authorization"] == "Basic " + base64.b64encode(b"pro:xy").decode()
    assert headers["authorization"] == "Basic " + base64.b64encode(b"me:secret").decode()


def test_post__https_by_a_proxy__asks_it_for_a_tunnel_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", f"http://{server.place}")
    with opened("https://me:secret@chain.example/key") as http, pytest.raises(TransportError):
        http.post(b"1", 5)
    assert server.seen == [], "CONNECT was refused: nothing else was asked"


def test_post__proxy_named_without_a_scheme__is_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As curl takes it."""
    monkeypatch.setenv("http_proxy", server.place)
    with opened("http://chain.example/v3") as http:
        http.post(b"1", 5)
    assert server.seen[0][0] == "http://chain.example/v3"


@pytest.mark.parametrize("proxy", ["socks5://me:secret@127.0.0.1:1080", "http://me:secret@proxy:port"])
def test_chain_client__proxy_that_cannot_be_used__says_so(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(ConfigurationError, match=r"proxy .* NO_PROXY") as refused:
        ChainClient("https://chain.example/v3/key")
    assert "secret" not in str(refused.value) and "key" not in str(refused.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"no such path: /v3/0123456789abcdef",
        b'{"error":{"code":1,"message":"0123456789abcdef is no key of ours"}}',
        b'{"error":{"code":1,"message":"refused","data":"0123456789abcdef"}}',
        b'{"error":"0123456789abcdef"}',
    ],
)
def test_request__endpoint_repeats_its_key__is_not_told(server: Server, answer: bytes) -> None:
    server.answer = answer
    for url in ("/v3/0123456789abcdef", "/?key=0123456789abcdef"):
        with (
            ChainClient(f"http://{server.place}{url}", 1, attempts=1) as client,
            pytest.raises(AssayError) as refused,
        ):
            client.endpoints[0].is_checked = True
            client.request("eth_gasPrice")
        assert "…" in str(refused.value) and "0123456789abcdef" not in str(refused.value)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_post__this_machine_with_a_proxy__asked_directly(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with opened(f"http://{server.place.replace('127.0.0.1', name)}") as http:
        assert http.post(b"1", 5) == (200, b"1")


def test_request__answer_without_end__says_so(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 10)
    with (
        ChainClient(f"http://{server.place}", attempts=1) as client,
        pytest.raises(RpcUnavailable, match="answered more than"),
    ):
        client.request("eth_gasPrice")


@pytest.mark.parametrize("url", ["ws://node", "http://", "localhost:8545", "http://node:port", ""])
def test_transport__not_an_http_url__value_error(url: str) -> None:
    with pytest.raises(ValueError):
        Transport(url, 5)
