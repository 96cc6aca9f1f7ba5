"""Affine forms over a kernel's loop variables, in their one canonical shape."""

from __future__ import annotations

from collections.abc import Iterable

from assay.exact.program import Affine


def constant(value: int) -> Affine:
    return Affine(value)


def variable(index: int, coefficient: int = 1, base: int = 0) -> Affine:
    """`base + coefficient · variable index`; output axes are numbered first, then the reduction's."""
    return build(base, [(index, coefficient)])


def build(base: int, terms: Iterable[tuple[int, int]]) -> Affine:
    """Adds up equal variables, drops zero coefficients, sorts by variable."""
    total: dict[int, int] = {}
    for index, coefficient in terms:
        total[index] = total.get(index, 0) + coefficient
    return Affine(base, tuple(sorted((i, c) for i, c in total.items() if c)))


def add(*forms: Affine) -> Affine:
    return build(sum(form.base for form in forms), [term for form in forms for term in form.terms])


def scale(form: Affine, factor: int) -> Affine:
    return build(form.base * factor, [(index, coefficient * factor) for index, coefficient in form.terms])


def span(form: Affine, extents: tuple[int, ...]) -> tuple[int, int]:
    """Least and greatest value over all loop variables; each runs from 0 to its extent − 1."""
    low = high = form.base
    for index, coefficient in form.terms:
        reach = coefficient * (extents[index] - 1)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high
