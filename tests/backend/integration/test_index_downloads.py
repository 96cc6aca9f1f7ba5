"""Nothing that a download waits for outlasts its deadline, or who tells it to stop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from assay.index.download import Interrupted, Limits, Unreachable, download

from tests.support.batch_server import Held, batch_server, silent

LONG = Limits(seconds=60.0, allow_private=True)
SHORT = Limits(seconds=0.5, allow_private=True)
Stop = Callable[[], bool]


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Whoever hangs in a test, until it ends."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def stop_soon() -> Stop:
    """At the second look."""
    looks: list[None] = []

    def stop() -> bool:
        looks.append(None)
        return len(looks) > 1

    return stop


@pytest.fixture
def hanging_names(monkeypatch: pytest.MonkeyPatch, released: threading.Event) -> list[str]:
    """Names that are looked up and not found; addresses are found as ever."""
    names: list[str] = []
    find = socket.getaddrinfo

    def getaddrinfo(host: str, *given: Any, **more: Any) -> Any:
        if host == "127.0.0.1":
            return find(host, *given, **more)
        names.append(host)
        released.wait(60)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


def test_download__silent_node__is_left_when_told_to_stop(released: threading.Event, stop_soon: Stop) -> None:
    with batch_server() as server:
        server.answers["/a"] = silent(released)
        with pytest.raises(Interrupted):
            download(f"{server.url}/a", LONG, stop_soon)
        released.set()


def test_download__node_drips__is_left_when_told_to_stop() -> None:
    with batch_server() as server:
        held = server.answers["/a"] = Held(b"x" * 1_000)
        with pytest.raises(Interrupted):
            download(f"{server.url}/a", LONG, held.asked.is_set)
        held.let.set()


def test_download__node_drips_and_is_let_go__has_the_whole_body() -> None:
    with batch_server() as server:
        held = server.answers["/a"] = Held(b"abc" * 100)
        timer = threading.Timer(0.6, held.let.set)  # more than one look
        timer.start()
        assert download(f"{server.url}/a", LONG) == b"abc" * 100
        timer.join()


def test_download__silent_node__ends_at_the_deadline(released: threading.Event) -> None:
    with batch_server() as server:
        server.answers["/a"] = silent(released)
        with pytest.raises(Unreachable, match=r"longer than 0\.5 s"):
            download(f"{server.url}/a", SHORT)
        released.set()


def test_download__name_that_is_looked_up_for_ever__ends_at_the_deadline(hanging_names: list[str]) -> None:
    with pytest.raises(Unreachable, match=r"longer than 0\.5 s"):
        download("http://node.example/a", SHORT)
    assert hanging_names == ["node.example"]


def test_download__name_that_is_looked_up_for_ever__is_left_when_told_to_stop(
    hanging_names: list[str], stop_soon: Stop
) -> None:
    with pytest.raises(Interrupted):
        download("http://node.example/a", LONG, stop_soon)
    assert hanging_names == ["node.example"]


def test_download__name_found_too_late__its_connection_is_closed(
    monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    find = socket.getaddrinfo

    def getaddrinfo(host: str, *given: Any, **more: Any) -> Any:
        released.wait(60)
        return find("127.0.0.1", *given, **more)

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        limits = Limits(seconds=1.0, allow_private=True)
        with pytest.raises(Interrupted):
            download(f"http://node.example:{server.getsockname()[1]}/a", limits, after(2))
        released.set()
        server.settimeout(60)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(60)
            assert connection.recv(1) == b""  # closed by the thread that nobody waits for any more


def after(looks: int) -> Stop:
    seen = iter(range(looks))
    return lambda: next(seen, None) is None


def test_download__refused_connection__is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(Unreachable, match="cannot be read"):
        download(f"http://127.0.0.1:{port}/a", LONG)
    assert time.monotonic() - began < LONG.seconds / 2
