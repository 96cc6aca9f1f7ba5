"""A hub on a real loopback socket, in a thread; wrappers that break connections."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stamina
import uvicorn
from assay.hub.app import create_app
from assay.hub.store import ArtifactStore, open_store

LIMIT = 1 << 20


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """The URL of `app` on a free port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@pytest.fixture(autouse=True)
def _no_waiting_between_retries() -> Iterator[None]:
    stamina.set_testing(True, attempts=5, cap=True)
    yield
    stamina.set_testing(False)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(tmp_path / "store")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def app(store: ArtifactStore, spool: Path) -> Any:
    """A hub that takes up to 1 MiB."""
    return create_app(store, spool, max_bytes=LIMIT)


@pytest.fixture
def http(app: Any) -> Iterator[httpx.Client]:
    with serving(app) as url, httpx.Client(base_url=url) as client:
        yield client


class Breaking:
    """An ASGI wrapper: `breaks(scope)` says after how many body bytes the connection dies (None: never)."""

    def __init__(self, app: Any, breaks: Callable[[Any], int | None]) -> None:
        self._app = app
        self._breaks = breaks
        self.requests: list[tuple[str, dict[str, str]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        self.requests.append((scope["method"], headers))
        left = self._breaks(scope)
        if left is None:
            await self._app(scope, receive, send)
            return

        async def cut_receive() -> Any:
            nonlocal left
            if scope["method"] != "PUT":
                return await receive()
            if not left:
                return {"type": "http.disconnect"}
            message = await receive()
            body = message.get("body", b"")[:left]
            left -= len(body)
            return message | {"body": body, "more_body": message.get("more_body", False) or not left}

        async def cut_send(message: Any) -> None:
            nonlocal left
            if scope["method"] == "PUT" and not left:
                raise ConnectionError("cut by the test")
            body = message.get("body", b"")
            if scope["method"] == "GET" and message["type"] == "http.response.body" and len(body) > left:
                await send(message | {"body": body[:left], "more_body": True})
                raise ConnectionError("cut by the test")
            left -= len(body) if scope["method"] == "GET" else 0
            await send(message)

        await self._app(scope, cut_receive, cut_send)
