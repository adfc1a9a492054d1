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
