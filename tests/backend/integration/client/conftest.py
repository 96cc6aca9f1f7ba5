"""One chain with two nodes for the module; every test is a consumer of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from assay.client import AutoFund, Client

from tests.support.stack import PRICE, Stack, running_stack


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(
        tmp_path_factory.mktemp("stack"), nodes=1, dispute_window=60, escrow_thaw=120, disputes=True
    ) as running:
        running.add_node(price=2 * PRICE, max_receipts=2)
        yield running


@pytest.fixture
def open_client(stack: Stack, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Clients of one fresh consumer, all closed at the end; deposits are allowed unless said otherwise."""
    key = stack.new_consumer()
    clients: list[Client] = []

    def open_client(**options: Any) -> Client:
        given = {"key": key, "auto_fund": AutoFund(10 * PRICE, 200 * PRICE), "data": tmp_path / "client"}
        client = stack.client(**(given | options))
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        client.close()
