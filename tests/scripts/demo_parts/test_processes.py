"""Real child processes; no sockets but for the choice of a port."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from scripts.demo_parts.processes import DemoError, Processes, choose_port

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True);"
    " time.sleep(60)",
]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path / "logs")
    yield started
    started.stop_all()


def test_stop_all__running_and_stubborn_children__all_are_gone(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.demo_parts.processes.STOP_SECONDS", 0.5)
    plain, stubborn = processes.start("plain", SLEEP, {}), processes.start("stubborn", STUBBORN, {})
    while "ready" not in stubborn.tail():
        time.sleep(0.02)
    processes.stop_all()
    assert not psutil.pid_exists(plain.process.pid)
    assert not psutil.pid_exists(stubborn.process.pid)


def test_run__command_fails__tells_its_words_and_log(processes: Processes) -> None:
    with pytest.raises(DemoError, match=r"ended with 3 [\s\S]*no luck"):
        processes.run("bad", [sys.executable, "-c", "import sys; print('no luck'); sys.exit(3)"], {})


def test_wait_until_ready__process_ends__fails_at_once_with_its_log(processes: Processes) -> None:
    processes.start("short", [sys.executable, "-c", "print('cannot listen')"], {}).process.wait()
    with pytest.raises(DemoError, match="cannot listen"):
        processes.wait_until_ready("short", "http://127.0.0.1:9/")


def test_restart__after_kill__same_command_and_log(processes: Processes) -> None:
    first = processes.start("one", SLEEP, {})
    processes.kill("one")
    assert first.process.returncode == -9
    again = processes.restart("one")
    assert again.process.poll() is None
    assert (again.command, again.log) == (first.command, first.log)


@pytest.mark.network
def test_choose_port__preferred_is_taken__gives_another() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert choose_port(port) not in (0, port)
