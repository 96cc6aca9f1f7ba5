"""What the node's service does besides inference."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from assay.node.receipts.entries import Acknowledge, ChannelKey
from assay.node.service import Service

from tests.backend.unit.node.payments.test_gate import CONSUMER, DOMAIN, NODE, PRICE, SIGNER, VERSION, Desk


class CountingWriter:
    """Writes at once into the log."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.written: list[Acknowledge] = []

    async def submit(self, item: Acknowledge) -> None:
        self.written.append(item)
        self.desk.log.write([item], SIGNER)


@pytest.mark.network  # an event loop needs a socket pair
def test_acknowledge__same_voucher_again__costs_no_write(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    writer: Any = CountingWriter(desk)
    parts: dict[str, Any] = dict.fromkeys(("pool", "metrics"))
    catalog: Any = SimpleNamespace(get=lambda version_id: SimpleNamespace(version_id=version_id))
    service = Service(
        domain=DOMAIN,
        node=NODE,
        signer=SIGNER.address,
        catalog=catalog,
        follower=desk.follower,
        gate=desk.gate,
        log=desk.log,
        writer=writer,
        max_elements=1,
        **parts,
    )

    async def scenario() -> list[dict[str, Any]]:
        await desk.follower.poll()
        await desk.serve(PRICE)
        return [await service.acknowledge(desk.terms(PRICE, 1)) for _ in range(20)]

    answers = asyncio.run(scenario())
    assert [(answer["amount"], answer["count"]) for answer in answers] == [(str(PRICE), "1")] * 20
    assert len(writer.written) == 1
    state = desk.log.channel(ChannelKey(VERSION, CONSUMER.address))
    assert (state.amount, state.voucher and state.voucher.count) == (PRICE, 1)
    desk.log.close()
