"""Convolutions and dense layers of float32 activations as kernel contracts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.dialect.op import Op, Values
from tflite2q.dialect.ops.common import FLOAT_BOUNDS
from tflite2q.dialect.ops.conv import Convolution
from tflite2q.dialect.ops.dense import Dense
from tflite2q.dialect.ops.hybrid import is_hybrid
from tflite2q.dialect.types import Value
from tflite2q.kernels import layout
from tflite2q.kernels.contracts import Array, DynamicConv2DContract, FloatConv2DContract, Tensor

FLOAT = "float32"


def product(op: Op, ins: Values, outs: Sequence[Value]) -> FloatConv2DContract | None:
    """The contract of a convolution, a depthwise convolution or a dense layer; None if weights are not constant, or
    have a scale for each block."""
    x, weights, bias = ins["x"], ins["weights"], ins.get("bias")
    if any(v is not None and v.constant is None for v in (weights, bias)):
        return None
    if not isinstance(op, Convolution | Dense) or op.activation not in ("NONE", *FLOAT_BOUNDS):
        return None
    low, high = FLOAT_BOUNDS.get(op.activation, (None, None))
    facts: dict[str, Any] = {"bias": None if bias is None else bias.data.reshape(-1), "low": low, "high": high}
    facts |= _geometry(op, x, weights)
    if not is_hybrid(x.type, weights.type):
        return FloatConv2DContract(**facts)
    if weights.type.parameters.block:
        return None
    asymmetric = op.asymmetric_inputs if isinstance(op, Dense) else op.asymmetric(weights.type)
    first = isinstance(op, Convolution) and op.channels_first(weights.type)
    return dynamic(facts, weights.type.parameters.scale, asymmetric, first)


def _geometry(op: Convolution | Dense, x: Value, weights: Value) -> dict[str, Any]:
    """A dense layer is a 1x1 convolution over images of one pixel."""
    if isinstance(op, Dense):
        return dense(x, weights.data.T)
    window = op.window(x, weights)
    return {
        "x": Tensor(x.type.shape, FLOAT), "out_size": window.out, "strides": window.strides,
        "dilation": window.dilation, "padding": (*window.before, *window.after),
        "groups": op.groups(x.type, weights.type), "weights": op.hwio(NumpyCore(), weights.data, weights.type.shape),
    }  # fmt: skip


def dense(x: Value, matrix: Array) -> dict[str, Any]:
    """Facts of the product of the rows of x and a constant matrix [depth, units]."""
    depth, units = matrix.shape
    return {
        "x": Tensor((x.type.size // depth, 1, 1, depth), FLOAT), "out_size": (1, 1), "strides": (1, 1),
        "dilation": (1, 1), "padding": (0, 0, 0, 0), "groups": 1,
        "weights": np.ascontiguousarray(matrix).reshape(1, 1, depth, units),
    }  # fmt: skip


def dynamic(
    facts: dict[str, Any], scale: npt.ArrayLike, asymmetric: bool, channels_first: bool = False
) -> DynamicConv2DContract | None:
    """The contract of facts whose weights are codes with one scale, or one for each channel; None if sums may leave 32
    bits."""
    if layout.largest_sum(facts["weights"]) >= 2**31:
        return None
    scales = np.broadcast_to(np.array(scale, np.float32), (facts["weights"].shape[3],))
    return DynamicConv2DContract(**facts, scales=scales, asymmetric=asymmetric, channels_first=channels_first)
