"""Comparison of one graph with another: outputs, layers, speed and size.

Everything returned is a plain value.  Ratios lie between 0 and 1, times are milliseconds, sizes bytes; a *step* is the
original tensor's scale, so that errors in steps count codes of the original.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Value
from tflite2q.errors import DataError
from tflite2q.evaluation import data
from tflite2q.evaluation.data import Dataset
from tflite2q.execution import litert

Array = npt.NDArray[Any]
Runner = Callable[..., list[Array]]
EveryValue = Callable[..., Mapping[str, Array]]
# Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]

TIMING_ROUNDS = 12
ROUND_MS = 60.0


@dataclass(frozen=True)
class Pair:
    """One figure of both models."""

    original: float
    converted: float


@dataclass(frozen=True)
class Accuracy:
    """How the outputs compare over `samples` of `source`.

    `top1` and `top5` are the shares of correct answers, where labels are known; `agreement_top1` is the share of
    positions (samples, or pixels) at which both give the same class, None for models without classes;
    `max_step_error` is None for outputs that are not quantized; `mean_abs_error` is in real numbers.
    """

    source: str
    samples: int
    top1: Pair | None
    top5: Pair | None
    agreement_top1: float | None
    max_step_error: float | None
    mean_abs_error: float


@dataclass(frozen=True)
class LayerError:
    """Error of one layer's result inside the whole model: the layers before it have their errors too.

    `sqnr_db` is signal to quantization noise in dB, None where there is no noise at all.
    """

    name: str
    op: str
    sqnr_db: float | None
    max_step_error: float | None


@dataclass(frozen=True)
class Speed:
    """Medians of interleaved runs, in milliseconds: compiled with TVM, and by LiteRT if it is installed and runs the
    model."""

    threads: int
    original_ms: float
    converted_ms: float
    speedup: float
    litert_original_ms: float | None = None
    litert_converted_ms: float | None = None


@dataclass(frozen=True)
class Size:
    """Bytes of the two .tflite files; None where a graph cannot be written as one."""

    original: int | None
    converted: int | None


@dataclass(frozen=True)
class Layer:
    """One line of a report: the effect of the conversion on a layer (None: unknown) and its measurements (None: not
    made).

    `bound` is how far the result can be from the original's for equal real inputs, in steps of the new result; `clamp`
    is the clamp added because only the range of the original's codes limited the result; `stays` is why the layer could
    not follow the scheme.
    """

    name: str
    op: str
    loss: str | None = None
    channels: int | None = None
    channels_rescaled: int | None = None
    bound: float | None = None
    sqnr_db: float | None = None
    max_step_error: float | None = None
    clamp: str | None = None
    stays: str | None = None


@dataclass(frozen=True)
class Comparison:
    """The whole comparison; parts that were not requested or could not be measured are None, and `notes` says why.

    `other` is what `model` is compared with: the name of a file, or of the scheme it was converted to.
    """

    model: str
    other: str
    scheme: str | None
    target: str | None
    layers: tuple[Layer, ...]
    accuracy: Accuracy | None = None
    speed: Speed | None = None
    size: Size | None = None
    notes: tuple[str, ...] = ()


def quiet(what: str, done: int, total: int) -> None:
    """Show no progress."""


def check_comparable(original: Graph, converted: Graph) -> None:
    """Raise DataError unless inputs and outputs of both have equal shapes."""
    for kind, a, b in (("inputs", _inputs(original), _inputs(converted)), ("outputs", *_outputs(original, converted))):
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
    """Run both on all of `samples` (made for `original`) and compare their outputs.

    Labels are compared with the first output, whose last axis must then be the classes.
    """
    values = _outputs(original, converted)
    labels = _aligned(samples, values[0][0], label_offset)
    tally = _Tally(has_classes(values[0][0]))
    for index, arrays in enumerate(samples):
        progress("comparing outputs", index, len(samples))
        before = run_original(*arrays)
        after = run_converted(*data.transfer(arrays, _inputs(original), _inputs(converted)))
        tally.add(before, after, values, None if labels is None else int(labels[index]))
    progress("comparing outputs", len(samples), len(samples))
    return tally.result(samples)


def measure_layers(
    original: Graph,
    converted: Graph,
    every_original: EveryValue,
    every_converted: EveryValue,
    samples: Dataset,
    progress: Progress = quiet,
) -> tuple[LayerError, ...]:
    """Error of each layer's first result that both graphs compute under the same name, over `samples`."""
    noise: dict[str, list[float]] = {}
    for index, arrays in enumerate(samples):
        progress("comparing layers", index, len(samples))
        before = every_original(*arrays)
        after = every_converted(*data.transfer(arrays, _inputs(original), _inputs(converted)))
        for op in original.ops:
            value, other = original[op.name], converted.by_name.get(op.name)
            if other is None or op.name not in after or other.type.shape != value.type.shape:
                continue
            a, b = data.real(before[op.name], value), data.real(after[op.name], other)
            signal, power, worst = noise.setdefault(op.name, [0.0, 0.0, 0.0])
            difference = np.abs(a.astype(np.float64) - b)
            noise[op.name] = [
                signal + float(np.sum(np.square(a, dtype=np.float64))),
                power + float(np.sum(np.square(difference))),
                max(worst, float(difference.max(initial=0.0))),
            ]
    progress("comparing layers", len(samples), len(samples))
    return tuple(
        LayerError(op.name, op.mnemonic, sqnr(*noise[op.name][:2]), _steps(noise[op.name][2], original[op.name]))
        for op in original.ops
        if op.name in noise
    )


def sqnr(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise) of two powers in dB; None without noise, lowest float without signal."""
    if noise == 0:
        return None
    return 10 * float(np.log10(max(signal, np.finfo(np.float64).tiny) / noise))


def measure_speed(
    time_original: Callable[[int], list[float]],
    time_converted: Callable[[int], list[float]],
    threads: int,
    litert_paths: tuple[str | None, str | None] = (None, None),
    progress: Progress = quiet,
) -> Speed:
    """Median time of each, measured in turns so that clock changes affect all of them equally.

    `time_*` run a compiled model the given number of times and return the milliseconds of each run; `litert_paths` are
    .tflite files for LiteRT to run (None: leave out).
    """
    timers = [litert.Timer(path, threads) if path is not None else None for path in litert_paths]
    try:
        contenders = [time_original, time_converted, *(timer.time if timer else None for timer in timers)]
        medians = _interleaved(contenders, progress)
    finally:
        for timer in timers:
            if timer is not None:
                timer.close()
    before, after, litert_before, litert_after = medians
    if before is None or after is None:
        raise DataError("the compiled models gave no times; run them with `tflite2q run` to see why")
    return Speed(threads, before, after, before / after, litert_before, litert_after)


def merge_layers(done: Sequence[Layer], measured: Sequence[LayerError]) -> tuple[Layer, ...]:
    """The loss of each layer, joined by name with its measurements, in the original's order."""
    known = {layer.name: layer for layer in done}
    joined = tuple(
        replace(
            known.get(error.name, Layer(error.name, error.op)),
            sqnr_db=error.sqnr_db,
            max_step_error=error.max_step_error,
        )
        for error in measured
    )
    return joined or tuple(done)


def has_classes(value: Value) -> bool:
    """Whether the last axis of an output can hold the scores of classes."""
    return bool(value.type.shape) and value.type.shape[-1] > 1


class _Tally:
    """Sums over samples; `result` turns them into an Accuracy."""

    def __init__(self, classes: bool) -> None:
        self.classes = classes
        self.correct = np.zeros((2, 2))
        self.labelled = False
        self.agreements: list[float] = []
        self.errors: list[float] = []
        self.worst: float | None = None

    def add(
        self,
        before: Sequence[Array],
        after: Sequence[Array],
        values: tuple[list[Value], list[Value]],
        label: int | None,
    ) -> None:
        total, count = 0.0, 0
        for a, b, value, other in zip(before, after, *values, strict=True):
            difference = np.abs(data.real(a, value).astype(np.float64) - data.real(b, other))
            total, count = total + float(difference.sum()), count + difference.size
            steps = _steps(float(difference.max(initial=0.0)), value)
            if steps is not None:
                self.worst = steps if self.worst is None else max(self.worst, steps)
        self.errors.append(total / max(count, 1))
        if self.classes:
            self.agreements.append(float(np.mean(before[0].argmax(-1) == after[0].argmax(-1))))
        if label is not None:
            self.labelled = True
            for row, outputs in enumerate((before, after)):
                ranked = np.argsort(-outputs[0].reshape(-1).astype(np.float64), kind="stable")
                self.correct[row] += (label == ranked[0], label in ranked[:5])

    def result(self, samples: Dataset) -> Accuracy:
        shares = self.correct / len(samples)
        top1, top5 = (Pair(float(shares[0, k]), float(shares[1, k])) if self.labelled else None for k in (0, 1))
        return Accuracy(
            source=samples.source,
            samples=len(samples),
            top1=top1,
            top5=top5,
            agreement_top1=statistics.fmean(self.agreements) if self.agreements else None,
            max_step_error=self.worst,
            mean_abs_error=statistics.fmean(self.errors),
        )


def _aligned(samples: Dataset, output: Value, label_offset: int | None) -> npt.NDArray[np.int64] | None:
    if samples.labels is None:
        return None
    shape = output.type.shape
    if not has_classes(output) or output.type.size != shape[-1]:
        raise DataError(f"labels need an output with one score per class; {output.name!r} is {list(shape)}")
    return data.align_labels(samples.labels, shape[-1], label_offset)


def _steps(difference: float, value: Value) -> float | None:
    """A difference of real numbers in steps of `value`, to a thousandth; None where it has no single step."""
    kind = value.type
    if not kind.quantized or len(kind.parameters.scale) != 1:
        return None
    return round(difference / kind.scale, 3)


def _interleaved(contenders: Sequence[Callable[[int], list[float]] | None], progress: Progress) -> list[float | None]:
    """Median milliseconds of each contender (None: absent or failing) over rounds of about ROUND_MS each."""
    runs = []
    for contender in contenders:
        warm = contender(3) if contender else []
        runs.append(max(2, min(200, int(ROUND_MS / max(min(warm), 1e-3)))) if warm else 0)
    times: list[list[float]] = [[] for _ in contenders]
    for turn in range(TIMING_ROUNDS):
        progress("measuring speed", turn, TIMING_ROUNDS)
        for contender, count, found in zip(contenders, runs, times, strict=True):
            if contender is not None and count:
                found.extend(contender(count))
    progress("measuring speed", TIMING_ROUNDS, TIMING_ROUNDS)
    return [statistics.median(found) if found else None for found in times]


def _inputs(graph: Graph) -> list[Value]:
    return [graph[name] for name in graph.inputs]


def _outputs(original: Graph, converted: Graph) -> tuple[list[Value], list[Value]]:
    return [original[name] for name in original.outputs], [converted[name] for name in converted.outputs]
