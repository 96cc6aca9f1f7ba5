"""After the traffic: batches are posted, the dispute window passes, nodes collect, the index catches up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
from assay.chain.contracts import Settlement
from assay.node.config import LOG_FILE
from assay.node.receipts.database import SqliteDatabase

from .processes import DemoError
from .world import DISPUTE_WINDOW, World

PATIENCE_SECONDS = 60.0


def wait_until(what: str, is_true: Callable[[], bool]) -> None:
    """Raises DemoError when it does not come true in time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        if time.monotonic() > deadline:
            raise DemoError(
                f"waited {PATIENCE_SECONDS:.0f} s in vain until {what}; the logs of both nodes may say why"
            )
        time.sleep(0.2)


def count_rows(world: World, node: str, query: str) -> int:
    with SqliteDatabase(world.data(node) / LOG_FILE).session() as log:
        ((count,),) = log.execute(query)
    return int(count)


def wait_until_posted(world: World) -> None:
    """Until no node holds a receipt or a batch that is not on the chain."""
    queries = (
        "SELECT coalesce(sum(sequence - closed), 0) FROM channels WHERE sequence > closed",
        "SELECT count(*) FROM batches WHERE state = 'closed'",
    )
    names = [node.name for node in world.nodes]
    wait_until(
        "every batch is posted", lambda: not any(count_rows(world, n, q) for n in names for q in queries)
    )


def pass_dispute_window(world: World) -> None:
    world.chain.request("evm_increaseTime", [hex(DISPUTE_WINDOW)])
    world.chain.request("evm_mine")


def wait_until_collected(world: World) -> None:
    """Until the nodes have collected their batches and drawn what they earned."""
    settlement = Settlement(world.chain, world.deployment)

    def is_done() -> bool:
        open_batches = "SELECT count(*) FROM batches WHERE state != 'collected'"
        return not any(
            count_rows(world, node.name, open_batches) or settlement.claimable(node.address)
            for node in world.nodes
        )

    wait_until("the nodes have collected and claimed", is_done)


def get(world: World, path: str) -> dict[str, Any]:
    """A reply of the REST API."""
    reply = httpx.get(world.urls["api"] + path, timeout=10, trust_env=False)
    reply.raise_for_status()
    data: dict[str, Any] = reply.json()
    return data


def wait_until_indexed(world: World, batches: int) -> dict[str, Any]:
    """Until the index is at the chain's head and has checked every batch; returns the network's figures."""
    head = world.chain.block_number()

    def is_done() -> bool:
        page = get(world, "/v1/batches?limit=100")
        checked = [item for item in page["items"] if item["availability"] != "unchecked"]
        return page["indexed_block"] >= head and len(checked) == batches

    wait_until("the index has caught up", is_done)
    return get(world, "/v1/network")


def availability(world: World) -> list[str]:
    """What the index found when it fetched each batch's receipts."""
    return [item["availability"] for item in get(world, "/v1/batches?limit=100")["items"]]
