"""What LiteRT's kernels cannot take is not written, and not read without a word."""

from __future__ import annotations

import numpy as np
import pytest
from draw import Draw

import tflite2q
from tflite2q.dialect import ops
from tflite2q.dialect.types import Quantization, TensorType
from tflite2q.errors import InvalidGraph, Unchanged, UnsupportedError


@pytest.mark.parametrize("scheme", ["int8", "symmetric-int8", "power-of-two", "asymmetric-uint8"])
@pytest.mark.parametrize(("dtype", "scale"), [("int16", 0.1), ("uint8", 0.6), ("int8", 0.9)])
def test_comparisons_keep_scales_below_one(dtype: str, scale: float, scheme: str) -> None:
    d = Draw(np.random.default_rng(0))
    kind = TensorType((4, 4), dtype, Quantization.per_tensor(scale, 0))
    case = d.case(ops.Compare, (d.input(kind), d.input(kind)), TensorType((), "bool"), relation="EQUAL")
    try:
        graph = tflite2q.convert(case.graph, scheme).graph
    except Unchanged:
        return
    except UnsupportedError as nothing:
        assert "the kernels of EQUAL do not take the scales" in str(nothing)
        return
    (compare,) = (op for op in graph.ops if isinstance(op, ops.Compare))
    assert all(value.type.scale < 1 for value in graph.ins(compare) if value is not None)


@pytest.mark.parametrize("cls", [ops.Conv2D, ops.DepthwiseConv2D])
def test_signed_filters_with_a_zero_point_are_refused(cls: type[ops.Conv2D | ops.DepthwiseConv2D]) -> None:
    d = Draw(np.random.default_rng(0))
    x, weights = d.kind((1, 4, 4, 1), "int8"), d.kind((1, 2, 2, 1), "int8", 0.1, 3)
    with pytest.raises(InvalidGraph, match="zero point 3; LiteRT takes or heeds none but 0"):
        d.case(cls, (d.input(x), d.constant(d.data(weights), weights)), d.kind((), "int8"))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
def test_a_converted_convolution_has_a_bias(dtype: str) -> None:
    d = Draw(np.random.default_rng(0))
    filters = "uint8" if dtype == "uint8" else "int8"
    x, weights = d.kind((1, 4, 4, 2), dtype), d.kind((1, 2, 2, 2), filters, 0.1, 0)
    case = d.case(ops.DepthwiseConv2D, (d.input(x), d.constant(d.data(weights), weights)), d.kind((), dtype))
    for scheme, wide in (("int8", "int32"), ("int16x8", "int64"), ("float32", "float32")):
        try:
            graph = tflite2q.convert(case.graph, scheme).graph
        except Unchanged:
            continue
        (layer,) = (op for op in graph.ops if isinstance(op, ops.DepthwiseConv2D))
        assert layer.inputs[2] is not None
        zeros = graph[layer.inputs[2]]
        assert zeros.type.dtype == wide and not zeros.data.any()
