"""The stages in order, each a function: load, convert, compile, reference, compare.

These are the functions of the public Python interface.  Wherever a *model* is asked for, a graph, a conversion or the
path of a .tflite file will do.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from tflite2q import rewrites
from tflite2q.dialect import text as dialect_text
from tflite2q.dialect.graph import Graph
from tflite2q.errors import TargetError, Tflite2qError, Unchanged
from tflite2q.evaluation import calibration, comparison, data, inspection
from tflite2q.evaluation.comparison import Accuracy, Comparison, Layer, LayerError, Progress, Size, Speed, quiet
from tflite2q.evaluation.data import Dataset, Normalization, Source
from tflite2q.evaluation.inspection import Inspection, SchemeEffect
from tflite2q.execution import litert, reference
from tflite2q.flatbuffer import writer
from tflite2q.loading import FilePath, Loaded, Model, read_once, why_not_run
from tflite2q.loading import content_of as content_of
from tflite2q.loading import graph_of as graph_of
from tflite2q.loading import load as load
from tflite2q.loading import name_of as name_of
from tflite2q.loading import opened as opened
from tflite2q.loading import size_of as size_of
from tflite2q.rewrites import Conversion, Forecast
from tflite2q.rewrites import scheme as schemes
from tflite2q.rewrites.scheme import Scheme

if TYPE_CHECKING:
    from tflite2q.execution.remote import Device
    from tflite2q.execution.runtime import Executable
    from tflite2q.lower.capabilities import Capability
    from tflite2q.lower.graph import Choice

Array = npt.NDArray[Any]


# Layers are compared by the NumPy reference, which takes about 0.25 s a sample of a 300 M MAC model.
LAYER_SAMPLES = 2
# Calibration runs the reference too; ranges and means of a layer have settled by then.
CALIBRATION_SAMPLES = 50


def convert(
    model: Model,
    scheme: Scheme | FilePath,
    interface: str | None = None,
    allow_unsupported: bool = False,
    data: FilePath | None = None,
    limit: int | None = CALIBRATION_SAMPLES,
) -> Conversion:
    """Rewrite a model to a scheme (a Scheme, the name of a shipped one, or the path of a .toml).

    `interface` "keep" or "scheme" overrides what the scheme says about the model's own inputs and outputs;
    `allow_unsupported` as for `load`.  `data` (as for `compare`, at most `limit` samples of it), never needed,
    calibrates new ranges and bias correction on the original model's answers.  Raises SchemeError, or Unchanged if the
    model already is what the scheme asks for.
    """
    chosen = scheme_of(scheme, interface)
    if isinstance(model, str | os.PathLike):
        model = opened(model, allow_unsupported)
    if not isinstance(model, Loaded):
        return _convert(graph_of(model), chosen, data, limit)
    try:
        return _convert(model.graph, chosen, data, limit)
    except Tflite2qError as error:
        raise error.at(model.path) from error


def _convert(graph: Graph, scheme: Scheme, data: FilePath | None, limit: int | None) -> Conversion:
    if data is not None:
        seen = calibration.observe(graph, list(dataset(graph, Options(data=data, limit=limit))))
        return rewrites.convert(graph, scheme, seen, calibrate=True)
    if rewrites.needs_observations(graph, scheme) and why_not_run(graph) is None:
        return rewrites.convert(graph, scheme, calibration.observe(graph, calibration.noise_images(graph)))
    return rewrites.convert(graph, scheme)


def compile(model: Model, target: str = "native", threads: int = 1) -> Executable:
    """Compile a model with TVM for a target (a name of `tflite2q targets` or TVM's JSON).  Raises TargetError."""
    from tflite2q.execution import runtime

    return runtime.compile(graph_of(model), target=target, threads=threads)


def load_library(path: FilePath, threads: int = 1) -> Executable:
    """Load what `Executable.save` wrote."""
    from tflite2q.execution import runtime

    return runtime.load_library(path, threads=threads)


def reference(model: Model, *inputs: npt.ArrayLike, every: bool = False) -> list[Array] | dict[str, Array]:
    """Run a model with NumPy, bit for bit as TFLite's reference kernels: its outputs, in order.

    With `every`, all values by their TFLite tensor names.  Raises DataError for inputs that do not fit.
    """
    graph = graph_of(model)
    return reference.run_every(graph, *inputs) if every else reference.run(graph, *inputs)


@dataclass(frozen=True)
class Options:
    """What `compare` measures and on what; see there."""

    data: Source | None = None
    labels: FilePath | npt.ArrayLike | None = None
    limit: int | None = None
    label_offset: int | None = None
    mean: float | None = None
    std: float | None = None
    target: str = "native"
    threads: int = 1
    speed: bool = True
    layer_samples: int = LAYER_SAMPLES
    device: Device | None = None


def compare(original: Model, converted: Model, *, progress: Progress = quiet, **options: Any) -> Comparison:
    """Measure what distinguishes two models of equal inputs and outputs: accuracy, layers, speed and size.

    Options, all by keyword: `data` (folder of images, CSV of file,label, .npy, .npz or arrays; without it random
    inputs), `labels` (for top-1 and top-5), `limit` (samples), `label_offset`, `mean` and `std` (of pixels), `target`,
    `threads`, `speed` (False: do not time), `layer_samples` (0: do not compare layers), `device`
    (a `remote.Device` to run on).  `progress` is told how work goes on.
    """
    chosen = Options(**options)
    original, converted = read_once(original), read_once(converted)
    before, after = graph_of(original), graph_of(converted)
    comparison.check_comparable(before, after)
    notes = list(
        dict.fromkeys((*before.notes, *(converted.notes if isinstance(converted, Conversion) else after.notes)))
    )
    errors: tuple[LayerError, ...] = ()
    accuracy, speed = None, None
    obstacle = why_not_run(before) or why_not_run(after)
    if obstacle is not None:
        notes.append(f"neither outputs nor speed were compared: {obstacle}")
    else:
        samples = dataset(before, chosen)
        accuracy, speed = _outputs_and_speed(before, after, samples, chosen, notes, progress)
        errors = _layer_errors(before, after, samples, chosen, progress)
    layers = comparison.merge_layers(layers_of(converted), errors)
    scheme = converted.scheme.name if isinstance(converted, Conversion) else None
    return Comparison(
        model=name_of(original),
        other=scheme or name_of(converted),
        scheme=scheme,
        target=chosen.target,
        layers=layers,
        accuracy=accuracy,
        speed=speed,
        size=Size(size_of(original), size_of(converted)),
        notes=tuple(notes),
    )


def inspect(model: FilePath | Loaded) -> Inspection:
    """Describe a model in a file, and what each shipped scheme would do to it."""
    found = model if isinstance(model, Loaded) else opened(model)
    forecast = Forecast(found.graph)
    effects = tuple(_effect(forecast, schemes.find(name)) for name in schemes.shipped())
    return inspection.inspect(found.graph, name_of(found), os.path.getsize(found.path), effects)


def explain(model: Model, target: str = "native") -> tuple[Choice, ...]:
    """Which kernel computes each op on `target`, and why better ones refused.  Raises TargetError."""
    from tflite2q.execution import runtime

    return runtime.choices(graph_of(model), target)


def check_target(name: str) -> None:
    """Raise TargetError unless there is a target of that name, or given in TVM's terms."""
    from tflite2q.lower.target import resolve

    resolve(name)


def targets() -> list[Capability]:
    """Every named target: what it is, what it assumes and which kernels it gets."""
    from tflite2q.lower.capabilities import capabilities

    return capabilities()


def scheme_of(scheme: Scheme | FilePath, interface: str | None = None) -> Scheme:
    """The scheme meant, with another interface policy if one is given.  Raises SchemeError."""
    found = schemes.find(scheme)
    return found if interface is None else replace(found, interface=interface)


def text_of(model: Model) -> str:
    """The model's graph in the dialect's text form, long constants shortened."""
    return dialect_text.print_graph(graph_of(model), "elided")


def lowered_text(model: Model, target: str = "native") -> str:
    """The Relax and TIR text that a model lowers to for a target.  Raises TargetError."""
    from tflite2q.execution import runtime

    return runtime.lowered_text(graph_of(model), target)


def is_library(path: FilePath) -> bool:
    """Whether a path names a compiled library rather than a model."""
    return Path(path).suffix == ".so"


def executable_of(model: FilePath | Loaded, target: str, threads: int, device: Device | None = None) -> Executable:
    """A library loaded, or a .tflite compiled; on a remote device if one is given."""
    path = model.path if isinstance(model, Loaded) else model
    library = is_library(path)
    if device is None:
        return load_library(path, threads) if library else compile(model, target, threads)
    from tflite2q.execution.remote import Session

    made = None if library else compile(model, target, threads)
    session = Session(device)
    return session.load(path, threads) if made is None else session.upload(made)


def layers_of(model: Model) -> tuple[Layer, ...]:
    """What a conversion did to each layer; nothing for other models."""
    if not isinstance(model, Conversion):
        return ()
    return tuple(Layer(x.name, x.op, x.loss, x.channels, x.channels_rescaled, x.bound) for x in model.layers)


def dataset(graph: Graph, options: Options) -> Dataset:
    """The samples to compare on: the data given, or random codes."""
    inputs = [graph[name] for name in graph.inputs]
    if options.data is None:
        return data.synthetic(inputs, options.limit or data.SYNTHETIC_SAMPLES)
    pixels = Normalization.of(options.mean, options.std)
    return data.load(options.data, inputs, options.labels, options.limit, pixels)


def _outputs_and_speed(
    before: Graph, after: Graph, samples: Dataset, options: Options, notes: list[str], progress: Progress
) -> tuple[Accuracy, Speed | None]:
    """Both by the compiled models; where the target's code cannot run here, outputs by the reference and no speed."""
    try:
        first, second = _compiled(before, after, options, progress)
    except TargetError as error:
        if options.device is not None:
            raise
        notes.append(f"outputs are the reference's, and there is no speed: {error}")
        run_first, run_second = (lambda *x: reference.run(before, *x)), (lambda *x: reference.run(after, *x))
        return _accuracy(before, after, run_first, run_second, samples, options, progress), None
    with closing(first), closing(second):
        accuracy = _accuracy(before, after, first.run, second.run, samples, options, progress)
        return accuracy, _speed(before, after, first, second, options, notes, progress) if options.speed else None


def _speed(
    before: Graph,
    after: Graph,
    first: Executable,
    second: Executable,
    options: Options,
    notes: list[str],
    progress: Progress,
) -> Speed:
    """Of both compiled models, on this machine beside LiteRT."""
    if options.device is not None:
        notes.append(f"times are those of {options.device.name}, where LiteRT was not timed")
        return comparison.measure_speed(first.times, second.times, options.threads, progress=progress)
    with _litert_files(before, after, notes) as paths:
        return comparison.measure_speed(first.times, second.times, options.threads, paths, progress)


def _compiled(before: Graph, after: Graph, options: Options, progress: Progress) -> tuple[Executable, Executable]:
    """Both models, ready to run here or on the device.  Raises TargetError if they cannot."""
    progress("compiling", 0, 2)
    first = compile(before, options.target, options.threads)
    if options.device is None:
        first.require_runnable()
    progress("compiling", 1, 2)
    second = compile(after, options.target, options.threads)
    if options.device is None:
        return first, second
    from tflite2q.execution.remote import Session

    progress(f"connecting to {options.device.name}", 0, 0)
    session = Session(options.device)
    return session.upload(first), session.upload(second)


def _accuracy(
    before: Graph,
    after: Graph,
    run_before: comparison.Runner,
    run_after: comparison.Runner,
    samples: Dataset,
    options: Options,
    progress: Progress,
) -> Accuracy:
    offset = options.label_offset
    return comparison.measure_accuracy(before, after, run_before, run_after, samples, offset, progress)


def _layer_errors(
    before: Graph, after: Graph, samples: Dataset, options: Options, progress: Progress
) -> tuple[LayerError, ...]:
    few = samples.first(options.layer_samples)
    return comparison.measure_layers(
        before,
        after,
        lambda *x: reference.run_every(before, *x),
        lambda *x: reference.run_every(after, *x),
        few,
        progress,
    )


@contextmanager
def _litert_files(before: Graph, after: Graph, notes: list[str]) -> Iterator[tuple[str | None, str | None]]:
    """Both graphs as files for LiteRT; None where it is not installed or a graph cannot be written."""
    if not litert.available():
        notes.append("LiteRT was not timed; to have it: pip install 'tflite2q[litert]'")
        yield None, None
        return
    with tempfile.TemporaryDirectory(prefix="tflite2q-") as folder:
        paths: list[str | None] = []
        for stem, graph in (("original", before), ("converted", after)):
            path = os.path.join(folder, f"{stem}.tflite")
            try:
                writer.save(graph, path)
            except Tflite2qError as error:
                notes.append(f"LiteRT did not time the {stem} model: {error}")
                paths.append(None)
            else:
                paths.append(path)
        yield paths[0], paths[1]


def _effect(forecast: Forecast, scheme: Scheme) -> SchemeEffect:
    try:
        layers = forecast.layers(scheme)
    except Unchanged:
        return SchemeEffect(scheme.name, scheme.summary, refused="nothing: the model is that already")
    except Tflite2qError as error:
        return SchemeEffect(scheme.name, scheme.summary, refused=f"cannot: {error}")
    counts: dict[str, int] = {}
    for layer in layers:
        if layer.loss is not None:
            counts[layer.loss] = counts.get(layer.loss, 0) + 1
    return SchemeEffect(
        scheme.name,
        scheme.summary,
        tuple(sorted(counts.items())),
        sum(layer.channels or 0 for layer in layers),
        sum(layer.channels_rescaled or 0 for layer in layers),
    )
