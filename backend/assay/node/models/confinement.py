"""How the child that first reads a stranger's file gives up what it could do harm with. Needs no privileges.

`isolate` comes first, while the process has one thread: network and IPC namespaces of its own where the
system gives them, and a user namespace to whoever is not root. `lock_down` comes last before the file is
parsed, when everything that will be needed is imported: root becomes the user 65534, and RLIMIT_NOFILE is 0,
so that neither a file nor a socket can be opened any more, with or without namespaces. Where root may not
change its user (it has no CAP_SETUID, hence hardly the capability that lifts limits), RLIMIT_NPROC does not
bind it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import sys
from typing import Final

from assay.node.child import end_with_parent

CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWNET: Final = 0x4000_0000
NOBODY: Final = 65534
EXTRA_THREADS: Final = 8
_PER_NAMESPACE: Final = (5, 14)
"""Since this kernel RLIMIT_NPROC counts a user namespace's own processes."""


def isolate() -> bool:
    """Whether this process has a user namespace of its own now. Call it before any thread is started: a
    process with threads cannot leave its user namespace (unshare(2))."""
    if sys.platform != "linux":
        return False
    unshare = ctypes.CDLL(None).unshare
    if os.geteuid() == 0:
        unshare(CLONE_NEWNET | CLONE_NEWIPC)
        return False
    return not unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC)


def lock_down(memory: int, cpu_seconds: int, threads: int, *, isolated: bool) -> None:
    """From now on: `memory` bytes of address space, seconds of processor, no new file, socket or process; it
    ends with its parent.

    `isolated`: what `isolate` said. With `threads` above 1, processes are bounded only where the kernel
    counts them by namespace: elsewhere RLIMIT_NPROC would count what else the user runs.
    """
    if os.geteuid() == 0:
        _become_nobody()
    end_with_parent()
    if threads == 1:
        _limit(resource.RLIMIT_NPROC, 0)
    elif isolated and _kernel() >= _PER_NAMESPACE:
        _limit(resource.RLIMIT_NPROC, threads + EXTRA_THREADS)
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_CPU, cpu_seconds)
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NOFILE):
        _limit(kind, 0)


def _limit(kind: int, value: int) -> None:
    """Or what the system has set, if that is less: nobody may raise it."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _become_nobody() -> None:
    with contextlib.suppress(OSError):
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def _kernel() -> tuple[int, ...]:
    parts = platform.release().split(".")[:2]
    return tuple(int(part) for part in parts if part.isdecimal())
