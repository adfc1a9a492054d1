"""The Python interface: load, convert, compile, reference, compare, search, inspect.

Wherever a *model* is asked for, a graph, a conversion or the path of a file will do.  The work is done
in the packages below.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, overload

import numpy.typing as npt

from tflite2q import limits
from tflite2q.dialect.graph import Graph
from tflite2q.errors import Tflite2qError, require_count, require_one_of
from tflite2q.evaluation import calibration
from tflite2q.evaluation import compare as comparing
from tflite2q.evaluation.compare import dataset
from tflite2q.evaluation.data import Source
from tflite2q.evaluation.inspection import inspect
from tflite2q.evaluation.models import FilePath, Loaded, Model, content_of, graph_of, is_text, load, name_of, opened
from tflite2q.evaluation.results import Comparison, Progress, quiet
from tflite2q.execution import reference as interpreter
from tflite2q.flatbuffer import reader
from tflite2q.isolation import isolated
from tflite2q.report.report import Report
from tflite2q.rewrites import Conversion
from tflite2q.rewrites import scheme as schemes_of
from tflite2q.rewrites.scheme import Scheme
from tflite2q.runtimes import check as rules
from tflite2q.runtimes import table
from tflite2q.runtimes.check import Check

if TYPE_CHECKING:
    from tflite2q.evaluation.serving import Served
    from tflite2q.execution.calls import Batch
    from tflite2q.execution.remote import Device
    from tflite2q.micro.library import Verdict
    from tflite2q.mixing import Found
    from tflite2q.mixing.crew import Crew

__all__ = [
    "check",
    "compare",
    "compile",
    "convert",
    "fits",
    "inspect",
    "isolated",
    "load",
    "load_library",
    "reference",
    "reference_stream",
    "search",
]

Array = npt.NDArray[Any]

P = ParamSpec("P")

MIXED = ("int8", "int8-w4")  # schemes that a search chooses from

# Samples that calibration looks at; ranges need fewer.
CALIBRATION_SAMPLES = 200


def convert(
    model: Model,
    scheme: Scheme | FilePath,
    interface: str | None = None,
    allow_unsupported: bool = False,
    data: FilePath | None = None,
    limit: int | None = CALIBRATION_SAMPLES,
    skip_bad: bool = False,
    progress: Progress = quiet,
) -> Conversion:
    """Rewrite a model to a scheme (a Scheme, the name of a shipped one, or the path of a .toml).

    `interface` "keep" or "scheme" overrides what the scheme says about the model's own inputs and outputs;
    `allow_unsupported` as for `load`.  `data` (as for `compare`, with `skip_bad`, at most `limit` samples of it)
    calibrates new ranges and bias correction on the original model's activations, and is what weights are reconstructed
    on; only a float model that gets integer activations needs it.  `progress` is told what is being done.
    Raises SchemeError, UsageError for an `interface` that is neither, or Unchanged if the model already follows the
    scheme.
    """
    chosen = schemes_of.find(scheme, interface)
    if isinstance(model, str | os.PathLike):
        model = opened(model, allow_unsupported)
    graph = graph_of(model)
    try:
        samples = None if data is None else dataset(graph, data, limit=limit, skip_bad=skip_bad)
        found = calibration.convert(graph, chosen, samples, progress)
        return found if samples is None else replace(found, left_out=samples.notes)
    except Tflite2qError as error:
        raise error.at(model.path) if isinstance(model, Loaded) else error from error


def check(
    model: Model,
    runtime: str,
    mend: bool = True,
    data: FilePath | None = None,
    signature: str | None = None,
    interface: str | None = None,
) -> Check:
    """Which rules of a runtime (a name of `tflite2q.runtimes.table`) each layer of a model breaks.

    With `mend`, the runtime's schemes are tried on a model that breaks some, in memory: the model is converted,
    written, read again and checked; `data` as for `convert`, `interface` tries that one alone.  Operators that tflite2q
    does not implement are checked too.
    Raises UsageError for an unknown runtime or interface, and what `load` raises.  `fits` is for microcontrollers.
    """
    found = table.find(runtime)
    if interface is not None:
        require_one_of("interface", interface, schemes_of.INTERFACES)
    if isinstance(model, str | os.PathLike):
        model = opened(model, allow_unsupported=True, signature=signature)
    graph = graph_of(model)
    file = None
    if isinstance(model, Loaded) and not is_text(model.path):
        file = reader.operators(model.path, signature)
    result = rules.check(graph, found, name_of(model), file)
    if not (mend and result.breaches):
        return result

    def converted(scheme: str, interface: str) -> Graph:
        content = content_of(convert(graph, scheme, interface, data=data))
        return reader.read(content, allow_unsupported=True)

    interfaces = schemes_of.INTERFACES if interface is None else (interface,)
    return replace(result, trials=rules.tried(found, converted, interfaces))


def fits(
    model: Model,
    target: str,
    max_arena: int | None = None,
    max_flash: int | None = None,
    mend: bool = True,
    data: FilePath | None = None,
    signature: str | None = None,
) -> Verdict:
    """Whether a model fits a microcontroller (a name of `tflite2q.lower.targets.MICROS`): whether every layer has a
    kernel, tensors and state fit into `max_arena` bytes of RAM and constants into `max_flash` bytes, code not counted.

    With `mend`, a model that does not fit is tried as int8; `data` as for `convert`.  Raises UsageError for another
    target, and what `load` raises.
    """
    from tflite2q.lower import targets
    from tflite2q.micro import library

    found = targets.micro(target)
    if found is None:
        require_one_of("target", target, [each.name for each in targets.MICROS])
        raise AssertionError
    for name, most in (("max_arena", max_arena), ("max_flash", max_flash)):
        if most is not None:
            require_count(name, most, 0)
    if isinstance(model, str | os.PathLike):
        model = opened(model, signature=signature)
    result = library.verdict(graph_of(model), name_of(model), found, max_arena, max_flash)
    if result.fits or not mend:
        return result
    try:
        graph = convert(model, "int8", data=data).graph
    except Tflite2qError:  # it is int8 already, or cannot be
        return result
    return replace(result, mended=library.verdict(graph, result.model, found, max_arena, max_flash).fits)


@overload
def compile(model: Model, target: str = "native", threads: int = 1, batch: None = None) -> Served: ...


@overload
def compile(model: Model, target: str = "native", threads: int = 1, *, batch: int) -> Batch: ...


def compile(model: Model, target: str = "native", threads: int = 1, batch: int | None = None) -> Served | Batch:
    """Compile a model with TVM for a target (a name of `tflite2q targets` or TVM's JSON).  Raises TargetError.

    With `batch` it takes so many samples at once, along the first axis, and its threads take a sample each.  Raises
    UsageError where samples cannot be put together: models with state, values without axes.
    """
    from tflite2q.evaluation.serving import Served
    from tflite2q.execution import runtime

    if batch is not None:
        require_count("batch", batch, 1)
        limits.check_threads(threads)
    each = threads if batch is None or batch < threads else 1  # threads of one sample
    found = runtime.compiled(Served, graph_of(model), target=target, threads=each)
    return found if batch is None else found.batch(batch, threads // each)


def load_library(path: FilePath, threads: int = 1) -> Served:
    """Load what `Executable.save` wrote."""
    from tflite2q.evaluation.serving import Served
    from tflite2q.execution import runtime

    return runtime.loaded(Served, path, threads=threads)


def _reported(function: Callable[P, Comparison]) -> Callable[P, Report]:
    @functools.wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> Report:
        return Report.of(function(*args, **options))

    return run


compare = _reported(comparing.compare)


def search(
    model: Model,
    data: Source,
    labels: FilePath | npt.ArrayLike | None = None,
    schemes: str | Sequence[Scheme | FilePath] = MIXED,
    goal: str = "size",
    max_drop: float = 0.5,
    limit: int | None = None,
    target: str = "native",
    threads: int = 1,
    seed: int = 0,
    budget: float | None = None,
    state: FilePath | None = None,
    skip_bad: bool = False,
    progress: Progress = quiet,
    label_offset: int | None = None,
    jobs: int | None = None,
    device: Device | None = None,
    crew: Crew | None = None,
) -> Found:
    """Find the mix of `schemes` (a sequence, or a text with commas; the first is the base), layer by layer, that saves
    most "size", "compressed" size, "flash", "ram" or "speed" within a loss of `max_drop` points of top-1 on `data`
    (without `labels`: of agreement with the original).  Half of the samples choose, the other half confirms.

    The result's `scheme` is for `convert` (with the same `data`, and the result's `calibration` as its `limit`), its
    `text` for a file, `chosen.confirmed` says what the samples that did not choose show.  `state` is a file that keeps
    measurements, so that a search that was interrupted goes on; `budget` minutes are for all of it.  `jobs` processes
    measure (None: one for each processor), or a `crew` such as `tflite2q.batch.connection.Connection(address)`;
    `device` (`tflite2q.execution.remote.device`) is what "speed" is measured on.  Raises what `tflite2q.mixing.search`
    raises, SchemeError, and DataError for data that do not fit.
    """
    from tflite2q import mixing

    graph = graph_of(model)
    chosen = schemes_of.find_all(schemes)
    settings = mixing.Settings(
        goal, max_drop, target, threads, seed, budget, label_offset=label_offset, jobs=jobs, device=device
    )
    samples = dataset(graph, data, labels, limit, skip_bad=skip_bad)
    return mixing.search(graph, chosen, samples, settings, None if state is None else Path(state), progress, crew)


def reference(model: Model, *inputs: npt.ArrayLike, every: bool = False) -> list[Array] | dict[str, Array]:
    """Run a model with NumPy, bit for bit as TFLite's reference kernels: its outputs, in order.

    With `every`, all values by their TFLite tensor names.  Raises DataError for inputs that do not fit.
    """
    graph = graph_of(model)
    return interpreter.run_every(graph, *inputs) if every else interpreter.run(graph, *inputs)


def reference_stream(model: Model) -> interpreter.Stream:
    """A stream of a model that keeps state, run with NumPy step by step as `reference` runs it once.

    `step(x0, x1)` gives the outputs, `step_every` all values, `reset()` goes back to the initial state.  A compiled
    model's `stream()` has the same `step` and `reset`.
    """
    return interpreter.Stream(graph_of(model))
