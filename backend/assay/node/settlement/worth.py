"""When a version's open receipts become a batch: what posting brings against what it costs. Pure.

Amounts are in the token's base unit, gas prices in wei, times in Unix seconds. Token and gas are different
units: `native_price` says how many base units one ether is worth; 0 means that nobody said, and then batches
close by count, value and age alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

WEI: Final = 10**18

POST_BASE: Final = 73_000
POST_PER_VOUCHER: Final = 12_300
FIRST_VOUCHER: Final = 6_300
POST_PER_WALLET: Final = 50_000
COLLECT_BASE: Final = 58_000
COLLECT_PER_BATCH: Final = 15_300
"""`scripts/bench gas`: lines through 1, 25 and 128 vouchers and through 1 and 10 batches; a channel's first
voucher costs more; a wallet's check costs what the wallet does, here an ordinary one. What a version's very
first batch costs besides, once, is left out."""
CLAIM_GAS: Final = 45_000
COLLECT_SECONDS: Final = 86_400
TIGHT_COVER: Final = 0.8
"""The share of the stake at risk from which batches are posted early, and collected whatever that brings:
only a posting starts the window after which a receipt is at risk no more, and it counts until collected."""


class Reason(StrEnum):
    """Why a batch is closed, or why it is not yet."""

    COUNT = "count"
    VALUE = "value"
    WORTH = "worth"
    THAW = "thaw"
    STAKE = "stake"
    AGE = "age"
    ASKED = "asked"
    WAITING = "waiting"
    ACKNOWLEDGEMENTS = "acknowledgements"


@dataclass(frozen=True, slots=True)
class Rules:
    """`max_value` 0: not by value. `gas_share`: gas may cost this part of what a batch brings before it is
    old. `min_age_seconds`: no batch for its worth before that, however cheap gas is."""

    max_receipts: int = 10_000
    max_value: int = 0
    max_age_seconds: float = 300.0
    min_age_seconds: float = 30.0
    acknowledgement_seconds: float = 5.0
    """How long after its newest receipt a batch closed for its age waits for the consumers to acknowledge; no
    longer than that behind its age, for where requests never cease something is always new."""
    native_price: int = 0
    gas_share: float = 0.02


@dataclass(frozen=True, slots=True)
class SettlerRules(Rules):
    """`free_receipts`: post batches of unpaid receipts alone, too. `min_claim`: no less is drawn."""

    free_receipts: bool = False
    min_claim: int = 1


@dataclass(frozen=True, slots=True)
class Rows:
    """The vouchers of a batch: `first` of them for channels that the chain has not seen yet."""

    plain: int = 0
    wallets: int = 0
    first: int = 0

    @property
    def gas(self) -> int:
        """Expected gas of posting such a batch and of its part in collecting, if it is collected alone."""
        posting = POST_BASE + POST_PER_VOUCHER * self.plain + POST_PER_WALLET * self.wallets
        return posting + FIRST_VOUCHER * self.first + COLLECT_BASE + COLLECT_PER_BATCH


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a version's next batch would be now.

    `charged`: prices of the open receipts. `payable`: what the chain would pay the node for the vouchers
    held, royalty and fee taken off. `thawing`: a consumer who owes has begun to take escrow out that is owed.
    `at_risk`, `cover`: value of all receipts that can still be disputed, and the stake behind them.
    """

    receipts: int
    oldest: int
    newest: int
    charged: int = 0
    payable: int = 0
    rows: Rows = Rows()
    gas_price: int = 0
    acknowledged: bool = True
    thawing: bool = False
    at_risk: int = 0
    cover: int | None = None

    def is_idle(self, max_receipts: int) -> bool:
        """Whether nothing speaks for a batch: nothing is paid for, nothing would be paid, few are open."""
        return not self.charged and not self.payable and self.receipts < max_receipts

    def cost(self, native_price: int) -> int:
        """Expected cost in base units, rounded up; 0 if nobody said what an ether is worth."""
        return -(-self.rows.gas * self.gas_price * native_price // WEI)


@dataclass(frozen=True, slots=True)
class Decision:
    """`needed`: from what value on the batch pays for its gas; None without a `native_price`. `wait_seconds`:
    after how long it closes whatever it is worth."""

    closes: bool
    reason: Reason
    value: int
    cost: int
    needed: int | None
    age_seconds: float
    wait_seconds: float

    @property
    def text(self) -> str:
        """One line for people."""
        if self.closes:
            return f"closes now: {self.reason}"
        when = f"in {_span(self.wait_seconds)}" if self.wait_seconds else "when they are acknowledged"
        return (
            f"value {self.value}, {when}"
            if self.needed is None
            else (f"value {self.value} of {self.needed} needed, or {when}")
        )


def decide(prospect: Prospect, rules: Rules, now: float, *, close_all: bool = False) -> Decision:
    """Whether the open receipts become a batch at `now`, and why."""
    age = max(now - prospect.oldest, 0.0)
    cost = prospect.cost(rules.native_price)
    needed = _needed(cost, rules)
    reason = Reason.ASKED if close_all else _reason(prospect, rules, needed, age, now)
    closes = reason not in (Reason.WAITING, Reason.ACKNOWLEDGEMENTS)
    wait = 0.0 if closes else max(rules.max_age_seconds - age, 0.0)
    return Decision(closes, reason, prospect.payable, cost, needed, age, wait)


def _needed(cost: int, rules: Rules) -> int | None:
    """The least value of which `cost` is not more than the share allowed."""
    if not rules.native_price:
        return None
    share = max(round(rules.gas_share * WEI), 1)
    return max(-(-cost * WEI // share), 1)


def _reason(prospect: Prospect, rules: Rules, needed: int | None, age: float, now: float) -> Reason:
    """The first that holds, the most pressing first."""
    is_worth = needed is not None and prospect.payable >= needed
    patience = rules.acknowledgement_seconds
    quiet = (
        prospect.acknowledged or now - prospect.newest >= patience or age >= rules.max_age_seconds + patience
    )
    reasons = (
        (Reason.THAW, prospect.thawing),
        (Reason.COUNT, prospect.receipts >= rules.max_receipts),
        (Reason.VALUE, 0 < rules.max_value <= prospect.charged),
        (Reason.STAKE, prospect.charged > 0 and is_tight(prospect.charged, prospect.at_risk, prospect.cover)),
        (Reason.WORTH, is_worth and age >= rules.min_age_seconds),
        (Reason.WAITING, age < rules.max_age_seconds),
        (Reason.AGE, quiet),
    )
    return next((reason for reason, holds in reasons if holds), Reason.ACKNOWLEDGEMENTS)


def is_tight(value: int, at_risk: int, cover: int | None) -> bool:
    """Whether the stake is nearly used up, and settling `value` would help: it is a good part of what is at
    risk."""
    return cover is not None and at_risk >= cover * TIGHT_COVER and value * 10 >= at_risk


def collect_pays(rules: Rules, batches: int, value: int, gas_price: int, waited: float) -> bool:
    """Whether collecting so many final batches, worth `value` to the node, pays for its gas; after a day they
    are collected whatever they are worth, for only then do their receipts count as settled."""
    gas = COLLECT_BASE + COLLECT_PER_BATCH * batches
    return waited >= COLLECT_SECONDS or _pays(rules, gas, value, gas_price)


def claim_pays(rules: Rules, amount: int, gas_price: int) -> bool:
    return _pays(rules, CLAIM_GAS, amount, gas_price)


def _pays(rules: Rules, gas: int, value: int, gas_price: int) -> bool:
    needed = _needed(-(-gas * gas_price * rules.native_price // WEI), rules)
    return needed is None or value >= needed


def net_of_shares(amount: int, fee_bps: int, royalty_bps: int) -> int:
    """What the node gets of a batch's amount (SPEC.md §6, `collect`)."""
    fee = -(-amount * fee_bps // 10_000)
    return max(amount - fee - amount * royalty_bps // 10_000, 0)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3600:.1f} h"


def profit_of(income: int, gas_wei: int, native_price: int) -> int | None:
    """What is left of `income` once gas is paid, in base units, the gas rounded up; None if nobody said what
    an ether is worth."""
    return income - -(-gas_wei * native_price // WEI) if native_price else None
