"""Where ops say that LiteRT's reference kernels may compute something else: there alone."""

from __future__ import annotations

import numpy as np
import pytest
from judge import judge

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.text import parse_graph
from tflite2q.execution import reference
from tflite2q.flatbuffer.writer import write


def sums(scale: float, subtract: bool) -> Graph:
    """x + x or x - x, with results in steps of `scale`."""
    return parse_graph(
        f"""graph "main" {{
          inputs (%x)
          outputs (%y)
          values {{ %x : int8[1, 8] <0.0140:-122> %y : int8[1, 8] <{scale!r}:5> }}
          ops {{ %y = q.add(%x, %x) {{subtract = {str(subtract).lower()}, pot_scale_int16 = false}} version 2 }}
        }}"""
    )


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("scale", [7.84e-9, 2e-8, 4e-8, 0.03])
def test_sums_with_a_multiplier_of_one_or_more(scale: float, subtract: bool) -> None:
    """The converter makes such results of x - x, whose only number is 0, when it asks whether x is finite."""
    graph = sums(scale, subtract)
    (op,) = graph.ops
    x = np.arange(-80, 80, 20, dtype=np.int8)[None]
    (ours,) = reference.run(graph, x)
    told = judge([(write(graph), [x])])[0]
    equal = not isinstance(told, str) and np.array_equal(told[0], ours)
    assert equal == (not op.deviates(graph.ins(op), graph.outs(op)))
    assert equal == (scale > 0.028 / 2**20)
    if subtract:
        assert (ours == 5).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_depthwise_layers_of_16_bits_with_4_bit_weights(dtype: str, bits: int) -> None:
    wide = "int64" if dtype == "int16" else "int32"
    graph = parse_graph(
        f"""graph "main" {{
          inputs (%x)
          outputs (%y)
          values {{
            %x : {dtype}[1, 1, 3, 4] <0.5:0>
            %w : int{bits}[1, 1, 2, 4] <axis 3, 0.5:0, 0.5:0, 0.5:0, 0.5:0> = [1, -2, 3, 4, 5, -6, 7, -7]
            %b : {wide}[4] <axis 0, 0.25:0, 0.25:0, 0.25:0, 0.25:0> = [1, 2, 3, 4]
            %y : {dtype}[1, 1, 2, 4] <0.5:0>
          }}
          ops {{ %y = q.depthwise_conv2d(%x, %w, %b) {{padding = VALID}} version {5 if bits == 8 else 6} }}
        }}"""
    )
    (op,) = graph.ops
    x = np.arange(-6, 6).astype(dtype).reshape(1, 1, 3, 4)
    (ours,) = reference.run(graph, x)
    real, weights = x[0, 0].astype(int), graph["w"].data[0, 0].astype(int)
    sums = real[:-1] * weights[0] + real[1:] * weights[1] + np.arange(1, 5)
    assert np.abs(ours[0, 0] - sums / 2).max() <= 0.5
    told = judge([(write(graph), [x])])[0]
    equal = not isinstance(told, str) and np.array_equal(told[0], ours)
    assert equal == (not op.deviates(graph.ins(op), graph.outs(op)))
    assert equal == ((dtype, bits) != ("int16", 4))
