"""The published games, replayed: the contract takes every move and comes to the same states."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import boa
import pytest
from assay.chain.dispute_game import STATE_TYPES
from assay.commitments.identifiers import keccak
from assay.exact.game import Phase, State
from assay.types import Receipt
from eth_abi.abi import decode

from scripts.game_vectors import ARGUMENTS, STATE
from tests.contracts.unit.dispute_game.conftest import Setting
from tests.support.contracts import events

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "games.json").read_text())


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def state_in(setting: Setting, text: str, opened: State) -> State:
    """The vector's state with what differs on this chain: who plays, the receipt, the dispute's clock."""
    state = State.from_row(decode(STATE_TYPES, raw(text)))
    same = ("challenger", "node", "batch_id", "digest", "program_root")
    return replace(state, **{name: getattr(opened, name) for name in same})


@pytest.mark.parametrize("game", VECTORS["games"], ids=lambda game: game["name"])
def test_games__replayed__contract_comes_to_the_same_states(setting: Setting, game: dict[str, Any]) -> None:
    arena = setting.arena
    root = raw(VECTORS["program"]["program_root"])
    model_id = arena.models.model_id_of(arena.publisher, "m")
    content = (b"\xaa" * 32, root, b"\xcc" * 32, 500, "uri")
    version_id = arena.models.publish_version(model_id, *content, sender=arena.publisher)
    values = [raw(one) if str(one).startswith("0x") and len(one) == 66 else one for one in game["receipt"]]
    theirs = Receipt(*values)
    boa.env.timestamp = game["opened"]["time"]
    hashes = {"input_hash": theirs.input_hash, "output_hash": theirs.output_hash}
    receipt = arena.receipt(version_id, **hashes)
    dispute = arena.open(receipt)
    opened, before = dispute.state, game["opened"]["state"]
    for move in game["moves"]:
        boa.env.timestamp = move["time"]
        types = ("uint256", STATE, *ARGUMENTS[move["function"]])
        selector = keccak(f"{move['function']}({','.join(types)})".encode())[:4]
        data = raw(move["calldata"])
        assert data[:4] == selector
        _, row, *arguments = decode(types, data[4:])
        assert row == decode(STATE_TYPES, raw(before))
        if move["function"] == "assert_trace":
            arguments[0] = tuple(getattr(receipt, name) for name in Receipt.__dataclass_fields__)
        by = arena.challenger if move["function"].startswith("select") else arena.operator
        getattr(arena.game, move["function"])(1, dispute.state.row(), *arguments, sender=by)
        ((name, args),) = [e for e in events(arena.game) if e[0] in ("Moved", "DisputeClosed")]
        if "state" not in move:
            assert (name, args["node_won"]) == ("DisputeClosed", True)
            return
        dispute.state = arena.state_of(args["state"])
        assert dispute.state == state_in(setting, move["state"], opened)
        assert args["data"] == raw(move["data"])
        assert keccak(raw(move["state"])) == raw(move["hash"])
        before = move["state"]
    if dispute.state.phase is Phase.FORFEIT:
        arena.close(dispute)
    else:
        arena.claim_timeout(dispute)
    assert dispute.node_won is False is game["node_won"]
