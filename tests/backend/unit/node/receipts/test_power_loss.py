"""The log as the next start finds it, whenever the node was killed and whenever its machine failed."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from assay.errors import FatalError
from assay.node.receipts import importing, imports, journal_writer
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.entries import Acknowledge, HeldVoucher, Issue, LoggedReceipt
from assay.node.receipts.importing import Importer, LocalTables
from assay.node.receipts.journal_mark import Mark, open_journal
from assay.node.receipts.journal_writer import JournalWriter
from assay.node.receipts.log import ReceiptLog
from assay.types import Hash32

from tests.backend.unit.node.receipts.test_journal_writer import DOMAIN, KEYS, NODE, SIGNER
from tests.conftest import DEEP
from tests.support.power_loss import Disk, KilledError, State

pytestmark = pytest.mark.network  # an event loop needs a socket pair

FILE = "log.sqlite3"
SMALL = 4096
PRICE = 3


class HeldTables(LocalTables):
    """Takes nothing while it is held."""

    def __init__(self, importer: Importer) -> None:
        super().__init__(importer)
        self.free, self.is_killed = threading.Event(), False
        self.free.set()

    def take(self, payload: bytes, mark: Mark, *, hurried: bool, synced: bool) -> None:
        self.free.wait()
        if self.is_killed:
            raise FatalError("killed")
        super().take(payload, mark, hurried=hurried, synced=synced)


class Node:
    """A log and what issues into it, of one process; `disk` hears what leaves it."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self.log = ReceiptLog(SqliteDatabase(folder / FILE), DOMAIN, NODE)
        assert isinstance(self.log.database, SqliteDatabase)
        self._connection = self.log.database.open_file()
        self.tables, self._disk = HeldTables(Importer(self._connection)), disk
        try:
            journal = open_journal(self.log.database, folder, SMALL)
            self.writer = JournalWriter(self.log, journal, SIGNER, lambda _: None, tables=self.tables)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()
        self.log.close()

    def abandon(self) -> None:
        """As it is."""
        self.tables.is_killed = True
        self.tables.free.set()
        self.writer._imports._groups.clear()
        self.writer._writes.put(None)
        for thread, end in (
            (self.writer._writing, self.writer._writing.join),
            (self.writer._imports._thread, self.writer._imports.finish),
        ):
            if thread.is_alive():
                end()
        self.writer._connection.close()
        self.writer._journal.close()
        self.close()

    def put(self, item: Issue | Acknowledge) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()

        def done(outcome: LoggedReceipt | Exception | None) -> None:
            assert not isinstance(outcome, Exception)
            assert self._disk is not None
            self._disk.answer(outcome or item)
            future.set_result(None)

        self.writer.put(item, done)
        entry = self.writer._group[-1][0]
        if entry.receipt is not None and self._disk is not None:
            self._disk.signed[entry.receipt.digest] = entry.receipt.signature
        return future

    async def catch_up(self) -> None:
        self.tables.free.set()
        while self.writer._imports.taken < self.writer._journal.number:
            self.writer._imports._hurry.set()  # now, but not for good
            await asyncio.sleep(0.001)

    async def end(self) -> None:
        self.tables.free.set()
        await self.writer.stop()
        self.close()


class Traffic:
    """Items of all kinds, each with a payment of its own; `signed`: what receipts were made of."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._numbers, self._amounts = itertools.count(1), dict.fromkeys(KEYS, 0)

    def item(self) -> Issue | Acknowledge:
        number, key, kind = next(self._numbers), self.random.choice(KEYS), self.random.random()
        self._amounts[key] += PRICE
        voucher = HeldVoucher(self._amounts[key], number, number.to_bytes(65, "big"))
        if kind < 0.1:
            return Acknowledge(key, voucher)
        unique, prepaid = Hash32(number.to_bytes(32, "big")), kind < 0.2
        data = self.random.randbytes(self.random.randrange(1, 1500)) if kind > 0.7 else None
        return Issue(key, unique, unique, PRICE, None if prepaid else voucher, unique, data, prepaid=prepaid)


async def serve(folder: Path, disk: Disk, traffic: Traffic, steps: int) -> None:
    """One process's life, one thing after another."""
    node = Node(folder, disk)
    try:
        node.writer.start()
        for _ in range(steps):
            kind = traffic.random.random()
            if kind < 0.7:
                items = [traffic.item() for _ in range(traffic.random.choice((1, 1, 1, 2, 5)))]
                await asyncio.gather(*map(node.put, items))
            elif kind < 0.8:
                node.tables.free.clear()
            else:
                await node.catch_up()
        if traffic.random.random() < 0.3:
            await node.end()
            return
    except BaseException:
        node.abandon()
        raise
    node.abandon()


def check(disk: Disk, state: State, answered: list[Any], folder: Path) -> None:
    state.put(folder)
    for _ in range(2):  # and again, when the first start was cut off
        node = Node(folder)
        with closing(node.log.database.connect()) as connection:
            rows = connection.execute(
                "SELECT c.sequence, count(r.id), coalesce(max(r.sequence), 0), count(DISTINCT r.sequence)"
                " FROM channels c LEFT JOIN receipts r ON r.channel = c.id GROUP BY c.id"
            ).fetchall()
            assert all(last == count == greatest == different for last, count, greatest, different in rows)
            receipts: dict[bytes, bytes] = dict(
                connection.execute("SELECT digest, signature FROM receipts").fetchall()
            )
            assert receipts.items() <= disk.signed.items()
        for one in answered:
            if isinstance(one, LoggedReceipt):
                assert node.log.receipt(one.digest) == one
            else:
                held = node.log.channel(one.key).voucher
                assert held is not None
                assert held.amount >= one.voucher.amount
        node.abandon()
    shutil.rmtree(folder)


@contextmanager
def watched(folder: Path) -> Iterator[Disk]:
    folder.mkdir()
    with Disk(folder, FILE) as disk:
        for owner, name in (
            (importing.Importer, "write"),
            (journal_writer, "write_mark"),
            (ReceiptLog, "__init__"),
        ):
            disk.commits(owner, name)
        yield disk


def check_all(disk: Disk, folder: Path) -> None:
    found = list(disk.states())
    for number, (state, answered) in enumerate(found):
        check(disk, state, answered, folder / f"state-{number}")
    everything = max((answered for _, answered in found), key=len)
    answers = [one for one in everything if isinstance(one, LoggedReceipt)]
    assert len({(one.key, one.issued.sequence) for one in answers}) == len(answers) > 0


@pytest.mark.parametrize("seed", range(200 if DEEP else 2))
def test_start__power_lost_at_any_moment__has_each_receipt_that_left_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(journal_writer, "INLINE_SECONDS", math.inf if seed % 2 else 0.0)
    monkeypatch.setattr(imports, "SYNC_BYTES", 2 * SMALL)
    traffic = Traffic(seed)
    with watched(tmp_path / "node") as disk:
        for _ in range(3):
            asyncio.run(serve(disk.folder, disk, traffic, 8))
    check_all(disk, tmp_path)


@pytest.mark.parametrize("with_effect", [False, True])
@pytest.mark.parametrize("step", range(1, 40) if DEEP else (2, 4, 7, 8))
def test_start__killed_at_any_step_and_power_lost_later__has_each_receipt_that_left_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, with_effect: bool
) -> None:
    """What the first process wrote or named and did not sync, the second one sees and relies on."""
    monkeypatch.setattr(journal_writer, "INLINE_SECONDS", math.inf)
    monkeypatch.setattr(imports, "SYNC_BYTES", 2 * SMALL)
    traffic = Traffic(step)
    with watched(tmp_path / "node") as disk:
        disk.kill_at, disk.with_effect = step, with_effect
        with pytest.raises(KilledError):
            for _ in range(4):
                asyncio.run(serve(disk.folder, disk, traffic, 8))
        disk.forget_states()
        asyncio.run(serve(disk.folder, disk, traffic, 4))
    check_all(disk, tmp_path)
