"""The child that first reads a stranger's file: what it may still do, and that it and its group end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from assay.node.models.confined import MAX_ANSWER, Outcome, run_confined

PROBE = "tests.support.confined_probe"


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[5]))
    monkeypatch.setenv("NODE_PASSWORD", "secret")


def run(mode: str, seconds: float = 20.0, threads: int = 1) -> Outcome:
    return run_confined(PROBE, {"mode": mode, "threads": threads}, seconds)


def probe(mode: str, threads: int = 1) -> dict[str, Any]:
    outcome = run(mode, threads=threads)
    assert outcome.status == 0
    found: dict[str, Any] = json.loads(outcome.answer)
    return found


@pytest.mark.parametrize(
    "mode",
    [
        "plain",
        "bare",
        pytest.param("user", marks=pytest.mark.skipif(os.geteuid() != 0, reason="plain is a user already")),
    ],
)
def test_lock_down__with_and_without_namespaces__leaves_no_file_socket_process_or_memory(mode: str) -> None:
    found = probe(mode)
    assert not found["root"]
    refused = {name: found[name] for name in ("read", "write", "socket", "pair", "fork", "thread", "memory")}
    assert all(what.startswith("refused") for what in refused.values()), refused
    assert found["raise"].startswith("refused")


def test_lock_down__more_threads_than_one__still_no_file_or_socket() -> None:
    found = probe("plain", threads=2)
    assert found["thread"].startswith("done")
    assert all(found[name].startswith("refused") for name in ("read", "write", "socket"))


def test_run_confined__environment_and_folder__hold_nothing_of_the_parents() -> None:
    found = probe("plain")
    assert "NODE_PASSWORD" not in found["environment"]
    assert set(found["environment"]) <= {
        *("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "LC_CTYPE"),
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    }


def test_run_confined__open_files_of_the_parent__are_not_inherited(tmp_path: Path) -> None:
    """Whatever the parent has open, the child's attempt at the number finds nothing there."""
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        assert run("plain").status == 0
        outcome = run_confined(f"{PROBE}_files", {}, 20)
    assert json.loads(outcome.answer) == [0, 1, 2]


def test_run_confined__hangs__is_ended_in_time() -> None:
    started = time.monotonic()
    assert run("hang", 1.0).status is None
    assert time.monotonic() - started < 5


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_lock_down__parent_is_killed__ends_with_it() -> None:
    program = (
        "import json, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-m', '{PROBE}'], stdin=subprocess.PIPE, "
        "stdout=subprocess.PIPE, start_new_session=True)\n"
        "child.stdin.write(json.dumps({'mode': 'wait', 'threads': 1}).encode() + b'\\n')\n"
        "child.stdin.close()\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    deadline = time.monotonic() + 10
    while child.is_running() and _is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not (child.is_running() and _is_alive(child))


def test_run_confined__writes_without_end__is_cut_off_and_ended() -> None:
    outcome = run("flood")
    assert MAX_ANSWER <= len(outcome.answer) <= MAX_ANSWER + 65_536


def test_run_confined__leaves_a_process_behind__ends_it_too() -> None:
    outcome = run("orphan", 1.5)
    leader = int(outcome.answer)

    def left() -> list[psutil.Process]:
        return [p for p in psutil.process_iter() if _group(p) == leader and _is_alive(p)]

    deadline = time.monotonic() + 10  # a killed process takes a moment to end
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _group(process: psutil.Process) -> int:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return 0
