from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.training.network import (
    Adam,
    Conv,
    convolve,
    he_conv,
    logits,
    loss_and_gradients,
    max_pool,
    round_significant,
    shifted,
    train,
)


def small_network(rng: np.random.Generator) -> list[Conv]:
    network = [
        he_conv(rng, 1, 2, kernel=3, pad=1),
        he_conv(rng, 2, 3, kernel=3, pad=1, pool=True),
        he_conv(rng, 3, 4, kernel=2, pad=0),
    ]
    for layer in network:
        layer.bias += rng.normal(0, 0.1, layer.bias.shape)
    return network


def test_convolve__by_hand__is_cross_correlation_with_zero_padding() -> None:
    image = np.arange(9.0).reshape(1, 1, 3, 3)
    kernel = np.array([[[[0.0, 0, 0], [0, 1, 10], [0, 0, 100]]]])
    out, _ = convolve(image, kernel, pad=1)
    expected = [[0 + 10 + 400, 1 + 20 + 500, 2], [3 + 40 + 700, 4 + 50 + 800, 5], [6 + 70, 7 + 80, 8]]
    np.testing.assert_array_equal(out[0, 0], expected)


def test_max_pool__by_hand__takes_each_window_of_four() -> None:
    image = np.arange(16.0).reshape(1, 1, 4, 4)
    np.testing.assert_array_equal(max_pool(image)[0, 0], [[5, 7], [13, 15]])


@pytest.mark.parametrize("layer", range(3))
@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_loss_and_gradients__every_parameter__agrees_with_central_differences(layer: int, kind: str) -> None:
    rng = np.random.default_rng(3)
    network, x, labels = small_network(rng), rng.normal(size=(3, 1, 4, 4)), np.array([0, 3, 1])
    _, gradients = loss_and_gradients(network, x, labels)
    analytic = gradients[layer][0 if kind == "weight" else 1]
    values = getattr(network[layer], kind)
    step = 1e-6
    for index in np.ndindex(values.shape):
        kept = values[index]
        values[index] = kept + step
        above, _ = loss_and_gradients(network, x, labels)
        values[index] = kept - step
        below, _ = loss_and_gradients(network, x, labels)
        values[index] = kept
        assert analytic[index] == pytest.approx((above - below) / (2 * step), abs=1e-7, rel=1e-6)


def test_adam__first_step__moves_each_parameter_by_the_rate_against_its_gradient() -> None:
    parameter = np.array([1.0, 1.0])
    Adam([parameter]).step([np.array([5.0, -0.01])], rate=0.1)
    np.testing.assert_allclose(parameter, [0.9, 1.1], rtol=1e-4)


def test_train__two_separable_classes__loss_falls_and_labels_are_learned() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    x = rng.uniform(0, 0.1, (40, 1, 4, 4))
    x[labels == 1, :, :, 2:] += 1.0
    network = small_network(rng)
    losses = list(train(network, x, labels, epochs=8, rng=rng, batch=8, rate=2e-2))
    assert losses[-1] < losses[0] / 5
    np.testing.assert_array_equal(logits(network, x).argmax(axis=1), labels)


def test_train__initial_weights_moved_by_rounding_noise__rounded_result_is_the_same() -> None:
    results = []
    for noise in (0.0, 1e-15):
        rng = np.random.default_rng(7)
        x, labels = rng.uniform(0, 1, (64, 1, 4, 4)), rng.integers(0, 4, 64)
        network = small_network(rng)
        network[0].weight *= 1 + noise
        list(train(network, x, labels, epochs=5, rng=rng, batch=16, rate=1e-2, shift=1))
        results.append([round_significant(layer.weight) for layer in network])
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)


def test_shifted__down_and_left__moves_the_pixel_and_fills_with_zero() -> None:
    image = np.zeros((1, 1, 3, 3))
    image[0, 0, 1, 1] = 5.0
    moved = shifted(image, np.array([[1, -1]]))
    assert moved[0, 0, 2, 0] == 5.0
    assert moved.sum() == 5.0


@given(st.floats(-1e30, 1e30, allow_subnormal=False), st.integers(2, 24))
def test_round_significant__any_number__is_within_half_a_unit_and_fits_float32(
    value: float, bits: int
) -> None:
    rounded = float(round_significant(np.array(value), bits))
    assert abs(rounded - value) <= abs(value) * 2.0**-bits
    assert float(round_significant(np.array(rounded), bits)) == rounded
    if abs(value) > 1e-30:
        assert float(np.float32(rounded)) == rounded
