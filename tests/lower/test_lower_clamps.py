"""Clamps that the kernels before them do, or that stay: results are the reference's either way."""

from __future__ import annotations

import pytest
from networks import Net
from test_lower_graph import assert_exact, target

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.lower.graph import CORE_OPERATIONS, NOTHING, lower

FLOOR = (0.02, 30)  # scale and zero point of results that are clamped below -0.6 and above 4.5


def network() -> Graph:
    """Uint8 layers whose ranges clamp: a conversion to wider codes writes that out."""
    net = Net()
    x = net.input("x", (1, 6, 5, 7), (0.02, 128))
    a = net.conv(x, "a", 19, FLOOR)
    b = net.depthwise(a, "b", FLOOR)
    total = net.add(a, b, "sum", FLOOR)
    return net.graph(net.conv(total, "y", 5, FLOOR))


@pytest.mark.parametrize("scheme", ["int16x8", "symmetric-int8"])
def test_exact(scheme: str) -> None:
    assert_exact(tflite2q.convert(network(), scheme).graph, True, seeds=4)


def test_clamps_of_16_bits_take_no_time() -> None:
    graph = tflite2q.convert(network(), "int16x8").graph
    clamps = [choice for choice in lower(graph, target()).choices if choice.mnemonic in ("q.maximum", "q.minimum")]
    assert {choice.op for choice in clamps} >= {"a", "b", "sum"}
    assert {choice.kernel for choice in clamps} == {NOTHING}


def test_a_clamp_of_what_is_an_output_too_stays() -> None:
    graph = tflite2q.convert(network(), "int16x8").graph
    first = next(op for op in graph.ops if op.mnemonic == "q.maximum")
    more = Graph(graph.inputs, (*graph.outputs, str(first.inputs[0])), graph.values, graph.ops, name="more")
    kernels = {choice.op: choice.kernel for choice in lower(more, target()).choices}
    assert kernels[first.name] == CORE_OPERATIONS
    assert_exact(more, True)
