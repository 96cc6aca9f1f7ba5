"""Sums of products by BLAS against int64: at the edges of what float32 and float64 hold, in every layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from assay.commitments.tensors import onnx_dtype, tensor_root
from assay.exact.assembler import Expression
from assay.exact.evaluator import evaluate
from assay.exact.program import Affine, Bound, Kernel, Operand, Program, Signature, Source
from assay.exact.vectorised import products
from assay.exact.vectorised.contraction import FLOAT32_EXACT, choose_precision
from numpy.typing import NDArray

MULTIPLY_ADD = Expression().acc().operand(0).operand(1).mul().add().code


def affine(**terms: int) -> Affine:
    """`v0=3, v2=1`: 3 · variable 0 + variable 2."""
    return Affine(0, tuple(sorted((int(name[1:]), value) for name, value in terms.items())))


def run_product(
    x: NDArray[Any],
    w: NDArray[Any],
    kernel: tuple[tuple[int, ...], tuple[int, ...]],
    forms: tuple[Affine, Affine],
) -> NDArray[Any]:
    """One batched kernel: input x (rows first) against the constant w; int32 accumulators from 7."""
    domain, reduction = kernel
    signature = Signature(onnx_dtype(x.dtype), x.shape[1:])
    root = tensor_root(w.tobytes())
    operands = (
        Operand(Source.INPUT, signature.dtype, signature.elements, forms[0]),
        Operand(Source.CONSTANT, onnx_dtype(w.dtype), w.size, forms[1], root=root),
    )
    one = Kernel(6, domain, reduction, operands, MULTIPLY_ADD, init=7)
    program = Program(True, (signature,), (Signature(6, domain),), (one,), {root: w})
    return evaluate(program, [x])[0]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each product was taken by BLAS."""
    found: list[bool] = []
    run = products.Product.run

    def spy(self: products.Product, *arguments: Any) -> Any:
        result = run(self, *arguments)
        found.append(result is not None)
        return result

    monkeypatch.setattr(products.Product, "run", spy)
    return found


@pytest.mark.parametrize("length", [1, 2, 100, 1044, 1045, 4608, 9000])
@pytest.mark.parametrize(
    "dtypes", [(np.uint8, np.int8), (np.uint8, np.uint8), (np.int16, np.int16), (np.int32, np.int32)]
)
def test_product__extreme_values__are_exact(
    length: int, dtypes: tuple[type[np.integer[Any]], type[np.integer[Any]]], taken: list[bool]
) -> None:
    rng = np.random.default_rng(length)
    ends = [np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype) for dtype in dtypes]
    x, w = rng.choice(ends[0], (3, length)), rng.choice(ends[1], (5, length))
    x[0], w[0] = ends[0][1], ends[1][1]
    w[1] = ends[1][0]
    found = run_product(x, w, ((5,), (length,)), (affine(v1=1), affine(v0=length, v1=1)))
    exact = x.astype(object) @ w.astype(object).T + 7
    assert np.array_equal(found, ((exact + (1 << 31)) % (1 << 32) - (1 << 31)).astype(np.int64))
    assert taken == [True] * (length > 1)


def test_product__convolution_with_rows_and_groups__is_the_sum(taken: list[bool]) -> None:
    """2 rows, 2 groups of 3 → 4 channels, 20 × 20, 3 × 3 taps without padding."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (2, 6, 20, 20), dtype=np.uint8)
    w = rng.integers(-64, 64, (8, 3, 3, 3), dtype=np.int8)
    found = run_product(
        x,
        w,
        ((2, 4, 18, 18), (3, 3, 3)),
        (affine(v0=1200, v2=20, v3=1, v4=400, v5=20, v6=1), affine(v0=108, v1=27, v4=9, v5=3, v6=1)),
    )
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.int64), (3, 3), (2, 3))
    expected = np.einsum(
        "ngchwij,gocij->ngohw",
        windows.reshape(2, 2, 3, 18, 18, 3, 3),
        w.astype(np.int64).reshape(2, 4, 3, 3, 3),
    )
    assert np.array_equal(found, expected + 7)
    assert taken == [True]


def test_product__depthwise__is_added_up_step_by_step(taken: list[bool]) -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(0, 256, (1, 64, 6, 6), dtype=np.uint8)
    w = rng.integers(-64, 64, (64, 3, 3), dtype=np.int8)
    found = run_product(
        x, w, ((64, 4, 4), (3, 3)), (affine(v0=36, v1=6, v2=1, v3=6, v4=1), affine(v0=9, v3=3, v4=1))
    )
    windows = np.lib.stride_tricks.sliding_window_view(x[0].astype(np.int64), (3, 3), (1, 2))
    assert np.array_equal(found[0], np.einsum("chwij,cij->chw", windows, w.astype(np.int64)) + 7)
    assert taken == [False]


def test_product__padded_windows__read_the_pad_value() -> None:
    """A 5 × 5 image under a 3 × 3 window with stride 2; outside it reads 9."""
    rng = np.random.default_rng(3)
    x = rng.integers(0, 256, (3, 5, 5), dtype=np.uint8)
    w = rng.integers(-64, 64, (2, 9), dtype=np.int8)
    bounds = tuple(Bound(Affine(-1, ((axis, 2), (axis + 2, 1))), 5) for axis in (1, 2))
    window = Affine(-6, ((1, 10), (2, 2), (3, 5), (4, 1)))
    root = tensor_root(w.tobytes())
    operands = (
        Operand(Source.INPUT, 2, 25, window, pad=9, bounds=bounds),
        Operand(Source.CONSTANT, 3, 18, affine(v0=9, v3=3, v4=1), root=root),
    )
    kernel = Kernel(6, (2, 3, 3), (3, 3), operands, MULTIPLY_ADD)
    program = Program(True, (Signature(2, (5, 5)),), (Signature(6, (2, 3, 3)),), (kernel,), {root: w})
    padded = np.pad(x.astype(np.int64), ((0, 0), (1, 1), (1, 1)), constant_values=9)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    expected = np.einsum("nhwij,oij->nohw", windows, w.astype(np.int64).reshape(2, 3, 3))
    assert np.array_equal(evaluate(program, [x])[0], expected)


@pytest.mark.parametrize(
    ("length", "reach", "dtype", "pieces"),
    [
        (64, 255 * 64, np.float32, 1),
        (1028, 255 * 64, np.float32, 1),
        (1029, 255 * 64, np.float32, 2),
        (4608, 255 * 64, np.float32, 5),
        (64, FLOAT32_EXACT, np.float64, 1),
        (1 << 10, 1 << 43, np.int64, 1),
    ],
)
def test_choose_precision__by_bound__keeps_every_partial_sum_exact(
    length: int, reach: int, dtype: type, pieces: int
) -> None:
    precision, bound = choose_precision(length, reach, None)
    assert (precision.dtype, len(precision.cuts) - 1, bound) == (np.dtype(dtype), pieces, length * reach)
