"""KServe's Python client, REST and gRPC, unchanged, against a real node; beside this project's messages."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.oip_world import PRICE, World
from tests.support.venvs import peer_environment, peer_python

SCRIPT = Path(__file__).parents[3] / "support" / "kserve_client.py"


@pytest.fixture
def world(clients_world: World) -> World:
    return clients_world


def ask(world: World, **environment: str) -> dict[str, Any]:
    consumer = world.consumer()
    vouchers = [world.voucher(consumer, PRICE * number, number - 1) for number in (1, 2)]
    command = [
        *(str(peer_python("kserve")), "-W", "ignore", str(SCRIPT), f"http://{world.http}", world.grpc),
        *(world.name(world.free), world.paid.name, json.dumps(vouchers)),
    ]
    done = subprocess.run(
        command,
        env=peer_environment() | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


STUBS_FIRST = """
import importlib.util, pathlib
(folder,) = importlib.util.find_spec("kserve").submodule_search_locations
path = pathlib.Path(folder, "protocol", "grpc", "grpc_predict_v2_pb2.py")
spec = importlib.util.spec_from_file_location("grpc_predict_v2_pb2", path)
stubs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stubs)
from assay.node.grpc.messages import load_messages
ours = load_messages().ModelInferRequest
theirs = stubs.ModelInferRequest(model_name="m", raw_input_contents=[b"x"])
theirs.parameters["voucher_amount"].int64_param = 7
raw = theirs.SerializeToString(deterministic=True)
assert ours.FromString(raw).SerializeToString(deterministic=True) == raw
assert ours.DESCRIPTOR.file.pool is not theirs.DESCRIPTOR.file.pool
"""


def test_messages__after_kserves_stubs__live_beside_them() -> None:
    """The stubs alone: with the whole client, whose import takes seconds, it is one of the deep tests."""
    command = [str(peer_python("kserve")), "-W", "ignore", "-c", STUBS_FIRST]
    done = subprocess.run(
        command, env=peer_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("first", [pytest.param("", marks=pytest.mark.deep), "1"])
def test_kserve_client__rest_and_grpc__served(world: World, first: str) -> None:
    found = ask(world, ASSAY_FIRST=first)
    answers = []
    for door in (found["rest"], found["grpc"]):
        assert door["live"] and door["ready"] and door["model"]
        answers += [door[kind] for kind in ("json", "typed", "binary") if kind in door]
        assert door["paid"]["receipt"]["price"] == str(PRICE)
        assert "voucher" in door["error"]
    assert len(answers) == 4
    assert all(answer["id"] == "seven" and answer["y"] == answers[0]["y"] for answer in answers)
    assert (
        found["rest"]["paid"]["receipt"]["sequence"] == 1
        and found["grpc"]["paid"]["receipt"]["sequence"] == 2
    )
