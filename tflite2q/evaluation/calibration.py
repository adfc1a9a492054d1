"""Calibration: observing the original model's activations on the user's samples, or on noise if there are none.

The original model is run and its codes are observed; real numbers are observed as 16-bit codes of their range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q import reconstruction, rewrites
from tflite2q.arithmetic import rounding
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.control import While
from tflite2q.dialect.types import STORAGE, WIDE_INTEGERS, TensorType
from tflite2q.errors import DataError, hint
from tflite2q.evaluation.coding import transfer
from tflite2q.evaluation.models import why_not_run
from tflite2q.evaluation.results import Progress, quiet
from tflite2q.execution import reference
from tflite2q.rewrites import Conversion, audible
from tflite2q.rewrites.endless import bounds
from tflite2q.rewrites.plan import is_activation
from tflite2q.rewrites.provisional import needs_data
from tflite2q.rewrites.scheme import Scheme
from tflite2q.rewrites.statistics import Observation, RealRange

NOISE_SAMPLES = 8
SYNTHETIC_SAMPLES = 16  # to reconstruct layers on
# Ranges and means of a layer have settled by then; reconstruction gains from more.
OBSERVED_SAMPLES = 50
NOT_RECONSTRUCTED = (
    "weights are rounded without a look at what layers do; a conversion with samples (convert --data, batch "
    "--calibrate) loses much less"
)

NOWHERE: Mapping[str, RealRange] = {}

Sample = Sequence[npt.NDArray[Any]]


def convert(
    graph: Graph, scheme: Scheme, samples: Iterable[Sample] | None = None, progress: Progress = quiet
) -> Conversion:
    """`graph` rewritten to `scheme`, with the activation statistics that the scheme needs, and the weights that it
    wants reconstructed: from `samples`, else from noise.

    Raises SchemeError, or Unchanged if the model already follows the scheme.
    """
    given = None if samples is None else list(samples)
    conversion = _converted(graph, scheme, given)
    if not reconstruction.wanted(conversion, given is not None):
        skipped = reconstruction.wanted(conversion, data=True)
        return replace(conversion, remarks=(hint(NOT_RECONSTRUCTED),)) if skipped else conversion
    why = _why_not_reconstructed(graph, conversion)
    if why:
        return replace(conversion, remarks=(f"no layer is reconstructed: {why}",))
    source = "samples" if given is not None else hint("made-up inputs (noise): give --data for better ones")
    used = noise_images(graph, samples=SYNTHETIC_SAMPLES) if given is None else given
    types = [[each[name] for name in each.inputs] for each in (graph, conversion.graph)]
    try:
        new = [transfer(sample, *types) for sample in used]
        return reconstruction.reconstruct(conversion, graph, used, new, source, progress)
    except DataError as error:
        if given is not None:
            raise
        return replace(conversion, remarks=(f"no layer is reconstructed: it does not run on noise ({error})",))


def _why_not_reconstructed(graph: Graph, conversion: Conversion) -> str:
    """Why a graph's layers cannot be looked at one by one; "" if they can."""
    if why := why_not_run(graph) or why_not_run(conversion.graph):
        return why
    return "the model keeps state from run to run" if graph.states else ""


def _converted(graph: Graph, scheme: Scheme, samples: list[Sample] | None) -> Conversion:
    """The conversion before anything is reconstructed."""
    if samples is not None:
        masked, ends = _heard(graph, samples) if audible.masks(graph) else (graph, NOWHERE)
        real = rewrites.real_kinds(masked, scheme)
        if real:
            graph, real = masked, rewrites.real_kinds(masked, scheme, extremes(masked, samples, real, ends))
        few = samples[:OBSERVED_SAMPLES]
        return rewrites.convert(graph, scheme, observe(graph, few, real, ends), calibrate=True)
    real = rewrites.real_kinds(graph, scheme)
    if real:
        raise needs_data(scheme)
    if not rewrites.needs_observations(graph, scheme) or why_not_run(graph) is not None:
        return rewrites.convert(graph, scheme)
    if has_loops(graph):
        return replace(rewrites.convert(graph, scheme), unsampled="noise may keep its loop running for hours")
    try:
        seen = observe(graph, noise_images(graph))
    except DataError as error:  # such as an index that does not exist
        return replace(rewrites.convert(graph, scheme), unsampled=f"it does not run on noise ({error})")
    return rewrites.convert(graph, scheme, seen)


def has_loops(graph: Graph) -> bool:
    """Whether noise is no sample for a graph: it may be a count that keeps a loop running for hours."""
    return any(isinstance(op, While) for op in graph.every_op())


def _heard(graph: Graph, samples: Sequence[Sample]) -> tuple[Graph, Mapping[str, RealRange]]:
    """`graph` with the masks that its softmaxes need on `samples`, and the ends of the numbers that count there."""
    listener, stream = audible.Listener(graph), reference.Stream(graph)
    for sample in samples:
        listener.listen(stream.steps(sample))
    return listener.result()


def _bounds(graph: Graph, ends: Mapping[str, RealRange]) -> dict[str, Callable[[Any], Any]]:
    """By value, what makes of its numbers those that its codes must reach."""
    return {**bounds(graph), **{name: partial(np.clip, a_min=low, a_max=high) for name, (low, high) in ends.items()}}


def extremes(
    graph: Graph, samples: Sequence[Sample], names: Collection[str], ends: Mapping[str, RealRange] = NOWHERE
) -> dict[str, RealRange]:
    """The least and the greatest number of each of the named values over `samples`, between its `ends` if it has some.

    Raises DataError.
    """
    found: dict[str, RealRange] = {}
    bounded = _bounds(graph, ends)
    stream = reference.Stream(graph)
    for sample in samples:
        for name, array in stream.steps(sample):
            if name in names and name in bounded:
                array = bounded[name](array)
            if name in names and array.size:
                low, high = float(array.min()), float(array.max())
                if not (math.isfinite(low) and math.isfinite(high)):
                    raise DataError(f"with these samples, {name!r} holds numbers that are not finite")
                before = found.get(name, (low, high))
                found[name] = min(before[0], low), max(before[1], high)
    return found


def observe(
    graph: Graph,
    samples: Sequence[Sample],
    real: Mapping[str, TensorType] | None = None,
    ends: Mapping[str, RealRange] = NOWHERE,
) -> dict[str, Observation]:
    """Every computed activation of `graph` over `samples` (each with one array per input).  Raises DataError.

    Values in `real`, which are real numbers, are observed as codes of the types given there.  To a graph with state the
    samples are the steps of one stream: its initial state shows little of its range.
    """
    found = {name: Observation.nothing(kind) for name, kind in (real or {}).items() if graph[name].constant is None}
    for value in graph.values:
        if is_activation(value) and value.constant is None:
            found[value.name] = Observation.nothing(value.type)
    bounded = _bounds(graph, ends)
    stream = reference.Stream(graph)
    for sample in samples:
        for name, array in stream.steps(sample):
            if name in found:
                if array.dtype.kind == "f":
                    kind = found[name].kind
                    array = bounded[name](array) if name in bounded else array
                    array = np.clip(np.rint(array / np.float32(kind.scale)), *kind.range).astype(kind.dtype)
                found[name].add(array, 1 / len(samples))
    return found


def noise_images(graph: Graph, seed: int = 0, samples: int = NOISE_SAMPLES) -> list[list[npt.NDArray[Any]]]:
    """Samples for a model without data: noise with the spectrum of natural images (power falling with
    the square of the frequency; Field, 1987) for image inputs, uniform noise over the range for others, 0 and 1 for
    wide integers, which are indices, lengths or counts."""
    random = np.random.default_rng(seed)
    values = [graph[name] for name in graph.inputs]
    return [
        [_noise(value.type, random) if value.constant is None else np.array(value.data) for value in values]
        for _ in range(samples)
    ]


def _noise(kind: TensorType, random: np.random.Generator) -> npt.NDArray[Any]:
    if len(kind.shape) == 4 and kind.shape[3] in (1, 3):
        fraction = np.stack([_pink(kind.shape[1:3], random) for _ in range(kind.shape[0] * kind.shape[3])])
        unit = np.moveaxis(fraction.reshape(kind.shape[0], kind.shape[3], *kind.shape[1:3]), 1, 3)
    else:
        unit = random.random(kind.shape)
    if kind.dtype in WIDE_INTEGERS:
        return np.rint(unit).astype(STORAGE[kind.dtype])
    if kind.dtype not in rounding.RANGES:
        return (unit * 2 - 1).astype(STORAGE[kind.dtype])
    low, high = kind.range
    return np.rint(low + unit * (high - low)).astype(STORAGE[kind.dtype])


def _pink(shape: tuple[int, ...], random: np.random.Generator) -> rounding.Floats:
    """Noise in [0, 1] whose amplitude falls with the frequency."""
    height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    spectrum = np.fft.rfft2(random.normal(size=(height, width))) / np.maximum(frequency, 1 / max(height, width))
    field = np.fft.irfft2(spectrum, (height, width))
    mean, spread = random.uniform(0.3, 0.6), random.uniform(0.1, 0.25)
    image: rounding.Floats = np.clip(mean + spread * (field - field.mean()) / (field.std() or 1.0), 0.0, 1.0)
    return image
