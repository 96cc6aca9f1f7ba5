"""Own disputes and reports, from the game's events that the store holds."""

from __future__ import annotations

from dataclasses import dataclass

from assay.chain.dispute_game import DisputeGame
from assay.chain.disputes import DisputeRecord, fold_events
from assay.types import Address, FraudKind, Hash32
from assay.watch.economics import Outcome, Stake
from assay.watch.store import Store

FRAUD_EVENTS = {FraudKind.EQUIVOCATION: "Equivocated", FraudKind.CONTRADICTION: "Contradicted"}


@dataclass(frozen=True, slots=True)
class Report:
    """A fraud that somebody proved by two signatures."""

    kind: FraudKind
    reporter: Address
    digests: frozenset[Hash32]
    to_reporter: int


class Ledger:
    """`me` None: whoever; for reading alone."""

    def __init__(self, game: DisputeGame, store: Store, me: Address | None) -> None:
        self._game, self._store, self._me = game, store, me

    def disputes(self) -> dict[int, DisputeRecord]:
        """All that were opened, by number; of others' the openings and ends alone."""
        logs = self._store.logs(names=("DisputeOpened", "DisputeClosed"))
        return fold_events(self._game.decode_log(log) for log in logs)

    def own(self) -> dict[int, DisputeRecord]:
        """Own disputes with all their moves."""
        found = [number for number, record in self.disputes().items() if record.challenger == self._me]
        return self.records(found)

    def records(self, numbers: list[int]) -> dict[int, DisputeRecord]:
        return fold_events(self._game.decode_log(log) for log in self._store.logs(numbers))

    def reports(self) -> list[Report]:
        found = []
        for kind, name in FRAUD_EVENTS.items():
            for log in self._store.logs(names=(name,)):
                args = self._game.decode_log(log).args
                digests = frozenset((Hash32(args["first_digest"]), Hash32(args["second_digest"])))
                found.append(Report(kind, args["reporter"], digests, args["to_reporter"]))
        return found

    def stakes(self, bond: int) -> list[Stake]:
        """What own disputes have cost and brought."""
        return [stake_of(record, bond) for record in self.own().values()]

    def earned_by_reports(self) -> list[int]:
        return [report.to_reporter for report in self.reports() if report.reporter == self._me]


def stake_of(record: DisputeRecord, bond: int) -> Stake:
    if record.closing is None:
        return Stake(bond, Outcome.OPEN)
    if record.closing.node_won:
        return Stake(bond, Outcome.LOST)
    return Stake(bond, Outcome.WON, record.closing.to_challenger)
