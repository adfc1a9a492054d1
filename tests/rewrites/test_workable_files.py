"""What LiteRT's kernels cannot take is not written, and not read without a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from draw import Draw
from judge import judge

import tflite2q
from tflite2q.dialect import ops
from tflite2q.dialect.text import parse_graph
from tflite2q.dialect.types import Quantization, TensorType
from tflite2q.errors import InvalidGraph, Unchanged, UnsupportedError
from tflite2q.execution import reference
from tflite2q.flatbuffer import reader
from tflite2q.flatbuffer.writer import write


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


def test_dynamic_depthwise_filters_have_a_scale_for_each_channel() -> None:
    """LiteRT's kernel reads a scale for each channel, beyond the only one of a tensor."""
    d = Draw(np.random.default_rng(0))
    x, filters = d.kind((1, 6, 6, 40), "int8", 0.1, 0), d.kind((1, 3, 3, 40), "int8", 0.01, 0)
    operands = (d.input(x), d.constant(d.data(filters), filters))
    case = d.case(ops.DepthwiseConv2D, operands, d.kind((), "int8", 0.2, 0), padding="SAME")
    file = write(tflite2q.convert(case.graph, "dynamic-range").graph)
    expected = reference.run(case.graph, *case.inputs)[0].astype(np.int64)
    for kernels in ("ref", "default"):
        ((found,),) = judge([(file, case.inputs)], kernels)
        assert np.abs(found - expected).max() <= 2


@pytest.mark.parametrize("subtract", [False, True])
def test_sums_of_16_bit_codes_with_scales_of_powers_of_two(subtract: bool, tmp_path: Path) -> None:
    """LiteRT's other kernel for them takes only an operand of the result's scale, and none that is coarser."""
    scheme = tmp_path / "scheme.toml"
    scheme.write_text(
        '[activations]\ndtype = "int16"\nscale = "power-of-two"\nsymmetric = true\n[weights]\ndtype = "int8"\n'
    )
    d = Draw(np.random.default_rng(0))
    operands = [d.input(d.kind((9,), "int8", scale, 0)) for scale in (0.25, 0.125)]
    case = d.case(ops.Add, operands, d.kind((), "int8", 0.03125, 5), subtract=subtract)
    graph = tflite2q.convert(case.graph, str(scheme)).graph
    (expected,) = reference.run(graph, *case.inputs)
    for kernels in ("ref", "default"):
        ((found,),) = judge([(write(graph), case.inputs)], kernels)
        np.testing.assert_array_equal(found, expected)


# Layers whose scales fit until a scheme changes them: what the scheme would make of one that it did not leave alone.
GROWING = {
    "XNNPACK takes no multiplier of 256: 0.19 * 0.0033 / 8.5e-8": (
        """
    %x : int8[1, 4, 4, 2] <0.09505903:127>
    %f : int8[2, 1, 1, 2] <0.0033217617:0> = [127, -127, 3, 100]
    %b : int32[2] <0.00031576343:0> = [-100, 10]
    %y : int8[1, 4, 4, 2] <1.076048e-05:126>""",
        "%y = q.conv2d(%x, %f, %b) {activation = RELU} version 3",
    ),
    "6 is beyond 2^31 steps of 2.3e-11": (
        """
    %x : int8[1, 4, 4, 1] <0.00022877502:0>
    %f : int8[1, 1, 1, 1] <0.00022809826:0> = [83]
    %b : int32[1] <5.2183186e-08:0> = [100]
    %y : int8[1, 4, 4, 1] <1.9817685e-08:89>""",
        "%y = q.depthwise_conv2d(%x, %f, %b) {activation = RELU6} version 3",
    ),
    "a divisor of 0.5 would be rounded to 0": (
        """
    %x : int8[4] <0.002423346:-128>
    %y : int8[4] <0.0018743201:0>""",
        "%y = q.div(%x, %z)",
    ),
    "QUANTIZE makes no int16 codes around -32768": (
        """
    %x : int8[1, 10] <0.25:3>
    %y : int16[1, 10] <1.5258789e-05:-32768>""",
        "%y = q.softmax(%x) version 2",
    ),
}


def beside_another(values: str, op: str) -> str:
    """A graph of a layer and of one that every scheme can change."""
    return f"""
graph "" {{
  inputs (%x, %z)
  outputs (%y, %w)
  values {{{values}
    %z : int8[4] <0.5:-128>
    %w : int8[4] <0.5:-128>
  }}
  ops {{
    {op}
    %w = q.lookup(%z) {{function = RELU}} version 2
  }}
}}"""


@pytest.mark.parametrize("scheme", ["int8", "symmetric-int8", "symmetric-uint8", "power-of-two", "int16x8", "int8-w4"])
@pytest.mark.parametrize(("values", "op"), GROWING.values(), ids=GROWING)
def test_interpreters_run_what_is_written(values: str, op: str, scheme: str) -> None:
    original = parse_graph(beside_another(values, op))
    kinds = [original[name].type for name in original.inputs]
    inputs = [np.full(kind.shape, kind.range[0] + 1, kind.dtype) for kind in kinds]
    try:
        graph = tflite2q.convert(original, scheme).graph
    except (Unchanged, UnsupportedError):
        graph = original
    files = [(write(each), inputs) for each in (original, graph)]
    for kernels in ("ref", "default"):
        before, after = judge(files, kernels)
        assert not isinstance(before, str) and not isinstance(after, str), after
    for got, want in zip(reference.run(reader.read(files[1][0]), *inputs), judge(files)[1], strict=True):
        np.testing.assert_array_equal(got, want)
