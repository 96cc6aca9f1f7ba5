"""What a confined process can still do; run by tests as `python -m tests.support.confined_probe`.

Reads `{"mode", "threads"}`; writes what came of each attempt, as JSON. Mode `bare`: namespaces are refused,
as in many containers; `user`: root starts it as somebody else; `wait`: locked down, it sleeps; `hang`,
`flood` and `orphan`: it never ends, writes for ever, leaves a process behind.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from assay.node.models.confinement import isolate, lock_down


def attempt(action: Callable[[], object]) -> str:
    try:
        return f"done: {action()}"
    except (OSError, ValueError, MemoryError, RuntimeError) as error:
        return f"refused: {type(error).__name__} {getattr(error, 'errno', '')}".strip()


def fork() -> int:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def start_thread() -> None:
    thread = threading.Thread(target=time.sleep, args=(0,))
    thread.start()
    thread.join()


def probe(mode: str, threads: int) -> dict[str, object]:
    if mode == "user":
        os.setresuid(65_533, 65_533, 65_533)
    isolated = mode != "bare" and isolate()
    lock_down(2 << 30, 5, threads, isolated=isolated)
    return {
        "isolated": isolated,
        "root": os.geteuid() == 0,
        "environment": sorted(os.environ),
        "read": attempt(lambda: Path("/etc/hostname").read_text()),
        "write": attempt(lambda: Path("left-behind").write_text("x")),
        "socket": attempt(socket.socket),
        "pair": attempt(socket.socketpair),
        "fork": attempt(fork),
        "thread": attempt(start_thread),
        "memory": attempt(lambda: len(bytearray(3 << 30))),
        "raise": attempt(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))),
    }


def main() -> None:
    job = json.loads(sys.stdin.readline())
    if job["mode"] == "hang":
        time.sleep(600)
    elif job["mode"] == "wait":
        isolated = isolate()
        lock_down(2 << 30, 60, job["threads"], isolated=isolated)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        time.sleep(600)
    elif job["mode"] == "flood":
        while True:
            sys.stdout.write("x" * 65_536)
    elif job["mode"] == "orphan":
        if os.fork():
            sys.stdout.write(str(os.getpid()) + "\n")
            sys.stdout.flush()
            os._exit(0)
        time.sleep(600)
    else:
        sys.stdout.write(json.dumps(probe(job["mode"], job["threads"])))


if __name__ == "__main__":
    main()
