"""Measurements of a mix: pure functions of a context, a mix and samples, which any process can run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.softmax import Softmax
from tflite2q.dialect.types import Value
from tflite2q.evaluation import calibration, coding
from tflite2q.evaluation.comparison import inputs_of
from tflite2q.execution import reference, runtime
from tflite2q.mixing import costs
from tflite2q.mixing.context import Context, Sample, convert, maker
from tflite2q.mixing.mix import Mix, key
from tflite2q.mixing.replay import Replay
from tflite2q.rewrites.statistics import Observation

Array = npt.NDArray[Any]

# What a model gives for one sample: its outputs, and the real numbers of the judged value.
Result = tuple[list[Array], npt.NDArray[np.float32]]


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


def observe(original: Graph, samples: Sequence[Sample]) -> dict[str, Observation]:
    """The original's activations over the samples that calibrate."""
    return calibration.observe(original, samples)


def converted(context: Context, index: int) -> Graph:
    """The whole model under scheme `index`."""
    return convert(context.original, context.schemes[index], context.samples, context.seen)


def true_graph(context: Context, mix: Mix) -> Graph:
    """The model as `convert` makes it of a mix's scheme."""
    return context.converted(mix)


def error(context: Context, base: Mix, mix: Mix, samples: Sequence[Sample]) -> float:
    """Output error of a mix against the original: mean over samples of |y' - y|^2 / |y - mean(y)|^2 on the judged
    value; what the mix shares with `base` is taken from its one run."""
    truths, replays = _runs(context, base, samples)
    variant, name = context.graph(mix), judged_value(context.original)
    total = 0.0
    for truth, replay in zip(truths, replays, strict=True):
        got = real(variant[name], replay.value(variant, name))
        spread = float(((truth - truth.mean()) ** 2).sum()) or 1.0
        total += float(((got - truth) ** 2).sum()) / spread
    return total / len(truths)


def candidate(context: Context, mix: Mix, samples: Sequence[Sample], goal: str) -> tuple[float, float | None]:
    """Output error and cost of a mix; the cost is None where only a clock tells it."""
    cost = costs.GOALS[goal].cost
    return error(context, {}, mix, samples), None if cost is None else cost(context.graph(mix))


def _runs(context: Context, base: Mix, samples: Sequence[Sample]) -> tuple[list[Array], list[Replay]]:
    """The original's judged values, and the runs of one base, which are kept for the next call."""
    original, name = context.original, judged_value(context.original)
    with context.lock:
        if "truths" not in context.memo:
            context.memo["truths"] = [real(original[name], _value(original, name, sample)) for sample in samples]
        if context.memo.get("base") != key(base):
            context.memo.pop("replays", None)
            graph = context.graph(base)
            moved = [coding.transfer(list(sample), inputs_of(original), inputs_of(graph)) for sample in samples]
            context.memo["replays"] = [Replay(graph, sample) for sample in moved]
            context.memo["base"] = key(base)
        return context.memo["truths"], context.memo["replays"]


def _value(graph: Graph, wanted: str, sample: Sample) -> Array:
    return next(array for name, array in reference.steps(graph, sample) if name == wanted)


def results(
    context: Context, what: Mix | Graph | None, samples: Sequence[Sample], compiled: tuple[str, int] | None
) -> list[Result]:
    """The outputs of the model for each sample: under a mix, as a graph made of one, or (None) the original.

    It runs in the reference, or compiled for (target, threads); both give the same codes.
    """
    graph = context.original if what is None else what if isinstance(what, Graph) else context.graph(what)
    name = judged_value(context.original)
    moved = [coding.transfer(list(sample), inputs_of(context.original), inputs_of(graph)) for sample in samples]
    if compiled is None:
        return [_result(graph, name, sample) for sample in moved]
    shown = graph if name in graph.outputs else graph.with_(outputs=(*graph.outputs, name), signatures=())
    at = shown.outputs.index(name)
    exe = runtime.compile(shown, *compiled)
    found = []
    for sample in moved:
        outputs = exe.run(*sample)
        found.append((outputs[: len(graph.outputs)], real(graph[name], outputs[at]).astype(np.float32)))
    return found


def _result(graph: Graph, name: str, sample: Sample) -> Result:
    wanted = {name, *graph.outputs}
    kept = {each: array for each, array in reference.steps(graph, sample) if each in wanted}
    return [kept[each] for each in graph.outputs], real(graph[name], kept[name]).astype(np.float32)


def weight_noise(context: Context, op: str, k: int) -> float:
    """How far the weights of layer `op` are from the first scheme's under scheme k, as a share of their energy: what is
    known of a layer's error before it is measured."""

    def weights(graph: Graph) -> npt.NDArray[np.float64]:
        found = maker(graph, op)
        value = graph[next(iter(found.in_role("weights").values()))]
        return value.type.parameters.real(value.data) if value.type.quantized else value.data.astype(np.float64)

    before, after = weights(context.whole[0]), weights(context.whole[k])
    return float(((after - before) ** 2).sum() / max(float((before**2).sum()), 1e-30))
