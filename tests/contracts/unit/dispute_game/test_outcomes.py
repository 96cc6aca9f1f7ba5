"""Who wins, who is paid what, and what is released."""

from __future__ import annotations

import random
from dataclasses import replace

import boa
import pytest
from assay.exact.dispute import FUNCTIONS, side_of
from assay.exact.game import Phase, Side
from assay.types import Receipt

from tests.contracts.unit.dispute_game.conftest import Setting
from tests.support.arena import BOND, DISPUTE_WINDOW, MIN_STAKE, PRICE, SLASH, UNIT, Arena, Dispute
from tests.support.contracts import ZERO, ZERO_HASH
from tests.support.game_players import Node, Pointing, play_game
from tests.support.market import Market, key

NODE_WON, CHALLENGER_WON = (number.to_bytes(32, "big") for number in (1, 2))
PHASES = [phase for phase in FUNCTIONS if phase is not Phase.REVEAL_CHUNK]


def pays(arena: Arena, consumer: str | None = None) -> dict[str, int]:
    """What everybody has."""
    accounts = {
        "challenger": arena.challenger,
        "consumer": consumer or arena.consumer,
        "operator": arena.operator,
        "treasury": arena.treasury,
        "game": str(arena.game.address),
    }
    return {name: arena.balance(account) for name, account in accounts.items()}


def check_closed(arena: Arena, dispute: Dispute, *, node_won: bool) -> None:
    """The game holds nothing of it and nobody is held by it."""
    assert arena.game.disputes(dispute.number) == (NODE_WON if node_won else CHALLENGER_WON)
    assert arena.nodes.nodes(arena.operator).frozen == 0
    assert arena.balance(str(arena.game.address)) == 0
    assert dispute.closed is not None
    closed = dispute.closed
    assert (closed["node"], closed["challenger"]) == (arena.operator, dispute.state.challenger)
    assert (closed["digest"], closed["phase"]) == (dispute.state.digest, dispute.state.phase)
    assert closed["node_won"] == node_won
    shares = closed["to_challenger"] + closed["to_consumer"] + closed["to_treasury"]
    assert closed["slashed"] == shares


@pytest.mark.parametrize("phase", PHASES)
def test_claim_timeout__silence_in_any_phase__whoever_owed_the_move_loses(
    setting: Setting, lie: Dispute, phase: Phase
) -> None:
    arena = setting.arena
    setting.play_until(phase, lie, setting.wrong)
    arena.claim_timeout(lie)
    node_won = side_of(phase) is Side.CHALLENGER
    check_closed(arena, lie, node_won=node_won)
    assert pays(arena) == {
        "challenger": 0 if node_won else BOND + SLASH // 2,
        "consumer": 0 if node_won else PRICE,
        "operator": BOND if node_won else 0,
        "treasury": 0 if node_won else SLASH // 2 - PRICE,
        "game": 0,
    }
    assert arena.settlement.is_void(lie.state.digest) != node_won
    assert arena.nodes.nodes(arena.operator).stake == MIN_STAKE - (0 if node_won else SLASH)


def test_claim_timeout__another_receipt__reverts(setting: Setting, lie: Dispute) -> None:
    other = setting.receipt(setting.wrong, sequence=2)
    with boa.reverts("disputes: receipt is another one"):
        setting.arena.claim_timeout(replace(lie, receipt=other))


def test_prove_step__node_was_right__it_gets_the_bond(setting: Setting, truth: Dispute) -> None:
    """The challenger points at some step; the receipt stands."""
    arena = setting.arena
    challenger = Pointing(random.Random(0), [0, 1, 3, 40, 0])
    play_game(arena, truth, Node(setting.honest, truth.receipt), challenger)
    assert truth.closed is not None
    assert truth.closed["phase"] == Phase.PROVE_STEP
    check_closed(arena, truth, node_won=True)
    assert pays(arena)["operator"] == BOND
    assert not arena.settlement.is_void(truth.state.digest)
    assert arena.nodes.nodes(arena.operator).stake == MIN_STAKE


def market_of(setting: Setting) -> Market:
    arena = setting.arena
    parts = (arena.settlement, arena.token, arena.models, arena.nodes, arena.operator, setting.version_id)
    return Market(*parts)


def post_paid(setting: Setting, receipt: Receipt, paid: int) -> object:
    """The receipt's batch, for which its consumer's voucher pays so much."""
    market, consumer = market_of(setting), key("alice")
    market.fund(consumer.address, 10 * UNIT)
    return setting.arena.post(receipt, rows=[market.row(consumer, paid, 1)])[1]


def test_outcome__receipt_in_a_batch__its_price_returns_to_the_escrow(setting: Setting) -> None:
    arena, alice = setting.arena, key("alice").address
    receipt = setting.receipt(setting.wrong, consumer=alice)
    tree = post_paid(setting, receipt, PRICE)
    dispute = play_game(
        arena,
        opened := arena.open(receipt, tree=tree),
        *setting.players(opened, setting.wrong),
    )
    check_closed(arena, dispute, node_won=False)
    assert pays(arena, alice)["consumer"] == 0
    assert arena.settlement.escrows(alice, arena.operator).balance == 10 * UNIT
    batch = arena.settlement.batches(dispute.state.batch_id)
    assert (batch.amount, batch.count, batch.holds) == (0, 0, 0)
    assert pays(arena)["treasury"] == SLASH // 2


def test_outcome__batch_gives_back_less_than_the_price__slash_makes_it_up(setting: Setting) -> None:
    arena, alice = setting.arena, key("alice").address
    receipt = setting.receipt(setting.wrong, consumer=alice)
    tree = post_paid(setting, receipt, 2 * UNIT)
    dispute = arena.open(receipt, tree=tree)
    play_game(arena, dispute, *setting.players(dispute, setting.wrong))
    assert pays(arena, alice)["consumer"] == PRICE - 2 * UNIT
    assert arena.settlement.escrows(alice, arena.operator).balance == 10 * UNIT


def test_outcome__price_above_a_quarter_of_the_slash__is_made_up_to_that(setting: Setting) -> None:
    dispute = setting.arena.open(setting.receipt(setting.wrong, price=SLASH))
    setting.arena.claim_timeout(dispute)
    found = pays(setting.arena)
    assert (found["consumer"], found["treasury"]) == (SLASH // 4, SLASH // 4)


def test_outcome__unpaid_receipt_of_nobody__nobody_is_made_whole(setting: Setting) -> None:
    dispute = setting.arena.open(setting.receipt(setting.wrong, consumer=ZERO))
    setting.arena.claim_timeout(dispute)
    assert pays(setting.arena)["treasury"] == SLASH // 2
    assert setting.arena.balance(ZERO) == 0


def test_outcome__stake_below_the_slash__what_is_there_is_shared(setting: Setting) -> None:
    arena = setting.arena
    arena.nodes.begin_unstake(MIN_STAKE, sender=arena.operator)
    receipts = [setting.receipt(setting.wrong, sequence=n) for n in (1, 2, 3)]
    disputes = [arena.open(receipt) for receipt in receipts]
    for dispute in disputes:
        arena.claim_timeout(dispute)
    assert [dispute.closed["slashed"] for dispute in disputes if dispute.closed] == [
        SLASH,
        SLASH,
        MIN_STAKE - 2 * SLASH,
    ]
    assert arena.balance(arena.challenger) == 3 * BOND + MIN_STAKE // 2
    assert arena.nodes.nodes(arena.operator).thawing == 0


def test_outcome__no_stake_left__bond_returns_and_receipt_is_void(setting: Setting) -> None:
    arena = setting.arena
    disputes = [arena.open(setting.receipt(setting.wrong, sequence=n)) for n in range(1, 5)]
    for dispute in disputes:
        arena.claim_timeout(dispute)
    assert disputes[3].closed is not None
    assert disputes[3].closed["slashed"] == 0
    assert arena.settlement.is_void(disputes[3].state.digest)
    assert arena.balance(arena.challenger) == 4 * BOND + MIN_STAKE // 2
    assert arena.balance(str(arena.game.address)) == 0


def test_outcome__second_winner_of_one_receipt__is_paid_twice_its_bond(setting: Setting) -> None:
    arena = setting.arena
    receipt = setting.receipt(setting.wrong)
    first, second = arena.open(receipt), arena.open(receipt, by=arena.stranger)
    play_game(arena, first, *setting.players(first, setting.wrong))
    assert arena.nodes.nodes(arena.operator).frozen == 1
    play_game(arena, second, *setting.players(second, setting.wrong))
    assert second.closed is not None
    assert (second.closed["slashed"], second.closed["to_consumer"]) == (2 * BOND, 0)
    assert arena.balance(arena.stranger) == 2 * BOND
    check_closed(arena, second, node_won=False)


def test_outcome__friendly_challenger_loses_on_purpose__another_one_still_wins(setting: Setting) -> None:
    arena = setting.arena
    receipt = setting.receipt(setting.wrong)
    friend = arena.open(receipt, by=arena.stranger)
    setting.play_until(Phase.SELECT, friend, setting.wrong)
    arena.claim_timeout(friend)
    assert friend.node_won
    assert not arena.settlement.is_void(friend.state.digest)
    dispute = arena.open(receipt)
    play_game(arena, dispute, *setting.players(dispute, setting.wrong))
    check_closed(arena, dispute, node_won=False)
    assert arena.balance(arena.challenger) == BOND + SLASH // 2


def test_outcome__friend_and_stranger_at_once__are_decided_each_by_itself(setting: Setting) -> None:
    arena = setting.arena
    receipt = setting.receipt(setting.wrong)
    friend, honest = arena.open(receipt, by=arena.stranger), arena.open(receipt)
    setting.play_until(Phase.SELECT, friend, setting.wrong)
    play_game(arena, honest, *setting.players(honest, setting.wrong))
    assert not honest.node_won
    arena.claim_timeout(friend)
    assert friend.node_won
    check_closed(arena, honest, node_won=False)


def test_stake__withdrawn_in_the_block_of_the_opening__is_still_there(setting: Setting) -> None:
    """Thawed stake can leave until the dispute is open, not after, whatever the order in a block."""
    arena = setting.arena
    arena.nodes.begin_unstake(MIN_STAKE, sender=arena.operator)
    boa.env.timestamp += arena.nodes.thaw_period()
    receipt = setting.receipt(setting.wrong)
    with boa.env.anchor():
        assert arena.nodes.withdraw(sender=arena.operator) == MIN_STAKE
    dispute = arena.open(receipt)
    with boa.reverts("nodes: a dispute is open"):
        arena.nodes.withdraw(sender=arena.operator)
    arena.claim_timeout(dispute)
    assert dispute.closed is not None
    assert dispute.closed["slashed"] == SLASH
    assert arena.nodes.withdraw(sender=arena.operator) == MIN_STAKE - SLASH


def test_stake__begun_to_thaw_with_the_fraud__is_there_when_the_longest_game_ends(setting: Setting) -> None:
    """Receipt and thaw are of one block; the dispute opens in the window's last second."""
    arena = setting.arena
    arena.nodes.begin_unstake(MIN_STAKE, sender=arena.operator)
    receipt = setting.receipt(setting.wrong)
    boa.env.timestamp += DISPUTE_WINDOW - 1
    dispute = arena.open(receipt)
    with boa.reverts("nodes: stake is still thawing"):
        arena.nodes.withdraw(sender=arena.operator)
    play_game(arena, dispute, *setting.players(dispute, setting.wrong))
    assert dispute.closed is not None
    assert dispute.closed["slashed"] == SLASH


def test_batch__disputed__cannot_be_collected_until_it_is_decided(setting: Setting) -> None:
    arena, alice = setting.arena, key("alice").address
    receipt = setting.receipt(setting.wrong, consumer=alice)
    tree = post_paid(setting, receipt, PRICE)
    dispute = arena.open(receipt, tree=tree)
    boa.env.timestamp += DISPUTE_WINDOW
    known = (arena.operator, setting.version_id, tree.root)
    with boa.reverts("settlement: batch is held"):
        arena.settlement.collect([known])
    arena.claim_timeout(dispute)
    assert arena.settlement.collect([known]) == 0
    assert arena.settlement.verified_count(setting.version_id) == 0


def test_batch__posted_while_its_receipt_is_disputed__the_digest_is_void(setting: Setting) -> None:
    arena, alice = setting.arena, key("alice").address
    receipt = setting.receipt(setting.wrong, consumer=alice)
    dispute = arena.open(receipt)
    assert dispute.state.batch_id == ZERO_HASH
    tree = post_paid(setting, receipt, PRICE)
    again = arena.open(receipt, tree=tree, by=arena.stranger)
    arena.claim_timeout(dispute)
    assert arena.balance(alice) == PRICE, "made whole out of the slash, not out of the batch"
    arena.claim_timeout(again)
    batch = arena.settlement.batches(again.state.batch_id)
    assert (batch.amount, batch.holds) == (PRICE, 0)
    assert arena.settlement.is_void(dispute.state.digest)
