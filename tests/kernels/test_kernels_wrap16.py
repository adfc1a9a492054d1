"""16-bit layers whose rescaled sums outgrow 32 bits: kernels keep the low 32 bits, as the reference kernels do."""

from __future__ import annotations

import numpy as np
import pytest
from draw import Draw

from tflite2q.dialect import ops
from tflite2q.dialect.types import Quantization, TensorType
from tflite2q.execution import reference, runtime


@pytest.mark.parametrize("cls", [ops.Conv2D, ops.DepthwiseConv2D])
@pytest.mark.parametrize("reach", [2**31 - 1, 2**40])
def test_results_beyond_32_bits_wrap(cls: type[ops.Conv2D | ops.DepthwiseConv2D], reach: int) -> None:
    d = Draw(np.random.default_rng(7))
    x = TensorType((1, 5, 5, 16), "int16", Quantization.per_tensor(0.25, 0))
    shape = (1, 1, 1, 16) if cls is ops.DepthwiseConv2D else (16, 1, 1, 16)
    weights = TensorType(shape, "int8", Quantization.per_tensor(0.125, 0))
    bias = TensorType((16,), "int64", Quantization.per_tensor(0.03125, 0))
    y = TensorType((), "int16", Quantization.per_tensor(0.005, 0))
    biases = np.linspace(-reach, reach, 16).astype(np.int64)
    operands = (d.input(x), d.constant(d.data(weights), weights), d.constant(biases, bias))
    case = d.case(cls, operands, y)
    (expected,) = reference.run(case.graph, *case.inputs)
    wide = biases * 0.03125 / 0.005
    saturated = np.where(wide < 0, -32768, 32767)
    assert (expected.reshape(-1, 16)[:, np.abs(wide) > 2**31] != saturated[np.abs(wide) > 2**31]).any()
    for use_kernels in (True, False):
        (got,) = runtime.compile(case.graph, use_kernels=use_kernels).run(*case.inputs)
        np.testing.assert_array_equal(got, expected)
