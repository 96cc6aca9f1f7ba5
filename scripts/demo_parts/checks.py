"""The demo's judgement: pure functions from evidence to named checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from assay.types import Hash32

from .evidence import Answer, Evidence

MIN_ACCURACY = {"digits": 0.97, "digits-int8": 0.96, "breast-cancer": 0.95}
"""Share of held-out rows; below that something other than chance is wrong."""
FEW_ROWS = 100
"""With fewer rows the least accuracy is 0.85 instead, because a handful of errors weighs more."""


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    detail: str


def check_all(evidence: Evidence) -> list[Check]:
    return [
        check_answers(evidence),
        *(check_accuracy(evidence, model) for model in models(evidence)),
        check_survival(evidence),
        check_lost(evidence),
        check_doubled(evidence),
        check_receipts(evidence),
        check_frauds(evidence),
        check_rows(evidence),
        check_counts(evidence),
        check_collected(evidence),
        check_accounts(evidence),
        check_supply(evidence),
    ]


def models(evidence: Evidence) -> list[str]:
    return sorted({answer.model for answer in evidence.answers}, key=list(MIN_ACCURACY).index)


def accuracy(answers: Iterable[Answer]) -> float:
    rights = [answer.predicted == answer.label for answer in answers]
    return sum(rights) / len(rights) if rights else 0.0


def check_answers(evidence: Evidence) -> Check:
    retried = sum(answer.failures > 0 for answer in evidence.answers)
    detail = (
        f"{len(evidence.answers)} of {evidence.asked} questions answered, {retried} of them by a second node"
    )
    return Check("every question was answered", len(evidence.answers) == evidence.asked, detail)


def check_accuracy(evidence: Evidence, model: str) -> Check:
    answers = [answer for answer in evidence.answers if answer.model == model]
    reached = accuracy(answers)
    least = MIN_ACCURACY[model] if len(answers) >= FEW_ROWS else 0.85
    detail = f"{reached:.1%} of {len(answers)} held-out rows, at least {least:.0%} wanted"
    return Check(f"accuracy of {model}", reached >= least, detail)


def check_survival(evidence: Evidence) -> Check:
    detail = (
        f"{evidence.kills} kill -9, {evidence.restarted_receipts} receipts by that node after it came back"
    )
    ok = evidence.kills > 0 and evidence.restarted_receipts > 0
    return Check("a killed node came back and went on", ok, detail)


def lost(evidence: Evidence) -> set[Hash32]:
    """Receipts that a node issued and a consumer, or the chain, does not have; or the other way round."""
    posted = {digest for batch in evidence.batches for digest in batch.digests}
    everywhere = set(evidence.issued) & set(evidence.kept) & posted
    return (set(evidence.issued) | set(evidence.kept) | posted) - everywhere


def doubled(evidence: Evidence) -> int:
    """Leaves that are in batches more than once, and (channel, sequence) pairs with more than one receipt."""
    leaves = Counter(digest for batch in evidence.batches for digest in batch.digests)
    signed = {**evidence.issued, **evidence.kept}.values()
    places = Counter(
        (s.receipt.node, s.receipt.consumer, s.receipt.version_id, s.receipt.sequence) for s in signed
    )
    return sum(n - 1 for n in (*leaves.values(), *places.values()))


def check_lost(evidence: Evidence) -> Check:
    missing = lost(evidence)
    detail = (
        f"{len(evidence.issued)} in the nodes' logs, {len(evidence.kept)} with the consumers, "
        f"{sum(len(batch.digests) for batch in evidence.batches)} in batches, {len(missing)} not in all three"
    )
    unknown = {answer.digest for answer in evidence.answers} - set(evidence.kept)
    return Check("no receipt was lost", not missing and not unknown and bool(evidence.issued), detail)


def check_doubled(evidence: Evidence) -> Check:
    twice = doubled(evidence)
    return Check("no receipt was doubled", twice == 0, f"{twice} leaves or sequence numbers occur twice")


def verified(evidence: Evidence) -> int:
    """Receipts whose every step holds by the chain alone."""
    return sum(report.is_final for report in evidence.reports.values())


def check_receipts(evidence: Evidence) -> Check:
    total = len(evidence.kept) - len(evidence.void)
    standing = (report for digest, report in evidence.reports.items() if digest not in evidence.void)
    failed = [step for report in standing for step in report.steps if not step.ok]
    detail = f"{verified(evidence)} of {total}: signature, signer, version, inclusion, finality"
    if failed:
        detail += f"; for instance {failed[0].name}: {failed[0].detail}"
    return Check("every other receipt checks from the chain alone", verified(evidence) == total > 0, detail)


def check_frauds(evidence: Evidence) -> Check:
    """Every wrong answer was disputed and lost its node's stake, and nothing else was."""
    disputed = {fraud.digest for fraud in evidence.frauds if fraud.slashed > 0}
    ok = bool(evidence.wrong) and evidence.wrong == disputed == evidence.void
    detail = (
        f"{len(evidence.wrong)} wrong answers, {len(disputed)} disputes lost by their node, "
        f"{len(evidence.void)} receipts void"
    )
    return Check("every wrong answer was caught, no right one was", ok, detail)


def check_rows(evidence: Evidence) -> Check:
    skipped = sum(batch.skipped for batch in evidence.batches)
    vouchers = sum(batch.vouchers for batch in evidence.batches)
    return Check("no voucher was skipped", skipped == 0, f"{skipped} of {vouchers} rows skipped")


def check_counts(evidence: Evidence) -> Check:
    paid = sum(batch.count for batch in evidence.batches)
    detail = f"consumers acknowledged {paid} inferences, nodes issued {len(evidence.issued)} receipts"
    return Check("consumers acknowledged every receipt", paid == len(evidence.issued), detail)


def check_collected(evidence: Evidence) -> Check:
    done = sum(batch.collected for batch in evidence.batches)
    ok = done == len(evidence.batches) > 0
    return Check(
        "every batch was collected", ok, f"{done} of {len(evidence.batches)} after the dispute window"
    )


def check_accounts(evidence: Evidence) -> Check:
    wrong = [a for a in evidence.money.accounts if a.expected != a.actual]
    detail = (
        f"{len(evidence.money.accounts)} accounts own what receipts, fees and royalties say, to the last unit"
    )
    if wrong:
        detail = "; ".join(f"{a.role} owns {a.actual}, expected {a.expected}" for a in wrong)
    return Check("everyone owns what is theirs", not wrong and bool(evidence.money.accounts), detail)


def check_supply(evidence: Evidence) -> Check:
    money = evidence.money
    detail = (
        f"supply {money.supply}, in all balances {money.held}; "
        f"Settlement holds {money.settlement_balance} and owes {money.liabilities}"
    )
    ok = money.held == money.supply and money.settlement_balance == money.liabilities
    return Check("no token appeared or vanished", ok, detail)
