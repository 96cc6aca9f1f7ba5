"""Multiply-adds and the longest dispute, against games and by hand."""

from __future__ import annotations

import pytest
from assay.exact.dispute import LEVELS, MAX_MOVES, PARTS
from assay.exact.lowering import lower
from assay.exact.program import Kernel, Program, Signature
from assay.programs.figures import figures_of, longest_dispute

from tests.support.onnx_models import convolution_model

UINT8, INT32 = 2, 6


def program(kernels: int = 1, elements: int = 1, steps: int = 1) -> Program:
    made = Kernel(INT32, (elements,), (steps,), (), b"\x00")
    return Program(False, (), (Signature(INT32, (elements,)),), (made,) * kernels)


def test_figures_of__a_convolution__counts_its_multiply_adds() -> None:
    found = figures_of(lower(convolution_model(side=4, channels=2)))
    assert (found.macs, found.longest_reduction) == (2 * 4 * 4 * 9, 9)


@pytest.mark.parametrize(
    ("kernels", "elements", "steps", "moves"),
    [
        (1, 1, 1, 5),  # open, assert_trace, reveal_tensor, select_element, prove_step
        (2, 1, 1, 6),  # and select the kernel
        (2**LEVELS + 1, 1, 1, 8),  # two selects and a reveal
        (1, 257, 1, 7),  # two chunks: select one, reveal it
        (1, 1, PARTS, 7),  # partials and a segment
        (1, 1, PARTS + 1, 9),
    ],
)
def test_longest_dispute__by_hand__is_this_many_moves(
    kernels: int, elements: int, steps: int, moves: int
) -> None:
    assert longest_dispute(program(kernels, elements, steps)) == moves


def test_longest_dispute__at_the_limits__is_what_the_contract_allows() -> None:
    assert longest_dispute(program(1 << 16, 1 << 30, 1 << 24)) == 1 + MAX_MOVES


def test_longest_dispute__more_rows__makes_deeper_tensors() -> None:
    one = program(elements=256)
    assert longest_dispute(one, rows=1_000) > longest_dispute(one)
