"""An arena with a published ladder program, its honest trace and a wrong one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boa
import pytest
from assay.exact.game import Phase, Side
from assay.exact.program import Program
from assay.exact.trace import Trace, run_trace
from assay.types import Hash32, Receipt

from tests.support.arena import Arena, Dispute
from tests.support.game_players import Challenger, Node
from tests.support.small_programs import PlainTrace, arrays, ladder, random_input


@pytest.fixture(scope="session", autouse=True)
def fast_mode() -> Iterator[None]:
    boa.env.enable_fast_mode()
    yield
    boa.env.enable_fast_mode(False)


@pytest.fixture(scope="session")
def arena() -> Arena:
    return Arena.build()


@dataclass(frozen=True)
class Setting:
    """A published program, one request, what is true of it, and a node's lie: element 3 of kernel 1.

    `honest` is by the evaluator, `plain` the same by the scalar interpreter.
    """

    arena: Arena
    program: Program
    version_id: Hash32
    honest: Any
    plain: Any
    wrong: Any

    def receipt(self, trace: Any, **changes: Any) -> Receipt:
        return self.arena.receipt(self.version_id, trace, **changes)

    def players(self, dispute: Dispute, trace: Any) -> tuple[Node, Challenger]:
        """The node plays `trace`; the challenger the truth, or, against the truth, the lie."""
        other = self.wrong if trace is self.honest else self.honest
        return Node(trace, dispute.receipt), Challenger(other)

    def play_until(self, phase: Phase, dispute: Dispute, trace: Any) -> Dispute:
        """Plays until `phase` owes the move."""
        node, challenger = self.players(dispute, trace)
        while dispute.state.phase is not phase:
            node_moves = dispute.state.side is Side.NODE
            player, by = (node, self.arena.operator) if node_moves else (challenger, dispute.state.challenger)
            move = player.play(dispute.state, dispute.data)
            assert move is not None, f"nobody moves in {dispute.state.phase.name}"
            self.arena.move(dispute, move, by=by)
        return dispute


@pytest.fixture(scope="session")
def program() -> Program:
    return ladder(random.Random(1))


@pytest.fixture(scope="session")
def plain(program: Program) -> PlainTrace:
    return PlainTrace(program, random_input(random.Random(2), program))


@pytest.fixture(scope="session")
def honest(program: Program, plain: PlainTrace) -> Trace:
    return run_trace(program, arrays(program, plain.inputs))


def tamper_dense(kernel: int, values: list[int]) -> None:
    if kernel == 1:
        values[3] -= 1_000_000


@pytest.fixture(scope="session")
def wrong(program: Program, plain: PlainTrace) -> PlainTrace:
    return PlainTrace(program, plain.inputs, tamper=tamper_dense)


@pytest.fixture(scope="session")
def version_id(arena: Arena, program: Program) -> Hash32:
    return arena.publish(program)


@pytest.fixture
def setting(
    arena: Arena, program: Program, version_id: Hash32, honest: Trace, plain: PlainTrace, wrong: PlainTrace
) -> Setting:
    return Setting(arena, program, version_id, honest, plain, wrong)


@pytest.fixture
def lie(setting: Setting) -> Dispute:
    """An open dispute about a wrong receipt."""
    return setting.arena.open(setting.receipt(setting.wrong))


@pytest.fixture
def truth(setting: Setting) -> Dispute:
    """An open dispute about a right receipt."""
    return setting.arena.open(setting.receipt(setting.honest))
