"""Group commit: everybody gets their own outcome, and nobody a signature that is not on disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from assay.commitments.signing import SigningKey
from assay.errors import FatalError
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.entries import ChannelKey, Issue
from assay.node.receipts.log import ReceiptLog
from assay.node.receipts.writer import Writer
from assay.types import Address, Domain, Hash32

pytestmark = pytest.mark.network  # an event loop needs a socket pair

NODE = SigningKey(b"\x07" * 32).address
SIGNER = SigningKey(b"\x08" * 32)
KEY = ChannelKey(Hash32(b"\x01" * 32), SigningKey(b"\x09" * 32).address)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ReceiptLog]:
    made = ReceiptLog(SqliteDatabase(tmp_path / "log.sqlite3"), Domain(1, Address("0x" + "11" * 20)), NODE)
    yield made
    made.close()


def issue(payment: int) -> Issue:
    unique = Hash32(payment.to_bytes(32, "big"))
    return Issue(KEY, unique, unique, 1, None, unique)


def test_submit__many_at_once__all_are_on_disk_with_sequences_without_gaps(log: ReceiptLog) -> None:
    async def scenario() -> list[int]:
        writer = Writer(log, SIGNER, pytest.fail)
        writer.start()
        results = await asyncio.gather(*(writer.submit(issue(n)) for n in range(1, 300)))
        await writer.stop()
        return [result.signed.receipt.sequence for result in results if result]

    assert sorted(asyncio.run(scenario())) == list(range(1, 300))
    assert log.channel(KEY).sequence == 299


def test_submit__voucher_used_twice_in_a_group__fails_that_one_alone(log: ReceiptLog) -> None:
    async def scenario() -> list[object]:
        writer = Writer(log, SIGNER, pytest.fail)
        writer.start()
        futures = [writer.submit(issue(n)) for n in (1, 2, 2, 3)]
        results = await asyncio.gather(*futures, return_exceptions=True)
        await writer.stop()
        return list(results)

    results = asyncio.run(scenario())
    assert sum(isinstance(result, sqlite3.IntegrityError) for result in results) == 1
    assert log.channel(KEY).sequence == 3


def test_submit__disk_fails__refuses_this_and_everything_after(
    log: ReceiptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    failures: list[FatalError] = []

    async def scenario() -> None:
        writer = Writer(log, SIGNER, failures.append)
        writer.start()
        monkeypatch.setattr(log, "write", full)
        with pytest.raises(FatalError, match="disk is full"):
            await writer.submit(issue(1))
        monkeypatch.undo()
        with pytest.raises(FatalError):
            writer.submit(issue(2))
        await writer.stop()

    asyncio.run(scenario())
    assert len(failures) == 1
    assert log.receipt_count() == 0


def test_stop__with_receipts_waiting__writes_them_first(log: ReceiptLog) -> None:
    async def scenario() -> None:
        writer = Writer(log, SIGNER, pytest.fail)
        writer.start()
        futures = [writer.submit(issue(n)) for n in range(1, 20)]
        await writer.stop()
        await asyncio.gather(*futures)
        with pytest.raises(FatalError):
            writer.submit(issue(99))

    asyncio.run(scenario())
    assert log.receipt_count() == 19
