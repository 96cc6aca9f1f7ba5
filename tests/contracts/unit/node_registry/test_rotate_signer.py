from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.contracts import ZERO, events

ENDPOINT = "https://node.example"


def test_rotate_signer__by_operator__keeps_both_validities(
    nodes: Any, register_node: Callable[..., str], signer: str, other_signer: str
) -> None:
    node = register_node()
    first = nodes.env.timestamp
    nodes.env.timestamp += 100
    nodes.rotate_signer(other_signer, sender=node)
    assert events(nodes) == [
        ("SignerRotated", {"node": node, "old_signer": signer, "new_signer": other_signer})
    ]
    assert nodes.signer_info(signer) == (node, first, first + 100)
    assert nodes.signer_info(other_signer) == (node, first + 100, 0)
    assert nodes.nodes(node).signer == other_signer


def test_was_signer__at_the_boundaries__old_ends_where_new_begins(
    nodes: Any,
    register_node: Callable[..., str],
    signer: str,
    other_signer: str,
    other_operator: str,
) -> None:
    node = register_node()
    first = nodes.env.timestamp
    nodes.env.timestamp += 100
    nodes.rotate_signer(other_signer, sender=node)
    times = (0, first - 1, first, first + 99, first + 100, 2**64 - 1)
    assert [nodes.was_signer(node, signer, t) for t in times] == [False, False, True, True, False, False]
    assert [nodes.was_signer(node, other_signer, t) for t in times] == [False] * 4 + [True] * 2
    assert not any(nodes.was_signer(other_operator, signer, t) for t in times)


def test_was_signer__years_after_rotation__old_key_still_answers(
    nodes: Any, register_node: Callable[..., str], signer: str, other_signer: str
) -> None:
    node = register_node()
    signed_at = nodes.env.timestamp + 5
    nodes.env.timestamp += 10
    nodes.rotate_signer(other_signer, sender=node)
    nodes.env.timestamp += 10 * 365 * 86_400
    assert nodes.was_signer(node, signer, signed_at)


def test_was_signer__registered_and_rotated_in_one_block__first_key_was_never_valid(
    nodes: Any, register_node: Callable[..., str], signer: str, other_signer: str
) -> None:
    node = register_node()
    now = nodes.env.timestamp
    nodes.rotate_signer(other_signer, sender=node)
    assert nodes.signer_info(signer) == (node, now, now)
    assert not nodes.was_signer(node, signer, now)
    assert nodes.was_signer(node, other_signer, now)


def test_was_signer__unknown_key__was_nobodys(nodes: Any, stranger: str) -> None:
    assert nodes.signer_info(stranger) == (ZERO, 0, 0)
    assert not nodes.was_signer(ZERO, stranger, 0)
    assert not nodes.was_signer(ZERO, ZERO, 0)
    assert not nodes.was_signer(stranger, stranger, nodes.env.timestamp)


@settings(max_examples=25, deadline=None)
@given(gaps=st.lists(st.integers(1, 10**6), min_size=1, max_size=5), data=st.data())
def test_was_signer__any_history__exactly_one_key_at_every_time_since_registration(
    nodes: Any, operator: str, gaps: list[int], data: st.DataObject
) -> None:
    keys = [str(nodes.env.generate_address()) for _ in range(len(gaps) + 1)]
    start = nodes.env.timestamp
    nodes.register(keys[0], ENDPOINT, sender=operator)
    bounds = [start]
    for key, gap in zip(keys[1:], gaps, strict=True):
        nodes.env.timestamp += gap
        nodes.rotate_signer(key, sender=operator)
        bounds.append(nodes.env.timestamp)
    time = data.draw(st.one_of(st.sampled_from(bounds), st.integers(start - 10, bounds[-1] + 10)))
    expected = [key for key, bound in zip(keys, bounds, strict=True) if bound <= time][-1:]
    assert [key for key in keys if nodes.was_signer(operator, key, time)] == expected


def test_rotate_signer__to_any_key_used_before__reverts(
    nodes: Any,
    register_node: Callable[..., str],
    signer: str,
    other_signer: str,
    other_operator: str,
    stranger: str,
) -> None:
    node = register_node()
    register_node(by=other_operator, key=stranger)
    nodes.rotate_signer(other_signer, sender=node)
    for used in (signer, other_signer, stranger):
        with boa.reverts("nodes: signer was used before"):
            nodes.rotate_signer(used, sender=node)
        with boa.reverts("nodes: signer was used before"):
            nodes.rotate_signer(used, sender=other_operator)


def test_rotate_signer__to_an_operator__only_to_its_own(
    nodes: Any, register_node: Callable[..., str], other_operator: str, other_signer: str
) -> None:
    node = register_node()
    register_node(by=other_operator, key=other_signer)
    with boa.reverts("nodes: signer is another node's operator"):
        nodes.rotate_signer(other_operator, sender=node)
    nodes.rotate_signer(node, sender=node)
    assert nodes.standing(node)[0] == node


def test_rotate_signer__zero_address__reverts(nodes: Any, register_node: Callable[..., str]) -> None:
    node = register_node()
    with boa.reverts("nodes: signer is the zero address"):
        nodes.rotate_signer(ZERO, sender=node)


def test_rotate_signer__by_signer_or_stranger__reverts(
    nodes: Any, register_node: Callable[..., str], signer: str, other_signer: str, stranger: str
) -> None:
    register_node()
    for caller in (signer, stranger):
        with boa.reverts("nodes: node is not registered"):
            nodes.rotate_signer(other_signer, sender=caller)


def test_rotate_signer__staked__leaves_the_stake(
    nodes: Any, register_node: Callable[..., str], stake: Callable[..., None], other_signer: str
) -> None:
    node = register_node()
    stake(node, 2**96 - 1)
    nodes.rotate_signer(other_signer, sender=node)
    assert nodes.nodes(node).stake == 2**96 - 1
    assert nodes.standing(node) == (other_signer, True)
