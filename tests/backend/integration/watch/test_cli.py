"""`assay watch` and `assay dispute` in this process: what they print, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from assay.cli import main
from assay.errors import ConfigurationError, RequestError

from tests.support.cli import RUNNER
from tests.support.watched import WatchedWorld, publish


@pytest.fixture
def arguments(world: WatchedWorld, folder: Path) -> list[str]:
    return [
        "--rpc",
        world.chain.url,
        "--deployments",
        str(world.folder / "deployments"),
        "--data",
        str(folder),
    ]


def run_json(*arguments: str, code: int = 0) -> Any:
    result = RUNNER.invoke(main, [*arguments, "--json"], env={"ASSAY_ACCOUNT": ""})
    assert result.exit_code == code, result.stderr + result.stdout
    return json.loads(result.stdout)


def play_one(world: WatchedWorld, folder: Path) -> None:
    world.node.post([world.node.answer(changes={3: 1})])
    with world.watch(folder, world.watcher_key()) as watch:
        world.play_to_end(lambda: watch.run(once=True))


def test_dispute_list__filters__choose(world: WatchedWorld, folder: Path, arguments: list[str]) -> None:
    play_one(world, folder)
    operator, version = world.node.operator, "0x" + world.version.hex()
    for chosen in (["--closed"], ["--node", operator], ["--version", version]):
        (found,) = run_json("dispute", "list", *chosen, *arguments)
        assert found["state"] == "challenger_won"
        assert found["gas"]["challenger"]["transactions"] == 4
    for left_out in (["--open"], ["--node", world.accounts[7]], ["--challenger", operator]):
        assert run_json("dispute", "list", *left_out, *arguments) == []
    shown = RUNNER.invoke(main, ["dispute", "list", *arguments])
    assert "1 disputes" in shown.stdout


def test_dispute_show__for_people__names_tensor_and_values(
    world: WatchedWorld, folder: Path, arguments: list[str]
) -> None:
    play_one(world, folder)
    shown = RUNNER.invoke(main, ["dispute", "show", "1", "--hub", str(world.hub), *arguments])
    assert shown.exit_code == 0, shown.stderr
    words = " ".join(shown.stdout.split())
    assert "claimed element 3 of row 0 of /dense is" in words
    assert "QLinearMatMul" in words
    assert "challenger paid" in words
    bare = run_json("dispute", "show", "1", "--no-recompute", *arguments)
    assert bare["claim"]["true"] is None
    assert bare["claim"]["tensor"] == "kernel 1"


def test_dispute_show__data_gone__says_that_the_true_value_is_not_known(
    world: WatchedWorld, folder: Path, arguments: list[str], tmp_path: Path
) -> None:
    play_one(world, folder)
    world.node.server.answers.clear()
    elsewhere = [*arguments[:-1], str(tmp_path / "elsewhere")]
    shown = run_json("dispute", "show", "1", "--hub", str(world.hub), *elsewhere)
    assert shown["claim"]["tensor"] == "/dense"
    assert shown["claim"]["true"] is None
    assert "true values are not known" in shown["unknown"]


def test_dispute_show__no_such_dispute__is_refused(arguments: list[str]) -> None:
    answer = run_json("dispute", "show", "99", *arguments, code=RequestError.exit_code)
    assert answer["code"] == "dispute_unknown"


def test_watch__dry_run_once__judges_and_disputes_nothing(world: WatchedWorld, arguments: list[str]) -> None:
    world.node.post([world.node.answer(changes={3: 1}), world.node.answer()])
    options = ["--dry-run", "--once", "--all", "--no-api", "--hub", str(world.hub)]
    found = run_json("watch", *options, *arguments)
    assert found["nodes"][0]["verdicts"] == {"right": 1, "wrong": 1}
    assert found["challenges"] == {"due": 1}
    assert world.disputes() == {}
    shown = RUNNER.invoke(main, ["watch", "--report", "--no-api", *arguments])
    assert shown.exit_code == 0, shown.stderr
    assert "profit and loss" in shown.stdout
    assert "receipts: 1 right, 1 wrong" in shown.stdout
    assert "WITHHOLDS" not in shown.stdout


def test_watch__node_withholds_public_data__is_shown_as_such(
    world: WatchedWorld, arguments: list[str]
) -> None:
    world.node.post([world.node.answer()], serve_data=False)
    options = ["--dry-run", "--once", "--all", "--no-api", "--hub", str(world.hub)]
    (node,) = run_json("watch", *options, *arguments)["nodes"]
    assert (node["withholds"], node["public_data"]) == (True, {"withheld": 1})
    shown = RUNNER.invoke(main, ["watch", "--report", "--no-api", *arguments])
    assert "WITHHOLDS" in shown.stdout
    assert "data: 1 withheld" in shown.stdout


def test_watch__another_version_alone__passes_this_one_by(world: WatchedWorld, arguments: list[str]) -> None:
    other = publish(world, "other", b"other", world.program.root)
    world.node.post([world.node.answer(changes={3: 1})])
    options = ["--dry-run", "--once", "--all", "--no-api", "--version", "0x" + other.hex()]
    assert run_json("watch", *options, *arguments)["nodes"] == []


def test_watch__without_an_account__says_what_to_give(arguments: list[str]) -> None:
    answer = run_json("watch", "--once", "--no-api", *arguments, code=ConfigurationError.exit_code)
    assert "--dry-run" in answer["error"]


def test_watch__seed_that_is_none__is_refused(arguments: list[str]) -> None:
    options = ["--once", "--dry-run", "--seed", "0x12"]
    assert run_json("watch", *options, *arguments, code=RequestError.exit_code)["code"] == "seed_invalid"
