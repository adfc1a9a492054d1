"""Legacy TFLite quantization: asymmetric uint8, one scale and zero point per tensor, for activations and for weights.

`real = scale * (code - zero_point)` throughout, with float32 scales as the file stores them. The scheme is the one of
Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2018), as
TensorFlow's quantization-aware training applied it: ranges nudged so that 0.0 is a code, weights on codes 1..255, int32
biases of scale input_scale * weight_scale.
"""

import numpy as np
from nn import Array
from numpy.typing import NDArray

from tflite2q.dialect.types import Quantization


def grid(low: float, high: float, lowest_code: int = 0) -> Quantization:
    """Return the parameters that map [low, high], widened to hold 0.0, to the codes lowest_code..255."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / (255 - lowest_code)))
    return Quantization.per_tensor(scale, int(np.clip(np.round(lowest_code - low / scale), lowest_code, 255)))


def weight_grid(weights: Array) -> Quantization:
    """Return the parameters of a weight tensor: its full range on codes 1..255."""
    return grid(float(weights.min()), float(weights.max()), lowest_code=1)


def codes(real: Array, parameters: Quantization) -> Array:
    """Return the nearest codes as whole numbers in the dtype of `real`, not yet clamped to the range of a type."""
    return np.round(real / parameters.scale[0]) + parameters.zero_point[0]


def real(code: Array, parameters: Quantization) -> Array:
    """Return the real values that codes stand for."""
    return parameters.scale[0] * (code - parameters.zero_point[0])


def quantized_weights(weights: Array) -> tuple[NDArray[np.uint8], Quantization]:
    """Return the weights as codes in 1..255, and their parameters."""
    parameters = weight_grid(weights)
    return np.clip(codes(weights, parameters), 1, 255).astype(np.uint8), parameters


def quantized_bias(bias: Array, x: Quantization, weights: Quantization) -> tuple[NDArray[np.int32], Quantization]:
    """Return the bias in units of the accumulator: int32, the scales of input and weights multiplied, zero point 0."""
    parameters = Quantization.per_tensor(x.scale[0] * weights.scale[0], 0)
    return codes(bias, parameters).astype(np.int32), parameters


class FakeQuantization:
    """Rounds weights and activations to their 8-bit grids during training; gradients pass straight through.

    The range of each layer's output, in `ranges` by name, is an exponential moving average of its batches' minima and
    maxima. Layers in `shared` only move or average codes, so they keep the grid of what they read.
    """

    def __init__(self, decay: float, shared: frozenset[str]) -> None:
        self.ranges: dict[str, tuple[float, float]] = {}
        self._decay = decay
        self._shared = shared

    def weights(self, value: Array) -> Array:
        rounded, parameters = quantized_weights(value)
        return real(rounded.astype(value.dtype), parameters)

    def activation(self, name: str, value: Array) -> tuple[Array, NDArray[np.bool_] | None]:
        if name in self._shared:
            return value, None
        low, high = float(value.min()), float(value.max())
        old_low, old_high = self.ranges.get(name, (low, high))
        new = 1 - self._decay
        self.ranges[name] = (old_low + new * (low - old_low), old_high + new * (high - old_high))
        parameters = grid(*self.ranges[name])
        nearest = codes(value, parameters)
        clamped = np.clip(nearest, 0, 255)
        return real(clamped, parameters), nearest == clamped
