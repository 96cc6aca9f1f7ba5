"""What a watcher's disputes cost and bring. Pure.

Tokens and gas are kept apart: no price joins them here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    OPEN = "open"
    WON = "won"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Stake:
    """One dispute's tokens in base units: the bond put up, and what was paid on top of it."""

    bond: int
    outcome: Outcome
    reward: int = 0


@dataclass(frozen=True, slots=True)
class ProfitAndLoss:
    """Tokens in base units, gas in wei. `bonds_out` = `bonds_back` + `bonds_lost` + `bonds_open`."""

    disputes: int
    won: int
    lost: int
    open: int
    bonds_out: int
    bonds_back: int
    bonds_lost: int
    bonds_open: int
    slash_share: int
    reports: int
    """Equivocations and contradictions that paid."""
    report_share: int
    gas_wei: int
    transactions: int

    @property
    def tokens(self) -> int:
        """Won less lost; bonds that are still out count as neither."""
        return self.slash_share + self.report_share - self.bonds_lost

    def to_json(self) -> dict[str, Any]:
        """Amounts as decimal strings."""
        counts = {"disputes", "won", "lost", "open", "reports", "transactions"}
        fields = {name: value if name in counts else str(value) for name, value in asdict(self).items()}
        return fields | {"tokens": str(self.tokens)}


def summarise(stakes: Iterable[Stake], reports: Iterable[int], gas: Iterable[int]) -> ProfitAndLoss:
    """`reports`: what each proven report paid; `gas`: the wei that each mined transaction cost."""
    stakes, reports, gas = list(stakes), list(reports), list(gas)

    def bonds(outcome: Outcome) -> int:
        return sum(stake.bond for stake in stakes if stake.outcome is outcome)

    def count(outcome: Outcome) -> int:
        return sum(stake.outcome is outcome for stake in stakes)

    return ProfitAndLoss(
        disputes=len(stakes),
        won=count(Outcome.WON),
        lost=count(Outcome.LOST),
        open=count(Outcome.OPEN),
        bonds_out=sum(stake.bond for stake in stakes),
        bonds_back=bonds(Outcome.WON),
        bonds_lost=bonds(Outcome.LOST),
        bonds_open=bonds(Outcome.OPEN),
        slash_share=sum(stake.reward for stake in stakes),
        reports=len(reports),
        report_share=sum(reports),
        gas_wei=sum(gas),
        transactions=len(gas),
    )
