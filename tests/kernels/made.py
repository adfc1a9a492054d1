"""Random contracts, and running what kernels build for them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import integer
import numpy as np
import numpy.typing as npt
import plans
from emulate.instructions import emulated, tiles
from surroundings import EMULATE
from tvm.target import codegen

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels.contracts import Conv2DContract, DenseContract, DepthwiseConv2DContract, Tensor
from tflite2q.kernels.frame import Built
from tflite2q.lower import machine, targets
from tflite2q.lower.target import resolve, tvm_target

Array = npt.NDArray[Any]

NATIVE = "native"

compiled = plans.compiled


def target(name: str = NATIVE) -> Any:
    return tvm_target(resolve(name))


def runs_here(name: str) -> bool:
    """Whether this machine can execute code for the named target, or is to emulate it."""
    if name == NATIVE:
        return True
    if targets.architecture(targets.find(name).mtriple) != targets.architecture(str(codegen.llvm_get_system_triple())):
        return False
    return EMULATE in os.environ or _has_all(target(name))


def _has_all(made: Any) -> bool:
    """Whether this machine has all features of a target of its architecture."""
    needed = {str(f) for f in codegen.llvm_get_cpu_features(made)} & targets.instruction_features()
    if needed & targets.MATRIX_FEATURES and not machine.grants_matrix_unit():
        return False
    return not targets.missing_features(needed)


def run(built: Built, made: Any, *inputs: Array) -> Array:
    """What `plans.run` gives; made for a target that this machine cannot run, it is emulated."""
    if not _has_all(made):
        tiles()
        key = ("emulated", str(made), built.key)
        built, made = dataclasses.replace(built, func=emulated(built.func), key=key), target()
    return plans.run(built, made, *inputs)


def codes(rng: np.random.Generator, tensor: Tensor) -> Array:
    low, high = code_range(tensor.dtype)
    return rng.integers(low, high + 1, tensor.shape).astype(tensor.dtype)


def rescale(
    rng: np.random.Generator, spread: Array, arithmetic: str, dtype: str, zero_point: int, per_channel: bool, relu: bool
) -> Rescale:
    """Multipliers that spread accumulators of standard deviation `spread` (by channel) over the codes, and beyond."""
    typical = spread if per_channel else spread.mean(keepdims=True)
    low, high = code_range(dtype)
    real = rng.uniform(20.0, 200.0, typical.shape) / typical * ((high - low) / 255)
    if arithmetic == "shift":
        real = 2.0 ** np.round(np.log2(real))
    low = max(low, zero_point) if relu else low
    return Rescale(tuple(float(r) for r in real), zero_point, low, high, dtype, arithmetic)


def conv(
    seed: int, size: tuple[int, int, int], out_c: int, kernel: tuple[int, int] = (1, 1), strides: tuple[int, int] = (1,
    1), padding: tuple[int, int, int, int] = (0, 0, 0, 0), dilation: tuple[int, int] = (1, 1), groups: int = 1,
    dtype: str = "int8", weights: str = "int8", arithmetic: str = "fixed", per_channel: bool = True, batch: int = 1,
    zero_point: int | None = None, relu: bool = False, depthwise: bool = False, bias: bool = True,
) -> Conv2DContract | DepthwiseConv2DContract:  # fmt: skip
    """A random convolution of an image of `size` (height, width, channels).  `weights` "uint8" have a zero point.

    int16 activations have zero points of 0 and sum into 64 bits.
    """
    rng, wide = np.random.default_rng(seed), dtype == "int16"
    h, w, c = size
    (kh, kw), (sh, sw), (dh, dw) = kernel, strides, dilation
    low, high = code_range(dtype)
    zero = int(rng.integers(low, high + 1)) if zero_point is None and not wide else zero_point or 0
    shape = (1, kh, kw, out_c) if depthwise else (out_c, kh, kw, c // groups)
    data = rng.integers(-127, 128, shape).astype("int8")
    zeros: tuple[int, ...] = (0,)
    if weights == "uint8":
        data, zeros = rng.integers(0, 256, shape).astype("uint8"), (int(rng.integers(0, 256)),)
    common: dict[str, Any] = {
        "batch": batch, "in_h": h, "in_w": w, "in_c": c,
        "out_h": (h + padding[0] + padding[2] - (kh - 1) * dh - 1) // sh + 1,
        "out_w": (w + padding[1] + padding[3] - (kw - 1) * dw - 1) // sw + 1,
        "out_c": out_c, "strides": strides, "dilation": dilation, "padding": padding, "x_dtype": dtype,
        "x_zero_point": zero, "weights": data, "weight_zero_points": zeros,
        "bias": None, "rescale": Rescale((1.0,), 0, low, high, dtype), "accumulator": "int64" if wide else "int32",
    }  # fmt: skip
    plain = DepthwiseConv2DContract(**common) if depthwise else Conv2DContract(groups=groups, **common)
    several = [integer.accumulators(plain, codes(rng, plain.inputs[0])).reshape(-1, out_c) for _ in range(8)]
    found = np.concatenate(several)
    spread = np.maximum(found.std(axis=0), 74.0 * np.sqrt(weights_per_output(plain)))
    result_zero = 0 if wide else int(rng.integers(low, high + 1))
    made = rescale(rng, spread, arithmetic, dtype, result_zero, per_channel, relu)
    centered = (rng.normal(0, 0.2, out_c) * spread - found.mean(axis=0)).astype(plain.accumulator)
    return dataclasses.replace(plain, bias=centered if bias else None, rescale=made)


def weights_per_output(contract: Conv2DContract | DepthwiseConv2DContract) -> int:
    return contract.weights.size // contract.out_c


def dense(
    seed: int, rows: int, depth: int, units: int, dtype: str = "int8", arithmetic: str = "float64"
) -> DenseContract:
    c = conv(
        seed, (1, rows, depth), units, dtype=dtype, weights=dtype, arithmetic=arithmetic, per_channel=dtype == "int8"
    )
    return DenseContract(
        rows=rows, depth=depth, units=units, x_dtype=dtype, x_zero_point=c.x_zero_point,
        weights=c.weights.reshape(units, depth), weight_zero_points=c.weight_zero_points, bias=c.bias,
        rescale=c.rescale, accumulator=c.accumulator,
    )  # fmt: skip
