"""Statements that a crash left out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from assay.commitments.authorizations import statement_digest
from assay.commitments.signing import recover
from assay.node.receipts.database import Database
from assay.node.receipts.entries import ChannelKey, Issue
from assay.node.receipts.log import ReceiptLog
from assay.node.x402 import stating
from assay.node.x402.payments import PaymentStore
from assay.node.x402.stating import Stating
from assay.types import Hash32

from tests.backend.unit.node.x402.test_payments import DOMAIN, PAYER, SIGNER, row, word


@pytest.fixture
def log(database: Database) -> Iterator[ReceiptLog]:
    made = ReceiptLog(database, DOMAIN, SIGNER.address)
    yield made
    made.close()


@pytest.fixture
def store(log: ReceiptLog) -> Iterator[PaymentStore]:
    made = PaymentStore(log.database)
    yield made
    made.close()


def sell(log: ReceiptLog, store: PaymentStore, number: int) -> Hash32:
    """The receipt's digest; the payment has no statement yet."""
    store.note(row(number))
    store.settled(word(number), word(77))
    issue = Issue(ChannelKey(word(100), PAYER), word(200), word(201), 5, payment=word(number), prepaid=True)
    (logged,) = log.write([issue], SIGNER)
    assert logged is not None
    return logged.digest


def test_recover__receipts_without_statements__get_the_signers(
    log: ReceiptLog, store: PaymentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stating, "PAGE", 2)
    digests = {number: sell(log, store, number) for number in range(1, 6)}
    store.note(row(9))  # bought nothing
    made = Stating(store, SIGNER, DOMAIN)
    assert made.recover() == 5
    assert made.recover() == 0
    for number, digest in digests.items():
        found = store.find(word(number))
        assert found is not None and found.statement is not None
        assert recover(statement_digest(DOMAIN, digest, word(number)), found.statement) == SIGNER.address
    unpaid = store.find(word(9))
    assert unpaid is not None and unpaid.statement is None


def test_start__process_that_died_later__is_made_good_too(log: ReceiptLog, store: PaymentStore) -> None:
    async def scenario() -> None:
        made = Stating(store, SIGNER, DOMAIN, look_seconds=0.02)
        made.start()
        await asyncio.sleep(0.05)
        sell(log, store, 1)
        async with asyncio.timeout(10):
            while (found := store.find(word(1))) is None or found.statement is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await made.stop()

    asyncio.run(scenario())
