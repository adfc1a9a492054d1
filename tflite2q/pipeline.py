"""The Python interface: load, convert, compile, reference, compare, inspect.

Wherever a *model* is asked for, a graph, a conversion or the path of a file will do.  The work is done
in the packages below.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.errors import Tflite2qError
from tflite2q.evaluation import calibration
from tflite2q.evaluation.compare import compare, dataset
from tflite2q.evaluation.inspection import inspect
from tflite2q.evaluation.models import FilePath, Loaded, Model, content_of, graph_of, is_text, load, name_of, opened
from tflite2q.execution import reference as interpreter
from tflite2q.flatbuffer import reader
from tflite2q.rewrites import Conversion
from tflite2q.rewrites import scheme as schemes
from tflite2q.rewrites.scheme import Scheme
from tflite2q.runtimes import check as rules
from tflite2q.runtimes import table
from tflite2q.runtimes.check import Check

if TYPE_CHECKING:
    from tflite2q.execution.runtime import Executable

__all__ = [
    "check",
    "compare",
    "compile",
    "convert",
    "inspect",
    "load",
    "load_library",
    "reference",
    "reference_stream",
]

Array = npt.NDArray[Any]

# Calibration runs the reference; ranges and means of a layer have settled by then.
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
    `allow_unsupported` as for `load`.  `data` (as for `compare`, at most `limit` samples of it)
    calibrates new ranges and bias correction on the original model's activations; only a float model that gets integer
    activations needs it.  Raises SchemeError, or Unchanged if the model already follows the scheme.
    """
    chosen = schemes.find(scheme, interface)
    if isinstance(model, str | os.PathLike):
        model = opened(model, allow_unsupported)
    graph = graph_of(model)
    try:
        return calibration.convert(graph, chosen, None if data is None else dataset(graph, data, limit=limit))
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
    Raises UsageError for an unknown runtime, and what `load` raises.
    """
    found = table.find(runtime)
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

    interfaces = rules.INTERFACES if interface is None else (interface,)
    return replace(result, trials=rules.tried(graph, found, converted, interfaces))


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
    return interpreter.run_every(graph, *inputs) if every else interpreter.run(graph, *inputs)


def reference_stream(model: Model) -> interpreter.Stream:
    """A stream of a model that keeps state, run with NumPy step by step as `reference` runs it once.

    `step(x0, x1)` gives the outputs, `step_every` all values, `reset()` goes back to the initial state.  A compiled
    model's `stream()` has the same `step` and `reset`.
    """
    return interpreter.Stream(graph_of(model))
