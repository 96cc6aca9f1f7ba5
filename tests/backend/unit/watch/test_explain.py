"""A dispute in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from assay.chain.disputes import Closing, DisputeRecord, PlayedMove
from assay.exact.game import Phase, State
from assay.exact.program import Kernel, Program, Signature
from assay.types import Address, Hash32, Receipt, SignedReceipt
from assay.watch.explain import claim_of, place_text, standing_text, tensor_name, value_text, verdict

NODE, CHALLENGER = Address("0x" + "22" * 20), Address("0x" + "33" * 20)
HASH = Hash32(b"\x05" * 32)
KERNELS = tuple(
    Kernel(2, (4,), (), (), b"\x00", name=name, output=output, op_type="QLinearConv")
    for name, output in (("/conv1", "a sum"), ("/conv1", "a"), ("/conv2", "b"), ("", "c"), ("", ""))
)
PROGRAM = Program(True, (), (Signature(2, (4,), 2, "y"),), KERNELS)
START = State(CHALLENGER, NODE, HASH, HASH, HASH, deadline=100)
POINTED = replace(START, phase=Phase.PROVE_STEP, rows=1, kernel=2, element=3, dtype=2, high=1, after=131)


class Truth:
    """Every tensor of it is 127, 128, 129, 130, …"""

    def tensor(self, kernel: int) -> bytes:
        return bytes(range(127, 135))


def record(state: State | None = None, closing: Closing | None = None) -> DisputeRecord:
    signed = SignedReceipt(Receipt(NODE, CHALLENGER, HASH, HASH, HASH, 1, 1, 1), b"")
    moves = () if state is None else (PlayedMove(Phase.SELECT_ELEMENT, b"", state, HASH, 2, 0),)
    return DisputeRecord(1, NODE, CHALLENGER, signed, START, HASH, 1, moves, closing)


def closing(node_won: bool, phase: Phase) -> Closing:
    return Closing(node_won, phase, 0, 0, 0, 0, HASH, 3)


def test_verdict__element_and_truth_known__is_the_one_sentence() -> None:
    said = verdict(record(POINTED, closing(False, Phase.PROVE_STEP)), PROGRAM, Truth())
    assert said == f"node {NODE} claimed element 3 of /conv2 is 131; it is 130"


def test_verdict__claim_that_is_true__says_so() -> None:
    state = replace(POINTED, after=130)
    assert (
        verdict(record(state), PROGRAM, Truth())
        == f"node {NODE} claimed element 3 of /conv2 is 130, and it is"
    )
    lost = verdict(record(state, closing(True, Phase.PROVE_STEP)), PROGRAM, Truth())
    assert lost.endswith("and it is; the challenger lost")


def test_verdict__nothing_but_the_chain__says_what_was_claimed() -> None:
    assert verdict(record(POINTED), None, None) == f"node {NODE} claimed element 3 of kernel 2 is 131"


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (None, "is asked to show"),
        (closing(False, Phase.ASSERT), "no answer to ASSERT"),
        (closing(True, Phase.SELECT), "did not go on"),
        (closing(False, Phase.FORFEIT), "beyond the end"),
    ],
)
def test_verdict__no_element_yet__says_how_far_it_came(end: Closing | None, words: str) -> None:
    assert words in verdict(record(None, end), PROGRAM, None)
    assert claim_of(record(None, end), PROGRAM, None) is None


@pytest.mark.parametrize(
    ("kernel", "name"),
    [(0, "a sum of /conv1"), (1, "/conv1"), (2, "/conv2"), (3, "c"), (4, "kernel 4"), (9, "kernel 9")],
)
def test_tensor_name__each_kind_of_kernel__is_named(kernel: int, name: str) -> None:
    assert tensor_name(PROGRAM, kernel) == name


@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [(2, 131, "131"), (3, -5, "-5"), (1, 0x3DCCCCCD, "0.1"), (1, 0x7FC00000, "nan"), (1, 0xFF800000, "-inf")],
)
def test_value_text__each_dtype__is_readable(dtype: int, value: int, text: str) -> None:
    assert value_text(dtype, value) == text


def test_place_text__several_rows__names_the_row() -> None:
    assert place_text(9, 4, 3) == "element 1 of row 2"
    assert place_text(9, None, 3) == "element 9"
    assert place_text(3, 4, 1) == "element 3"


def test_standing_text__each_side_and_end__is_told() -> None:
    assert standing_text(record(), 90) == "the node owes ASSERT within 10 s"
    assert "the node owed ASSERT 5 s ago" in standing_text(record(), 105)
    turn = replace(POINTED, phase=Phase.SELECT_SEGMENT)
    assert standing_text(record(turn), 100) == "the challenger owes SELECT_SEGMENT within 0 s"
    assert "the node has lost" in standing_text(record(replace(POINTED, phase=Phase.FORFEIT)), 0)
    assert standing_text(record(POINTED, closing(True, Phase.PROVE_STEP)), 0).endswith("the node won")
