"""Which kernels a target gets for the layers that models are mostly made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.kernels.contracts import Contract, Conv2DContract, DenseContract, DepthwiseConv2DContract
from tflite2q.kernels.registry import select

CHANNELS, SIZE = 64, 8


def typical_kernels(target: Any) -> tuple[tuple[str, str], ...]:
    """(layer, kernel's name) for a pointwise convolution, a 3x3 depthwise one and a dense layer on `target` (a
    tvm.target.Target), of int8 activations and symmetric int8 weights."""
    return tuple((layer, select(contract, target).kernel.name) for layer, contract in _contracts())


def _contracts() -> tuple[tuple[str, Contract], ...]:
    rescale = Rescale((2.0**-10,) * CHANNELS, 0, -128, 127, "int8")
    shape: dict[str, Any] = {
        "batch": 1, "in_h": SIZE, "in_w": SIZE, "in_c": CHANNELS, "out_h": SIZE, "out_w": SIZE, "out_c": CHANNELS,
        "strides": (1, 1), "dilation": (1, 1),
    }  # fmt: skip
    types: dict[str, Any] = {
        "x_dtype": "int8", "x_zero_point": 0, "weight_zero_points": (0,), "bias": None, "rescale": rescale,
    }  # fmt: skip
    pointwise, window = np.ones((CHANNELS, 1, 1, CHANNELS), np.int8), np.ones((1, 3, 3, CHANNELS), np.int8)
    square = np.ones((CHANNELS, CHANNELS), np.int8)
    return (
        ("conv2d", Conv2DContract(padding=(0, 0, 0, 0), groups=1, weights=pointwise, **shape, **types)),
        ("depthwise", DepthwiseConv2DContract(padding=(1, 1, 1, 1), weights=window, **shape, **types)),
        ("dense", DenseContract(rows=1, depth=CHANNELS, units=CHANNELS, weights=square, **types)),
    )
