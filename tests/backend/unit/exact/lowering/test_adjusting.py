"""Scales nearby for which every CPU class agrees."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from assay.exact.lowering import adjust_scales, check_model
from onnx import numpy_helper

from tests.support.exact_models import DIGITS, random_case
from tests.support.exactness import assert_exact


@pytest.mark.parametrize(("operator", "seeds"), [("QLinearAdd", (2, 7, 8)), ("QLinearSigmoid", (95, 139))])
def test_adjust_scales__refused_for_its_scale__is_exact_after_a_small_change(
    operator: str, seeds: tuple[int, ...]
) -> None:
    for seed in seeds:
        case = random_case(operator, seed)
        assert not check_model(case.artifact).is_exact
        adjusted = adjust_scales(case.artifact)
        assert_exact(adjusted, case.feeds)
        before, after = (
            numpy_helper.to_array(tensor)
            for file in (case.artifact, adjusted)
            for tensor in onnx.load_from_string(file).graph.initializer
            if tensor.name == "y_scale"
        )
        assert 1 < after / before < np.float32(1.02)


def test_adjust_scales__exact_already__is_unchanged() -> None:
    artifact = DIGITS.read_bytes()
    assert adjust_scales(artifact) == artifact
