"""Vectors of the dispute game for `vectors.py`: complete games, each state and move as bytes."""

from __future__ import annotations

import random
from dataclasses import astuple
from functools import cache
from typing import Any

from assay.chain.dispute_game import STATE_TYPES, state_hash
from assay.commitments.identifiers import keccak
from assay.commitments.receipts import receipt_digest
from assay.commitments.signing import SigningKey
from assay.exact.dispute import Move, Phase, Side, State
from assay.exact.game import defend
from assay.exact.referee import next_state, revealed_data
from assay.types import ZERO_HASH, Address, Domain, Hash32, Receipt
from eth_abi.abi import encode

from tests.support.game_players import Aiming, Challenger, Player
from tests.support.small_programs import PlainTrace, commitments_of, ladder, random_input
from tests.support.tampered_trace import TamperedTrace, with_padding

START, MOVE_WINDOW = 1_800_000_000, 600
STATE = f"({','.join(STATE_TYPES)})"
RECEIPT = "(address,address,bytes32,bytes32,bytes32,uint128,uint64,uint64)"
OPENINGS = "(bytes32,bytes32[],bytes,bytes32[])[]"
ARGUMENTS = {
    "assert_trace": (
        RECEIPT,
        *("bytes", "bytes32[]", "uint32", "bytes32[]", "bytes32[]", "bytes32[][]", "bytes32", "bytes32[]"),
    ),
    "reveal": ("bytes32[]",),
    "select": ("uint256", "bytes32", "bytes32[]"),
    "reveal_tensor": ("bytes", "bytes32[]", "bytes32", "bytes32[]", "bytes"),
    "reveal_chunk": ("bytes",),
    "select_element": ("bytes", "uint256"),
    "reveal_partials": ("bytes",),
    "select_segment": ("bytes", "uint256"),
    "prove_step": ("bytes", "bytes32[]", OPENINGS),
}
"""ABI types after `(dispute_id, state)`."""
CHALLENGER = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")


def hexed(value: bytes) -> str:
    return "0x" + value.hex()


def calldata(dispute_id: int, state: State, move: Move) -> bytes:
    """The transaction's input."""
    types = ("uint256", STATE, *ARGUMENTS[move.function])
    selector = keccak(f"{move.function}({','.join(types)})".encode())[:4]
    return selector + encode(types, (dispute_id, state.row(), *move.arguments))


@cache
def example() -> PlainTrace:
    """Seven kernels: a tensor of five chunks, a reduction of 300 steps in two rounds, float32 and int32."""
    program = ladder(random.Random(11), wide=600, rungs=2)
    return PlainTrace(program, random_input(random.Random(12), program))


def play(name: str, domain: Domain, key: SigningKey, trace: Any, challenger: Player) -> dict[str, Any]:
    """One game; every move is played 10 s after the one before."""
    program = trace.program
    inputs, outputs = commitments_of(program, trace)
    version = Hash32(keccak(b"assay test vector: version"))
    receipt = Receipt(key.address, CHALLENGER, version, inputs, outputs, 3, 1, START)
    digest = receipt_digest(domain, receipt)
    state: State | None = State(
        CHALLENGER, key.address, ZERO_HASH, digest, program.root, deadline=START + MOVE_WINDOW
    )
    moves: list[dict[str, Any]] = []
    opened, data, now = state, b"", START
    while state is not None and state.phase is not Phase.FORFEIT:
        is_node = state.side is Side.NODE
        move = defend(state, trace, receipt) if is_node else challenger.play(state, data)
        if move is None or (state.phase is Phase.PROVE_STEP and isinstance(trace, TamperedTrace)):
            break
        now += 10
        following = next_state(state, move, now + MOVE_WINDOW)
        moves.append({"function": move.function, "time": now, "calldata": hexed(calldata(1, state, move))})
        if following is not None:
            data = revealed_data(move)
            moves[-1] |= {"data": hexed(data), **shown(following)}
        state = following
    return {
        "name": name,
        "receipt": [hexed(one) if isinstance(one, bytes) else one for one in astuple(receipt)],
        "signature": hexed(key.sign(digest)),
        "trace_root": hexed(trace.root),
        "opened": {"time": START, **shown(opened)},
        "moves": moves,
        "node_won": state is None,
    }


def shown(state: State | None) -> dict[str, str]:
    assert state is not None
    return {"state": hexed(encode(STATE_TYPES, state.row())), "hash": hexed(state_hash(state))}


def game_vectors(domain: Domain, key: SigningKey) -> dict[str, Any]:
    """A lie pinned to one step, a truth proven, a forged padding forfeited; dispute 1 of its chain each."""
    honest = example()
    value = honest.accumulators(1, 7, [300])[0] + 1
    lie = TamperedTrace(honest, {1: {7: value}}, lie_from=124)
    chunk = TamperedTrace(honest, {0: {555: honest.values[0][555] - 1}})
    forged = TamperedTrace(honest, {}, trees={0: with_padding(honest.tensor_tree(0), 6, b"\x01" * 32)})
    games = [
        play("a partial sum that lies from step 123 on", domain, key, lie, Challenger(honest)),
        play("an element of the fifth chunk of a tensor", domain, key, chunk, Challenger(honest)),
        play("an honest node, attacked at step 200", domain, key, honest, Aiming(1, 11, 200)),
        play("a padding leaf that is not zero", domain, key, forged, Challenger(honest)),
    ]
    program = honest.program
    return {
        "domain": {"chain_id": domain.chain_id, "settlement": domain.settlement},
        "move_window": MOVE_WINDOW,
        "program": {
            "program_root": hexed(program.root),
            "records": [hexed(record) for record in program.records],
            "constants": [hexed(values.tobytes()) for values in program.constants.values()],
        },
        "inputs": [hexed(data) for data in honest.inputs],
        "trace_root": hexed(honest.root),
        "arguments": {name: list(types) for name, types in ARGUMENTS.items()},
        "games": games,
    }
