"""The comparison of two models, measurement by measurement: outputs, layers, speed and size."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.errors import TargetError, Tflite2qError, refuse_unknown
from tflite2q.evaluation import comparison
from tflite2q.evaluation import data as samples_of
from tflite2q.evaluation.comparison import Accuracy, Comparison, Layer, LayerError, Progress, Size, Speed, quiet
from tflite2q.evaluation.data import Dataset, Normalization, Source
from tflite2q.evaluation.models import FilePath, Model, graph_of, name_of, read_once, size_of, why_not_run
from tflite2q.execution import litert, reference, runtime
from tflite2q.flatbuffer import writer
from tflite2q.rewrites import Conversion

if TYPE_CHECKING:
    from tflite2q.execution.remote import Device
    from tflite2q.execution.runtime import Executable

# Layers are compared by the NumPy reference, which takes about 0.25 s a sample of a 300 M MAC model.
LAYER_SAMPLES = 2
# What state makes of an error shows only after some steps.
STREAM_LAYER_SAMPLES = 50
STREAM_STEPS = 100  # of random inputs


def compare(
    original: Model,
    converted: Model,
    *,
    data: Source | None = None,
    labels: FilePath | npt.ArrayLike | None = None,
    limit: int | None = None,
    label_offset: int | None = None,
    mean: float | None = None,
    std: float | None = None,
    target: str = "native",
    threads: int = 1,
    speed: bool = True,
    layer_samples: int | None = None,
    stream: bool = False,
    device: Device | None = None,
    progress: Progress = quiet,
    **unknown: NoReturn,
) -> Comparison:
    """Compare two models with equal inputs and outputs: accuracy, layers, speed and size.

    `data`: a folder of images, a CSV of file,label, .npy, .npz or arrays; without it random inputs.  `labels`: for
    top-1 and top-5; `label_offset` is added to each (None: automatic).  `limit`: number of samples.  `mean` and `std`:
    for normalizing pixels.  With `stream` the samples are the steps of one stream, in order, for models that keep
    state; without, each starts from the initial state.  `speed` False does not time; `layer_samples` is the number of
    samples on which layers are compared (0: none; None: 2, of a stream 50); `device` runs on another machine.
    `progress` is called as work proceeds.

    Raises DataError for models that cannot be compared or data that do not fit, UsageError for an unknown keyword.
    """
    refuse_unknown("compare()", unknown, compare)
    original, converted = read_once(original), read_once(converted)
    before, after = graph_of(original), graph_of(converted)
    comparison.check_comparable(before, after)
    conversion = converted if isinstance(converted, Conversion) else None
    notes = dict.fromkeys((*before.notes, *(after if conversion is None else conversion).notes))
    engines = _Engines(before, after, target, threads, device, progress, stream)
    if (before.states or after.states) and not stream:
        engines.notes.append("the model keeps state: every sample started from the initial one; see --stream")
    layer_samples = layer_samples if layer_samples is not None else STREAM_LAYER_SAMPLES if stream else LAYER_SAMPLES
    accuracy: Accuracy | None = None
    timed: Speed | None = None
    errors: tuple[LayerError, ...] = ()
    obstacle = why_not_run(before) or why_not_run(after)
    if obstacle is not None:
        engines.notes.append(f"neither outputs nor speed were compared: {obstacle}")
    else:
        random = STREAM_STEPS if stream and data is None else None
        samples = dataset(before, data, labels, limit or random, Normalization.of(mean, std))
        if stream:
            samples = replace(samples, source=f"{samples.source}, one stream")
        accuracy, timed = engines.outputs_and_speed(samples, label_offset, speed)
        errors = _layer_errors(before, after, samples.first(layer_samples), stream, progress)
    return Comparison(
        model=name_of(original),
        other=name_of(converted) if conversion is None else conversion.scheme.name,
        scheme=None if conversion is None else conversion.scheme.name,
        target=target,
        layers=comparison.merge_layers(() if conversion is None else layers_of(conversion), errors),
        accuracy=accuracy,
        speed=timed,
        size=Size(size_of(original), size_of(converted)),
        notes=(*notes, *engines.notes),
    )


def layers_of(conversion: Conversion) -> tuple[Layer, ...]:
    """What a conversion did to each layer."""
    return tuple(Layer(**asdict(layer)) for layer in conversion.layers)


def dataset(
    graph: Graph,
    source: Source | None,
    labels: FilePath | npt.ArrayLike | None = None,
    limit: int | None = None,
    pixels: Normalization | None = None,
) -> Dataset:
    """The samples to compare on: those of `source`, or random codes."""
    inputs = [graph[name] for name in graph.inputs]
    if source is None:
        return samples_of.synthetic(inputs, limit or samples_of.SYNTHETIC_SAMPLES)
    return samples_of.load(source, inputs, labels, limit, pixels or Normalization.of(None, None))


@dataclass
class _Engines:
    """Both models compiled, here or on a device; if that fails, outputs from the reference and no speed."""

    before: Graph
    after: Graph
    target: str
    threads: int
    device: Device | None
    progress: Progress
    stream: bool = False

    def __post_init__(self) -> None:
        self.notes: list[str] = []

    def outputs_and_speed(
        self, samples: Dataset, label_offset: int | None, timed: bool
    ) -> tuple[Accuracy, Speed | None]:
        def accuracy(run_before: comparison.Runner, run_after: comparison.Runner) -> Accuracy:
            return comparison.measure_accuracy(
                self.before, self.after, run_before, run_after, samples, label_offset, self.progress
            )

        try:
            first, second = self._compiled()
        except TargetError as error:
            if self.device is not None:
                raise
            self.notes.append(f"outputs come from the NumPy reference and speed was not measured: {error}")

            def of(graph: Graph) -> comparison.Runner:
                return reference.Stream(graph).step if self.stream else partial(reference.run, graph)

            return accuracy(of(self.before), of(self.after)), None
        with closing(first), closing(second):
            run_first, run_second = (each.stream().step if self.stream else each.run for each in (first, second))
            return accuracy(run_first, run_second), self._speed(first, second) if timed else None

    def _compiled(self) -> tuple[Executable, Executable]:
        """Both models, ready to run here or on the device.  Raises TargetError if they cannot."""
        self.progress("compiling", 0, 2)
        first = runtime.compile(self.before, target=self.target, threads=self.threads)
        if self.device is None:
            first.require_runnable()
        self.progress("compiling", 1, 2)
        second = runtime.compile(self.after, target=self.target, threads=self.threads)
        if self.device is None:
            return first, second
        from tflite2q.execution.remote import Session

        self.progress(f"connecting to {self.device.name}", 0, 0)
        session = Session(self.device)
        return session.upload(first), session.upload(second)

    def _speed(self, first: Executable, second: Executable) -> Speed:
        """Times of both compiled models; on this machine, also of LiteRT."""
        if self.device is not None:
            self.notes.append(f"times were measured on {self.device.name}; LiteRT was not timed there")
            return comparison.measure_speed(first.times, second.times, self.threads, progress=self.progress)
        with self._litert_files() as paths:
            return comparison.measure_speed(first.times, second.times, self.threads, paths, self.progress)

    @contextmanager
    def _litert_files(self) -> Iterator[tuple[str | None, str | None]]:
        """Both graphs as files for LiteRT; None where it is not installed or a graph cannot be written."""
        if not litert.available():
            self.notes.append("LiteRT was not timed; to include it: pip install 'tflite2q[litert]'")
            yield None, None
            return
        with tempfile.TemporaryDirectory(prefix="tflite2q-") as folder:
            yield self._written(folder, "original", self.before), self._written(folder, "converted", self.after)

    def _written(self, folder: str, stem: str, graph: Graph) -> str | None:
        if graph.place:
            self.notes.append(f"LiteRT did not time the {stem} model: it runs the file's first subgraph")
            return None
        path = os.path.join(folder, f"{stem}.tflite")
        try:
            writer.save(graph, path)
        except Tflite2qError as error:
            self.notes.append(f"LiteRT did not time the {stem} model: {error}")
            return None
        return path


def _layer_errors(
    before: Graph, after: Graph, samples: Dataset, stream: bool, progress: Progress
) -> tuple[LayerError, ...]:
    def every(graph: Graph) -> comparison.EveryValue:
        return reference.Stream(graph).step_every if stream else partial(reference.run_every, graph)

    return comparison.measure_layers(before, after, every(before), every(after), samples, progress)
