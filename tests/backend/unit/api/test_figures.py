"""The network figures of SPEC.md §8."""

from __future__ import annotations

from dataclasses import replace

from assay.api.figures import count_inferences, live_versions, own_share, probed_share, served_share, share
from assay.db.repositories.network import BatchRow, NodeRow, ProbeRow
from hypothesis import given
from hypothesis import strategies as st

BATCH = BatchRow("n", "v", True, 1_700_000_000, True, 5, 0, 5)
NODE = NodeRow("n", 10, frozenset({"v", "w"}), (), 100, True, frozenset({"v", "x"}))


def probes(*counters: tuple[int, int]) -> tuple[ProbeRow, ...]:
    return tuple(ProbeRow(at, True, received, served) for at, (received, served) in enumerate(counters))


def test_count_inferences__signed_version__is_settled_never_verified() -> None:
    found = count_inferences([replace(BATCH, is_provable=False)])
    assert (found.settled, found.verified) == (5, 0)


def test_count_inferences__unavailable_batch__is_settled_not_verified() -> None:
    found = count_inferences([replace(BATCH, receipts=None)])
    assert (found.settled, found.verified) == (5, 0)


def test_count_inferences__acknowledged_late__is_verified_when_both_are_there() -> None:
    found = count_inferences([replace(BATCH, count=2), replace(BATCH, count=4, receipts=1)])
    assert (found.settled, found.verified) == (6, 6)


def test_count_inferences__count_without_receipts__is_capped() -> None:
    assert count_inferences([replace(BATCH, count=1_000, receipts=3)]).verified == 3


def test_count_inferences__disputed__is_settled_and_not_yet_verified() -> None:
    found = count_inferences([replace(BATCH, voided=1, disputed=2)])
    assert (found.settled, found.verified) == (4, 2)


def test_count_inferences__voided__is_taken_off_both() -> None:
    found = count_inferences([replace(BATCH, voided=2)])
    assert (found.settled, found.verified) == (3, 3)


ROWS = st.builds(
    BatchRow,
    st.sampled_from("ab"),
    st.sampled_from("xy"),
    st.booleans(),
    st.integers(0, 2**31),
    st.booleans(),
    st.integers(0, 50),
    st.integers(0, 50),
    st.none() | st.integers(0, 50),
)


@given(st.lists(ROWS))
def test_count_inferences__any_batches__verified_within_settled_and_groups_add_up(
    rows: list[BatchRow],
) -> None:
    found = count_inferences(rows)
    assert 0 <= found.verified_paid <= found.settled_paid or found.verified <= found.settled
    assert 0 <= found.verified <= found.settled
    for group in ("day", "node", "version"):
        assert found.verified_by[group].total() == found.verified
        assert found.settled_by[group].total() == found.settled


def test_live_versions__stale_or_unlisted__are_not_live() -> None:
    assert live_versions([NODE], 130, 10) == {"v"}
    assert live_versions([NODE], 131, 10) == set()
    assert live_versions([replace(NODE, newest_answered=False)], 100, 10) == set()


def test_own_share__restarted_counters__start_again_at_zero() -> None:
    assert own_share(probes((100, 100), (200, 150), (10, 10))) == 60 / 110
    assert own_share(probes((5, 5))) == 1.0


def test_served_share__boasting_node__is_capped_by_probes_and_weighted_by_stake() -> None:
    missed = ProbeRow(9, False, None, None)
    boaster = replace(NODE, probes=(*probes((0, 0), (100, 100)), missed, missed))
    assert probed_share(boaster.probes) == 0.5
    assert served_share([boaster]) == 0.5
    assert served_share([boaster, replace(NODE, stake=30)]) == 0.125
    assert served_share([]) == 0.0


def test_share__of_nothing__is_zero() -> None:
    assert share(0, 0) == 0.0
