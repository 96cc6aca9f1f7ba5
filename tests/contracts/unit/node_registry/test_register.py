from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa

from tests.support.contracts import ZERO, events, fields

ENDPOINT = "https://node.example"


def test_register__new_node__stores_and_logs(nodes: Any, operator: str, signer: str) -> None:
    nodes.register(signer, ENDPOINT, sender=operator)
    assert events(nodes) == [("NodeRegistered", {"node": operator, "signer": signer, "endpoint": ENDPOINT})]
    assert fields(nodes.nodes(operator)) == {
        "signer": signer,
        "stake": 0,
        "thawing": 0,
        "thaw_at": 0,
        "frozen": 0,
        "registered_at": nodes.env.timestamp,
        "endpoint": ENDPOINT,
    }
    assert nodes.signer_info(signer) == (operator, nodes.env.timestamp, 0)
    assert nodes.standing(operator) == (signer, False)


def test_register__operator_as_its_own_signer__is_accepted(nodes: Any, operator: str) -> None:
    nodes.register(operator, ENDPOINT, sender=operator)
    assert nodes.standing(operator) == (operator, False)


def test_register__twice__reverts(nodes: Any, register_node: Callable[..., str], stranger: str) -> None:
    register_node()
    with boa.reverts("nodes: node is already registered"):
        register_node(key=stranger)


def test_register__signer_of_another_node__reverts(
    register_node: Callable[..., str], other_operator: str
) -> None:
    register_node()
    with boa.reverts("nodes: signer was used before"):
        register_node(by=other_operator)


def test_register__former_signer_of_another_node__reverts(
    nodes: Any, register_node: Callable[..., str], operator: str, other_operator: str, other_signer: str
) -> None:
    register_node()
    nodes.rotate_signer(other_signer, sender=operator)
    with boa.reverts("nodes: signer was used before"):
        register_node(by=other_operator)


def test_register__another_operator_as_signer__reverts(
    register_node: Callable[..., str], operator: str, other_operator: str
) -> None:
    register_node()
    with boa.reverts("nodes: signer is another node's operator"):
        register_node(by=other_operator, key=operator)


def test_register__zero_signer__reverts(register_node: Callable[..., str]) -> None:
    with boa.reverts("nodes: signer is the zero address"):
        register_node(key=ZERO)


def test_register__empty_endpoint__reverts(nodes: Any, operator: str, signer: str) -> None:
    with boa.reverts("nodes: endpoint is empty"):
        nodes.register(signer, "", sender=operator)


def test_register__paused__reverts_until_resumed(
    nodes: Any, register_node: Callable[..., str], owner: str
) -> None:
    nodes.set_paused(True, sender=owner)
    with boa.reverts("nodes: registration is paused"):
        register_node()
    nodes.set_paused(False, sender=owner)
    register_node()
