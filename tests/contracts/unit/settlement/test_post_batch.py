from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest
from assay.commitments.identifiers import batch_id
from assay.commitments.signing import SigningKey
from assay.types import SkipReason

from tests.contracts.conftest import MIN_STAKE
from tests.support.contracts import ZERO_HASH, events, fields, overwrite
from tests.support.market import FEE_BPS, UNIT, Market


def reasons(market: Market) -> list[tuple[str, SkipReason]]:
    """(consumer, reason) of the rows that the last call skipped."""
    skipped = [fields for name, fields in events(market.settlement) if name == "VoucherSkipped"]
    return [(fields["consumer"], SkipReason(fields["reason"])) for fields in skipped]


def channel(market: Market, consumer: str, version_id: bytes | None = None) -> tuple[int, int]:
    made = market.settlement.channel(consumer, market.node, version_id or market.version_id)
    return made.settled, made.count


def test_post_batch__one_voucher__pays_its_growth(funded: Market, alice: SigningKey) -> None:
    root = funded.new_root()
    posted = funded.post(funded.row(alice, 30 * UNIT, 3), root=root)
    assert posted == batch_id(funded.key(root))
    assert events(funded.settlement) == [
        (
            "BatchPosted",
            {
                "batch_id": posted,
                "node": funded.node,
                "version_id": funded.version_id,
                "receipts_root": root,
                "amount": 30 * UNIT,
                "count": 3,
            },
        )
    ]
    assert fields(funded.settlement.batches(posted)) == {
        "amount": 30 * UNIT,
        "count": 3,
        "posted_at": boa.env.timestamp,
        "fee_bps": FEE_BPS,
        "holds": 0,
        "collected": False,
    }
    assert channel(funded, alice.address) == (30 * UNIT, 3)
    assert funded.settlement.escrows(alice.address, funded.node).balance == 70 * UNIT
    assert funded.settlement.total_liabilities() == 100 * UNIT


def test_post_batch__later_voucher__pays_the_difference_only(funded: Market, alice: SigningKey) -> None:
    funded.post(funded.row(alice, 30 * UNIT, 3))
    posted = funded.post(funded.row(alice, 45 * UNIT, 5))
    assert fields(funded.settlement.batches(posted)).items() >= {"amount": 15 * UNIT, "count": 2}.items()
    assert channel(funded, alice.address) == (45 * UNIT, 5)


def test_post_batch__two_vouchers_of_one_channel__both_count(funded: Market, alice: SigningKey) -> None:
    posted = funded.post(funded.row(alice, 10, 1), funded.row(alice, 25, 4))
    assert fields(funded.settlement.batches(posted)).items() >= {"amount": 25, "count": 4}.items()


def test_post_batch__escrow_short__pays_what_is_there_and_the_rest_later(
    funded: Market, alice: SigningKey
) -> None:
    row = funded.row(alice, 130 * UNIT, 9)
    first = funded.post(row)
    assert fields(funded.settlement.batches(first)).items() >= {"amount": 100 * UNIT, "count": 9}.items()
    assert channel(funded, alice.address) == (100 * UNIT, 9)
    funded.fund(alice.address, 50 * UNIT)
    second = funded.post(row)
    assert fields(funded.settlement.batches(second)).items() >= {"amount": 30 * UNIT, "count": 0}.items()
    assert channel(funded, alice.address) == (130 * UNIT, 9)


def test_post_batch__count_alone_grows__acknowledges_without_paying(
    funded: Market, alice: SigningKey
) -> None:
    funded.post(funded.row(alice, 100 * UNIT, 3))
    posted = funded.post(funded.row(alice, 100 * UNIT, 4))
    assert reasons(funded) == []
    assert fields(funded.settlement.batches(posted)).items() >= {"amount": 0, "count": 1}.items()


@pytest.mark.parametrize(("amount", "count"), [(30, 3), (29, 4), (31, 2), (29, 2), (0, 0)])
def test_post_batch__stale_voucher__is_skipped(
    funded: Market, alice: SigningKey, amount: int, count: int
) -> None:
    funded.post(funded.row(alice, 30, 3))
    posted = funded.post(funded.row(alice, amount, count))
    assert reasons(funded) == [(alice.address, SkipReason.STALE)]
    assert events(funded.settlement)[0][1] == {
        "batch_id": posted,
        "consumer": alice.address,
        "amount": amount,
        "count": count,
        "reason": 1,
    }
    assert fields(funded.settlement.batches(posted)).items() >= {"amount": 0, "count": 0}.items()
    assert channel(funded, alice.address) == (30, 3)


def test_post_batch__empty_voucher_of_a_new_channel__is_stale(funded: Market, alice: SigningKey) -> None:
    funded.post(funded.row(alice, 0, 0))
    assert reasons(funded) == [(alice.address, SkipReason.STALE)]


def test_post_batch__no_escrow__is_skipped(market: Market, alice: SigningKey) -> None:
    market.post(market.row(alice, 1, 1))
    assert reasons(market) == [(alice.address, SkipReason.NO_ESCROW)]
    assert channel(market, alice.address) == (0, 0)


@pytest.mark.parametrize(("count", "paid"), [(2**32 - 1, True), (2**32, False), (2**64 - 1, False)])
def test_post_batch__count_growth__is_bounded(
    funded: Market, alice: SigningKey, count: int, paid: bool
) -> None:
    funded.post(funded.row(alice, 1, count))
    assert reasons(funded) == ([] if paid else [(alice.address, SkipReason.COUNT_JUMP)])
    assert channel(funded, alice.address) == ((1, count) if paid else (0, 0))


def test_post_batch__count_reaches_40_bits__stops_there(funded: Market, alice: SigningKey) -> None:
    step = 2**32 - 1
    counts = [min(step * i, 2**40 - 1) for i in range(1, 258)]
    for start in range(0, len(counts), 128):
        funded.post(*(funded.row(alice, 1, count) for count in counts[start : start + 128]))
    assert channel(funded, alice.address) == (1, 2**40 - 1)
    funded.post(funded.row(alice, 1, 2**40))
    assert reasons(funded) == [(alice.address, SkipReason.COUNT_JUMP)]
    assert channel(funded, alice.address) == (1, 2**40 - 1)
    assert funded.settlement.escrows(alice.address, funded.node).balance == 100 * UNIT - 1


def test_post_batch__settled_reaches_96_bits__stops_there(market: Market, alice: SigningKey) -> None:
    most = 2**96 - 1
    market.fund(alice.address, most)
    market.post(market.row(alice, 2**128 - 1, 1))
    assert channel(market, alice.address) == (most, 1)
    market.finish()
    market.post(market.row(alice, 2**128 - 1, 2))
    assert reasons(market) == [(alice.address, SkipReason.NO_ESCROW)]
    assert channel(market, alice.address) == (most, 1)


def test_post_batch__bad_row_among_good_ones__leaves_them_alone(
    funded: Market, alice: SigningKey, bob: SigningKey
) -> None:
    funded.fund(bob.address, 10)
    bad = funded.row(bob, 5, 1, count=2)
    posted = funded.post(funded.row(alice, 7, 1), bad, funded.row(bob, 10, 1))
    assert reasons(funded) == [(bob.address, SkipReason.BAD_SIGNATURE)]
    assert fields(funded.settlement.batches(posted)).items() >= {"amount": 17, "count": 2}.items()


def test_post_batch__no_vouchers__posts_the_root(market: Market) -> None:
    posted = market.post()
    assert market.settlement.batches(posted).posted_at == boa.env.timestamp


def test_post_batch__versions_take_turns__keep_their_channels_apart(
    funded: Market, alice: SigningKey, publish_version: Callable[..., bytes], models: Any, publisher: str
) -> None:
    model_id = models.model_id_of(publisher, "digits")
    versions = [funded.version_id, publish_version(model_id), publish_version(model_id)]
    owed = dict.fromkeys(versions, 0)
    for turn, version_id in enumerate([0, 1, 0, 2, 2, 1, 0, 1, 2], 1):
        chosen = versions[version_id]
        owed[chosen] += turn
        row = funded.row(alice, owed[chosen], owed[chosen] * 2, version_id=chosen)
        posted = funded.post(row, version_id=chosen)
        assert (
            fields(funded.settlement.batches(posted)).items() >= {"amount": turn, "count": 2 * turn}.items()
        )
        for version, total in owed.items():
            assert channel(funded, alice.address, version) == (total, 2 * total)
    assert funded.settlement.escrows(alice.address, funded.node).balance == 100 * UNIT - sum(owed.values())


def test_post_batch__skipped_row_of_another_version__moves_no_channel(
    funded: Market, alice: SigningKey, publish_version: Callable[..., bytes], models: Any, publisher: str
) -> None:
    other = publish_version(models.model_id_of(publisher, "digits"))
    funded.post(funded.row(alice, 10, 1))
    funded.post(funded.row(alice, 5, 1), version_id=other)
    assert reasons(funded) == [(alice.address, SkipReason.BAD_SIGNATURE)]
    assert channel(funded, alice.address) == (10, 1)
    assert channel(funded, alice.address, other) == (0, 0)


def test_post_batch__voucher_of_another_version__is_no_signature_for_this(
    funded: Market, alice: SigningKey, publish_version: Callable[..., bytes], models: Any, publisher: str
) -> None:
    other = publish_version(models.model_id_of(publisher, "digits"))
    funded.post(funded.row(alice, 5, 1, version_id=other))
    assert reasons(funded) == [(alice.address, SkipReason.BAD_SIGNATURE)]


def test_post_batch__by_the_signer__is_the_nodes(funded: Market, signer: str) -> None:
    posted = funded.post(sender=signer)
    assert funded.settlement.batches(posted).posted_at != 0


def test_post_batch__by_a_stranger_or_an_old_signer__reverts(
    funded: Market, nodes: Any, operator: str, signer: str, other_signer: str, stranger: str
) -> None:
    nodes.rotate_signer(other_signer, sender=operator)
    for caller in (stranger, signer):
        with boa.reverts("settlement: caller is not the node's operator or signer"):
            funded.post(sender=caller)
    funded.post(sender=other_signer)


def test_post_batch__inactive_node__reverts(funded: Market, nodes: Any, dispute_game: str) -> None:
    nodes.slash(funded.node, 1, dispute_game, sender=dispute_game)
    assert nodes.nodes(funded.node).stake == MIN_STAKE - 1
    with boa.reverts("settlement: node is not active"):
        funded.post()


def test_post_batch__unregistered_node__reverts(funded: Market, stranger: str) -> None:
    with boa.reverts("settlement: node is not active"):
        funded.post(node=stranger)


def test_post_batch__paused__reverts(funded: Market, owner: str) -> None:
    funded.settlement.set_paused(True, sender=owner)
    with boa.reverts("settlement: posting is paused"):
        funded.post()


def test_post_batch__zero_root__reverts(market: Market) -> None:
    with boa.reverts("settlement: receipts root is zero"):
        market.settlement.post_batch(market.node, market.version_id, ZERO_HASH, [], [], sender=market.node)


def test_post_batch__same_root_again__reverts(market: Market) -> None:
    root = market.new_root()
    market.post(root=root)
    with boa.reverts("settlement: batch is already posted"):
        market.post(root=root)


def test_post_batch__same_root_other_version__is_another_batch(
    market: Market, publish_version: Callable[..., bytes], models: Any, publisher: str
) -> None:
    root = market.new_root()
    other = publish_version(models.model_id_of(publisher, "digits"))
    assert market.post(root=root) != market.post(root=root, version_id=other)


def test_post_batch__unknown_version__reverts(funded: Market, alice: SigningKey) -> None:
    unknown = b"\x01" * 32
    row = funded.row(alice, 5, 1, version_id=unknown)
    for rows in ((), (row,), (row, row)):
        with boa.reverts("settlement: version is unknown"):
            funded.post(*rows, version_id=unknown)


def test_post_batch__revoked_version__is_still_paid(
    funded: Market, alice: SigningKey, models: Any, publisher: str
) -> None:
    models.set_status(funded.version_id, 3, sender=publisher)
    posted = funded.post(funded.row(alice, 5, 1))
    assert funded.settlement.batches(posted).amount == 5


def test_post_batch__node_with_all_lines_taken__reverts(market: Market, settlement: Any) -> None:
    overwrite(settlement, "channels._line_counts", market.node, lambda count: 2**24 - 1)
    with boa.reverts("settlement: node has too many versions"):
        market.post()
