"""Quantised operators: random small models, bit for bit against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from assay.exact.lowering import UnsupportedModel, lower

from tests.support.exact_models import FACTORIES, digits, random_case
from tests.support.exactness import assert_exact

SEEDS = range(9)
DEEP_SEEDS = range(1000, 1300)
PARTLY_REFUSED = ("QLinearAdd", "QLinearSigmoid")
"""Operators whose parameters decide whether CPU classes agree."""


def _check(operator: str, seed: int) -> bool:
    """Whether the case is in the profile; it equals onnxruntime then."""
    case = random_case(operator, seed)
    if operator in PARTLY_REFUSED:
        try:
            lower(case.artifact)
        except UnsupportedModel as refusal:
            assert "CPUs" in str(refusal)
            return False
    assert_exact(case.artifact, case.feeds)
    return True


@pytest.mark.parametrize("operator", FACTORIES)
def test_lower__random_parameters_extreme_values__equals_onnxruntime(operator: str) -> None:
    taken = [_check(operator, seed) for seed in SEEDS]
    assert sum(taken) >= len(SEEDS) // 2


@pytest.mark.deep
@pytest.mark.parametrize("operator", FACTORIES)
def test_lower__many_random_parameters__equals_onnxruntime(operator: str) -> None:
    for seed in DEEP_SEEDS:
        _check(operator, seed)


def test_lower__digits__equals_onnxruntime() -> None:
    case = digits()
    (logits,) = assert_exact(case.artifact, case.feeds)
    assert logits.shape == (3, 10)
    assert np.unique(logits).size > 5
