"""Each check passes on a sound run and fails, by itself, on the one thing that it is there for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from assay.client.verify import Report, Step
from assay.types import ZERO_HASH, Address, Assurance, BatchKey, Hash32, Receipt, SignedReceipt

from scripts.demo_parts.checks import accuracy, check_all
from scripts.demo_parts.evidence import Account, Answer, Evidence, Fraud, Money, Posted

NODE, ALICE = Address("0x" + "11" * 20), Address("0x" + "22" * 20)
VERSION = Hash32(b"v" * 32)
RECEIPTS = 20
WRONG = 20


def digest(n: int) -> Hash32:
    return Hash32(n.to_bytes(32, "big"))


def signed(sequence: int) -> SignedReceipt:
    receipt = Receipt(NODE, ALICE, VERSION, ZERO_HASH, ZERO_HASH, 5, sequence, 1_700_000_000)
    return SignedReceipt(receipt, bytes(65))


def report(n: int, *, ok: bool | None = True) -> Report:
    return Report(
        digest(n), (Step("signature", True, "signed"), Step("finality", ok, "final")), Assurance.SIGNED
    )


def answer(n: int, *, right: bool = True) -> Answer:
    return Answer("alice", "digits", n % 10, n % 10 if right else -1, NODE, digest(n), 3.0, 0)


def batch(numbers: range, **changes: Any) -> Posted:
    key = BatchKey(NODE, VERSION, digest(1_000 + numbers.start))
    fields: dict[str, Any] = {
        "key": key,
        "batch_id": digest(2_000 + numbers.start),
        "amount": 5 * len(numbers),
        "count": len(numbers),
        "post_gas": 100_000,
        "vouchers": 1,
        "skipped": 0,
        "collected": True,
        "node_amount": 4 * len(numbers),
        "royalty": 1,
        "fee": 1,
        "digests": tuple(digest(n) for n in numbers),
    }
    return Posted(**(fields | changes))


def fraud(n: int, slashed: int = 1_000) -> Fraud:
    amounts = (slashed, slashed // 2, 0, slashed - slashed // 2)
    return Fraud(1, digest(n), NODE, ALICE, "element 7 is 130", 17, 500_000, 600_000, *amounts)


def sound() -> Evidence:
    money = Money(
        (Account("alice", ALICE, 7, 7),), supply=100, held=100, settlement_balance=50, liabilities=50
    )
    numbers = range(1, RECEIPTS + 1)
    return Evidence(
        asked=RECEIPTS,
        answers=tuple(answer(n) for n in numbers),
        issued={digest(n): signed(n) for n in numbers},
        kept={digest(n): signed(n) for n in numbers},
        batches=(batch(range(1, 13)), batch(range(13, RECEIPTS + 1))),
        reports={digest(n): report(n, ok=n != WRONG) for n in numbers},
        money=money,
        collect_gas=90_000,
        kills=1,
        wrong=frozenset({digest(WRONG)}),
        frauds=(fraud(WRONG),),
        void=frozenset({digest(WRONG)}),
        restarted_receipts=4,
    )


def without(mapping: dict[Hash32, Any], n: int) -> dict[Hash32, Any]:
    return {key: value for key, value in mapping.items() if key != digest(n)}


def failing(evidence: Evidence) -> set[str]:
    return {check.name for check in check_all(evidence) if not check.ok}


def test_check_all__sound_run__passes() -> None:
    assert failing(sound()) == set()


FRAUDS = "every wrong answer was caught, no right one was"
BROKEN: dict[str, tuple[Callable[[Evidence], Evidence], set[str]]] = {
    "a question without an answer": (
        lambda e: replace(e, asked=RECEIPTS + 1),
        {"every question was answered"},
    ),
    "wrong answers": (
        lambda e: replace(e, answers=tuple(answer(n, right=n > 4) for n in range(1, RECEIPTS + 1))),
        {"accuracy of digits"},
    ),
    "nobody was killed": (lambda e: replace(e, kills=0), {"a killed node came back and went on"}),
    "the killed node stayed away": (
        lambda e: replace(e, restarted_receipts=0),
        {"a killed node came back and went on"},
    ),
    "signed but not in the log": (
        lambda e: replace(e, issued=without(e.issued, 3)),
        {"no receipt was lost", "consumers acknowledged every receipt"},
    ),
    "issued but not with the consumer": (
        lambda e: replace(e, kept=without(e.kept, 3), reports=without(e.reports, 3)),
        {"no receipt was lost"},
    ),
    "in no batch": (
        lambda e: replace(e, batches=(batch(range(1, 12), count=12), e.batches[1])),
        {"no receipt was lost"},
    ),
    "in two batches": (
        lambda e: replace(e, batches=(batch(range(1, 14), count=12), e.batches[1])),
        {"no receipt was doubled"},
    ),
    "two receipts of one sequence": (
        lambda e: replace(e, issued=e.issued | {digest(3): signed(4)}, kept=e.kept | {digest(3): signed(4)}),
        {"no receipt was doubled"},
    ),
    "a receipt that does not check": (
        lambda e: replace(e, reports=e.reports | {digest(3): report(3, ok=False)}),
        {"every other receipt checks from the chain alone"},
    ),
    "a receipt not decided yet": (
        lambda e: replace(e, reports=e.reports | {digest(3): report(3, ok=None)}),
        {"every other receipt checks from the chain alone"},
    ),
    "a receipt not looked at": (
        lambda e: replace(e, reports=without(e.reports, 3)),
        {"every other receipt checks from the chain alone"},
    ),
    "a wrong answer that nobody caught": (
        lambda e: replace(e, frauds=(), void=frozenset(), reports=e.reports | {digest(WRONG): report(WRONG)}),
        {FRAUDS},
    ),
    "a right answer that was voided": (
        lambda e: replace(
            e,
            void=e.void | {digest(3)},
            frauds=(*e.frauds, fraud(3)),
            reports=e.reports | {digest(3): report(3, ok=False)},
        ),
        {FRAUDS},
    ),
    "a fraud without a slash": (lambda e: replace(e, frauds=(fraud(WRONG, 0),)), {FRAUDS}),
    "nobody cheated": (
        lambda e: replace(
            e,
            wrong=frozenset(),
            frauds=(),
            void=frozenset(),
            reports=e.reports | {digest(WRONG): report(WRONG)},
        ),
        {FRAUDS},
    ),
    "a skipped row": (
        lambda e: replace(e, batches=(replace(e.batches[0], skipped=1), e.batches[1])),
        {"no voucher was skipped"},
    ),
    "a receipt not acknowledged": (
        lambda e: replace(e, batches=(replace(e.batches[0], count=11), e.batches[1])),
        {"consumers acknowledged every receipt"},
    ),
    "a batch not collected": (
        lambda e: replace(e, batches=(replace(e.batches[0], collected=False), e.batches[1])),
        {"every batch was collected"},
    ),
    "one unit too few": (
        lambda e: replace(e, money=replace(e.money, accounts=(Account("alice", ALICE, 7, 6),))),
        {"everyone owns what is theirs"},
    ),
    "tokens from nowhere": (
        lambda e: replace(e, money=replace(e.money, held=101)),
        {"no token appeared or vanished"},
    ),
    "a contract that owes more than it has": (
        lambda e: replace(e, money=replace(e.money, liabilities=51)),
        {"no token appeared or vanished"},
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_check_all__one_thing_broken__fails_on_just_that(what: str) -> None:
    change, expected = BROKEN[what]
    assert failing(change(sound())) == expected


def test_check_all__nothing_happened__does_not_pass() -> None:
    empty = replace(
        sound(),
        asked=0,
        answers=(),
        issued={},
        kept={},
        batches=(),
        reports={},
        kills=0,
        restarted_receipts=0,
    )
    assert {
        "no receipt was lost",
        "every other receipt checks from the chain alone",
        "every batch was collected",
    } <= failing(empty)


def test_accuracy__three_of_four__is_their_share() -> None:
    assert accuracy([answer(1), answer(2), answer(3), answer(4, right=False)]) == 0.75
