from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa

from tests.support.contracts import events


def test_set_endpoint__by_operator__changes_and_logs_both(
    nodes: Any, register_node: Callable[..., str]
) -> None:
    node = register_node()
    for old, new in (("https://node.example", "x" * 256), ("x" * 256, "y")):
        nodes.set_endpoint(new, sender=node)
        assert events(nodes) == [
            ("EndpointChanged", {"node": node, "old_endpoint": old, "new_endpoint": new})
        ]
        assert nodes.nodes(node).endpoint == new


def test_set_endpoint__empty__reverts(nodes: Any, register_node: Callable[..., str]) -> None:
    node = register_node()
    with boa.reverts("nodes: endpoint is empty"):
        nodes.set_endpoint("", sender=node)


def test_set_endpoint__by_signer_or_stranger__reverts(
    nodes: Any, register_node: Callable[..., str], signer: str, stranger: str
) -> None:
    register_node()
    for caller in (signer, stranger):
        with boa.reverts("nodes: node is not registered"):
            nodes.set_endpoint("https://evil.example", sender=caller)
