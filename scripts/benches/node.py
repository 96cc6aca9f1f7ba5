"""Requests a second through a real node process, each with a durable signed receipt, against ONNX Runtime.

The node runs on a real chain (Anvil) with the production server; the load comes from a process of its own
over 16 connections, one row a request, binary tensors. The reference is `session.run` of one row in a loop,
in this run.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from assay.commitments.manifest import Manifest
from assay.node.config import SettlementConfig
from assay.node.runtime import build_session, session_specs
from assay.types import Address
from numpy.typing import NDArray

from tests.support.nodes import Consumer, NodeUnderTest, Published, local_network
from tests.support.onnx_models import manifest_of

CONNECTIONS = 16
REQUESTS = 500
"""For each connection and round."""
ROUNDS = 3
PRICE = 5
DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits" / "model.onnx"


def manifest(session: ort.InferenceSession) -> Manifest:
    return manifest_of(*session_specs(session))


def one_row(session: ort.InferenceSession) -> NDArray[Any]:
    (spec,) = session_specs(session)[0]
    shape = tuple(1 if dim == -1 else dim for dim in spec.shape)
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def raw_rows_per_second(session: ort.InferenceSession, row: NDArray[Any], seconds: float = 2.0) -> float:
    feeds = {session.get_inputs()[0].name: row}
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        for _ in range(50):
            session.run(None, feeds)
        count += 50
    return count / elapsed


def http_request(
    node: NodeUnderTest, published: Published, row: NDArray[Any], name: str, parameters: dict[str, Any]
) -> bytes:
    raw = row.tobytes()
    tensor = {
        "name": name,
        "datatype": "FP32",
        "shape": list(row.shape),
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True, **parameters}}).encode()
    lines = [
        f"POST {published.path}/infer HTTP/1.1",
        f"host: 127.0.0.1:{node.port}",
        "content-type: application/octet-stream",
        f"inference-header-content-length: {len(head)}",
        f"content-length: {len(head) + len(raw)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + head + raw


def drive(node: NodeUnderTest, work: list[list[bytes]], folder: Path) -> dict[str, Any]:
    """Send `work` from another process. Raises RuntimeError if a request was refused."""
    file = folder / "work"
    file.write_bytes(pickle.dumps(work))
    command = [sys.executable, "-m", "scripts.benches.node_load", "127.0.0.1", str(node.port), str(file)]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=300).stdout)
    if answer["failures"]:
        raise RuntimeError(f"requests were refused: {answer['failures']}")
    return dict(answer)


def paid_work(
    node: NodeUnderTest,
    published: Published,
    consumers: list[Consumer],
    row: NDArray[Any],
    name: str,
    first: int,
) -> list[list[bytes]]:
    """Each connection is a consumer that pays request by request and acknowledges what it has."""

    def request(consumer: Consumer, n: int) -> bytes:
        voucher = consumer.voucher(Address(node.operator), published.version_id, n * PRICE, n - 1)
        return http_request(node, published, row, name, voucher)

    return [[request(consumer, n) for n in range(first, first + REQUESTS)] for consumer in consumers]


def rows_of(name: str, best: dict[str, Any], raw: float) -> list[dict[str, Any]]:
    """Requests a second against `raw` of them, then two percentiles of a request's time at that load."""
    rate = best["requests"] / best["seconds"]
    row = {"name": name, "value": round(rate, 1), "unit": "requests/s"}
    percentiles = [
        {
            "name": f"{name.removesuffix('_over_raw')}_{which}_ms",
            "value": round(best[f"{which}_us"] / 1_000, 2),
            "unit": f"ms, {CONNECTIONS} connections",
            "reference": None,
            "ratio": None,
        }
        for which in ("p50", "p99")
    ]
    return [row | {"reference": round(raw, 1), "ratio": round(rate / raw, 3)}, *percentiles]


def run() -> list[dict[str, Any]]:
    """`node_over_raw` (unpaid, signed) and `node_paid_over_raw`; the best of the rounds, each beside its
    reference."""
    data = DIGITS.read_bytes()
    session = build_session(data)
    row = one_row(session)
    name = session.get_inputs()[0].name
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with local_network(folder) as network:
            node = network.add_node(settlement=SettlementConfig(poll_seconds=1, max_age_seconds=3600))
            free = network.publish("free", data, manifest(session))
            paid = network.publish("paid", data, manifest(session))
            node.offer(free, 0)
            node.offer(paid, PRICE)
            funds = PRICE * REQUESTS * ROUNDS
            consumers = [network.add_consumer((node.operator, funds)) for _ in range(CONNECTIONS)]
            with node.running():
                unpaid = [[http_request(node, free, row, name, {})] * REQUESTS] * CONNECTIONS
                found: dict[str, list[dict[str, Any]]] = {"node_over_raw": [], "node_paid_over_raw": []}
                raw = 0.0
                for i in range(ROUNDS):
                    raw = max(raw, raw_rows_per_second(session, row))
                    found["node_over_raw"].append(drive(node, unpaid, folder))
                    work = paid_work(node, paid, consumers, row, name, i * REQUESTS + 1)
                    found["node_paid_over_raw"].append(drive(node, work, folder))
    return [
        row
        for kind, rounds in found.items()
        for row in rows_of(kind, max(rounds, key=lambda r: r["requests"] / r["seconds"]), raw)
    ]


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
