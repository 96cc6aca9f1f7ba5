"""The proxy in front of the nodes waits for what a node waits for, and refuses as a node does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import assay
from assay.node.config import LimitsConfig, X402Config
from assay.node.refusals import REFUSALS

CONF = (Path(assay.__file__).parents[1] / "operations" / "proxy.conf").read_text()


def seconds(location: str) -> int:
    """A location's `proxy_read_timeout`."""
    found = re.search(
        rf"location {location} {{[^}}]*?proxy_read_timeout (\d+)s;", CONF.replace("{ return 418; }", "")
    )
    assert found is not None
    return int(found[1])


def test_proxy__payment_by_x402__is_waited_for_until_the_node_gives_it_up() -> None:
    """Or its payer is told nothing of what was paid."""
    x402, limits = X402Config(), LimitsConfig()
    assert seconds("@by_x402") >= x402.verify_seconds + limits.run_seconds + 2 * x402.settle_seconds
    assert seconds("/") >= 2 * limits.run_seconds


def test_proxy__body__may_be_as_large_as_a_node_takes() -> None:
    assert f"client_max_body_size {LimitsConfig().max_body_mib}m;" in CONF


def test_proxy__refusals__have_code_and_cure_and_what_may_come_again_says_when() -> None:
    said = re.findall(r"return (\d+) '(.*)';", CONF)
    assert len(said) == 3
    for status, text in said:
        document = json.loads(text)
        assert set(document) == {"error", "code", "cure"}
        assert REFUSALS[document["code"]].status == int(status)
    assert CONF.count("add_header Retry-After") == sum(status == "503" for status, _ in said)
