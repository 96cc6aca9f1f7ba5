from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest

from tests.support.contracts import events

VERSION = b"\x11" * 32


@pytest.mark.parametrize("price", [0, 1, 2**128 - 1])
def test_offer__price__stands_until_withdrawn(
    nodes: Any, register_node: Callable[..., str], price: int
) -> None:
    node = register_node()
    nodes.offer(VERSION, price, sender=node)
    assert events(nodes) == [("OfferSet", {"node": node, "version_id": VERSION, "price": price})]
    assert tuple(nodes.offers(node, VERSION)) == (price, True)
    nodes.withdraw_offer(VERSION, sender=node)
    assert events(nodes) == [("OfferWithdrawn", {"node": node, "version_id": VERSION})]
    assert tuple(nodes.offers(node, VERSION)) == (0, False)


def test_offer__again__replaces_the_price(nodes: Any, register_node: Callable[..., str]) -> None:
    node = register_node()
    for price in (2**128 - 1, 3):
        nodes.offer(VERSION, price, sender=node)
    assert tuple(nodes.offers(node, VERSION)) == (3, True)


def test_offers__unknown_node_or_version__is_empty(
    nodes: Any, register_node: Callable[..., str], stranger: str
) -> None:
    node = register_node()
    nodes.offer(VERSION, 5, sender=node)
    assert tuple(nodes.offers(node, b"\x12" * 32)) == (0, False)
    assert tuple(nodes.offers(stranger, VERSION)) == (0, False)


def test_offer__by_signer_or_stranger__reverts(
    nodes: Any, register_node: Callable[..., str], signer: str, stranger: str
) -> None:
    register_node()
    for caller in (signer, stranger):
        with boa.reverts("nodes: node is not registered"):
            nodes.offer(VERSION, 5, sender=caller)


def test_withdraw_offer__none_there__reverts(
    nodes: Any, register_node: Callable[..., str], stranger: str
) -> None:
    node = register_node()
    nodes.offer(VERSION, 5, sender=node)
    nodes.withdraw_offer(VERSION, sender=node)
    for caller in (node, stranger):
        with boa.reverts("nodes: no such offer"):
            nodes.withdraw_offer(VERSION, sender=caller)
