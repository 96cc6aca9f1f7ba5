"""Which payments are forgotten."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from assay.commitments.authorizations import Authorization
from assay.errors import RetryableError
from assay.node.receipts.database import Connection, Database
from assay.node.receipts.entries import ChannelKey, Issue
from assay.node.receipts.log import ReceiptLog
from assay.node.receipts.retention import Retention
from assay.node.x402 import pruning
from assay.node.x402.payments import PaymentStore
from assay.node.x402.pruning import SETTLE_SECONDS, PaymentPruner
from assay.node.x402.transfers import Fate
from assay.types import Hash32

from tests.backend.unit.node.x402.test_payments import DOMAIN, PAYER, SIGNER, row, word

NOTED_AT = 10_000
ENDS = NOTED_AT + 120
LATE = ENDS + SETTLE_SECONDS
FOREVER = 2**256 - 1


@dataclass
class Chain:
    """What has become of each authorization, by nonce; `open` if nothing is said."""

    fates: dict[Hash32, Fate] = field(default_factory=dict)
    asked: list[tuple[Hash32, int]] = field(default_factory=list)
    is_down: bool = False

    def fate(self, given: Authorization, since: int) -> tuple[Fate, Hash32 | None]:
        if self.is_down:
            raise RetryableError("down")
        self.asked.append((given.nonce, since))
        fate = self.fates.get(given.nonce, Fate.OPEN)
        return fate, word(77) if fate is Fate.MOVED else None


@dataclass
class Desk:
    log: ReceiptLog
    store: PaymentStore
    db: Connection
    chain: Chain = field(default_factory=Chain)

    def __post_init__(self) -> None:
        self.pruner = PaymentPruner(self.chain)

    def note(self, number: int, ends: int = ENDS, fate: Fate = Fate.OPEN) -> None:
        noted = row(number)
        self.store.note(replace(noted, authorization=replace(noted.authorization, valid_before=ends)))
        self.chain.fates[word(number)] = fate

    def sell(self, number: int, ends: int = ENDS, fate: Fate = Fate.MOVED, *, stated: bool = True) -> None:
        self.note(number, ends, fate)
        self.store.settled(word(number), word(77))
        key = ChannelKey(word(100), PAYER)
        self.log.write([Issue(key, word(200), word(201), 5, payment=word(number), prepaid=True)], SIGNER)
        if stated:
            self.store.stated(word(number), b"\x05" * 65)

    def lose_receipt(self, number: int) -> None:
        self.db.execute("DELETE FROM receipts WHERE voucher = ?", (word(number),))

    def prune(self, chain_time: int = LATE) -> int:
        return self.pruner.prune(self.db, chain_time)

    def has(self, number: int) -> bool:
        return self.store.find(word(number)) is not None


@pytest.fixture
def desk(database: Database) -> Iterator[Desk]:
    log = ReceiptLog(database, DOMAIN, SIGNER.address)
    store = PaymentStore(database, clock=lambda: NOTED_AT)
    with contextlib.closing(database.connect()) as connection:
        yield Desk(log, store, connection)
    store.close()
    log.close()


def test_prune__receipt_is_kept__keeps_its_payment_and_asks_nobody(desk: Desk) -> None:
    desk.sell(1)
    assert desk.prune(LATE * 100) == 0
    assert desk.has(1)
    assert desk.chain.asked == []


def test_prune__receipt_went_and_the_authorization_ended__forgets_it(desk: Desk) -> None:
    desk.sell(1, fate=Fate.OPEN)
    desk.lose_receipt(1)
    assert desk.prune(LATE - 1) == 0 and desk.has(1)
    assert desk.prune(LATE) == 1 and not desk.has(1)


@pytest.mark.parametrize(
    ("fate", "kept"), [(Fate.OPEN, True), (Fate.MOVED, False), (Fate.SPENT, False), (Fate.UNKNOWN, False)]
)
def test_prune__receipt_went_and_the_authorization_has_no_end__asks_the_chain(
    desk: Desk, fate: Fate, kept: bool
) -> None:
    """`open`: a reorg took the transfer back, and it may be brought again."""
    desk.sell(1, FOREVER, fate)
    desk.lose_receipt(1)
    desk.prune()
    assert desk.has(1) is kept
    assert desk.chain.asked == [(word(1), NOTED_AT)]


@pytest.mark.parametrize(
    ("fate", "kept"),
    [(Fate.OPEN, True), (Fate.EXPIRED, False), (Fate.SPENT, False), (Fate.UNKNOWN, True), (Fate.MOVED, True)],
)
def test_prune__never_seen_to_move__goes_once_it_never_can(desk: Desk, fate: Fate, kept: bool) -> None:
    desk.note(1, fate=fate)
    assert desk.prune(NOTED_AT + SETTLE_SECONDS - 1) == 0
    assert desk.chain.asked == []
    assert desk.prune() == (0 if kept else 1)
    assert desk.has(1) is kept


def test_prune__moved_and_bought_nothing__is_the_payers_for_good(desk: Desk) -> None:
    desk.note(1, fate=Fate.MOVED)
    for _ in range(2):
        assert desk.prune(LATE * 100) == 0
    found = desk.store.find(word(1))
    assert found is not None and found.tx_hash == word(77)
    assert len(desk.chain.asked) == 1


def test_prune__receipt_went_without_a_statement__is_not_known_to_have_bought_and_stays(desk: Desk) -> None:
    desk.sell(1, stated=False)
    desk.lose_receipt(1)
    assert desk.prune(LATE * 100) == 0
    assert desk.has(1)


def test_prune__more_than_a_step__goes_on_where_it_stood_and_begins_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "ROWS_A_STEP", 4)
    monkeypatch.setattr(pruning, "LOOKS_A_STEP", 3)
    for number in range(1, 10):
        desk.note(number, fate=Fate.EXPIRED if number > 5 else Fate.OPEN)
    dropped, looks = [], []
    for _ in range(5):
        before = len(desk.chain.asked)
        dropped.append(desk.prune())
        looks.append(len(desk.chain.asked) - before)
    assert sum(dropped) == 4
    assert max(looks) <= 3
    assert [number for number in range(1, 10) if desk.has(number)] == [1, 2, 3, 4, 5]
    assert {nonce for nonce, _ in desk.chain.asked} == {word(number) for number in range(1, 10)}


def test_prune__chain_out_of_sight__forgets_nothing(desk: Desk) -> None:
    desk.note(1, fate=Fate.EXPIRED)
    desk.chain.is_down = True
    with pytest.raises(RetryableError):
        desk.prune()
    desk.chain.is_down = False
    assert desk.prune() == 1


def test_retention__with_payments__prunes_them_with_the_receipts(desk: Desk) -> None:
    desk.note(1, fate=Fate.EXPIRED)
    keep = Retention(600, free_receipts=True, keep_seconds=1, payments=desk.pruner)
    assert keep.prune_for(desk.db, LATE) == 1
    assert not desk.has(1)


def test_retention__receipt_whose_payment_has_no_statement__waits_for_it(desk: Desk) -> None:
    """Else the payment would look as if it had bought nothing, and could buy again."""
    for number in (1, 2):
        desk.sell(number, stated=number == 1)
    desk.db.execute(
        "INSERT INTO batches (id, batch_id, version_id, receipts_root, receipts, state, closed_at, posted_at,"
        " kept) VALUES (1, ?, ?, ?, 2, 'collected', 1, 1, 2)",
        (word(1), word(100), word(3)),
    )
    desk.db.execute(
        "INSERT INTO batch_ranges (batch, position, channel, first_sequence, last_sequence)"
        " SELECT 1, 0, id, 1, 2 FROM channels"
    )
    keep = Retention(600, free_receipts=True, keep_seconds=600, payments=desk.pruner)
    keep.prune_for(desk.db, LATE * 100)
    bought = [desk.log.receipt_paid_by(word(number)) is not None for number in (1, 2)]
    assert bought == [False, True]
    assert [desk.has(number) for number in (1, 2)] == [False, True]
