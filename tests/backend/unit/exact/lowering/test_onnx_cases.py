"""ONNX's own backend test data: each case of a covered operator is lowered and compared, or refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from assay.commitments.tensors import ONNX_TO_OIP
from assay.exact.lowering import Report, check_model
from assay.exact.lowering.graph import DEFAULT_DOMAIN, OPSETS
from assay.exact.lowering.registry import REGISTRY
from assay.exact.lowering.values import DTYPES

from tests.support.exactness import Array, describe, run_onnxruntime, run_program, same_bits
from tests.support.onnx_cases import Case, load_cases, with_constants

OPERATORS = sorted({op_type for domain, op_type in REGISTRY if domain == DEFAULT_DOMAIN} - {"Constant"})
"""Constant's cases have no input: they are no programs."""
FLOAT_POOLS = (
    "test_maxpool_1d_default",
    "test_maxpool_2d_ceil",
    "test_maxpool_2d_ceil_output_size_reduce_by_one",
    "test_maxpool_2d_default",
    "test_maxpool_2d_dilations",
    "test_maxpool_2d_pads",
    "test_maxpool_2d_precomputed_pads",
    "test_maxpool_2d_precomputed_same_upper",
    "test_maxpool_2d_precomputed_strides",
    "test_maxpool_2d_same_lower",
    "test_maxpool_2d_same_upper",
    "test_maxpool_2d_strides",
    "test_maxpool_3d_default",
    "test_maxpool_3d_dilations",
    "test_maxpool_3d_dilations_use_ref_impl",
    "test_maxpool_3d_dilations_use_ref_impl_large",
    "test_maxpool_with_argmax_2d_precomputed_pads",
    "test_maxpool_with_argmax_2d_precomputed_strides",
)
REFUSED = {
    "test_dequantizelinear_blocked": "it is blocked",
    **dict.fromkeys(FLOAT_POOLS, "between -0 and +0"),
    "test_max_int16": "input 0 is int16",
    "test_max_uint16": "input 0 is uint16",
    "test_min_example": "between -0 and +0",
    "test_min_int16": "input 0 is int16",
    "test_min_uint16": "input 0 is uint16",
    "test_qlinearmatmul_2D_int8_float32": "y_zero_point is int8",
    "test_qlinearmatmul_3D_int8_float32": "y_zero_point is int8",
    "test_quantizelinear_blocked_asymmetric": "it is blocked",
    "test_quantizelinear_blocked_symmetric": "it is blocked",
    "test_relu": "Relu of -0 gives -0 on x86 and +0 on aarch64",
    "test_reshape_allowzero_reordered": "a dim is zero",
    "test_slice_start_out_of_bounds": "it leaves nothing",
}
"""Cases whose dtypes are in the profile and that are outside it all the same, and why."""
OTHER_DTYPES = tuple(
    f"{ONNX_TO_OIP.get(code, f'dtype {code}').lower()} is not in the profile"
    for code in range(1, 32)
    if code not in DTYPES
)
EXACT, REFUSED_COUNT = 211, 106
"""Of all covered operators' cases, as onnx 1.23.2 has them."""


def lowered(case: Case) -> tuple[Report, bytes, dict[str, Array]]:
    """With as many inputs left open as the profile allows; the others, parameters, become constants."""
    for kept in range(len(case.feeds), 0, -1):
        artifact, feeds = with_constants(case, kept, OPSETS[DEFAULT_DOMAIN])
        report = check_model(artifact)
        if report.is_exact:
            break
    return report, artifact, feeds


def check_exact(report: Report, artifact: bytes, feeds: dict[str, Array], case: Case) -> None:
    assert report.program is not None
    mine = run_program(report.program, feeds)
    for a, b in zip(mine, case.expected, strict=True):
        assert same_bits(a, np.asarray(b)), f"{case.name}, ONNX's data: {describe(a, np.asarray(b))}"
    for optimised in (False, True):
        for a, b in zip(mine, run_onnxruntime(artifact, feeds, optimised=optimised), strict=True):
            assert same_bits(a, b), f"{case.name}, optimised={optimised}: {describe(a, b)}"


@pytest.mark.parametrize("op_type", OPERATORS)
def test_check_model__onnx_cases_of_the_operator__exact_or_refused_by_name(op_type: str) -> None:
    for case in load_cases(op_type):
        report, artifact, feeds = lowered(case)
        if report.is_exact:
            assert case.name not in REFUSED
            check_exact(report, artifact, feeds, case)
        else:
            said = " ".join(map(str, report.findings))
            expected = (REFUSED[case.name],) if case.name in REFUSED else OTHER_DTYPES
            assert any(words in said for words in expected), f"{case.name}: {said}"


def test_check_model__all_onnx_cases__as_many_exact_and_refused_as_were_found() -> None:
    found = Counter(lowered(case)[0].is_exact for op_type in OPERATORS for case in load_cases(op_type))
    assert (found[True], found[False]) == (EXACT, REFUSED_COUNT)


@pytest.mark.parametrize(
    "op_type", ["Conv", "MatMul", "Softmax", "Sigmoid", "Sqrt", "TopK", "Loop", "LSTM", "Resize"]
)
def test_check_model__onnx_cases_of_other_operators__operator_named(op_type: str) -> None:
    cases = load_cases(op_type)
    assert cases
    for case in cases:
        artifact, _ = with_constants(case, len(case.feeds), OPSETS[DEFAULT_DOMAIN])
        findings = check_model(artifact).findings
        assert any(finding.op_type == op_type for finding in findings), f"{case.name}: {findings}"
