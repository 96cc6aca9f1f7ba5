"""Each connection is an open file, of which a process may have 1,024 where nobody says otherwise: the
connections alone would leave none for the log and the chain, and no newcomer would be heard."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

import structlog

from assay.node.config import NodeConfig

KEPT: Final = 256
"""For all but connections: the log, the chain, artifacts, threads, connections that are told to go."""

_log = structlog.get_logger(__name__)


def max_connections(config: NodeConfig) -> int:
    """The configured number, of each protocol: as many open files are asked of the system. Fewer, and a
    warning, where it does not give them."""
    wanted, doors = config.limits.max_connections, 2 if config.grpc.port else 1
    kept = KEPT + sum(version.executor_connections for version in config.versions if version.executor)
    given = raise_limit(kept + doors * wanted)
    found = min(wanted, max(given - kept, given // 2) // doors)
    if found < wanted:
        _log.warning(
            "fewer connections are taken than node.toml says: let the process open more files (`ulimit -n`, "
            "LimitNOFILE)",
            max_connections=found,
            open_files=given,
            wanted=kept + doors * wanted,
        )
    return found


def raise_limit(files: int) -> int:
    """So many open files, if the system lets this process have them; how many it has."""
    soft, hard = (
        files if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    if soft < files and soft < hard:
        with contextlib.suppress(OSError, ValueError):  # macOS has a limit below the one that it tells
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(files, hard), hard))
            return min(files, hard)
    return soft
