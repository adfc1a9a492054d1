"""Float32 convolutions and dense layers as kernel contracts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.dialect.op import Op, Values
from tflite2q.dialect.ops.common import FLOAT_BOUNDS
from tflite2q.dialect.ops.conv import Convolution
from tflite2q.dialect.ops.dense import Dense
from tflite2q.dialect.ops.hybrid import is_hybrid
from tflite2q.dialect.types import Value
from tflite2q.kernels.contracts import FloatConv2DContract, Tensor

FLOAT = "float32"


def product(op: Op, ins: Values, outs: Sequence[Value]) -> FloatConv2DContract | None:
    """The contract of a convolution, a depthwise convolution or a dense layer; None if weights are not constant."""
    x, weights, bias = ins[0], ins[1], ins.get("bias")
    if x is None or weights is None or any(v is not None and v.constant is None for v in (weights, bias)):
        return None
    if is_hybrid(x.type, weights.type):
        return None
    if not isinstance(op, Convolution | Dense) or op.activation not in ("NONE", *FLOAT_BOUNDS):
        return None
    low, high = FLOAT_BOUNDS.get(op.activation, (None, None))
    common: dict[str, Any] = {"bias": None if bias is None else bias.data.reshape(-1), "low": low, "high": high}
    if isinstance(op, Dense):
        units, depth = weights.type.shape
        rows = x.type.size // depth
        return FloatConv2DContract(
            Tensor((1, 1, rows, depth), FLOAT), (1, rows), (1, 1), (1, 1), (0, 0, 0, 0), 1,
            np.ascontiguousarray(weights.data.T).reshape(1, 1, depth, units), **common,
        )  # fmt: skip
    window = op.window(x, weights)
    return FloatConv2DContract(
        Tensor(x.type.shape, FLOAT), window.out, window.strides, window.dilation, (*window.before, *window.after),
        op.groups(x.type, weights.type), op.hwio(NumpyCore(), weights.data, weights.type.shape), **common,
    )  # fmt: skip
