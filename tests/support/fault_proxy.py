"""A JSON-RPC proxy that misbehaves on demand, in front of a real chain.

with fault_proxy(chain.url) as proxy:
    proxy.inject(Fault.RATE_LIMIT, times=2)                      # the next two requests
    proxy.inject(Fault.DROP_AFTER_FORWARD, "eth_sendRawTransaction")
    proxy.on("eth_sendRawTransaction", lambda: os.kill(pid, signal.SIGKILL), after=True)
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Fault(StrEnum):
    LATENCY = "latency"  # answer after `seconds`
    RATE_LIMIT = "rate_limit"  # 429, not forwarded
    SERVER_ERROR = "server_error"  # 503, not forwarded
    DROP = "drop"  # close the connection, not forwarded
    DROP_AFTER_FORWARD = "drop_after_forward"  # the chain gets it, the caller gets nothing
    MALFORMED = "malformed"  # bytes that are not JSON
    STALE_HEAD = "stale_head"  # answer as of `blocks` ago
    EMPTY_LOGS = "empty_logs"  # eth_getLogs answers []


@dataclass
class Injection:
    """`method` None: any. `times` None: until cleared."""

    fault: Fault
    method: str | None = None
    times: int | None = 1
    seconds: float = 0.5
    blocks: int = 10


@dataclass
class FaultProxy:
    """`url` is the proxy's; `seen` holds the methods of every request in order."""

    upstream: str
    server: ThreadingHTTPServer
    url: str
    injections: list[Injection] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    hooks: list[tuple[str, Callable[[], None], bool]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, fault: Fault, method: str | None = None, times: int | None = 1, **options: Any) -> None:
        with self.lock:
            self.injections.append(Injection(fault, method, times, **options))

    def clear(self) -> None:
        with self.lock:
            self.injections.clear()
            self.hooks.clear()

    def on(self, method: str, action: Callable[[], None], *, after: bool) -> None:
        """Call `action` once, before or after the next request of `method` is forwarded."""
        with self.lock:
            self.hooks.append((method, action, after))

    def take(self, methods: list[str]) -> Injection | None:
        """The first injection that fits; used up by one."""
        with self.lock:
            self.seen += methods
            for injection in self.injections:
                if injection.method is None or injection.method in methods:
                    if injection.times is not None:
                        injection.times -= 1
                        if injection.times == 0:
                            self.injections.remove(injection)
                    return injection
        return None

    def run_hooks(self, methods: list[str], *, after: bool) -> None:
        with self.lock:
            due = [hook for hook in self.hooks if hook[0] in methods and hook[2] == after]
            for hook in due:
                self.hooks.remove(hook)
        for _, action, _ in due:
            action()

    def forward(self, body: bytes) -> bytes:
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.upstream, body, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as reply:
            return bytes(reply.read())


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Serve on a free loopback port until the block ends."""
    proxy: FaultProxy

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            _serve(proxy, self, body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = FaultProxy(upstream, server, f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _serve(proxy: FaultProxy, handler: BaseHTTPRequestHandler, body: bytes) -> None:
    payload = json.loads(body)
    items = payload if isinstance(payload, list) else [payload]
    methods = [item["method"] for item in items]
    injection = proxy.take(methods)
    fault = injection.fault if injection else None
    if fault == Fault.RATE_LIMIT:
        return _answer(handler, 429, b'{"message": "slow down"}')
    if fault == Fault.SERVER_ERROR:
        return _answer(handler, 503, b"upstream is away")
    if fault == Fault.DROP:
        return _drop(handler)
    if fault == Fault.LATENCY and injection:
        time.sleep(injection.seconds)
    if fault == Fault.STALE_HEAD and injection:
        body = _as_of(proxy, payload, injection.blocks)
    proxy.run_hooks(methods, after=False)
    answer = proxy.forward(body)
    proxy.run_hooks(methods, after=True)
    if fault == Fault.DROP_AFTER_FORWARD:
        return _drop(handler)
    if fault == Fault.MALFORMED:
        return _answer(handler, 200, b"<html>gateway</html>")
    if fault == Fault.STALE_HEAD and injection:
        answer = _stale_numbers(payload, answer, injection.blocks)
    if fault == Fault.EMPTY_LOGS:
        answer = _rewrite(payload, answer, "eth_getLogs", lambda result: [])
    return _answer(handler, 200, answer)


def _as_of(proxy: FaultProxy, payload: Any, blocks: int) -> bytes:
    """The same request with `latest` replaced by an old block's number."""
    ask = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []}).encode()
    head = int(json.loads(proxy.forward(ask))["result"], 16)
    return json.dumps(payload).replace('"latest"', f'"{max(0, head - blocks):#x}"').encode()


def _stale_numbers(payload: Any, answer: bytes, blocks: int) -> bytes:
    return _rewrite(payload, answer, "eth_blockNumber", lambda result: hex(max(0, int(result, 16) - blocks)))


def _rewrite(payload: Any, answer: bytes, method: str, change: Callable[[Any], Any]) -> bytes:
    answered = json.loads(answer)
    by_id = {reply["id"]: reply for reply in (answered if isinstance(answered, list) else [answered])}
    for item in payload if isinstance(payload, list) else [payload]:
        if item["method"] == method and "result" in by_id[item["id"]]:
            by_id[item["id"]]["result"] = change(by_id[item["id"]]["result"])
    return json.dumps(answered).encode()


def _answer(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    with contextlib.suppress(OSError):  # the caller may have been killed
        handler.wfile.write(body)


def _drop(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)
