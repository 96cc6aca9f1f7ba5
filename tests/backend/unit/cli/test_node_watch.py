"""What `assay node status --watch` draws of versions, executors and the process that settles."""

from __future__ import annotations

import json
from typing import Any

import pytest
from assay.cli.node_watch import render, role, short_name, versions_table, watch
from assay.node.observability.live import Live, Model
from rich.console import Console, RenderableType

ENGINE = {"max_rows": 32, "reason": "", "retry_at": None}
EXECUTOR = {
    "url": "http://10.0.0.7:8000",
    "up": False,
    "problem": "gone",
    "failures": {"connection": 4},
    "p99_seconds": 0.025,
}


def version(**changes: Any) -> dict[str, Any]:
    row = {"model": "0xA/digits@1", "state": "READY", "problem": "", "batching": ENGINE, "executor": None}
    return row | changes


def drawn(what: RenderableType) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(what)
    return " ".join(capture.get().split())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "ready │ up to 32 rows │ this process"),
        (
            {"batching": None, "state": "UNAVAILABLE", "problem": "not in memory"},
            "unavailable: not in memory",
        ),
        ({"batching": {"max_rows": 1, "reason": "node Mul mixes", "retry_at": None}}, "off: node Mul mixes"),
        (
            {"batching": {"max_rows": 1, "reason": "it ran longer", "retry_at": 3661}},
            "off until 01:01:01 UTC: it ran longer",
        ),
        ({"executor": EXECUTOR}, "http://10.0.0.7:8000, DOWN, p99 25.00 ms, 4 failures"),
    ],
)
def test_versions_table__each_kind__says_what_and_why(changes: dict[str, Any], words: str) -> None:
    assert words in drawn(versions_table([version(**changes)]))


def test_render__chain_out_of_reach__still_shows_executors() -> None:
    models = (
        Model("a@1", None, None, 0, 0, None, executor_up=False),
        Model("b@1", 3.0, 0.01, 2, 1 << 20, 32, executor_up=True, executor_p99=0.02),
    )
    text = drawn(render(None, "no answer", Live(1.0, 0.0, 0, None, None, models=models)))
    assert "DOWN" in text and "up 20.00 ms" in text


def test_role__of_several_processes__says_who_settles() -> None:
    assert role(None) == []
    assert role(True) == ["settles"]
    assert "another process settles" in role(False)[0]


def test_short_name__of_an_address__fits_a_line() -> None:
    assert short_name("0x4CA5b079eD28B353aD6078126E9da17Df10Ca371/digits@1") == "0x4CA5…a371/digits@1"
    assert short_name("digits@1") == "digits@1"


def test_watch__json__is_a_line_a_look_and_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as some build servers do: then a pipe is drawn on like a screen
    looks = iter([{"a": 1}, {"a": 2}])

    def fetch() -> dict[str, Any]:
        try:
            return next(looks)
        except StopIteration:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        watch(fetch, lambda: None, 0.1, as_json=True)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["status"] for line in lines] == [{"a": 1}, {"a": 2}]
