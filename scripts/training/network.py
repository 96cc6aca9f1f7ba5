"""A convolutional network and its training in plain numpy: im2col convolutions, cross-entropy, Adam.

Float64 throughout and a fixed order of every random draw, so that two machines differ by rounding noise only;
`round_significant` then removes that noise and the exported files come out equal byte for byte.
Arrays are NCHW. A network is a list of `Conv`; a ReLU stands between two of them, then a max pool if `pool`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

SIGNIFICANT_BITS = 12
"""Kept of each trained weight: far coarser than the noise between machines, fine enough for accuracy."""


@dataclass
class Conv:
    """Stride-1 convolution. `weight` (out, in, k, k), `bias` (out,); `pool`: 2x2 max pool after its ReLU."""

    weight: Array
    bias: Array
    pad: int
    pool: bool = False


def he_conv(
    rng: np.random.Generator, inputs: int, outputs: int, kernel: int, pad: int, pool: bool = False
) -> Conv:
    """Weights drawn as He et al. 2015 (arXiv:1502.01852), biases zero."""
    spread = np.sqrt(2.0 / (inputs * kernel * kernel))
    weight = rng.standard_normal((outputs, inputs, kernel, kernel)) * spread
    return Conv(weight, np.zeros(outputs), pad, pool)


def im2col(x: Array, kernel: int, pad: int) -> Array:
    """(N, C, H, W) to (N, H', W', C * k * k): the patch under every position of the kernel."""
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    patches: Array = np.lib.stride_tricks.sliding_window_view(  # type: ignore[call-overload]
        padded, (kernel, kernel), axis=(2, 3)
    )
    n, c, height, width = patches.shape[:4]
    return patches.transpose(0, 2, 3, 1, 4, 5).reshape(n, height, width, c * kernel * kernel)


def convolve(x: Array, weight: Array, pad: int) -> tuple[Array, Array]:
    """Convolution without bias: output (N, out, H', W') and the columns that its gradient needs."""
    columns = im2col(x, weight.shape[2], pad)
    out: Array = columns @ weight.reshape(len(weight), -1).T
    return out.transpose(0, 3, 1, 2), columns


def convolve_backward(grad: Array, columns: Array, weight: Array, pad: int) -> tuple[Array, Array]:
    """Gradients for the input and for the weight, given the one for the output."""
    flat = grad.transpose(0, 2, 3, 1).reshape(-1, grad.shape[1])
    grad_weight = (flat.T @ columns.reshape(len(flat), -1)).reshape(weight.shape)
    mirrored = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    grad_x, _ = convolve(grad, mirrored, weight.shape[2] - 1 - pad)
    return grad_x, grad_weight


def max_pool(x: Array) -> Array:
    """2x2, stride 2; height and width must be even."""
    n, c, height, width = x.shape
    pooled: Array = x.reshape(n, c, height // 2, 2, width // 2, 2).max(axis=(3, 5))
    return pooled


def max_pool_backward(grad: Array, x: Array, pooled: Array) -> Array:
    """Every maximum gets the gradient. Ties are zeros cut by the ReLU before, which stops it anyway."""

    def widen(small: Array) -> Array:
        return np.repeat(np.repeat(small, 2, axis=2), 2, axis=3)

    routed: Array = widen(grad) * (x == widen(pooled))
    return routed


def activations(network: list[Conv], x: Array) -> Iterator[Array]:
    """What leaves each layer, in order: convolution (with ReLU but for the last), then its pool."""
    for layer in network:
        x = convolve(x, layer.weight, layer.pad)[0] + layer.bias[:, None, None]
        if layer is not network[-1]:
            x = np.maximum(x, 0.0)
        yield x
        if layer.pool:
            x = max_pool(x)
            yield x


def logits(network: list[Conv], x: Array) -> Array:
    """(N, classes); the last convolution must leave one position."""
    *_, last = activations(network, x)
    return last[:, :, 0, 0]


def loss_and_gradients(
    network: list[Conv], x: Array, labels: Labels
) -> tuple[float, list[tuple[Array, Array]]]:
    """Mean cross-entropy of a batch and, per layer, its gradient for weight and bias."""
    tape: list[tuple[Array, Array, Array]] = []
    for layer in network:
        raw, columns = convolve(x, layer.weight, layer.pad)
        raw = raw + layer.bias[:, None, None]
        out = raw if layer is network[-1] else np.maximum(raw, 0.0)
        x = max_pool(out) if layer.pool else out
        tape.append((columns, out, x))
    scores = x[:, :, 0, 0] - x[:, :, 0, 0].max(axis=1, keepdims=True)
    log_probabilities = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    slope = np.exp(log_probabilities)
    slope[rows, labels] -= 1.0
    grad = (slope / len(labels))[:, :, None, None]
    gradients: list[tuple[Array, Array]] = []
    for layer, (columns, out, pooled) in zip(reversed(network), reversed(tape), strict=True):
        if layer.pool:
            grad = max_pool_backward(grad, out, pooled)
        if layer is not network[-1]:
            grad = grad * (out > 0.0)
        grad_bias = grad.sum(axis=(0, 2, 3))
        grad, grad_weight = convolve_backward(grad, columns, layer.weight, layer.pad)
        gradients.append((grad_weight, grad_bias))
    return float(-log_probabilities[rows, labels].mean()), gradients[::-1]


class Adam:
    """Kingma and Ba 2015 (arXiv:1412.6980), in the order of computation of its section 2."""

    def __init__(self, parameters: list[Array]) -> None:
        self.parameters = parameters
        self.means = [np.zeros_like(p) for p in parameters]
        self.squares = [np.zeros_like(p) for p in parameters]
        self.steps = 0

    def step(self, gradients: list[Array], rate: float) -> None:
        self.steps += 1
        scale = rate * np.sqrt(1.0 - 0.999**self.steps) / (1.0 - 0.9**self.steps)
        for i, gradient in enumerate(gradients):
            self.means[i] += 0.1 * (gradient - self.means[i])
            self.squares[i] += 0.001 * (gradient * gradient - self.squares[i])
            self.parameters[i] -= scale * self.means[i] / (np.sqrt(self.squares[i]) + 1e-8)


def train(
    network: list[Conv],
    x: Array,
    labels: Labels,
    *,
    epochs: int,
    rng: np.random.Generator,
    batch: int,
    rate: float,
    shift: int = 0,
) -> Iterator[float]:
    """Train in place; yields each epoch's mean loss. The rate falls along half a cosine to zero.

    `rate` is the one at the start; every image is moved at random by up to `shift` pixels both ways.
    """
    optimizer = Adam([p for layer in network for p in (layer.weight, layer.bias)])
    steps = epochs * -(-len(x) // batch)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        losses = []
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            images = shifted(x[rows], rng.integers(-shift, shift + 1, (len(rows), 2)))
            loss, gradients = loss_and_gradients(network, images, labels[rows])
            progress = optimizer.steps / steps
            optimizer.step([g for pair in gradients for g in pair], rate * (1 + np.cos(np.pi * progress)) / 2)
            losses.append(loss)
        yield float(np.mean(losses))


def shifted(images: Array, offsets: npt.NDArray[np.int64]) -> Array:
    """Each image of (N, C, H, W) moved by its (rows, columns) of `offsets`; what comes in is zero."""
    reach = int(np.abs(offsets).max(initial=0))
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    starts = reach - offsets
    return np.stack(
        [
            image[:, top : top + height, left : left + width]
            for image, (top, left) in zip(padded, starts, strict=True)
        ]
    )


def round_significant(values: Array, bits: int = SIGNIFICANT_BITS) -> Array:
    """Nearest numbers whose mantissa has `bits` bits; exact in float32 for bits ≤ 24."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)
