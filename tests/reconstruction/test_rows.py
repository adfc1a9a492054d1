"""Rows of inputs times the matrix of weights are the sums that layers compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tflite2q.dialect.op import Op, Operands, Tensor
from tflite2q.dialect.ops.conv import Conv2D, DepthwiseConv2D
from tflite2q.dialect.ops.dense import Dense
from tflite2q.dialect.types import Constant, TensorType, Value
from tflite2q.execution import reference
from tflite2q.reconstruction.rows import Rows

LAYERS: dict[str, tuple[type[Op], tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1x1": (Conv2D, (1, 5, 4, 6), (3, 1, 1, 6), {}),
    "3x3, stride 2": (Conv2D, (1, 7, 6, 4), (5, 3, 3, 4), {"stride_h": 2, "stride_w": 2}),
    "dilated, VALID": (Conv2D, (1, 9, 9, 2), (3, 2, 3, 2), {"dilation_h": 2, "dilation_w": 3, "padding": "VALID"}),
    "groups": (Conv2D, (1, 5, 5, 6), (4, 3, 3, 3), {}),
    "two images": (Conv2D, (2, 5, 4, 3), (3, 3, 3, 3), {}),
    "depthwise": (DepthwiseConv2D, (1, 6, 5, 4), (1, 3, 3, 4), {"stride_h": 2}),
    "depthwise, multiplier 2": (DepthwiseConv2D, (1, 6, 5, 3), (1, 3, 3, 6), {"dilation_w": 2}),
    "dense": (Dense, (4, 7), (5, 7), {}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_products_are_the_sums_of_the_layer(name: str) -> None:
    kind, x_shape, w_shape, options = LAYERS[name]
    random = np.random.default_rng(2)
    x = Value("x", TensorType(x_shape, "float32"))
    w = Value("w", TensorType(w_shape, "float32"), Constant(random.normal(size=w_shape).astype(np.float32)))
    op = kind(inputs=("x", "w"), outputs=("y",), **options)
    data = random.normal(size=x_shape).astype(np.float32)
    core, operands = reference.core(), Operands(op, [Tensor(x, data), Tensor(w, w.data)])
    shape = op.infer(operands.values, [])[0]
    y = Value("y", TensorType(shape, "float32"))
    (expected,) = op.compute(core, operands, [y])
    rows = Rows(op, x, w)
    matrix = rows.matrix(w.data)
    np.testing.assert_array_equal(rows.layout(matrix), w.data)
    positions = rows.positions(random)
    found = rows.of(data, x.type, positions) @ matrix
    np.testing.assert_allclose(found, rows.results(expected, y.type, positions), rtol=1e-4, atol=1e-5)
    some = positions[:: max(len(positions) // 3, 1)]
    np.testing.assert_allclose(
        rows.of(data, x.type, some) @ matrix, rows.results(expected, y.type, some), rtol=1e-4, atol=1e-5
    )
