"""What the doctor looks at of engines: memory for versions and runs, and servers that run versions."""

from __future__ import annotations

import asyncio
from typing import Final

from assay.errors import AssayError
from assay.node.config import MIB, NodeConfig
from assay.node.finding import Finding
from assay.node.models.loader import Prepared
from assay.node.models.memory import machine_bytes
from assay.node.remote.executor import Executor
from assay.node.remote.opening import RemoteVersion, executor_of
from assay.node.startup import memory_budget

MAX_ANSWER: Final = 64 * MIB


def check_memory(config: NodeConfig) -> Finding:
    """Versions and runs together against what the machine, or the control group, has."""
    budget, runs, machine = memory_budget(config).size, config.limits.arena_mib * MIB, machine_bytes()
    detail = f"{budget // MIB} MiB for versions and {runs // MIB} MiB for runs, of {machine // MIB} MiB"
    if budget + runs > machine:
        cure = "lower budget_mib in [memory] or arena_mib in [limits] of node.toml, or give it more memory"
        return Finding("memory", False, detail, cure)
    return Finding("memory", True, detail)


def cost_of(prepared: Prepared) -> str:
    """What a version takes here; nothing is said of one that runs elsewhere."""
    if prepared.remote is not None:
        return ""
    size, seconds = prepared.memory_bytes, prepared.inspection.run_seconds
    return f", runs in {seconds * 1000:.1f} ms, takes {-(-size // MIB)} MiB"


def check_executor(remote: RemoteVersion, name: str) -> Finding:
    """Whether it is there, is the version, and reproduces the self-test."""
    executor = executor_of(remote, MAX_ANSWER)
    try:
        binary = asyncio.run(_verify(executor))
    except AssayError as error:
        cure = "start it, or correct executor, executor_model and executor_version in node.toml"
        return Finding(f"executor of {name}", False, f"{executor.target.url}: {error}", cure)
    form = "binary tensors" if binary else "JSON"
    vectors = f", {len(executor.vectors)} self-test vectors right" if executor.vectors else ""
    return Finding(f"executor of {name}", True, f"{executor.target.url}, {form}{vectors}")


async def _verify(executor: Executor) -> bool:
    connection = await executor.target.connect()
    try:
        return await executor.verify(connection)
    finally:
        connection.close()
        await asyncio.sleep(0)  # lets the event loop close it
