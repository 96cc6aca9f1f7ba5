"""Runs that do not end by themselves are stopped, wherever they run."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from assay.node.engines import watchdog
from assay.node.engines.watchdog import Watchdog
from assay.node.errors import RunFailed

from tests.support.engines import endless_model, runner_of

X = np.ones((1, 1), np.float32)


def wait_for(run: SimpleNamespace) -> float:
    """Seconds until it is told to end."""
    started = time.monotonic()
    while not run.terminate and time.monotonic() < started + 5:
        time.sleep(0.005)
    return time.monotonic() - started


def test_arm__time_is_over__stops_that_run_alone() -> None:
    dog = Watchdog()
    short, long = SimpleNamespace(terminate=False), SimpleNamespace(terminate=False)
    token = dog.arm(long, 60)
    dog.arm(short, 0.1)
    assert 0.05 < wait_for(short) < 1
    assert not long.terminate
    assert dog.disarm(token)


def test_disarm__before_its_time__is_never_stopped() -> None:
    dog, run = Watchdog(), SimpleNamespace(terminate=False)
    assert dog.disarm(dog.arm(run, 0.05))
    time.sleep(0.2)
    assert not run.terminate


def test_disarm__after_its_time__says_so() -> None:
    dog, run = Watchdog(), SimpleNamespace(terminate=False)
    token = dog.arm(run, 0.0)
    assert not dog.disarm(token)


def test_arm__after_a_pause__wakes_the_thread_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "IDLE_SECONDS", 0.05)
    dog = Watchdog()
    dog.disarm(dog.arm(SimpleNamespace(terminate=False), 1))
    time.sleep(0.3)
    assert dog._is_idle
    run = SimpleNamespace(terminate=False)
    dog.arm(run, 0.1)
    assert wait_for(run) < 1


def test_arm__many_threads_at_once__stops_all_that_are_late() -> None:
    dog = Watchdog()
    late = [SimpleNamespace(terminate=False) for _ in range(20)]

    def work(run: SimpleNamespace) -> None:
        for _ in range(50):
            dog.disarm(dog.arm(SimpleNamespace(terminate=False), 9))
        dog.arm(run, 0.05)

    threads = [threading.Thread(target=work, args=(run,)) for run in late]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(wait_for(run) < 2 for run in late)


def test_run__endless_loop__is_stopped_and_the_next_run_is_not() -> None:
    runner = runner_of(endless_model(), 0.3)
    started = time.monotonic()
    with pytest.raises(RunFailed, match="was stopped"):
        runner.run([X])
    assert 0.2 < time.monotonic() - started < 3
    assert runner.run([0 * X])[0].tolist() == [[0.0]]
