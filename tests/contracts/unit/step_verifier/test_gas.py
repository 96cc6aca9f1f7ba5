"""What a step costs, at the profile's limits and on the digits network; the verifier's size."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from assay.commitments.merkle import leaf_hash, node_hash
from assay.exact.assembler import Expression
from assay.exact.lowering import lower
from assay.exact.program import Affine, Kernel, Operand, Source, encode_kernel
from assay.exact.trace import run_trace

from tests.support import exact_models
from tests.support.contracts import deployer
from tests.support.steps import OnAnvil, Refused, step_gas

pytestmark = pytest.mark.network
INT8, FLOAT = 3, 1
LAST_STEP = 350_000
"""What the last move of a dispute may cost as a whole."""
KERNELS, ROWS, ELEMENTS = 1 << 16, 2, (1 << 31) - 1


def root_over(leaf: bytes, siblings: Sequence[bytes], index: int) -> bytes:
    for height, sibling in enumerate(siblings):
        leaf = node_hash(sibling, leaf) if index >> height & 1 else node_hash(leaf, sibling)
    return leaf


def largest(chunk_bytes: int = 1024) -> tuple[Any, ...]:
    """A step of kernel 2^16 − 1 that multiplies the last elements of a constant of 2^31 − 1 bytes and of the
    tensor before it, two rows of as many. Only the paths to them exist.
    """
    rng = random.Random(8)
    last = (ROWS * ELEMENTS - 1) // 1024
    chunk = bytes(rng.randrange(1, 256) for _ in range(chunk_bytes))
    siblings = [rng.randbytes(32) for _ in range(22)]
    root = root_over(leaf_hash(chunk), siblings, last)
    trace_siblings = [rng.randbytes(32) for _ in range(16)]
    trace_root = root_over(leaf_hash(root), trace_siblings, KERNELS - 2)
    weights = bytes(rng.randrange(1, 256) for _ in range(1023))
    weight_siblings = [rng.randbytes(32) for _ in range(21)]
    weight_root = root_over(leaf_hash(weights), weight_siblings, (ELEMENTS - 1) // 1024)
    end = Affine(ELEMENTS - 1)
    kernel = Kernel(
        FLOAT,
        (),
        (1 << 24,),
        (
            Operand(Source.KERNEL, INT8, ELEMENTS, end, KERNELS - 2),
            Operand(Source.CONSTANT, INT8, ELEMENTS, end, 0, weight_root),
        ),
        Expression().operand(0).i2f().operand(1).i2f().fmul().acc().fadd().code,
    )
    task = (KERNELS - 1, KERNELS, ROWS, 1, (1 << 24) - 1, 0x3F800000, trace_root)
    openings = [(root, trace_siblings, chunk, siblings), (bytes(32), [], weights, weight_siblings)]
    return encode_kernel(kernel), task, [], openings


def test_step__largest_tensors_and_programs__is_proven_within_the_bound(verifier: OnAnvil) -> None:
    """2 · (2^31 − 1) bytes end in a chunk of 1,022, at 22 siblings."""
    arguments = largest(1022)
    chunk, weights = arguments[3][0][2], arguments[3][1][2]
    a, b = (byte - 256 if byte > 127 else byte for byte in (chunk[-1], weights[-1]))
    (answer,) = verifier.call("step", [arguments])
    assert answer == exact_models.np.float32(a * b + 1).view("u4")
    assert verifier.gas("step", arguments) < 0.7 * LAST_STEP
    assert verifier.call("step", [largest(1023)]) == [Refused("steps: chunk has the wrong length")]


def test_step__digits_network__costs_little(verifier: OnAnvil) -> None:
    case = exact_models.digits()
    program = lower(case.artifact)
    trace = run_trace(program, [case.feeds[one.name] for one in program.inputs])
    found = step_gas(verifier, trace)
    assert len(found) >= 4
    assert max(found.values()) < 0.4 * LAST_STEP, found


def test_verifier__size__is_below_the_limit() -> None:
    assert len(deployer("StepVerifier").compiler_data.bytecode_runtime) < 24_576


@pytest.mark.parametrize(("op", "bound"), [(0x30, 2_600), (0x32, 2_400), (0x33, 2_600)])
def test_float32__an_instruction__costs_about_two_thousand(floats: OnAnvil, op: int, bound: int) -> None:
    """The difference between many and few of them; the harness itself takes part of it."""
    rng = random.Random(1)
    pairs = [rng.getrandbits(64) & 0x3FFFFFFF_3FFFFFFF for _ in range(220)]
    few, many = floats.gas("binary", (op, pairs[:20])), floats.gas("binary", (op, pairs))
    assert (many - few) / 200 < bound
