"""Figures of a comparison against values computed by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.errors import DataError
from tflite2q.evaluation import coding, comparison, data
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.figures import Pair
from tflite2q.evaluation.results import Layer, LayerError
from tflite2q.execution import reference
from tflite2q.flatbuffer import reader

Array = np.ndarray[Any, Any]


def graph(dtype: str, scale: float, zero_point: int, classes: int = 6) -> Graph:
    """No ops: only an input and an output of numbers, which labels make scores of classes."""
    kind = TensorType((1, classes), dtype, Quantization.per_tensor(scale, zero_point))
    return Graph(inputs=("x",), outputs=("y",), values=(Value("x", kind), Value("y", kind)), ops=())


def dataset(count: int, labels: list[int] | None = None, classes: int = 6) -> Dataset:
    made = None if labels is None else np.array(labels)
    return Dataset("test", tuple(map(str, range(count))), lambda _: [np.zeros((1, classes), np.uint8)], made)


class Replay:
    """A runner that gives prepared outputs one after the other and remembers what it was fed."""

    def __init__(self, *rows: list[int], dtype: str = "uint8") -> None:
        self.rows = [np.array([row], dtype) for row in rows]
        self.fed: list[Array] = []

    def __call__(self, x: Array) -> list[Array]:
        self.fed.append(x)
        return [self.rows[len(self.fed) - 1]]


def test_accuracy_by_hand() -> None:
    original, converted = graph("uint8", 0.5, 10), graph("int8", 0.25, 0)
    # In real numbers: first sample equal but for one 1.0 (two of the original's steps), second all equal.
    before = Replay([12, 10, 10, 10, 10, 10], [10, 10, 10, 10, 10, 30])
    after = Replay([4, 0, 4, 0, 0, 0], [0, 0, 0, 0, 0, 40], dtype="int8")
    result = comparison.measure_accuracy(original, converted, before, after, dataset(2, [0, 1]))
    assert result.samples == 2
    assert result.top1 == Pair(0.5, 0.5)
    assert result.top5 == Pair(1.0, 1.0)
    assert result.agreement_top1 == 1.0
    assert result.max_step_error == 2.0
    assert result.mean_abs_error == pytest.approx(1.0 / 12)


def test_both_models_get_the_same_real_input() -> None:
    original, converted = graph("uint8", 0.5, 10), graph("int8", 0.5, -118)
    before, after = Replay([0] * 6), Replay([0] * 6, dtype="int8")
    samples = Dataset("test", ("a",), lambda _: [np.array([[0, 10, 20, 128, 254, 255]], np.uint8)])
    comparison.measure_accuracy(original, converted, before, after, samples)
    assert after.fed[0].tolist() == [[-128, -118, -108, 0, 126, 127]]


def test_disagreement_and_top5() -> None:
    model = graph("uint8", 1.0, 0)
    before = Replay([6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1])
    after = Replay([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1])
    result = comparison.measure_accuracy(model, model, before, after, dataset(2, [0, 5]))
    assert result.agreement_top1 == 0.5
    assert result.top1 == Pair(0.5, 0.0)
    assert result.top5 == Pair(0.5, 0.0)  # class 5 is never among the first five, class 0 only before


def test_equal_scores_count_for_the_lower_class() -> None:
    model = graph("uint8", 1.0, 0)
    rows = ([9, 9, 0, 0, 0, 0], [0, 9, 0, 0, 0, 0])
    result = comparison.measure_accuracy(model, model, Replay(*rows), Replay(*rows), dataset(2, [0, 1]))
    assert result.top1 == Pair(1.0, 1.0)


def test_labels_need_scores() -> None:
    kind = TensorType((1, 4, 4, 6), "uint8", Quantization.per_tensor(1.0, 0))
    maps = Graph(inputs=("x",), outputs=("y",), values=(Value("x", kind), Value("y", kind)), ops=())
    with pytest.raises(DataError, match="labels need an output with one score per class"):
        comparison.measure_accuracy(maps, maps, Replay(), Replay(), dataset(1, [0]))


def test_models_of_other_shapes_are_not_compared() -> None:
    with pytest.raises(DataError, match=r"their inputs are \[1, 6\] and \[1, 7\]"):
        comparison.check_comparable(graph("uint8", 1.0, 0), graph("uint8", 1.0, 0, classes=7))


def test_layer_errors_by_hand(digits: Path) -> None:
    model = reader.load(digits)
    name = model.ops[2].name
    scale = model[name].type.scale

    def off_by_two(*inputs: Array) -> Mapping[str, Array]:
        values = dict(reference.run_every(model, *inputs))
        codes = values[name].astype(np.int64)
        codes.flat[0] += 2 if codes.flat[0] < 128 else -2
        return {**values, name: codes.astype(np.uint8)}

    samples = data.synthetic([model[n] for n in model.inputs], 1)
    errors = comparison.measure_layers(model, model, lambda *x: reference.run_every(model, *x), off_by_two, samples)
    assert [e.name for e in errors] == [op.name for op in model.ops]
    by_name = {e.name: e for e in errors}
    wrong = by_name.pop(name)
    assert all(e.sqnr_db is None and e.max_step_error == 0 for e in by_name.values())
    real = coding.real(reference.run_every(model, *next(iter(samples)))[name], model[name]).astype(np.float64)
    assert wrong.max_step_error == 2.0
    assert wrong.sqnr_db == pytest.approx(10 * math.log10(np.sum(real**2) / (2 * scale) ** 2), abs=1e-3)


def test_merge_keeps_what_each_side_knows() -> None:
    done = [Layer("a", "q.conv2d", "exact", 8, 0, 1.5), Layer("gone", "q.add", "exact", 0, 0)]
    measured = [LayerError("a", "q.conv2d", None, 0.0), LayerError("b", "q.add", 30.0, 1.0)]
    assert comparison.merge_layers(done, measured) == (
        Layer("a", "q.conv2d", "exact", 8, 0, 1.5, None, 0.0),
        Layer("b", "q.add", sqnr_db=30.0, max_step_error=1.0),
    )
    assert comparison.merge_layers(done, []) == tuple(done)
