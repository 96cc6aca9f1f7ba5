"""SIGTERM amid paid traffic over HTTP: what is in progress is finished, signed, written and answered; then
the process ends."""

from __future__ import annotations

import json
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import httpx
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.log import ReceiptLog

from tests.support.nodes import Consumer
from tests.support.oip_world import PRICE, World, oip_world

ASKING: Final = 8
X: Final = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.0]}


def ask(world: World, consumer: Consumer, receipts: list[dict[str, Any]], ended: list[str]) -> None:
    """One paid request after another over one connection, until one is not answered."""
    with httpx.Client(timeout=20, trust_env=False) as client:
        while not ended:
            voucher = world.voucher(consumer, PRICE * (len(receipts) + 1), len(receipts))
            body = {"inputs": [X], "parameters": voucher}
            try:
                answer = client.post(f"http://{world.http}/v2/models/paid/infer", json=body)
            except httpx.TransportError as error:
                ended.append(type(error).__name__)
                return
            if answer.status_code != 200:
                ended.append(str(answer.json()["code"]))
                return
            receipts.append(json.loads(answer.json()["parameters"]["receipt"]))


def test_stop__paid_requests_in_progress__each_receipt_is_answered_and_in_the_tables(tmp_path: Path) -> None:
    with oip_world(tmp_path) as world:
        consumers = [world.consumer(10**6) for _ in range(ASKING)]
        receipts: list[list[dict[str, Any]]] = [[] for _ in consumers]
        ended: list[list[str]] = [[] for _ in consumers]
        threads = [
            threading.Thread(target=ask, args=(world, *one))
            for one in zip(consumers, receipts, ended, strict=True)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while min(map(len, receipts)) < 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert world.node.stop() == 0
        for thread in threads:
            thread.join(30)
        assert min(map(len, receipts)) >= 10
        assert {why for (why,) in ended} <= {"not_ready", "ConnectError", "RemoteProtocolError", "ReadError"}
        log = ReceiptLog(
            SqliteDatabase(world.node.folder / "receipts.sqlite3"), world.network.domain, world.node.operator
        )
        with closing(log), log.database.session() as tables:
            written = tables.execute("SELECT count(*) FROM receipts").fetchone()
            for consumer, answered in zip(consumers, receipts, strict=True):
                (state,) = log.channels_of(consumer.address)
                assert [one["sequence"] for one in answered] == list(range(1, state.sequence + 1))
            assert written == (sum(map(len, receipts)),)
