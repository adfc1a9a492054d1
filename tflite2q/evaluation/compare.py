"""The comparison of two models, measurement by measurement: answers, engines, layers, speed and size."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.errors import Tflite2qError, UsageError, hint, refuse_unknown, require_count, require_one_of
from tflite2q.evaluation import comparison, engines, tasks, thumbnails
from tflite2q.evaluation import data as samples_of
from tflite2q.evaluation import gates as gates_of
from tflite2q.evaluation.coding import Normalization
from tflite2q.evaluation.contenders import Setup
from tflite2q.evaluation.data import Dataset, Source
from tflite2q.evaluation.engines import COMPILED, CONVERTED, LITERT, ORIGINAL
from tflite2q.evaluation.environment import environment
from tflite2q.evaluation.figures import Pair, TaskInfo
from tflite2q.evaluation.geometry import FITS, Fit
from tflite2q.evaluation.judging import Judging
from tflite2q.evaluation.layers import LayerTally
from tflite2q.evaluation.models import FilePath, Model, graph_of, name_of, read_once, size_of, why_not_run
from tflite2q.evaluation.provenance import provenance
from tflite2q.evaluation.results import (
    Accuracy,
    Comparison,
    EngineRun,
    Headline,
    Layer,
    LayerError,
    Progress,
    Size,
    Speed,
    quiet,
)
from tflite2q.evaluation.tasks.base import Task
from tflite2q.rewrites import Conversion
from tflite2q.rewrites.conversion import kernel_notes

if TYPE_CHECKING:
    from tflite2q.execution.remote import Device

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
    labels: Any = None,
    limit: int | None = None,
    label_offset: int | None = None,
    skip_bad: bool = False,
    mean: float | None = None,
    std: float | None = None,
    target: str = "native",
    threads: int = 1,
    speed: bool = True,
    profile: bool = False,
    layer_samples: int | None = None,
    stream: bool = False,
    device: Device | None = None,
    emulate: str | None = None,
    task: str = tasks.AUTO,
    label_names: FilePath | Sequence[str] | None = None,
    fit: Fit | None = None,
    gates: Mapping[str, float] | FilePath | None = None,
    progress: Progress = quiet,
    **unknown: NoReturn,
) -> Comparison:
    """Compare two models with equal inputs and outputs: answers, engines, layers, speed and size.

    `data`: a folder of images, a CSV of file,label, .npy, .npz or arrays; without it random inputs, on which only
    agreement can be measured.  `labels`, the ground truth: class labels (top-1 and top-5; `label_offset` is added to
    each, None: automatic), a folder or array of masks (mean IoU), or COCO's JSON (mAP, keypoints).  With `skip_bad`
    samples that cannot be read or have no label are left out, with a note.  `limit`: number of samples.  `mean` and
    `std`: for normalizing pixels; `fit`: "crop", "pad" or "stretch", how pictures are laid into the input (None: as the
    task does).  `task`: a name in `tasks.TASKS`, or "auto" to guess it from the outputs;
    `label_names`: names of the classes, or a file of them.  With `stream` the samples are the steps of one stream, in
    order, for models that keep state; without, each starts from the initial state.  `speed` False does not time;
    `profile` also times the compiled functions of each layer, which are compiled once more for that; `layer_samples` is
    the number of samples for layers and for the slow engines (0: none; None: 2, of a stream 50);
    `device` runs the compiled models on another machine.  `emulate`, a microcontroller of
    `tflite2q.micro.boards.EMULATED`, also runs its code in an emulator, and the reference kernels on all samples to
    compare with.  `gates`: bounds by name, as in `gates.KINDS`, or a TOML file
    of them; the result's `failed_gates` lists those that it breaks.  `progress` is called as work proceeds.

    Raises DataError for models that cannot be compared or data that do not fit, UsageError for an unknown keyword, task
    or gate, for other values that make no sense, and for a gate whose figure is not measured.
    """
    refuse_unknown("compare()", unknown, compare)
    if labels is not None and data is None:
        raise UsageError(f"{hint('--labels needs --data')}; give the samples that they are of")
    if fit is not None:
        require_one_of("fit", fit, FITS)
    for name, count, least in (("limit", limit, 1), ("layer_samples", layer_samples, 0)):
        if count is not None:
            require_count(name, count, least)
    bounds = gates_of.read(gates) if isinstance(gates, str | os.PathLike) else gates_of.checked(gates or {})
    original, converted = read_once(original), read_once(converted)
    before, after = graph_of(original), graph_of(converted)
    comparison.check_comparable(before, after)
    if emulate is not None:
        from tflite2q.micro import boards

        boards.require(emulate)
    read = {"data": data, "labels": labels, "label names": label_names, "gates": gates}
    result = _before_running(original, converted, target)
    obstacle = why_not_run(before) or why_not_run(after)
    if obstacle is not None:
        result = replace(result, notes=(*result.notes, f"neither outputs nor speed were compared: {obstacle}"))
        result = replace(result, provenance=provenance(original, converted, None, read))
        return replace(result, gates=gates_of.evaluate(result, bounds))
    request = _Request(before, data, labels, limit, Normalization.of(mean, std), fit, stream, skip_bad)
    chosen, info = request.task(task, label_names)
    samples = request.samples(chosen)
    few = layer_samples if layer_samples is not None else STREAM_LAYER_SAMPLES if stream else LAYER_SAMPLES
    setup = Setup((before, after), target, threads, device, stream, few, progress, emulate, speed, speed and profile)
    setup.notes.extend(samples.notes)
    if labels is None and (unused := samples_of.unused_labels(data)) is not None:
        setup.notes.append(
            f"{unused} lies in the data folder and is not used; {hint('--labels')} {unused} measures correctness"
        )
    if (before.states or after.states) and not stream:
        setup.notes.append(hint("the model keeps state: every sample started from the initial one; see --stream"))
    truth = chosen.truth(samples, labels, label_offset)
    gates_of.foresee(bounds, chosen.name, truth is not None, speed)
    result = _with(result, _measured(setup, chosen, info, samples, truth), setup)
    result = replace(result, provenance=provenance(original, converted, samples, read))
    return replace(result, gates=gates_of.evaluate(result, bounds))


def _before_running(original: Model, converted: Model, target: str) -> Comparison:
    """What is known without running anything."""
    before, after = graph_of(original), graph_of(converted)
    conversion = converted if isinstance(converted, Conversion) else None
    made = (*after.notes, *kernel_notes(after)) if conversion is None else conversion.notes
    return Comparison(
        model=name_of(original),
        other=name_of(converted) if conversion is None else conversion.scheme.name,
        scheme=None if conversion is None else conversion.scheme.name,
        target=target,
        layers=() if conversion is None else layers_of(conversion),
        size=Size(size_of(original), size_of(converted)),
        notes=tuple(dict.fromkeys((*before.notes, *made))),
        environment=environment(),
    )


@dataclass(frozen=True)
class _Request:
    """The samples and the truth that the user asked for, as `compare` takes them."""

    graph: Graph
    data: Source | None
    labels: Any
    limit: int | None
    pixels: Normalization
    fit: Fit | None
    stream: bool
    skip_bad: bool

    def task(self, name: str, names: FilePath | Sequence[str] | None) -> tuple[Task[Any], TaskInfo]:
        """What the model does; class labels, which a CSV may hold too, settle what a vector of numbers is."""
        listed = isinstance(self.data, str | os.PathLike) and os.fspath(self.data).endswith(".csv")
        outputs = [self.graph[value] for value in self.graph.outputs]
        labelled = self.labels is not None or listed
        return tasks.choose(comparison.inputs_of(self.graph), outputs, self.graph, name, names, labelled)

    def samples(self, task: Task[Any]) -> Dataset:
        """The samples, with class labels if the task takes those."""
        limit = self.limit or (STREAM_STEPS if self.stream and self.data is None else None)
        labels = self.labels if task.name == "classification" else None
        found = dataset(self.graph, self.data, labels, limit, self.pixels, self.fit or task.fit, self.skip_bad)
        return replace(found, source=f"{found.source}, one stream") if self.stream else found


def layers_of(conversion: Conversion) -> tuple[Layer, ...]:
    """What a conversion did to each layer."""
    return tuple(Layer(**asdict(layer)) for layer in conversion.layers)


def dataset(
    graph: Graph,
    source: Source | None,
    labels: FilePath | npt.ArrayLike | None = None,
    limit: int | None = None,
    pixels: Normalization | None = None,
    fit: Fit = "crop",
    skip_bad: bool = False,
) -> Dataset:
    """The samples to compare on: those of `source`, or random codes."""
    inputs = [graph[name] for name in graph.inputs]
    if source is None:
        return samples_of.synthetic(inputs, limit or samples_of.SYNTHETIC_SAMPLES)
    return samples_of.load(source, inputs, labels, limit, pixels or Normalization.of(None, None), fit, skip_bad)


@dataclass(frozen=True)
class _Measured:
    """What the engines showed."""

    accuracy: Accuracy
    headline: Headline
    engines: tuple[EngineRun, ...]
    layers: tuple[LayerError, ...]
    ms: Mapping[str, Pair]


def _measured(setup: Setup, task: Task[Any], info: TaskInfo, samples: Dataset, truth: Any) -> _Measured:
    """Run all engines on all samples, then time them, and single layers, as far as that is asked for."""
    before, after = setup.graphs
    layers = LayerTally(before, after)
    with setup.contenders() as contenders:
        judging = Judging(contenders, task, info, samples, truth)

        def seen(index: int) -> None:
            judging.seen(index)
            if setup.every is not None and index < setup.few:
                layers.add(*(run.values for run in setup.every))

        engines.run_all(contenders, samples, comparison.inputs_of(before), seen, setup.progress)
        if setup.speed:
            engines.time_all(contenders, setup.progress)
        ms = _op_times(setup, contenders, samples) if setup.profile else {}
        accuracy = judging.accuracy()
        changed = thumbnails.pictured(accuracy.changed, samples, comparison.inputs_of(before))
        accuracy = replace(accuracy, changed=changed)
        return _Measured(accuracy, judging.headline(), judging.rows(), layers.result(), ms)


def _op_times(setup: Setup, contenders: Sequence[engines.Contender], samples: Dataset) -> Mapping[str, Pair]:
    """The times of layers on the first sample; what cannot be timed becomes a note."""
    try:
        return engines.time_ops(contenders, samples.make(0), comparison.inputs_of(setup.graphs[0]), setup.progress)
    except Tflite2qError as error:
        setup.notes.append(f"layers were not timed: {error}")
        return {}


def _with(result: Comparison, found: _Measured, setup: Setup) -> Comparison:
    """The comparison with what was measured."""
    return replace(
        result,
        layers=comparison.timed_layers(comparison.merge_layers(result.layers, found.layers), found.ms),
        accuracy=found.accuracy,
        speed=_speed(found.engines, setup.threads),
        headline=found.headline,
        engines=found.engines,
        memory=setup.memory,
        notes=(*result.notes, *setup.notes, *_failures(found.engines)),
    )


def _speed(rows: Sequence[EngineRun], threads: int) -> Speed | None:
    """The medians of both models compiled, and in LiteRT; None if the compiled ones were not timed."""
    times = {(row.engine, row.model): row.timing.median_ms for row in rows if row.timing is not None}
    before, after = times.get((COMPILED, ORIGINAL)), times.get((COMPILED, CONVERTED))
    if before is None or after is None:
        return None
    litert = times.get((LITERT, ORIGINAL)), times.get((LITERT, CONVERTED))
    return Speed(threads, before, after, before / after, *litert)


def _failures(rows: Sequence[EngineRun]) -> list[str]:
    """Why an engine has no outputs of a model, a line for each; LiteRT's kinds of kernels often share a reason."""
    first: dict[tuple[str, str], str] = {}
    for row in rows:
        if row.failed is not None:
            first.setdefault((row.model, row.failed), row.label)
    return [f"{label} did not run the {model} model: {reason}" for (model, reason), label in first.items()]
