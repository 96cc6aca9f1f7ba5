"""How each committed model comes about: data, hyperparameters, export.

The digits hyperparameters were the best of three candidates on the last quarter of the training rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from .datasets import load_breast_cancer_split, load_digits_split
from .export import digits_graph, linear_graph, quantize_digits
from .network import Array, Conv, Labels, he_conv, round_significant, train

EPOCHS = 15
SEED = 1
PIXEL_MAX = 16.0

Progress = Callable[[str], None]


def build_models(progress: Progress = lambda _: None) -> dict[str, onnx.ModelProto]:
    """Every committed model by folder name; about 20 s on one core."""
    digits = load_digits_split()
    network = train_digits(digits.train_inputs, digits.train_labels, progress)
    graph = digits_graph(network)
    progress("digits-int8: quantising")
    quantized = quantize_digits(graph, network, digits.train_inputs)
    progress("breast-cancer: fitting")
    cancer = load_breast_cancer_split()
    linear = linear_graph("breast-cancer", *fit_linear(cancer.train_inputs, cancer.train_labels))
    return {"digits": graph, "digits-int8": quantized, "breast-cancer": linear}


def train_digits(images: Array, labels: Labels, progress: Progress = lambda _: None) -> list[Conv]:
    """Network for raw pixels 0 to 16, weights rounded; (N, 1, 8, 8) → (N, 10, 1, 1)."""
    rng = np.random.default_rng(SEED)
    network = [
        he_conv(rng, 1, 16, kernel=3, pad=1),
        he_conv(rng, 16, 32, kernel=3, pad=1, pool=True),
        he_conv(rng, 32, 64, kernel=4, pad=0),
        he_conv(rng, 64, 10, kernel=1, pad=0),
    ]
    losses = train(network, images / PIXEL_MAX, labels, epochs=EPOCHS, rng=rng, batch=32, rate=4e-3, shift=1)
    for epoch, loss in enumerate(losses, 1):
        progress(f"digits: epoch {epoch} of {EPOCHS}, loss {loss:.4f}")
    for layer in network:
        layer.weight, layer.bias = round_significant(layer.weight), round_significant(layer.bias)
    network[0].weight /= PIXEL_MAX  # a power of two: exact
    return network


def fit_linear(features: Array, labels: Labels) -> tuple[Array, Array]:
    """Logistic regression for raw features: weight (features, 2), bias (2,), standardisation folded in."""
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.mean(axis=0), features.std(axis=0)
    fitted = LogisticRegression(solver="newton-cholesky", tol=1e-10)
    fitted.fit((features - mean) / spread, labels)
    slope = round_significant(fitted.coef_[0] / spread)
    offset = round_significant(fitted.intercept_ - slope @ mean)
    return np.stack([np.zeros_like(slope), slope], axis=1), np.concatenate([[0.0], offset])
