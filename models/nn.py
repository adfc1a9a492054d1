"""Small convolutional networks in NumPy: forward, backward and Adam, in the dtype of the images.

A network is a tuple of `Layer`s in execution order; every layer names the layers it reads, so a residual connection is
one more name. Activations are NHWC, convolution weights OHWI, depthwise weights 1HWC (depth multiplier 1) and dense
weights [units, inputs]: the layouts TFLite stores, so that quantizing a trained network moves no axes.

In float64 the summation order of different BLAS libraries stays far below one quantization step, so that a quantized
file does not depend on the machine that trained it. float32 takes half the time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Kind = Literal["conv", "depthwise", "dense", "add", "average_pool", "flatten"]
Activation = Literal["none", "relu", "relu6"]
Parameters = dict[str, tuple[Array, Array]]
"""Weights and bias by layer name."""
Backward = Callable[[Array], tuple[tuple[Array, ...], tuple[Array, ...]]]
"""Gradient of the output -> (gradients of the inputs, gradients of weights and bias)."""

# Elements that are worked on at a time: what fits a second-level cache beside a few arrays of the same size.
CHUNK = 2**17

STILL = 1e-3  # added to the deviation of a channel, which may be 0

UPPER_BOUND = {"none": np.inf, "relu": np.inf, "relu6": 6.0}
LOWER_BOUND = {"none": -np.inf, "relu": 0.0, "relu6": 0.0}


@dataclass(frozen=True)
class Layer:
    """One step of a network. `channels` counts output channels (or dense units); `kernel` and `stride` are square.

    `gain` is a factor of the weights that training begins with: below 1 at the end of a residual branch, so that deep
    networks begin near the identity.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    channels: int = 0
    kernel: int = 1
    stride: int = 1
    activation: Activation = "none"
    gain: float = 1.0


class Numerics(Protocol):
    """How values are represented during a forward pass: exactly, or on a quantization grid."""

    def weights(self, value: Array) -> Array:
        """Return the weights as the layer is to see them."""

    def activation(self, name: str, value: Array) -> tuple[Array, NDArray[np.bool_] | None]:
        """Return the activations as the next layer is to see them, and where the gradient passes (None: everywhere)."""


class Exact:
    """Plain reals: nothing is rounded."""

    def weights(self, value: Array) -> Array:
        return value

    def activation(self, name: str, value: Array) -> tuple[Array, NDArray[np.bool_] | None]:
        return value, None


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return (before, after) of TFLite's SAME padding for one spatial axis."""
    out = -(-size // stride)
    total = max(0, (out - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def _pad(x: Array, kernel: int, stride: int) -> tuple[Array, tuple[slice, ...]]:
    """Return the SAME-padded input and the slices that cut the original out of it."""
    rows, columns = (same_padding(size, kernel, stride) for size in x.shape[1:3])
    inner = (slice(None), slice(rows[0], rows[0] + x.shape[1]), slice(columns[0], columns[0] + x.shape[2]))
    return np.pad(x, ((0, 0), rows, columns, (0, 0))), inner


def _taps(padded: Array, kernel: int, stride: int, out: tuple[int, ...]) -> list[tuple[int, int, Array]]:
    """Return (row, column, view) for each kernel tap: the view holds the pixel it meets at every output position."""
    height, width = (stride * (size - 1) + 1 for size in out)
    return [
        (i, j, padded[:, i : i + height : stride, j : j + width : stride]) for i in range(kernel) for j in range(kernel)
    ]


def conv(x: Array, stride: int, w: Array, b: Array) -> tuple[Array, Backward]:
    """SAME convolution of x [N, H, W, I] with w [O, K, K, I] by one matrix product over gathered patches."""
    kernel = w.shape[1]
    if kernel == stride == 1:
        return _pointwise(x, w, b)
    padded, inner = _pad(x, kernel, stride)
    windows = sliding_window_view(padded, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, w[0].size)
    out = windows.shape[:3]
    matrix = w.reshape(len(w), -1)

    def backward(grad: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        flat = grad.reshape(-1, len(w))
        patch_grads = (flat @ matrix).reshape(*out, kernel, kernel, x.shape[3])
        grad_x = np.zeros_like(padded)
        for i, j, view in _taps(grad_x, kernel, stride, out[1:]):
            view += patch_grads[:, :, :, i, j]
        return (grad_x[inner],), ((flat.T @ patches).reshape(w.shape), flat.sum(axis=0))

    return (patches @ matrix.T + b).reshape(*out, len(w)), backward


def _pointwise(x: Array, w: Array, b: Array) -> tuple[Array, Backward]:
    """1x1 convolution of stride 1: the matrix product alone, without gathering."""
    flat, matrix = x.reshape(-1, x.shape[3]), w.reshape(len(w), -1)

    def backward(grad: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        rows = grad.reshape(-1, len(w))
        return ((rows @ matrix).reshape(x.shape),), ((rows.T @ flat).reshape(w.shape), rows.sum(axis=0))

    return (flat @ matrix.T + b).reshape(*x.shape[:3], len(w)), backward


def depthwise(x: Array, stride: int, w: Array, b: Array) -> tuple[Array, Backward]:
    """SAME depthwise convolution of x [N, H, W, C] with w [1, K, K, C]: a shifted multiplication for each kernel tap.

    A few images at a time, so that they stay in the cache from tap to tap; weights are repeated along a row, so that
    NumPy's innermost loop runs over a whole row.
    """
    kernel = w.shape[1]
    padded, inner = _pad(x, kernel, stride)
    out = tuple(-(-size // stride) for size in x.shape[1:3])
    wide = np.repeat(w[0][:, :, np.newaxis], out[1], axis=2)
    y = np.broadcast_to(b, (len(x), *out, len(b))).copy()
    parts = _parts(len(x), padded[0].size)
    for part in parts:
        product = np.empty_like(y[part])
        for i, j, view in _taps(padded[part], kernel, stride, out):
            y[part] += np.multiply(view, wide[i, j], out=product)

    def backward(grad: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        grad_x, grad_w = np.zeros_like(padded), np.zeros_like(w)
        for part in parts:
            product = np.empty_like(grad[part])
            ones = np.ones(product[..., 0].size, grad.dtype)
            taps = zip(_taps(padded[part], kernel, stride, out), _taps(grad_x[part], kernel, stride, out), strict=True)
            for (i, j, view), (_, _, grad_view) in taps:
                grad_view += np.multiply(grad[part], wide[i, j], out=product)
                grad_w[0, i, j] += ones @ np.multiply(grad[part], view, out=product).reshape(len(ones), -1)
        return (grad_x[inner],), (grad_w, grad.sum(axis=(0, 1, 2)))

    return y, backward


def _parts(images: int, size: int) -> list[slice]:
    """Slices of so many images of `size` elements that are worked on at a time."""
    step = max(1, CHUNK // size)
    return [slice(first, first + step) for first in range(0, images, step)]


def dense(x: Array, w: Array, b: Array) -> tuple[Array, Backward]:
    """Affine map of x [N, I] by w [units, I]."""

    def backward(grad: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        return (grad @ w,), (grad.T @ x, grad.sum(axis=0))

    return x @ w.T + b, backward


def average_pool(x: Array, size: int) -> tuple[Array, Backward]:
    """Mean over tiles of size x size pixels; the image must divide into tiles."""
    n, height, width, channels = x.shape
    tiles = x.reshape(n, height // size, size, width // size, size, channels)

    def backward(grad: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        return (np.repeat(np.repeat(grad, size, axis=1), size, axis=2) / size**2,), ()

    return tiles.mean(axis=(2, 4)), backward


def flatten(x: Array) -> tuple[Array, Backward]:
    """One row of features for each image."""
    return x.reshape(len(x), -1), lambda grad: ((grad.reshape(x.shape),), ())


def add(a: Array, b: Array) -> tuple[Array, Backward]:
    """Sum of two equal shapes: the residual connection."""
    return a + b, lambda grad: ((grad, grad), ())


def apply(layer: Layer, inputs: Sequence[Array], parameters: Sequence[Array]) -> tuple[Array, Backward]:
    """Compute one layer without its fused activation; `parameters` are weights and bias, or nothing."""
    match layer.kind:
        case "conv":
            return conv(inputs[0], layer.stride, *parameters)
        case "depthwise":
            return depthwise(inputs[0], layer.stride, *parameters)
        case "dense":
            return dense(inputs[0], *parameters)
        case "average_pool":
            return average_pool(inputs[0], layer.kernel)
        case "flatten":
            return flatten(inputs[0])
        case "add":
            return add(*inputs)


@dataclass
class Tape:
    """What a forward pass leaves behind: every value by layer name, and how to send gradients back."""

    values: dict[str, Array]
    steps: list[tuple[Layer, Backward, NDArray[np.bool_]]] = field(default_factory=list)

    def backward(self, grad: Array) -> Parameters:
        """Return the gradients of all parameters, given the gradient of the last layer's output."""
        grads = {self.steps[-1][0].name: grad}
        result: Parameters = {}
        for layer, backward, passes in reversed(self.steps):
            input_grads, parameter_grads = backward(grads.pop(layer.name) * passes)
            if parameter_grads:
                result[layer.name] = (parameter_grads[0], parameter_grads[1])
            for name, value in zip(layer.inputs, input_grads, strict=True):
                grads[name] = grads[name] + value if name in grads else value
        return result


def forward(layers: Sequence[Layer], parameters: Parameters, x: Array, numerics: Numerics) -> Tape:
    """Run the network on x [N, H, W, C], which layers read under the name `input`."""
    tape = Tape({"input": x})
    for layer in layers:
        seen: tuple[Array, ...] = ()
        if layer.name in parameters:
            weights, bias = parameters[layer.name]
            seen = numerics.weights(weights), bias
        y, backward = apply(layer, [tape.values[name] for name in layer.inputs], seen)
        low, high = LOWER_BOUND[layer.activation], UPPER_BOUND[layer.activation]
        passes = (y > low) & (y < high)
        tape.values[layer.name], mask = numerics.activation(layer.name, np.clip(y, low, high))
        tape.steps.append((layer, backward, passes if mask is None else passes & mask))
    return tape


def cross_entropy(logits: Array, labels: NDArray[np.int64]) -> tuple[float, Array]:
    """Return the mean softmax cross-entropy and its gradient with respect to the logits [N, classes]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    grad = np.exp(log_probability)
    grad[rows, labels] -= 1.0
    return -float(log_probability[rows, labels].mean()), grad / len(labels)


def weight_shape(layer: Layer, channels: int) -> tuple[int, ...] | None:
    """Return the shape of a layer's weights when its input has `channels` channels; None if it has no weights."""
    match layer.kind:
        case "conv":
            return layer.channels, layer.kernel, layer.kernel, channels
        case "depthwise":
            return 1, layer.kernel, layer.kernel, channels
        case "dense":
            return layer.channels, channels
        case _:
            return None


def initialize(layers: Sequence[Layer], sample: Array, rng: np.random.Generator) -> Parameters:
    """Draw He-normal weights and zero biases; one input [1, H, W, C] shows each layer how wide its input is."""
    values = {"input": sample}
    parameters: Parameters = {}
    for layer in layers:
        inputs = [values[name] for name in layer.inputs]
        shape = weight_shape(layer, inputs[0].shape[-1])
        if shape is not None:
            products = layer.kernel**2 if layer.kind == "depthwise" else int(np.prod(shape[1:]))
            weights = rng.standard_normal(shape) * (layer.gain * np.sqrt(2.0 / products))
            parameters[layer.name] = weights.astype(sample.dtype), np.zeros(layer.channels, sample.dtype)
        values[layer.name], _ = apply(layer, inputs, parameters.get(layer.name, ()))
    return parameters


def standardized(layers: Sequence[Layer], parameters: Parameters, images: Array) -> Parameters:
    """Scale weights and set biases so that each channel has mean 0 and variance 1 over `images`, before activations.

    Networks without batch normalization begin as fast with it (Salimans and Kingma, 2016, section 3).
    """
    values, found = {"input": images}, dict(parameters)
    for layer in layers:
        inputs = [values[name] for name in layer.inputs]
        y, _ = apply(layer, inputs, parameters.get(layer.name, ()))
        if layer.name in parameters:
            weights, _ = parameters[layer.name]
            axes = tuple(range(y.ndim - 1))
            scale, mean = 1 / (y.std(axis=axes) + STILL), y.mean(axis=axes)
            thin = scale if layer.kind == "depthwise" else scale.reshape(-1, *[1] * (weights.ndim - 1))
            found[layer.name] = weights * thin, -mean * scale
            y = (y - mean) * scale
        values[layer.name] = np.clip(y, LOWER_BOUND[layer.activation], UPPER_BOUND[layer.activation])
    return found


@dataclass
class Adam:
    """Adam (Kingma and Ba, 2015, algorithm 1), with decoupled weight decay on weights only."""

    weight_decay: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    step: int = 0
    moments: dict[tuple[str, int], tuple[Array, Array]] = field(default_factory=dict)

    def update(self, parameters: Parameters, grads: Parameters, rate: float) -> Parameters:
        """Return the parameters after one step of learning rate `rate`."""
        self.step += 1
        return {
            name: (
                self._moved((name, 0), weights, grads[name][0], rate) - rate * self.weight_decay * weights,
                self._moved((name, 1), bias, grads[name][1], rate),
            )
            for name, (weights, bias) in parameters.items()
        }

    def _moved(self, key: tuple[str, int], value: Array, grad: Array, rate: float) -> Array:
        first, second = self.moments.get(key, (np.zeros_like(value), np.zeros_like(value)))
        first = self.beta1 * first + (1 - self.beta1) * grad
        second = self.beta2 * second + (1 - self.beta2) * grad**2
        self.moments[key] = (first, second)
        unbiased = first / (1 - self.beta1**self.step)
        return value - rate * unbiased / (np.sqrt(second / (1 - self.beta2**self.step)) + self.epsilon)
