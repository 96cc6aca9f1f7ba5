"""Whether a wrong receipt is disputed now. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Join(StrEnum):
    """What somebody else's open dispute of the same receipt means.

    A friendly challenger may lose on purpose, so by default it means nothing.
    """

    ALWAYS = "always"
    NEVER = "never"


class Decision(StrEnum):
    OPEN = "open"
    WAIT = "wait"
    """Something is missing that may come: tokens, gas, room."""
    DROP = "drop"
    """There is nothing to win any more."""


@dataclass(frozen=True, slots=True)
class Situation:
    """Times are the chain's seconds, tokens base units, gas wei."""

    now: int
    open_until: int
    """The last moment of the receipt's window, exclusive."""
    is_void: bool
    others_open: int
    """Disputes of the receipt that others have open."""
    bond: int
    tokens: int
    gas_needed: int
    gas_balance: int
    reward: int
    """What the stake left can pay."""
    own_open: int


@dataclass(frozen=True, slots=True)
class Rules:
    join: Join = Join.ALWAYS
    min_reward: int = 0
    max_open: int = 16
    margin_seconds: int = 3
    """A dispute is not opened this close to the end of its window: it would be mined too late."""


def decide(situation: Situation, rules: Rules) -> tuple[Decision, str]:
    """The decision and, unless it is OPEN, why, for people."""
    if situation.is_void:
        return Decision.DROP, "the receipt is void already"
    if situation.now + rules.margin_seconds >= situation.open_until:
        return Decision.DROP, f"its dispute window ended at {situation.open_until}, it is {situation.now}"
    missing = what_is_missing(situation, rules)
    return (Decision.WAIT, missing) if missing else (Decision.OPEN, "")


def what_is_missing(situation: Situation, rules: Rules) -> str:
    """Why a dispute is not opened now; empty: nothing is."""
    s = situation
    obstacles = (
        (
            rules.join is Join.NEVER and s.others_open > 0,
            f"{s.others_open} disputes of it are open already (--join never)",
        ),
        (
            s.reward < rules.min_reward,
            f"the node's stake would pay {s.reward}, below --min-reward {rules.min_reward}",
        ),
        (
            s.own_open >= rules.max_open,
            f"{s.own_open} own disputes are open, no more than --max-open at a time",
        ),
        (
            s.tokens < s.bond,
            f"the bond is {s.bond} base units of the token, the account has {s.tokens}",
        ),
        (
            s.gas_balance < s.gas_needed,
            f"a whole game may cost {s.gas_needed} wei of gas, the account has {s.gas_balance}",
        ),
    )
    return next((reason for is_so, reason in obstacles if is_so), "")
