"""Integer sums of dynamic-range layers by the kernels for float32: exact, because float32 holds integers up to 2^24.

A code with its zero point taken off is within 255.  Where 255 times the sum of a filter's magnitudes stays below 2^24,
so does every partial sum, in any order and with or without fused multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from tflite2q.dialect.op import Values
from tflite2q.dialect.ops.conv import Convolution
from tflite2q.dialect.ops.dense import Dense
from tflite2q.dialect.ops.hybrid import is_hybrid
from tflite2q.kernels.contracts import FloatConv2DContract, Tensor
from tflite2q.lower.relax_core import RelaxCore, Value, shape_of

FLOAT = "float32"
LARGEST_CODE, EXACT = 255, 2**24

Emit = Callable[[FloatConv2DContract, Any], Any]  # a kernel's result for an input


def applies(op: object, ins: Values) -> bool:
    """Whether `op` sums products of activations quantized at run time and constant integer weights."""
    if not isinstance(op, Convolution | Dense):
        return False
    weights = ins["weights"]
    return is_hybrid(ins["x"].type, weights.type) and weights.constant is not None and not weights.type.parameters.block


class ExactSums(RelaxCore):
    """Core operations in which sums of products of small integers and constants are float32, by kernels."""

    def __init__(self, builder: relax.BlockBuilder, name_hint: str, emit: Emit) -> None:
        super().__init__(builder, name_hint)
        self.by_kernel = emit

    def matmul(self, a: Value, b: Value, out_dtype: str) -> Value:
        if out_dtype != "int32" or not isinstance(b, np.ndarray) or b.ndim != 2 or isinstance(a, np.ndarray):
            return super().matmul(a, b, out_dtype)
        rows, depth = shape_of(a)
        image = self.reshape(a, (1, 1, rows, depth))
        sums = self.conv2d(image, b.reshape(1, 1, depth, b.shape[1]), (1, 1), out_dtype=out_dtype)
        return self.reshape(sums, (rows, b.shape[1]))

    def conv2d(
        self,
        x: Value,
        weights: Value,
        strides: tuple[int, int],
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        out_dtype: str = "int32",
    ) -> Value:
        if (
            not isinstance(weights, np.ndarray)
            or isinstance(x, np.ndarray)
            or out_dtype != "int32"
            or not small(weights)
        ):
            return super().conv2d(x, weights, strides, dilation, groups, out_dtype)
        n, height, width, channels = shape_of(x)
        reach = [(size - 1) * step + 1 for size, step in zip(weights.shape[:2], dilation, strict=True)]
        out = [(size - r) // s + 1 for size, r, s in zip((height, width), reach, strides, strict=True)]
        contract = FloatConv2DContract(
            Tensor((n, height, width, channels), FLOAT),
            (out[0], out[1]),
            strides,
            dilation,
            (0, 0, 0, 0),
            groups,
            np.ascontiguousarray(weights.astype(np.float32)),
            None,
        )
        return self.by_kernel(contract, self.astype(x, FLOAT))


def small(weights: np.ndarray[Any, np.dtype[Any]]) -> bool:
    """Whether all sums of products with codes are exact in float32; `weights` are HWIO."""
    magnitudes = np.abs(weights.astype(np.int64)).sum(axis=(0, 1, 2))
    return int(magnitudes.max(initial=0)) * LARGEST_CODE < EXACT
