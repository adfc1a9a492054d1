"""Codes that an op copies to other parameters stand for other numbers, which every scheme keeps."""

from __future__ import annotations

import numpy as np
import pytest
from judge import judge

import tflite2q
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.text import parse_graph
from tflite2q.dialect.types import Quantization, Value
from tflite2q.errors import Unchanged, UnsupportedError
from tflite2q.execution import reference
from tflite2q.flatbuffer.writer import write

pytest.importorskip("ai_edge_litert")

OPS = {
    "MAX_POOL_2D": "q.max_pool2d(%a) {filter_h = 2, filter_w = 2, padding = SAME}",
    "AVERAGE_POOL_2D": "q.average_pool2d(%a) {filter_h = 1, filter_w = 1}",
    "RESHAPE": "q.reshape(%a, %shape) {new_shape = [1, 4, 4, 2]}",
    "SLICE": "q.slice(%a, %none, %shape)",
    "REVERSE_V2": "q.reverse(%a, %axis)",
    "MAXIMUM": "q.maximum(%a, %five)",
}
SCHEMES = ("int8", "symmetric-int8", "int16x8", "float32", "weight-only", "power-of-two")
RNG = np.random.default_rng(0)
INPUTS = RNG.integers(0, 256, (1, 4, 4, 2)).astype(np.uint8)


def network(op: str, scale: float, zero: int) -> Graph:
    """An addition whose result of scale 0.02 is copied to other parameters, and an addition behind it."""
    text = f"""
graph "recoded" {{
  inputs (%x) outputs (%y)
  values {{
    %x : uint8[1, 4, 4, 2] <0.01:128>
    %a : uint8[1, 4, 4, 2] <0.02:100>
    %shape : int32[4] = [1, 4, 4, 2]
    %none : int32[4] = [0, 0, 0, 0]
    %axis : int32[1] = [2]
    %five : uint8[1] <0.02:100> = [105]
    %b : uint8[1, 4, 4, 2] <{scale}:{zero}>
    %y : uint8[1, 4, 4, 2] <0.1:128>
  }}
  ops {{
    %a = q.add(%x, %x)
    %b = {op}
    %y = q.add(%b, %b)
  }}
}}
"""
    return verify(parse_graph(text))


@pytest.mark.parametrize("op", OPS)
def test_every_scheme_keeps_the_numbers(op: str) -> None:
    graph = network(OPS[op], 0.04, 120)
    (want,) = reference.run(graph, INPUTS)
    (judged,) = judge([(write(graph), [INPUTS])])
    np.testing.assert_array_equal(judged[0], want)
    made = [tflite2q.convert(graph, scheme, interface="keep") for scheme in SCHEMES]
    for scheme, found in zip(SCHEMES, judge([(write(each.graph), [INPUTS]) for each in made]), strict=True):
        assert not isinstance(found, str), found
        steps = 2 if scheme == "power-of-two" else 1
        assert np.abs(found[0].astype(int) - want.astype(int)).max() <= steps, scheme


def test_the_report_says_why_the_op_stays() -> None:
    graph = network(OPS["SLICE"], 0.04, 120)
    with pytest.raises(UnsupportedError, match="SLICE copies codes to other parameters"):
        tflite2q.convert(alone(graph), "float32")
    (kept,) = [layer for layer in tflite2q.convert(graph, "float32").layers if layer.name == "b"]
    assert kept.stays is not None and "copies codes to other parameters" in kept.stays


def test_a_shift_of_all_codes_needs_no_exception() -> None:
    """uint8 to int8 moves all codes by 128, so that what they come to stand for remains."""
    graph = tflite2q.convert(network(OPS["SLICE"], 0.04, 120), "int8").graph
    assert graph["b"].type.dtype == "int8"
    assert (graph["a"].type.scale, graph["b"].type.scale) == pytest.approx((0.02, 0.04))


def test_parameters_that_were_rounded_twice_are_the_same() -> None:
    graph = network(OPS["SLICE"], float(np.nextafter(np.float32(0.02), np.float32(1))), 100)
    assert tflite2q.convert(graph, "int16x8").graph["b"].type.dtype == "int16"


def test_a_constant_with_other_parameters_is_compared_by_its_code() -> None:
    """Coded anew it would be another code; the original compares 105, which stands for 1 instead of 0.1."""
    graph = network(OPS["MAXIMUM"], 0.02, 100)
    other = graph["five"].type.with_(quantization=Quantization.per_tensor(0.2, 100))
    graph = verify(graph.with_(values=tuple(replaced(v, other) for v in graph.values)))
    (want,) = reference.run(graph, INPUTS)
    (judged,) = judge([(write(graph), [INPUTS])])
    np.testing.assert_array_equal(judged[0], want)
    for scheme in ("int8", "float32"):
        (got,) = reference.run(tflite2q.convert(graph, scheme, interface="keep").graph, INPUTS)
        assert np.abs(got.astype(int) - want.astype(int)).max() <= 1, scheme


def test_what_is_of_the_types_already_is_unchanged() -> None:
    int8 = tflite2q.convert(network(OPS["SLICE"], 0.04, 120), "int8", "scheme").graph
    with pytest.raises(Unchanged):
        tflite2q.convert(int8, "int8")


def replaced(value: Value, five: object) -> Value:
    return value.with_(type=five) if value.name == "five" else value


def alone(graph: Graph) -> Graph:
    """The op in the middle alone."""
    middle = tuple(op for op in graph.ops if op.name == "b")
    names = {"a", "b", *(n for op in middle for n in op.inputs)}
    values = tuple(v for v in graph.values if v.name in names)
    return verify(graph.with_(inputs=("a",), outputs=("b",), ops=middle, values=values))
