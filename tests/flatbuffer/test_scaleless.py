"""Channels of weights with scale 0: LiteRT multiplies their sums by 0, whatever the weights and the bias are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import cases
from judge import judge

import tflite2q
from tflite2q.errors import InvalidGraph
from tflite2q.execution import reference
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
FAMILIES = [f"{layer}-{dtype}" for layer in LAYERS for dtype in ("uint8", "int8", "int16")]
DYNAMIC = ["CONV_2D-float32-int8-channels", "DEPTHWISE_CONV_2D-float32-int8-channels"]
DYNAMIC += ["FULLY_CONNECTED-float32-int8-asymmetric"]
MOST = 6  # of a family


def without_a_scale(content: bytes, channels: slice) -> bytes:
    """The model with scale 0 in some channels of its layer's weights, and in those of its bias."""
    record = schema.decode(content)
    (graph,) = record.subgraphs
    (op,) = graph.operators
    tensors = list(graph.tensors)
    for place in (place for place in op.inputs[1:] if place >= 0 and tensors[place].scale):
        scales = np.array(tensors[place].scale)
        scales[channels] = 0
        tensors[place] = replace(tensors[place], scale=tuple(scales.tolist()))
    return schema.encode(replace(record, subgraphs=(replace(graph, tensors=tuple(tensors)),)))


@pytest.mark.parametrize(
    ("family", "channels"),
    [(family, slice(0, None, 2)) for family in (*FAMILIES, *DYNAMIC)] + [(family, slice(None)) for family in FAMILIES],
)
def test_as_litert_computes_them(family: str, channels: slice) -> None:
    models = [(without_a_scale(write(case.graph), channels), case.inputs) for case in cases(family, MOST, seed=1)]
    ran = 0
    for (content, given), told in zip(models, judge(models), strict=True):
        if isinstance(told, str):
            continue
        graph = read(content)
        for each in (graph, read(write(graph))):
            for mine, theirs in zip(reference.run(each, *given), told, strict=True):
                np.testing.assert_array_equal(mine, theirs)
        ran += 1
    assert ran > MOST // 2


def test_other_readers_leave_weights_as_they_are() -> None:
    """What a second reader would make of the scale is not known."""
    (case,) = cases("CONV_2D-int8", 1, seed=1)
    record = schema.decode(without_a_scale(write(case.graph), slice(None)))
    (graph,) = record.subgraphs
    shared = replace(graph, outputs=(*graph.outputs, graph.operators[0].inputs[1]))
    with pytest.raises(InvalidGraph, match="a scale must be a positive"):
        read(schema.encode(replace(record, subgraphs=(shared,))))


def test_a_converted_model_is_what_litert_runs() -> None:
    (case,) = cases("FULLY_CONNECTED-int16", 1, seed=1)
    graph = read(without_a_scale(write(case.graph), slice(0, None, 2)))
    for scheme in ("int8", "float32"):
        new = tflite2q.convert(graph, scheme).graph
        given = [array.astype(new[name].type.dtype) for array, name in zip(case.inputs, new.inputs, strict=True)]
        (told,) = judge([(write(new), given)])
        assert not isinstance(told, str), told
        np.testing.assert_array_equal(told[0], reference.run(new, *given)[0])
