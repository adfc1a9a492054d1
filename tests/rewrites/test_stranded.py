"""Ops with codes of a type that no kernel of LiteRT takes, as TensorFlow's files of 16-bit activations have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cases import FAMILIES, cases
from draw import CODES
from judge import judge

import tflite2q
from tflite2q.arithmetic import rounding
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.text import parse_graph
from tflite2q.dialect.types import Constant, Quantization, Value
from tflite2q.errors import Tflite2qError, Unchanged
from tflite2q.execution import reference
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write
from tflite2q.rewrites.plan import activations_of

SCHEMES = {"uint8": "asymmetric-uint8", "int8": "int8", "int16": "int16x8"}


def retyped(value: Value, dtype: str) -> Value:
    """An activation with codes of another type, which stand for about the same real numbers."""
    old = value.type
    low, high = rounding.code_range(dtype)
    zero = 0 if dtype == "int16" else low + 128 if old.dtype == "int16" else old.zero_point - old.range[0] + low
    kind = old.with_(dtype=dtype, quantization=Quantization.per_tensor(old.scale, zero))
    if value.constant is None:
        return value.with_(type=kind)
    codes = np.clip(value.data.astype(np.int64) - old.zero_point + zero, low, high).astype(dtype)
    return value.with_(type=kind, constant=Constant(codes))


def stranded() -> Iterator[tuple[str, str, Graph]]:
    """One op with codes that its class says no kernel takes: the operator, their type, the graph."""
    found = set()
    for family in FAMILIES:
        for case in cases(family, 1):
            graph, op = case.graph, case.graph.ops[0]
            for dtype in CODES:
                if len(graph.ops) > 1 or (op.builtin.name, dtype) in found or not op.stranded(dtype):
                    continue
                codes = {value.name for value in activations_of(op, graph)}
                if not codes:
                    continue
                values = tuple(retyped(value, dtype) if value.name in codes else value for value in graph.values)
                version = max(op.builtin.versions.get(each, 1) for each in CODES)
                try:
                    changed = read(write(verify(graph.with_(values=values, ops=(op.with_(version=version),)))))
                except Tflite2qError:
                    continue
                found.add((op.builtin.name, dtype))
                yield op.builtin.name, dtype, changed


def inputs(graph: Graph) -> list[npt.NDArray[Any]]:
    random = np.random.default_rng(0)
    kinds = [graph[name].type for name in graph.inputs]  # other integers are lengths and indices
    return [random.integers(0, 100 if kind.quantized else 2, kind.shape).astype(kind.dtype) for kind in kinds]


def test_no_kernel_takes_them_and_a_conversion_makes_them_real() -> None:
    found = list(stranded())
    assert {("SQUARED_DIFFERENCE", "int16"), ("DEPTH_TO_SPACE", "int16"), ("LOG_SOFTMAX", "int16")} <= {
        (name, dtype) for name, dtype, _ in found
    }
    for kernels in ("ref", "default"):
        verdicts = judge([(write(graph), inputs(graph)) for *_, graph in found], kernels)
        assert [name for (name, *_), verdict in zip(found, verdicts, strict=True) if not isinstance(verdict, str)] == []
    new = [tflite2q.convert(graph, SCHEMES[dtype]).graph for _, dtype, graph in found]
    for (name, dtype, graph), converted, verdict in zip(
        found, new, judge([(write(c), inputs(c)) for c in new], "default"), strict=True
    ):
        assert not isinstance(verdict, str), (name, dtype, verdict)
        before = reference.run(graph, *inputs(graph))
        for told, ours, old in zip(verdict, reference.run(converted, *inputs(graph)), before, strict=True):
            assert np.abs(told.astype(np.float64) - ours).max() <= 1, (name, dtype)
            if name in ("DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "REVERSE_SEQUENCE", "SCATTER_ND"):
                np.testing.assert_array_equal(told, old)  # as they only move numbers


def test_within_a_model() -> None:
    """Neighbours with a kernel keep their codes, and a second conversion changes nothing."""
    kind = "<0.0001:0>"
    graph = parse_graph(
        f"""graph "main" {{
          inputs (%a, %b)
          outputs (%y)
          values {{
            %a : int16[1, 40] {kind} %b : int16[1, 40] {kind} %s : int16[1, 40] {kind} %d : int16[1, 40] <0.001:0>
            %y : int16[1, 40] <0.002:0>
          }}
          ops {{
            %s = q.add(%a, %b) version 3
            %d = q.squared_difference(%s, %b) version 2
            %y = q.add(%d, %a) version 3
          }}
        }}"""
    )
    new = tflite2q.convert(graph, "int16x8").graph
    assert [new[name].type.dtype for name in ("s", "d", "y")] == ["int16", "float32", "int16"]
    random = np.random.default_rng(1)
    given = [random.integers(-9000, 9000, (1, 40)).astype(np.int16) for _ in "ab"]
    (told,) = judge([(write(new), given)])
    assert not isinstance(told, str), told
    np.testing.assert_array_equal(told[0], reference.run(new, *given)[0])
    a, b = (codes * 0.0001 for codes in given)
    exact = np.float64(np.round((a + b) / 0.0001) * 0.0001 - b) ** 2
    assert np.abs(told[0] * 0.002 - (exact + a)).max() < 0.004
    with pytest.raises(Unchanged):
        tflite2q.convert(new, "int16x8")
