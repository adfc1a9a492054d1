"""Weights of dynamic-range layers that old converters call uint8: LiteRT reads their bytes as int8."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from agreement import assert_agrees
from cases import FAMILIES, cases
from draw import Case
from judge import judge

import tflite2q
from tflite2q.errors import Tflite2qError
from tflite2q.execution import reference
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write

pytest.importorskip("ai_edge_litert")

OPERATORS = ("FULLY_CONNECTED", "SVDF", "RNN", "LSTM")
HYBRID = [f for f in FAMILIES if "float32-int8" in f and any(name in f.split("-")[0] for name in OPERATORS)]
HYBRID += ["CONV_2D-float32-int8-tensor", "EMBEDDING_LOOKUP-int8-tensor"]
MOST = 8  # of a family


def called_uint8(content: bytes, zero_point: int = 0) -> bytes:
    """The model with its int8 constants called uint8."""
    record = schema.decode(content)
    (graph,) = record.subgraphs
    tensors = tuple(
        replace(t, dtype="uint8", zero_point=(zero_point,)) if t.dtype == "int8" and len(t.scale) == 1 else t
        for t in graph.tensors
    )
    return schema.encode(replace(record, subgraphs=(replace(graph, tensors=tensors),)))


def dense() -> Case:
    """A dense layer whose weights have one scale."""
    made = cases("FULLY_CONNECTED-float32-int8-symmetric", 100, seed=3)
    return next(case for case in made if len(case.graph[case.graph.ops[0].inputs[1]].type.parameters.scale) == 1)


@pytest.mark.parametrize("family", HYBRID)
def test_as_litert_computes_them(family: str) -> None:
    made = list(cases(family, MOST, seed=3))
    files = [called_uint8(write(case.graph), 128 * (n % 2)) for n, case in enumerate(made)]
    ran = 0
    for case, content, told in zip(
        made, files, judge([(f, c.inputs) for f, c in zip(files, made, strict=True)]), strict=True
    ):
        if not isinstance(told, str) and "int8" not in {t.dtype for t in schema.decode(content).subgraphs[0].tensors}:
            assert_agrees(case, reference.run(read(content), *case.inputs), told)
            ran += 1
    assert ran


def test_other_readers_read_other_codes() -> None:
    """What the layer reads as -1, an output shows as 255."""
    case = dense()
    record = schema.decode(called_uint8(write(case.graph)))
    (graph,) = record.subgraphs
    shown = replace(graph, outputs=(*graph.outputs, graph.operators[0].inputs[1]))
    with pytest.raises(Tflite2qError, match="uint8 weights"):
        read(schema.encode(replace(record, subgraphs=(shown,))))


def test_a_converted_file_calls_them_int8() -> None:
    case = dense()
    graph = read(called_uint8(write(case.graph)))
    new = tflite2q.convert(graph, "weight-only").graph
    (told,) = judge([(write(new), case.inputs)])
    assert not isinstance(told, str), told
    np.testing.assert_allclose(told[0], reference.run(new, *case.inputs)[0], rtol=1e-4, atol=1e-3)
