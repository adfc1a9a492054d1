"""Measurements of the search: output error and cost of a layer, accuracy of a whole mix."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q import rewrites
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.softmax import Softmax
from tflite2q.dialect.types import Value
from tflite2q.errors import Unchanged
from tflite2q.evaluation import comparison, data
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.results import Accuracy, Progress
from tflite2q.execution import reference, runtime
from tflite2q.flatbuffer import writer
from tflite2q.mixing.replay import Replay
from tflite2q.rewrites.scheme import Scheme
from tflite2q.rewrites.statistics import Observation

Array = npt.NDArray[Any]

ROUNDS, RUNS = 9, 6  # of timing whole models


def judged_value(graph: Graph) -> str:
    """The value whose error counts: the first output, or the logits if that is the result of a softmax and casts."""
    name = graph.outputs[0]
    while (op := graph.producers.get(name)) is not None and (op.converts or op.mnemonic == "q.reshape"):
        if op.inputs[0] is None:
            break
        name = op.inputs[0]
    op = graph.producers.get(name)
    return op.inputs[0] or name if isinstance(op, Softmax) else graph.outputs[0]


def real(value: Value, array: Array) -> npt.NDArray[np.float64]:
    kind = value.type
    return (array.astype(np.float64) - kind.zero_point) * kind.scale if kind.quantized else array.astype(np.float64)


class Sensitivity:
    """Output error of variants against the original: mean over samples of |y' - y|^2 / |y - mean(y)|^2 on the judged
    value, everything shared with `base` taken from its one run."""

    def __init__(self, original: Graph, base: Graph, samples: Sequence[Sequence[Array]]) -> None:
        self.original, self.base = original, base
        self.name = judged_value(original)
        self.truth = [
            real(original[self.name], reference.run_every(original, *sample)[self.name]) for sample in samples
        ]
        moved = [data.transfer(list(s), _inputs(original), _inputs(base)) for s in samples]
        self.replays = [Replay(base, sample) for sample in moved]
        self.floor = self.error(base)

    def error(self, variant: Graph) -> float:
        total = 0.0
        for truth, replay in zip(self.truth, self.replays, strict=True):
            got = real(variant[self.name], replay.value(variant, self.name))
            spread = float(((truth - truth.mean()) ** 2).sum()) or 1.0
            total += float(((got - truth) ** 2).sum()) / spread
        return total / len(self.truth)


def convert(original: Graph, scheme: Scheme, seen: dict[str, Observation]) -> Graph:
    """`original` under `scheme`, itself where that changes nothing."""
    try:
        return rewrites.convert(original, scheme, seen).graph
    except Unchanged:
        return original


def weight_bytes(graph: Graph, op: str) -> int:
    """Bytes of the constants of the op that makes value `op`, as a file stores them."""
    found = graph.producers[op]
    constants = [graph[name] for name in found.inputs if name is not None and graph[name].constant is not None]
    return sum((v.type.size + 1) // 2 if v.type.dtype == "int4" else v.data.nbytes for v in constants)


def op_times(graph: Graph, target: str, threads: int) -> dict[str, float]:
    """Milliseconds of each op on this machine, by name."""
    return {time.op: time.ms for time in runtime.compile(graph, target, threads).profile()}


def whole_times(graphs: Sequence[Graph], target: str, threads: int) -> list[float]:
    """Median milliseconds of each whole model, run in turns so that clock changes affect all equally."""
    ready = [runtime.compile(graph, target, threads) for graph in graphs]
    found: list[list[float]] = [[] for _ in ready]
    for _ in range(ROUNDS):
        for exe, times in zip(ready, found, strict=True):
            times += exe.times(RUNS)[1:]  # the first one fills the caches
    return [statistics.median(times) for times in found]


@dataclass
class Judge:
    """Accuracy of whole mixes over all samples, compiled; the original's outputs are computed once."""

    original: Graph
    samples: Dataset
    label_offset: int | None
    target: str
    threads: int

    def __post_init__(self) -> None:
        exe = runtime.compile(self.original, self.target, self.threads)
        self.outputs = [exe.run(*sample) for sample in self.samples]

    def accuracy(self, graph: Graph, progress: Progress) -> Accuracy:
        exe = runtime.compile(graph, self.target, self.threads)
        known = iter(self.outputs)
        return comparison.measure_accuracy(
            self.original, graph, lambda *_: next(known), exe.run, self.samples, self.label_offset, progress
        )


def loss(accuracy: Accuracy) -> float:
    """Points lost: of top-1 where labels are known, else of agreement with the original."""
    if accuracy.top1 is not None:
        return 100 * (accuracy.top1.original - accuracy.top1.converted)
    return 100 * (1 - (accuracy.agreement if accuracy.agreement is not None else 0.0))


def file_size(graph: Graph) -> int:
    return len(writer.write(graph))


def _inputs(graph: Graph) -> list[Value]:
    return [graph[name] for name in graph.inputs]


def source_of(name: str, graph: Graph) -> str | None:
    """The first operand of the op that makes `name`, if it is computed."""
    source = graph.producers[name].inputs[0]
    return source if source in graph.producers else None
