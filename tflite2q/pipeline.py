"""The Python interface: load, convert, compile, reference, compare, inspect.

Wherever a *model* is asked for, a graph, a conversion or the path of a file will do.  The work is done
in the packages below.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from tflite2q.errors import Tflite2qError
from tflite2q.evaluation import calibration
from tflite2q.evaluation.compare import compare, dataset
from tflite2q.evaluation.inspection import inspect
from tflite2q.evaluation.models import FilePath, Loaded, Model, graph_of, load, opened
from tflite2q.execution import reference as interpreter
from tflite2q.rewrites import Conversion
from tflite2q.rewrites import scheme as schemes
from tflite2q.rewrites.scheme import Scheme

if TYPE_CHECKING:
    from tflite2q.execution.runtime import Executable

__all__ = ["compare", "compile", "convert", "inspect", "load", "load_library", "reference", "reference_stream"]

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
