"""The graphs that ops run are converted between borders that keep their types."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import assert_agrees
from cases import cases
from control_cases import COUNT, TRUTH, Part
from draw import Draw
from forecasts import agreeing
from judge import judge

from tflite2q import convert
from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.ops.eltwise import Requantize
from tflite2q.dialect.types import Quantization, TensorType
from tflite2q.errors import Tflite2qError
from tflite2q.evaluation import calibration
from tflite2q.execution import reference
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write
from tflite2q.rewrites import scheme

SCHEMES = ("int8", "symmetric-int8", "asymmetric-uint8", "int16x8", "int8-w4")


def loop(dtype: str) -> Graph:
    """Three times through a dense layer, in the model's own place a layer before and one behind."""
    kind = TensorType((1, 6), dtype)
    if dtype != "float32":
        kind = kind.with_(quantization=Quantization.per_tensor(0.05, 7))
    condition, body, main = (Part(Draw(np.random.default_rng(seed)), kinds) for seed, kinds in enumerate(
        [(COUNT, kind), (COUNT, kind), (kind,)]
    ))  # fmt: skip
    (go,) = condition.op(ops.Compare, (condition.inputs[0], condition.d.ints(3)), TRUTH, relation="LESS")
    (count,) = body.op(ops.Add, (body.inputs[0], body.d.ints(1)), COUNT, pot_scale_int16=False)
    regions = (condition.graph("condition", go), body.graph("body", count, dense(body, body.inputs[1], kind)))
    x = dense(main, main.inputs[0], kind)
    _, x = main.op(ops.While, (main.d.ints(0), x), COUNT, kind, regions=regions)
    return verify(main.graph("main", dense(main, x, kind)))


def dense(part: Part, x: str, kind: TensorType) -> str:
    weights = TensorType((6, 6), "float32") if kind.dtype == "float32" else part.d.kind((6, 6), "int8", 0.003, 0)
    return part.op(ops.Dense, (x, part.d.constant(part.d.data(weights, 0.3), weights)), kind)[0]


@pytest.mark.parametrize("name", SCHEMES)
def test_converted_files_are_what_litert_runs(name: str) -> None:
    made = []
    for family in ("IF-uint8", "IF-int8", "WHILE-uint8", "WHILE-int8"):
        for case in cases(family, 3, seed=3):
            try:
                made.append((case, read(write(convert(case.graph, name).graph))))
            except Tflite2qError:
                continue  # it follows the scheme already
    assert len(made) > 3
    for (case, graph), expected in zip(made, judge([(write(g), c.inputs) for c, g in made]), strict=True):
        assert not isinstance(expected, str), expected
        assert_agrees(case, reference.run(graph, *case.inputs), expected)


def test_a_body_is_rewritten_and_its_border_is_not() -> None:
    graph = loop("int8")
    new = convert(graph, "int16x8").graph
    (before,), (after,) = ([op for op in g.ops if isinstance(op, ops.While)] for g in (graph, new))
    old, body = before.regions[1], after.regions[1]
    assert [body[n].type for n in (*body.inputs, *body.outputs)] == [old[n].type for n in (*old.inputs, *old.outputs)]
    (layer,) = [op for op in body.ops if isinstance(op, ops.Dense)]
    assert body[layer.name].type.dtype == "int16"
    assert sum(isinstance(op, Requantize) for op in body.ops) == 2
    assert [new[name].type for name in after.outputs] == [graph[name].type for name in before.outputs]


@pytest.mark.parametrize("name", scheme.shipped())
def test_reports_name_the_layers_of_a_body_and_forecasts_know_them(name: str) -> None:
    graph = loop("int8")
    _, truth = agreeing(graph, name)
    if not truth:
        return
    (op,) = [op for op in graph.ops if op.regions]
    inner = [layer for layer in truth if layer.name.startswith(f"{op.name}/body/")]
    assert {layer.op for layer in inner} in ({"q.dense", "q.add"}, set())


def test_a_scheme_that_needs_samples_says_that_it_has_none_of_a_body() -> None:
    graph = loop("float32")
    samples = [[np.random.default_rng(0).normal(size=(1, 6)).astype(np.float32)] for _ in range(4)]
    done = calibration.convert(graph, scheme.find("int8"), samples)
    (op,) = [op for op in done.graph.ops if op.regions]
    assert op.regions == next(op for op in graph.ops if op.regions).regions
    assert any("samples are not observed in branches and loops" in note for note in done.notes)
    assert any(value.type.dtype == "int8" for value in done.graph.values if value.constant is None)


def test_weights_of_a_float_body_are_quantized_without_samples() -> None:
    new = convert(loop("float32"), "dynamic-range").graph
    (op,) = [op for op in new.ops if op.regions]
    (layer,) = [inner for inner in op.regions[1].ops if isinstance(inner, ops.Dense)]
    assert op.regions[1][str(layer.inputs[1])].type.dtype == "int8"
