"""The tables show what was found as it is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from scripts.demo_parts.report import checks_table, percentile


@pytest.mark.parametrize("detail", ["[/tmp/node.log] ended", "found [unavailable]", "0 of 16 rows"])
def test_checks_table__brackets_in_a_detail__are_shown(detail: str) -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(checks_table({"checks": [{"name": "nodes", "ok": False, "detail": detail}]}))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert detail in shown
    assert "FAILED" in shown


def test_percentile__nothing_measured__is_none() -> None:
    assert percentile([], 99) is None
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0
