"""A thread beside the server does not end because one step went wrong."""

from __future__ import annotations

import sqlite3
import threading

from assay.errors import FatalError
from assay.node.settlement.repeating import RepeatingThread


class Failing:
    """`step` raises the errors one after the other, and is quiet after them."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.was_quiet = threading.Event()

    def step(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.was_quiet.set()


def start(part: Failing, failures: list[FatalError]) -> RepeatingThread:
    thread = RepeatingThread("part", part.step, 0.001, failures.append)
    thread.start()
    return thread


def test_run__something_unforeseen__goes_on() -> None:
    part = Failing(sqlite3.OperationalError("database is locked"), KeyError("dispute_id"), MemoryError())
    failures: list[FatalError] = []
    thread = start(part, failures)
    assert part.was_quiet.wait(10)
    thread.stop(10)
    assert not thread.is_alive()
    assert failures == []


def test_run__fatal_error__ends_and_tells() -> None:
    error = FatalError("another chain")
    failures: list[FatalError] = []
    thread = start(Failing(error), failures)
    thread.join(10)
    assert not thread.is_alive()
    assert failures == [error]
