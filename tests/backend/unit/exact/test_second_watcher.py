"""SPEC.md suffices: what was written from it alone gives the vectors' traces and the challenger's moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from sha3 import keccak_256

from tests.support import second_watcher as second

VECTORS = Path(__file__).resolve().parents[4] / "tests" / "vectors"
STATE_TYPE = f"({','.join(['address'] * 2 + ['bytes32'] * 7 + ['uint256'] * 12 + ['int256'] * 2)})"
HONEST_NODE = "an honest node, attacked at step 200"


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_bytes())


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def records_of(program: Any) -> list[bytes]:
    records = [raw(record) for record in program["records"]]
    assert second.root(second.tree([second.leaf(record) for record in records])) == raw(
        program["program_root"]
    )
    return records


def by_root(constants: list[bytes]) -> dict[bytes, bytes]:
    return {second.root(second.tensor_tree(data)): data for data in constants}


@pytest.fixture(scope="module")
def traced() -> tuple[Any, second.Trace]:
    (vector,) = load("traces")["traces"]
    constants = by_root([raw(one["data"]) for one in vector["constants"].values()])
    inputs = [raw(one["data"]) for one in vector["inputs"]]
    return vector, second.Trace(records_of(vector), constants, inputs, vector["rows"])


def test_trace__of_the_vectors__is_computed(traced: tuple[Any, second.Trace]) -> None:
    vector, trace = traced
    assert trace.tensors == [raw(data) for data in vector["tensors"]]
    assert second.root(trace.tree) == raw(vector["trace_root"])
    for side in ("input", "output"):
        tensors = [(one["dtype"], one["dims"], raw(one["data"])) for one in vector[f"{side}s"]]
        assert second.hash_of(tensors) == raw(vector[f"{side}_hash"])


def test_accumulators__of_the_openings__are_computed(traced: tuple[Any, second.Trace]) -> None:
    for one in load("openings")["steps"]:
        place, element, step = one["kernel"], one["element"], one["step"]
        found = [traced[1].accumulator(place, element, steps) for steps in (step, step + 1)]
        assert found == [int(one["before"]), int(one["after"])]


def test_instructions__of_the_vectors__are_computed() -> None:
    for one in load("instructions")["instructions"]:
        for case in one["cases"]:
            *operands, expected = map(int, case.split())
            assert second.run(raw(one["expression"]), 0, operands, ()) == expected, case


def calldata(encoded: bytes, types: list[str], move: tuple[Any, ...]) -> bytes:
    function, *arguments = move
    state = list(second.read_state(encoded).values())
    row = (*("0x" + one.hex() for one in state[:2]), *state[2:])
    kinds = ["uint256", STATE_TYPE, *types]
    selector = keccak_256(f"{function}({','.join(kinds)})".encode()).digest()[:4]
    return bytes(selector + encode(kinds, [1, row, *arguments]))


@pytest.mark.parametrize("number", range(4))
def test_games__of_the_vectors__are_played_alike(number: int) -> None:
    """Against the honest node the vector's challenger points anywhere; this one has nothing to point at."""
    vectors = load("games")
    game, types = vectors["games"][number], vectors["arguments"]
    program = vectors["program"]
    constants = by_root([raw(data) for data in program["constants"]])
    own = second.Trace(records_of(program), constants, [raw(data) for data in vectors["inputs"]], 1)
    encoded, data, played = raw(game["opened"]["state"]), b"", 0
    for move in game["moves"]:
        found = second.answer(second.read_state(encoded), data, own)
        if move["function"].startswith("select"):
            expected = None if game["name"] == HONEST_NODE else raw(move["calldata"])
            assert (found and calldata(encoded, types[move["function"]], found)) == expected
            played += 1
        else:
            assert found is None
        if move.get("state"):
            encoded, data = raw(move["state"]), raw(move["data"])
            assert keccak_256(encoded).digest() == raw(move["hash"])
    assert played
