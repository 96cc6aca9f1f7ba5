"""Fused multiply-add in numpy, and for which scales the ways to add agree."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from assay.exact.float32 import fadd
from assay.exact.lowering.qbinary import addition_agrees, fused_multiply_add
from hypothesis import example, given
from hypothesis import strategies as st

F32 = np.float32
EVERY = np.arange(256).astype(F32)
FINITE = st.floats(width=32, min_value=2.0**-100, max_value=2.0**100)


def nearest_float32(value: Fraction) -> np.float32:
    """Ties to even, by comparing exact distances of the neighbours of the float64 rounding."""
    guess = F32(float(value))
    near = [np.nextafter(guess, F32(-np.inf)), guess, np.nextafter(guess, F32(np.inf))]
    return min(near, key=lambda one: (abs(Fraction(float(one)) - value), int(one.view(np.uint32)) & 1))


@given(st.integers(-255, 255), FINITE, st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100))
@example(3, 1 + 2.0**-23, 2.0**-60)
@example(1, 1 + 2.0**-23, 2.0**-24)
@example(1, 1 + 2.0**-23, 2.0**-24 + 2.0**-47)
@example(-1, 1.0, -(2.0**-24) - 2.0**-60)
@example(1, 16777215.0, 0.5)
def test_fused_multiply_add__any_operands__rounds_once(a: int, b: float, c: float) -> None:
    exact = a * Fraction(float(F32(b))) + Fraction(float(F32(c)))
    result = fused_multiply_add(F32(a), F32(b), F32(c))
    assert result == nearest_float32(exact)


def test_addition_agrees__equal_scales__agree() -> None:
    for same_dims in (True, False):
        assert addition_agrees(EVERY, EVERY, np.array([1, 1], F32), [3, 5, 7], same_dims=same_dims)


def test_addition_agrees__random_scales__agrees_mostly_and_not_always() -> None:
    random = np.random.default_rng(0)
    ratios = random.uniform(0.1, 2, (40, 2)).astype(F32)
    zeros = random.integers(0, 256, (40, 3)).tolist()
    agreed = [
        addition_agrees(EVERY, EVERY, one, three, same_dims=True)
        for one, three in zip(ratios, zeros, strict=True)
    ]
    assert 20 < sum(agreed) < 40


def test_addition_agrees__a_constant_side__tries_its_values_alone() -> None:
    random = np.random.default_rng(0)
    for ratios in random.uniform(0.1, 2, (40, 2)).astype(F32):
        if not addition_agrees(EVERY, EVERY, ratios, [3, 5, 7], same_dims=True):
            some = [
                addition_agrees(EVERY, EVERY[k : k + 1], ratios, [3, 5, 7], same_dims=True)
                for k in range(256)
            ]
            assert any(some)
            assert not all(some)
            return
    raise AssertionError("no scales that differ were drawn")


def test_float32__numpys_addition__is_the_profiles() -> None:
    a, b = F32(1.1), F32(2.3)
    word = fadd(int(a.view(np.uint32)), int(b.view(np.uint32)))
    assert word == int((a + b).view(np.uint32))
