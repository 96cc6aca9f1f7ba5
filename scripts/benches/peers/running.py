"""One peer as a running process: how it is started, asked, checked, and kept from the core when it is not
measured."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.benches.load.cores import on_cores
from scripts.benches.load.grpc import grpc_request
from scripts.benches.load.loops import ask
from scripts.benches.load.plan import Buffers, Plan
from scripts.benches.load.wire import plain_request
from scripts.benches.peers.install import SERVERS, Peer
from scripts.benches.peers.protobuf import infer_message, raw_output
from scripts.benches.workloads import Workload
from tests.support.nodes import free_port

READY_SECONDS = 90.0
END_SECONDS = 10.0
MLSERVER = "from mlserver.cli import main; main()"
JSON = {"content-type": "application/json"}
Array = NDArray[Any]


@dataclass(frozen=True)
class Kind:
    """How a server is started and spoken to."""

    command: Callable[[Path, int, Path], list[str]]
    """(environment, port, its folder) → what starts it."""
    request: Callable[[Workload], Buffers]
    read: Callable[[bytes], Array]
    """The outputs in an answer."""
    is_grpc: bool = False


@dataclass(frozen=True)
class Running:
    """A peer that serves `workload`; stopped, so that it takes no time, but while it is `awake`."""

    name: str
    port: int
    workload: Workload
    process: subprocess.Popen[bytes]

    def plan(self, seconds: float, connections: int, warmup: float) -> Plan:
        kind = KINDS[self.name]
        fixed = kind.request(self.workload)
        return Plan(self.port, seconds, connections, warmup, fixed=fixed, is_grpc=kind.is_grpc)

    def check(self, answer: bytes) -> None:
        """Raises AssertionError unless it is the model's."""
        expected = self.workload.run(self.workload.row)
        output = KINDS[self.name].read(answer).reshape(expected.shape)
        np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-4)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGSTOP)


@contextlib.contextmanager
def started(peer: Peer, workload: Workload, cores: Sequence[int]) -> Iterator[Running]:
    """Raises RuntimeError with the server's last words if it does not come up."""
    port = free_port()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "model.onnx").write_bytes(workload.artifact)
        log = folder / "log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"MODEL": str(folder / "model.onnx"), "PORT": str(port), "PYTHONPATH": str(SERVERS)}
        with on_cores(cores), log.open("wb") as out:
            command = KINDS[peer.name].command(peer.environment, port, folder)
            process = subprocess.Popen(
                command, cwd=folder, stdout=out, stderr=out, env=environment, start_new_session=True
            )
        running = Running(peer.name, port, workload, process)
        try:
            _wait(running, log)
            with running.awake():
                pass
            yield running
        finally:
            _end(process)


def _wait(running: Running, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    plan = running.plan(0.0, 1, 0.0)
    while True:
        found = None
        with contextlib.suppress(OSError):
            found = ask(plan)
        if found and found[0] == 200:
            running.check(found[1])
            return
        if running.process.poll() is not None or time.monotonic() > deadline:
            words = log.read_text(errors="replace")[-1500:]
            raise RuntimeError(f"{running.name} does not serve; it answered {found} and said:\n{words}")
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it started."""
    for number in (signal.SIGCONT, signal.SIGTERM):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _json_request(one: Workload) -> dict[str, Any]:
    row = one.row
    tensor = {
        "name": one.input_name,
        "datatype": "FP32",
        "shape": list(row.shape),
        "data": row.ravel().tolist(),
    }
    return {"inputs": [tensor]}


def _start_mlserver(environment: Path, port: int, folder: Path, spoken: str = "grpc_port") -> list[str]:
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": free_port(),
        "grpc_port": free_port(),
        spoken: port,
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "use_structured_logging": False,
    }
    model = {"name": "mlp", "implementation": "mlserver_runtime.OnnxModel"}
    (folder / "settings.json").write_bytes(_json(settings))
    (folder / "model-settings.json").write_bytes(_json(model))
    return [str(environment / "bin" / "python"), "-c", MLSERVER, "start", str(folder)]


def _start_script(name: str) -> Callable[[Path, int, Path], list[str]]:
    def command(environment: Path, port: int, folder: Path) -> list[str]:
        return [str(environment / "bin" / "python"), str(SERVERS / name), *_port_options(name, port)]

    return command


def _port_options(name: str, port: int) -> list[str]:
    return ["--address", "127.0.0.1", "--port", str(port)] if name.startswith("mosec") else []


KINDS = {
    "mlserver": Kind(
        _start_mlserver,
        lambda one: grpc_request(
            "/inference.GRPCInferenceService/ModelInfer", infer_message("mlp", one.input_name, one.row)
        ),
        raw_output,
        is_grpc=True,
    ),
    "mlserver_json": Kind(
        partial(_start_mlserver, spoken="http_port"),
        lambda one: (plain_request("/v2/models/mlp/infer", _json(_json_request(one)), JSON),),
        lambda answer: np.array(json.loads(_body(answer))["outputs"][0]["data"], np.float32),
    ),
    "litserve": Kind(
        _start_script("litserve_server.py"),
        lambda one: (plain_request("/predict", _json({"input": one.row.tolist()}), JSON),),
        lambda answer: np.array(json.loads(_body(answer))["output"], np.float32),
    ),
    "mosec": Kind(
        _start_script("mosec_server.py"),
        lambda one: (plain_request("/inference", one.row.tobytes(), {}),),
        lambda answer: np.frombuffer(_body(answer), np.float32),
    ),
}
