"""What a child process that reads a stranger's file may use."""

from __future__ import annotations

import resource


def limit_process(memory: int, cpu_seconds: int) -> None:
    """Bytes of address space, seconds of processor; no files written, no core dumps."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
