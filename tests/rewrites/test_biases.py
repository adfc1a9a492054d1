"""Biases against exact fractions computed here, from nothing but the two graphs."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import everything

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.errors import InvalidGraph
from tflite2q.rewrites.biases import convert_bias

LIMIT = 2**31 - 1


def nearest(x: Fraction) -> int:
    """Ties away from zero."""
    return floor(x + Fraction(1, 2)) if x >= 0 else -floor(-x + Fraction(1, 2))


def expected(before: Graph, after: Graph, old: Op, new: Op) -> list[int]:
    """Every bias in units of the new accumulator, s_x * s_w[c], as an exact fraction of the old one."""
    units = []
    for graph, op in ((before, old), (after, new)):
        x, weights = graph[op.inputs[0]].type, graph[op.inputs[1]].type
        count = weights.shape[op.channel_axis]
        scales = weights.parameters.scale * (count // len(weights.parameters.scale))
        units.append([Fraction(x.scale) * Fraction(s) for s in scales])
    codes = before[old.inputs[2]].data.reshape(-1).tolist()
    whole = [nearest(code * a / b) for code, a, b in zip(codes, *units, strict=True)]
    return [max(-LIMIT - 1, min(LIMIT, code)) for code in whole]


def products(graph: Graph) -> list[Op]:
    return [op for op in graph.ops if len(op.inputs) > 2 and op.operand(2).role == "bias"]


@settings(max_examples=40)  # of whole networks
@given(st.integers(0, 2**32 - 1), st.sampled_from([100, 127, 128, 140, 255]))
@pytest.mark.parametrize("scheme", ["int8", "symmetric-int8"])
def test_biases_are_the_nearest_integers_of_exact_fractions(scheme: str, seed: int, spread: int) -> None:
    before = everything(seed, spread)
    after = tflite2q.convert(before, scheme).graph
    for old, new in zip(products(before), products(after), strict=True):
        bias = after[new.inputs[2]]
        assert bias.data.tolist() == expected(before, after, old, new)
        assert bias.type.dtype == "int32"
        assert bias.type.parameters.symmetric


@settings(max_examples=40)  # of whole networks
@given(st.integers(0, 2**32 - 1))
def test_biases_of_channels_that_fit_are_unchanged(seed: int) -> None:
    before = everything(seed, spread=100)
    after = tflite2q.convert(before, "int8").graph
    for old, new in zip(products(before), products(after), strict=True):
        assert after[new.inputs[2]].data.tolist() == before[old.inputs[2]].data.tolist()
        assert after[new.inputs[1]].type.parameters.scale[0] == before[old.inputs[1]].type.scale


def test_ties_go_away_from_zero() -> None:
    """Units twice as large, so that every odd code is a tie; few models have one."""
    codes = np.array([-5, -3, -1, 0, 1, 2, 3, 5], np.int32)
    bias = Value("b", TensorType((8,), "int32", Quantization.per_tensor(0.5, 0)), Constant(codes))
    new = convert_bias(bias, [0.5] * 8, [1.0] * 8, Quantization.per_tensor(1.0, 0))
    assert new.data.tolist() == [-3, -2, -1, 0, 1, 1, 2, 3]


UNITS = st.floats(1e-12, 1.0)


@given(
    st.one_of(st.integers(-(2**31), LIMIT), st.floats(-100, 100)), UNITS, st.one_of(UNITS, st.none()),
    st.one_of(st.just(0.0), st.floats(-1, 1)),
)  # fmt: skip
def test_any_bias_is_the_nearest_integer(code: float, old: float, new: float | None, correction: float) -> None:
    """Of whatever units, twice the old ones (None) among them, where ties are; also from reals, and corrected."""
    after = 2 * old if new is None else new
    kind = TensorType((1,), "int32", Quantization.per_tensor(0.5, 0)) if isinstance(code, int) else None
    value = Value("b", kind or TensorType((1,), "float64"), Constant(np.array([code], "int32" if kind else "float64")))
    found = convert_bias(value, [old], [after], Quantization.per_tensor(1.0, 0), "int64", [correction])
    exact = (Fraction(code) * Fraction(old) + Fraction(correction)) / Fraction(after)
    nearest = floor(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)
    assert found.data.tolist() == [min(max(nearest, -(2**63)), 2**63 - 1)]


def test_a_scale_that_float32_does_not_hold_is_refused_where_it_would_be(digits: Path) -> None:
    """The product of an input's scale and a weight's can be less than the least float32."""
    graph = tflite2q.load(digits)
    least = replace(graph["conv1"].type, quantization=Quantization.per_tensor(1e-45, 0))
    values = (replace(value, type=least) if value.name == "conv1" else value for value in graph.values)
    with pytest.raises(InvalidGraph, match=r"op 2 q.depthwise_conv2d 'block1/depthwise': a scale .* not 0"):
        tflite2q.convert(graph.with_(values=tuple(values)), "int8")
