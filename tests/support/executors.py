"""Servers behind a signing node: a real MLServer, and one that lies, stalls or breaks as it is told."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pytest

from scripts.benches.options import MissingError
from scripts.benches.peers.install import SERVERS, Peer, install
from tests.support.nodes import free_port

MLSERVER = "from mlserver.cli import main; main()"


def mlserver() -> Peer:
    """MLServer in an environment of its own; skips the test, saying why, where it cannot be installed."""
    try:
        return install("mlserver", print)
    except MissingError as error:
        pytest.skip(str(error))


@dataclass
class MlServer:
    """A real MLServer that serves `artifact` as `model`; it keeps its port when it is started anew."""

    folder: Path
    artifact: bytes
    model: str = "remote-model"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        peer = mlserver()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "model.onnx").write_bytes(self.artifact)
        settings = {
            "debug": False,
            "host": "127.0.0.1",
            "http_port": self.port,
            "grpc_port": free_port(),
            "metrics_port": free_port(),
            "parallel_workers": 0,
            "use_structured_logging": False,
        }
        model = {"name": self.model, "implementation": "mlserver_runtime.OnnxModel"}
        (self.folder / "settings.json").write_text(json.dumps(settings))
        (self.folder / "model-settings.json").write_text(json.dumps(model))
        with (self.folder / "mlserver.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(peer.python), "-c", MLSERVER, "start", str(self.folder)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self.folder),
                    "PYTHONPATH": str(SERVERS),
                    "MODEL": str(self.folder / "model.onnx"),
                    "OMP_NUM_THREADS": "1",
                },
            )
        deadline = time.monotonic() + 60
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError((self.folder / "mlserver.log").read_text()[-3000:])
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/v2/models/{self.model}/ready", timeout=2).status_code == 200
        return False

    def kill(self) -> None:
        """kill -9, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


class FickleExecutor(http.server.ThreadingHTTPServer):
    """Runs `artifact` (`x` to `y`) over the protocol's JSON, and misbehaves as `mode` says:

    `right`; `shifted`: one output element is greater by one; `status`: 500; `garbage`: no JSON; `cut`: closes
    amid the answer; `slow`: takes `delay` seconds; `float`, `short`, `extra`: another datatype, a row less,
    outputs besides; `huge`: 80 MiB of answer; `not_ready`: says so; `malformed`: what it says of itself is
    not what the protocol has there; `drop`: closes each connection after an answer. `wrong_after` answers,
    the mode becomes `shifted`.
    """

    daemon_threads = True

    def __init__(self, artifact: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
        self.mode = "right"
        self.delay = 0.0
        self.runs = 0
        self.wrong_after: int | None = None
        self.connections: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error here."""

    def break_connections(self) -> None:
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(2)
        self.connections.clear()

    @contextlib.contextmanager
    def running(self) -> Iterator[FickleExecutor]:
        thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.break_connections()
            self.server_close()
            thread.join(5)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FickleExecutor
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.endswith("/ready"):
            self._reply(503 if self.server.mode == "not_ready" else 200, {})
        else:
            extensions: Any = 5 if self.server.mode == "malformed" else []
            self._reply(200, {"name": "fickle", "extensions": extensions})

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        server.runs += 1
        if server.wrong_after is not None and server.runs > server.wrong_after:
            server.mode = "shifted"
        mode = server.mode
        if mode == "slow":
            time.sleep(server.delay)
        if mode == "status":
            self._reply(500, {"error": "it broke"})
            return
        (tensor,) = document["inputs"]
        info = server.session.get_inputs()[0]
        dtype = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[info.type]
        x = np.array(tensor["data"], dtype).reshape(tensor["shape"])
        (y,) = server.session.run(["y"], {"x": x})
        self._answer(mode, y)

    def _answer(self, mode: str, y: Any) -> None:
        if mode == "shifted":
            y = y.copy()
            y.reshape(-1)[-1] += 1
        if mode == "short":
            y = y[:-1]
        datatype = "FP32" if mode == "float" or y.dtype == np.float32 else "INT32"
        output = {"name": "y", "datatype": datatype, "shape": list(y.shape), "data": y.reshape(-1).tolist()}
        outputs = [output, {**output, "name": "other"}] if mode == "extra" else [output]
        if mode == "garbage":
            self._send(200, b"<html>")
        elif mode == "huge":
            self._send(200, bytes(80 << 20))
        elif mode == "cut":
            self._send(200, b'{"outputs": [', announced=1000)
            self.close_connection = True
        else:
            self._reply(200, {"model_name": "fickle", "outputs": outputs})
            self.close_connection = mode == "drop"

    def _reply(self, status: int, document: dict[str, Any]) -> None:
        self._send(status, json.dumps(document).encode())

    def _send(self, status: int, body: bytes, announced: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body) if announced is None else announced))
        self.end_headers()
        self.wfile.write(body)
