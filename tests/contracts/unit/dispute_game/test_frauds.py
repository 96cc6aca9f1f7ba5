"""`prove_equivocation` and `prove_contradiction`: two signatures are enough."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

import boa
import pytest
from assay.commitments.signing import SigningKey
from assay.types import Receipt

from tests.contracts.unit.dispute_game.conftest import Setting
from tests.support.arena import MIN_STAKE, SLASH, Arena
from tests.support.contracts import events
from tests.support.market import key

CALLS = ("prove_equivocation", "prove_contradiction")
EVENTS = dict(zip(CALLS, ("Equivocated", "Contradicted"), strict=True))


def pair(setting: Setting) -> tuple[Receipt, Receipt]:
    """Two outputs for one input, channel and sequence: both frauds in one."""
    first = setting.receipt(setting.honest)
    return first, replace(first, output_hash=b"\x09" * 32)


def prove(
    arena: Arena,
    call: str,
    first: Receipt,
    second: Receipt,
    *,
    keys: tuple[SigningKey | None, ...] = (None, None),
) -> Any:
    signatures = [arena.sign(receipt, by) for receipt, by in zip((first, second), keys, strict=True)]
    arguments = (astuple(first), signatures[0], astuple(second), signatures[1])
    return getattr(arena.game, call)(*arguments, sender=arena.stranger)


@pytest.mark.parametrize("call", CALLS)
def test_prove__two_signatures__slashes_at_once(setting: Setting, call: str) -> None:
    arena = setting.arena
    first, second = pair(setting)
    prove(arena, call, first, second)
    ((name, args),) = [event for event in events(arena.game) if event[0] in EVENTS.values()]
    assert name == EVENTS[call]
    assert args == {
        "node": arena.operator,
        "reporter": arena.stranger,
        "first_digest": arena.digest(first),
        "second_digest": arena.digest(second),
        "slashed": SLASH,
        "to_reporter": SLASH // 2,
    }
    assert arena.balance(arena.stranger) == arena.balance(arena.treasury) == SLASH // 2
    assert arena.nodes.nodes(arena.operator).stake == MIN_STAKE - SLASH
    assert not arena.settlement.is_void(arena.digest(first))


@pytest.mark.parametrize("call", CALLS)
def test_prove__replayed__is_paid_once(setting: Setting, call: str) -> None:
    """Also turned round, and with a third receipt of the same place."""
    arena = setting.arena
    first, second = pair(setting)
    third = replace(first, output_hash=b"\x0a" * 32)
    prove(arena, call, first, second)
    for again in ((first, second), (second, first), (first, third), (third, second)):
        with boa.reverts("disputes: node was slashed for it before"):
            prove(arena, call, *again)


def test_prove__both_frauds_of_one_pair__are_two(setting: Setting) -> None:
    for call in CALLS:
        prove(setting.arena, call, *pair(setting))
    assert setting.arena.nodes.nodes(setting.arena.operator).stake == MIN_STAKE - 2 * SLASH


@pytest.mark.parametrize("call", CALLS)
def test_prove__one_receipt_twice__reverts(setting: Setting, call: str) -> None:
    first, _ = pair(setting)
    same = {CALLS[0]: "disputes: receipts are the same", CALLS[1]: "disputes: outputs are the same"}
    with boa.reverts(same[call]):
        prove(setting.arena, call, first, first)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("place", [0, 1])
def test_prove__signature_not_the_nodes__reverts(setting: Setting, call: str, place: int) -> None:
    keys: list[SigningKey | None] = [None, None]
    keys[place] = key("mallory")
    with boa.reverts("disputes: receipt is not signed by its node"):
        prove(setting.arena, call, *pair(setting), keys=tuple(keys))


def test_prove_equivocation__old_and_new_signer__are_one_node(setting: Setting) -> None:
    arena = setting.arena
    first, second = pair(setting)
    boa.env.timestamp += 5
    arena.nodes.rotate_signer(key("next").address, sender=arena.operator)
    late = replace(second, executed_at=boa.env.timestamp)
    prove(arena, "prove_equivocation", first, late, keys=(None, key("next")))


@pytest.mark.parametrize(
    "change", [{"sequence": 2}, {"consumer": "0x" + "11" * 20}, {"version_id": b"\x05" * 32}]
)
def test_prove_equivocation__another_place__reverts(setting: Setting, change: dict[str, Any]) -> None:
    first, second = pair(setting)
    with boa.reverts("disputes: receipts are of different channels or sequences"):
        prove(setting.arena, "prove_equivocation", first, replace(second, **change))


def test_prove_equivocation__same_answer_at_another_price__is_one(setting: Setting) -> None:
    first, _ = pair(setting)
    prove(setting.arena, "prove_equivocation", first, replace(first, price=first.price + 1))


def test_prove_equivocation__version_without_program__is_one(setting: Setting) -> None:
    arena = setting.arena
    first = arena.receipt(arena.publish(None))
    prove(arena, "prove_equivocation", first, replace(first, output_hash=b"\x09" * 32))


def other_operator(arena: Arena) -> SigningKey:
    """A second node, whose signer this is."""
    by = str(boa.env.generate_address("other"))
    arena.nodes.register(key("other").address, "https://other", sender=by)
    return key("other")


def test_prove__receipts_of_two_nodes__revert(setting: Setting) -> None:
    arena = setting.arena
    other = other_operator(arena)
    first, second = pair(setting)
    second = replace(second, node=str(boa.env.generate_address("other")))  # type: ignore[arg-type]
    second = replace(second, node=arena.nodes.signer_info(other.address)[0])
    for call, reason in (
        ("prove_equivocation", "disputes: receipts are of different channels or sequences"),
        ("prove_contradiction", "disputes: receipts are of different nodes, versions or inputs"),
    ):
        with boa.reverts(reason):
            prove(arena, call, first, second, keys=(None, other))


def test_prove_contradiction__other_channel_and_sequence__is_one(setting: Setting) -> None:
    first, second = pair(setting)
    elsewhere = replace(second, sequence=7, consumer=key("bob").address, price=0)
    prove(setting.arena, "prove_contradiction", first, elsewhere)


def test_prove_contradiction__another_question__reverts(setting: Setting) -> None:
    arena = setting.arena
    first, second = pair(setting)
    version_id = arena.publish(setting.program)
    for change in ({"input_hash": b"\x05" * 32}, {"version_id": version_id}):
        with boa.reverts("disputes: receipts are of different nodes, versions or inputs"):
            prove(arena, "prove_contradiction", first, replace(second, **change))


def test_prove_contradiction__version_without_program__reverts(setting: Setting) -> None:
    """Of a model outside the exact profile two answers may both be honest."""
    arena = setting.arena
    first = arena.receipt(arena.publish(None))
    with boa.reverts("disputes: version has no program"):
        prove(arena, "prove_contradiction", first, replace(first, output_hash=b"\x09" * 32))


@pytest.mark.parametrize("call", CALLS)
def test_prove__no_stake_left__reverts_and_keeps_the_evidence_good(setting: Setting, call: str) -> None:
    arena = setting.arena
    arena.nodes.begin_unstake(MIN_STAKE, sender=arena.operator)
    boa.env.timestamp += arena.nodes.thaw_period()
    arena.nodes.withdraw(sender=arena.operator)
    first, second = pair(setting)
    with boa.reverts("disputes: node has no stake"):
        prove(arena, call, first, second)
    arena.stake(SLASH // 2)
    prove(arena, call, first, second)
    assert arena.balance(arena.stranger) == SLASH // 4
