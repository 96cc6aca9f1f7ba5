"""A node's HTTP side in tests: serves batches, health and `/v1/node`, well or badly as told."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class BatchServer:
    """`answers`: path to what to do. Paths that are not there get 404."""

    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def publish(self, batch_id: str, body: bytes) -> None:
        self.answers[f"/v1/batches/{batch_id}"] = body_of(body)

    def describe(self, node: dict[str, Any]) -> None:
        """Be ready, and be this node."""
        self.answers["/v2/health/ready"] = body_of(b"{}")
        self.answers["/v1/node"] = body_of(json.dumps(node).encode())


@dataclass(frozen=True)
class Whole:
    """An answer at once."""

    body: bytes
    status: int = 200

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(self.status)
        handler.send_header("content-length", str(len(self.body)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(self.body)


def body_of(body: bytes, status: int = 200) -> Answer:
    return Whole(body, status)


def dripping(seconds: float, chunk: bytes = b"{") -> Answer:
    """One small chunk after another, without an end."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:
                handler.wfile.write(chunk)
                handler.wfile.flush()
                time.sleep(0.05)

    return answer


def paced(body: bytes, seconds: float, steps: int = 20) -> Answer:
    """The whole body, evenly over `seconds`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        size = -(-len(body) // steps)
        with contextlib.suppress(OSError):
            for start in range(0, len(body), size):
                handler.wfile.write(body[start : start + size])
                handler.wfile.flush()
                time.sleep(seconds / steps)

    return answer


@dataclass
class Held:
    """An answer a byte at a time, until it is let go."""

    body: bytes
    asked: threading.Event = field(default_factory=threading.Event)
    let: threading.Event = field(default_factory=threading.Event)

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(len(self.body)))
        handler.end_headers()
        self.asked.set()
        sent = 0
        with contextlib.suppress(OSError):
            while sent < len(self.body) - 1 and not self.let.wait(0.02):
                handler.wfile.write(self.body[sent : sent + 1])
                handler.wfile.flush()
                sent += 1
            self.let.wait(60)
            handler.wfile.write(self.body[sent:])


def silent(released: threading.Event) -> Answer:
    """Not a byte."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        released.wait(60)

    return answer


def cut_off(body: bytes) -> Answer:
    """Half of it, and the connection is gone."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(body[: len(body) // 2])
            handler.wfile.flush()

    return answer


def flooding(size: int) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(size >> 16):
                handler.wfile.write(b"x" * (1 << 16))

    return answer


def redirecting(target: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("location", target)
        handler.send_header("content-length", "0")
        handler.end_headers()

    return answer


@contextlib.contextmanager
def batch_server() -> Iterator[BatchServer]:
    state = BatchServer("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            state.answers.get(self.path, body_of(b'{"error": "not here"}', 404))(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
