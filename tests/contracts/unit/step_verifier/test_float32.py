"""float32.vy against numpy's binary32: over 100,000 cases an instruction, special values all paired."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from assay.exact import float32
from assay.exact.opcodes import Op
from numpy.typing import NDArray

from tests.support.steps import OnAnvil

pytestmark = pytest.mark.network
CASES = 20_000
"""Random cases of each kind; there are six kinds."""
AT_ONCE = 4_096
"""Words a call."""

# Zero, subnormals, normals' bounds, one, halves, neighbours, integers' and int64's bounds, infinity, NaNs.
MAGNITUDES = """
    00000000 00000001 00000002 00000003 003fffff 00400000 00400001 007ffffe 007fffff 00800000 00800001
    00ffffff 01000000 0b800000 0c000000 0c000001 32ffffff 33000000 33000001 337fffff 33800000 33800001
    33ffffff 34000000 3effffff 3f000000 3f000001 3f7ffffe 3f7fffff 3f800000 3f800001 3f800002 3fbfffff
    3fc00000 3fc00001 3fffffff 40000000 401fffff 40200000 40200001 40400000 40600000 4a7fffff 4affffff
    4b000000 4b000001 4b7fffff 4b800000 4b800001 4effffff 4f000000 5effffff 5f000000 5f000001 5f7fffff
    5f800000 7e7fffff 7e800000 7effffff 7f000000 7f7ffffe 7f7fffff 7f800000 7f800001 7fa00000 7fbfffff
    7fc00000 7fc00001 7fffffff
"""
SPECIAL = [sign | int(text, 16) for sign in (0, float32.SIGN) for text in MAGNITUDES.split()]

Binary = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
FLOATS: dict[Op, Binary] = {
    Op.FADD: np.add,
    Op.FSUB: np.subtract,
    Op.FMUL: np.multiply,
    Op.FDIV: np.divide,
    Op.FMIN: lambda a, b: np.where(np.isnan(a) | np.isnan(b), np.float32(np.nan), np.where(a < b, a, b)),
    Op.FMAX: lambda a, b: np.where(np.isnan(a) | np.isnan(b), np.float32(np.nan), np.where(a > b, a, b)),
}
COMPARISONS: dict[Op, Binary] = {Op.FEQ: np.equal, Op.FLT: np.less, Op.FLE: np.less_equal}


@functools.cache
def pairs() -> NDArray[np.uint32]:
    """Rows (a, b): special × special, then random ones of six kinds."""
    rng = np.random.default_rng(20_260)
    anything = rng.integers(0, 1 << 32, (CASES, 2), dtype=np.uint32)
    near = anything & np.uint32(0x81FFFFFF) | np.uint32(0x3E000000)
    tiny = anything & np.uint32(0x81FFFFFF)
    # Few significant bits, near exponents: sums and products that fall on ties.
    short = near & (np.uint32(0xFF800000) | rng.integers(0, 1 << 12, (CASES, 2), dtype=np.uint32) << 11)
    # Exponents that add up, or differ, to about the least normal one's.
    least = anything & np.uint32(0x807FFFFF) | rng.integers(45, 82, (CASES, 2), dtype=np.uint32) << 23
    least[::2, 1] += np.uint32(105 << 23)
    mixed = anything.copy()
    mixed[:, 0] = rng.choice(np.array(SPECIAL, np.uint32), CASES)
    mixed[::2] = mixed[::2, ::-1]
    special = np.array(list(product(SPECIAL, SPECIAL)), np.uint32)
    return np.concatenate([special, anything, near, tiny, short, least, mixed])


def canonical(values: NDArray[Any]) -> NDArray[np.uint32]:
    """Bit patterns; every NaN the one that the protocol has."""
    found: NDArray[np.uint32] = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).copy()
    found[np.isnan(values)] = float32.FLOAT_NAN
    return found


def words(numbers: NDArray[Any]) -> bytes:
    """ABI words of uint64 or int64."""
    rows = np.zeros((len(numbers), 4), ">u8")
    rows[:, 3] = numbers.astype(np.uint64)
    if numbers.dtype.kind == "i":
        rows[:, :3] = np.where(numbers < 0, np.uint64(2**64 - 1), np.uint64(0))[:, None]
    return rows.tobytes()


def run(contract: OnAnvil, function: str, encoded: bytes, *, before: bytes = b"", after: bytes = b"") -> Any:
    """The answered words, rows of four uint64, for the array of words `encoded`. `before` and `after` are the
    encoded arguments around the array.
    """
    place = (len(before) + 32 + len(after)).to_bytes(32, "big")
    head = contract.abi[function][0] + before + place + after
    parts = [encoded[i : i + 32 * AT_ONCE] for i in range(0, len(encoded), 32 * AT_ONCE)]
    calls = [head + (len(part) // 32).to_bytes(32, "big") + part for part in parts]
    found = b"".join(answer[64:] for answer in contract.call_raw(calls, at_once=8))
    return np.frombuffer(found, ">u8").reshape(-1, 4).astype(np.uint64)


def check(cases: NDArray[Any], found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert len(found) == len(expected) == len(cases)
    wrong = np.flatnonzero(found != expected)
    assert not len(wrong), [(cases[i], hex(found[i]), hex(expected[i])) for i in wrong[:5]]


@pytest.mark.parametrize("op", [*FLOATS, *COMPARISONS], ids=lambda op: op.name)
def test_binary__special_and_random_pairs__equal_numpy(floats: OnAnvil, op: Op) -> None:
    cases = pairs()
    assert len(cases) >= 100_000
    both = cases[:, 0].astype(np.uint64) << np.uint64(32) | cases[:, 1]
    found = run(floats, "binary", words(both), before=int(op).to_bytes(32, "big"))
    a, b = (np.ascontiguousarray(cases[:, side]).view(np.float32) for side in (0, 1))
    with np.errstate(all="ignore"):
        expected = canonical(FLOATS[op](a, b)) if op in FLOATS else COMPARISONS[op](a, b)
    assert not found[:, :3].any()
    check(cases, found[:, 3], expected.astype(np.uint64))


def test_from_int__int64__equal_numpy(floats: OnAnvil) -> None:
    rng = np.random.default_rng(3)
    cases = rng.integers(-(1 << 63), 1 << 63, 100_000, dtype=np.int64) >> rng.integers(0, 63, 100_000)
    edges = [
        sign * (1 << bits) + near for sign in (1, -1) for bits in range(62) for near in (-3, -1, 0, 1, 3)
    ]
    ties = [(2 * odd + 1) << bits for odd in (1 << 23, (1 << 23) + 1, (1 << 24) - 1) for bits in range(37)]
    cases = np.concatenate([cases, np.array([*edges, *ties, -(1 << 63), (1 << 63) - 1], np.int64)])
    found = run(floats, "from_int", words(cases))
    check(cases, found[:, 3], canonical(cases.astype(np.float32)).astype(np.uint64))


def is_nearest(pattern: int, number: int) -> bool:
    """Whether no neighbour of a finite float lies nearer to the positive integer, or as near and even."""
    here, below, above = (
        int(np.uint32(one).view(np.float32)) if one < float32.INFINITY else 1 << 128
        for one in (pattern, pattern - 1, pattern + 1)
    )
    distance = abs(number - here)
    others = (abs(number - below), abs(number - above))
    return all(distance < other or (distance == other and pattern % 2 == 0) for other in others)


def test_from_int__beyond_int64__is_the_nearest_float(floats: OnAnvil) -> None:
    infinite = 2**128 - 2**103
    cases = [infinite - 1, infinite - 2**102, 2**128 - 2**104, infinite, 2**128 - 1, 2**128, 2**255 - 1]
    cases += [(1 << bits) + near for bits in range(62, 255) for near in (-1, 0, 1, 1 << bits - 24)]
    (found,) = floats.call("from_int", [(cases,)])
    (negative,) = floats.call("from_int", [([-one for one in cases],)])
    assert [one - float32.SIGN for one in negative] == list(found)
    for case, pattern in zip(cases, found, strict=True):
        assert pattern == float32.INFINITY if case >= infinite else is_nearest(pattern, case), case
    assert floats.call("from_int", [([-(2**255), 0],)]) == [(float32.SIGN | float32.INFINITY, 0)]


@pytest.mark.parametrize("nearest", [True, False], ids=["F2I", "TRUNC"])
def test_to_int__special_and_random__equal_numpy(floats: OnAnvil, nearest: bool) -> None:
    cases = pairs()[:, 0]
    found = run(floats, "to_int", words(cases.astype(np.uint64)), after=int(nearest).to_bytes(32, "big"))
    with np.errstate(all="ignore"):
        exact = np.nan_to_num(
            np.ascontiguousarray(cases).view(np.float32), nan=0.0, posinf=2e30, neginf=-2e30
        )
        whole = (np.rint if nearest else np.trunc)(exact.astype(np.float64))
    inside = np.abs(whole) < 2.0**63
    bounds = np.where(whole < 0, np.int64(-(2**63)), np.int64(2**63 - 1))
    expected = np.where(inside, np.where(inside, whole, 0).astype(np.int64), bounds)
    check(cases, found[:, 3].view(np.int64), expected)
    assert (found[:, 0] == np.where(expected < 0, np.uint64(2**64 - 1), np.uint64(0))).all()
