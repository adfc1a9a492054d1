"""Comparison of one graph with another: outputs, and layer by layer inside the whole model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Value
from tflite2q.errors import DataError
from tflite2q.evaluation import coding, tasks
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.figures import Pair
from tflite2q.evaluation.layers import LayerTally
from tflite2q.evaluation.likeness import Numbers, Whole
from tflite2q.evaluation.results import Accuracy, Layer, LayerError, Progress, quiet

Array = npt.NDArray[Any]
Runner = Callable[..., list[Array]]
EveryValue = Callable[..., Mapping[str, Array]]


def check_comparable(original: Graph, converted: Graph) -> None:
    """Raise DataError unless inputs and outputs of both have equal shapes."""
    for kind, a, b in (
        ("inputs", inputs_of(original), inputs_of(converted)),
        ("outputs", *_outputs(original, converted)),
    ):
        if [v.type.shape for v in a] != [v.type.shape for v in b]:
            shapes = " and ".join(", ".join(str(list(v.type.shape)) for v in values) for values in (a, b))
            raise DataError(f"the models cannot be compared: their {kind} are {shapes}")


def measure_accuracy(
    original: Graph,
    converted: Graph,
    run_original: Runner,
    run_converted: Runner,
    samples: Dataset,
    label_offset: int | None = None,
    progress: Progress = quiet,
) -> Accuracy:
    """Run both on all of `samples` (made for `original`) and compare their outputs, as the task guessed from them says.

    Raises DataError for labels that the outputs do not fit.
    """
    values, others = _outputs(original, converted)
    task, info = tasks.choose(inputs_of(original), values, original, labelled=samples.labels is not None)
    truth = task.truth(samples, None, label_offset)
    whole = Whole(task, info, samples, truth, Numbers(values, task.numeric))
    for index, arrays in enumerate(samples):
        progress("comparing outputs", index, len(samples))
        before = run_original(*arrays)
        after = run_converted(*coding.transfer(arrays, inputs_of(original), inputs_of(converted)))
        answers = task.decode(before, values), task.decode(after, others)
        whole.add(index, answers, (before, after), others)
    progress("comparing outputs", len(samples), len(samples))
    return whole.result()


def measure_layers(
    original: Graph,
    converted: Graph,
    every_original: EveryValue,
    every_converted: EveryValue,
    samples: Dataset,
    progress: Progress = quiet,
) -> tuple[LayerError, ...]:
    """Error of each layer's first result that both graphs compute under the same name, over `samples`."""
    tally = LayerTally(original, converted)
    for index, arrays in enumerate(samples):
        progress("comparing layers", index, len(samples))
        moved = coding.transfer(arrays, inputs_of(original), inputs_of(converted))
        tally.add(every_original(*arrays), every_converted(*moved))
    progress("comparing layers", len(samples), len(samples))
    return tally.result()


def merge_layers(done: Sequence[Layer], measured: Sequence[LayerError]) -> tuple[Layer, ...]:
    """The loss of each layer, joined by name with its measurements, in the original's order."""
    known = {layer.name: layer for layer in done}
    joined = tuple(
        replace(
            known.get(error.name, Layer(error.name, error.op)),
            sqnr_db=error.sqnr_db,
            max_step_error=error.max_step_error,
            diagnosis=error.diagnosis,
        )
        for error in measured
    )
    return joined or tuple(done)


def timed_layers(lines: Sequence[Layer], ms: Mapping[str, Pair]) -> tuple[Layer, ...]:
    """The layers with the times of those that were timed."""
    return tuple(replace(line, ms=ms.get(line.name)) for line in lines)


def inputs_of(graph: Graph) -> list[Value]:
    """The values that a graph takes."""
    return [graph[name] for name in graph.inputs]


def _outputs(original: Graph, converted: Graph) -> tuple[list[Value], list[Value]]:
    return [original[name] for name in original.outputs], [converted[name] for name in converted.outputs]
