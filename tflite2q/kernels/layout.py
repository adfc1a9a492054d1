"""Constants of convolutions in the form kernels want: zero points folded away, channels in blocks, bounds.

With padding filled by the input zero point z_x, and z_w the weight zero point,

    sum (x - z_x) (w - z_w) + b  =  sum x w  -  z_w sum x  +  (b - z_x sum (w - z_w))

so an input zero point costs nothing at run time, and a weight zero point one sum of inputs per output pixel - or
nothing, if weights are stored in 16 bits as w - z_w.
"""

from __future__ import annotations

import math

import numpy as np

from tflite2q.arithmetic.rounding import code_range, wrap32
from tflite2q.kernels.contracts import Array, ConvolutionContract

MOST = 2**47  # what 64-bit accumulators stay below, so that their products with 15-bit multipliers fit 64 bits


def blocks(total: int, width: int) -> Array:
    """Starts of blocks of `width` that cover range(total); the last one overlaps its neighbour instead of overhanging.

    What lies in two blocks is computed twice, with the same result: no tails, no masks.
    """
    return np.minimum(np.arange(math.ceil(total / width)) * width, total - width)


def lane_count(channels: int, most: int) -> int:
    """The largest power of two that is at most `channels` and `most`."""
    return 1 << (min(channels, most).bit_length() - 1)


def even_lanes(channels: int, most: int, register: int) -> int:
    """The power of two up to `most` whose overlapping blocks cover `channels` with the fewest registers of `register`
    lanes, of equal ones the largest."""
    sizes = [1 << k for k in range(lane_count(channels, most).bit_length())]
    return min(sizes, key=lambda lanes: (-(-channels // lanes) * -(-lanes // register), -lanes))


def centered_weights(contract: ConvolutionContract) -> Array:
    """Weights minus their zero points, int64, in the contract's layout."""
    zero = contract.along_channels(np.asarray(contract.weight_zero_points, np.int64))
    return np.asarray(contract.weights.astype(np.int64) - zero)


def fits_eight_bits(contract: ConvolutionContract) -> bool:
    """Whether all centered weights are int8."""
    weights = centered_weights(contract)
    return bool(weights.min() >= -128 and weights.max() <= 127)


def signed_weights(contract: ConvolutionContract) -> tuple[Array, int]:
    """Raw codes of weights as signed bytes (int64), and the zero point that belongs to them, of all channels."""
    shift = 128 if contract.weights.dtype == np.uint8 else 0
    return contract.weights.astype(np.int64) - shift, contract.weight_zero_points[0] - shift


def byte_parts(weights: Array) -> Array:
    """int8 [parts, ...]: as few summands of integer `weights` as there can be, and at least one.

    Centered codes of eight bits take up to three: 255 is 127 + 127 + 1.
    """
    parts = [np.clip(weights, -128, 127)]
    while (weights := weights - parts[-1]).any():
        parts.append(np.clip(weights, -128, 127))
    return np.ascontiguousarray(parts, np.int8)


def weight_sums(contract: ConvolutionContract, absolute: bool = False) -> Array:
    """Sum of the centered weights (or of their magnitudes) of each output channel, int64."""
    weights = centered_weights(contract)
    weights = np.abs(weights) if absolute else weights
    return np.asarray(weights.sum(axis=tuple(axis for axis in range(4) if axis != contract.channel_axis)))


def folded_bias(contract: ConvolutionContract, x_zero_point: int, start: Array | int = 0) -> Array:
    """int32 [out_c]: bias with the input zero point folded in, for accumulators of 32 bits, plus `start`.

    `x_zero_point` is that of the codes the kernel multiplies, which may be shifted from the contract's.
    """
    return wrap32(wide_bias(contract, x_zero_point) + start).astype(np.int32)


def wide_bias(contract: ConvolutionContract, x_zero_point: int) -> Array:
    """int64 [out_c]: the same, not wrapped."""
    bias = 0 if contract.bias is None else contract.bias.astype(np.int64)
    return np.asarray(bias - x_zero_point * weight_sums(contract), np.int64)


def accumulator_bound(contract: ConvolutionContract) -> Array:
    """float64 [out_c]: no accumulator of the channel is larger in magnitude."""
    low, high = code_range(contract.x_dtype)
    reach = max(high - contract.x_zero_point, contract.x_zero_point - low)
    bias = 0.0 if contract.bias is None else np.abs(contract.bias.astype(np.float64))
    return np.asarray(weight_sums(contract, absolute=True) * float(reach) + bias, np.float64)


def largest_sum_of_codes(contract: ConvolutionContract) -> Array:
    """float64 [out_c]: the same, tighter, for accumulators that hold all products: on the way there they may be larger.

    Inputs lie on both sides of their zero point, often on one alone, and weights of one sign take them to one side.
    """
    low, high = (float(code - contract.x_zero_point) for code in code_range(contract.x_dtype))
    magnitudes, sums = weight_sums(contract, absolute=True), weight_sums(contract)
    positive, negative = (magnitudes + sums) / 2, (magnitudes - sums) / 2
    bias = 0.0 if contract.bias is None else contract.bias.astype(np.float64)
    most, least = (bias + positive * a - negative * b for a, b in ((high, low), (low, high)))
    return np.asarray(np.maximum(np.abs(most), np.abs(least)), np.float64)


def code_reach(contract: ConvolutionContract) -> int:
    """Largest magnitude of an input code."""
    low, high = code_range(contract.x_dtype)
    return max(high, -low)


def pieces(runs: Array, reach: int) -> int:
    """Into how many equal pieces weights [out_c, runs, run] must cut their runs, so that the products of a piece's
    weights with numbers up to `reach` certainly sum into 32 bits."""
    run = runs.shape[2]
    magnitudes = np.abs(runs.astype(np.int64))
    for count in range(1, run + 1):
        starts = np.arange(0, run, math.ceil(run / count))
        if np.add.reduceat(magnitudes, starts, axis=2).max() * reach < 2**31:
            return count
    raise ValueError("single products exceed 32 bits")


LARGEST_CODE = 255  # of activations quantized at run time, without their zero point


def largest_sum(weights: Array) -> int:
    """What no sum of products of such codes and integer `weights` (HWIO) exceeds in magnitude."""
    magnitudes = np.abs(weights.astype(np.int64)).sum(axis=(0, 1, 2))
    return int(magnitudes.max(initial=0)) * LARGEST_CODE
