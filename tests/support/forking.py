"""Processes that tests kill, forked from one that has imported what they need: a second of CPU less for each.

code, said = run_forked(main, "argument", folder=tmp_path); assert code in (0, -signal.SIGKILL), said
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRELOADED = ["tests.support.settle_once", "tests.backend.integration.chain.sending_process"]


def run_forked(function: Callable[..., None], *arguments: Any, seconds: float = 120.0) -> tuple[int, str]:
    """`function` of a module in a process of its own: its exit status, minus a signal's number, and what it
    wrote to standard error.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.NamedTemporaryFile() as errors:
        process = context.Process(target=_run, args=(errors.name, function, arguments))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{function.__module__} took longer than {seconds:.0f} s")
        return process.exitcode, Path(errors.name).read_text()


def _run(errors: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    with Path(errors).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 2)
    function(*arguments)
