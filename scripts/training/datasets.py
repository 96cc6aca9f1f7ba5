"""The real data that ships with scikit-learn, split once for training, tests, cards and demo.

Held out is the last fifth of the rows in the order in which scikit-learn ships them, never shuffled. For the
digits that is stricter than a random split: neighbouring rows are by the same writers, so most held-out
digits come from hands that the network has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

HELD_OUT_SHARE = 5
"""One row in five is held out."""


@dataclass(frozen=True)
class Split:
    """Inputs as float64 in the shape that the model takes, labels as int64."""

    train_inputs: npt.NDArray[np.float64]
    train_labels: npt.NDArray[np.int64]
    held_out_inputs: npt.NDArray[np.float64]
    held_out_labels: npt.NDArray[np.int64]


def load_digits_split() -> Split:
    """Handwritten digits (Alpaydin and Kaynak 1998): 1,797 images (1, 8, 8) of integers 0 to 16."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    return _split(data.images[:, None], data.target)


def load_breast_cancer_split() -> Split:
    """Breast Cancer Wisconsin, diagnostic (Wolberg et al. 1995): 569 rows of 30 features; 1 is benign."""
    from sklearn.datasets import load_breast_cancer

    data: Any = load_breast_cancer()
    return _split(data.data, data.target)


def _split(inputs: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Split:
    x, y = inputs.astype(np.float64), labels.astype(np.int64)
    cut = len(x) - (len(x) + HELD_OUT_SHARE - 1) // HELD_OUT_SHARE
    return Split(x[:cut], y[:cut], x[cut:], y[cut:])
