"""One layer of both networks: what its weights are to do, and new constants for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding as arithmetic
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Constant, Quantization, Value
from tflite2q.reconstruction import moments, rounding
from tflite2q.reconstruction.grid import Grid
from tflite2q.reconstruction.moments import Moments, Sums
from tflite2q.reconstruction.rounding import Rounded
from tflite2q.reconstruction.rows import Rows
from tflite2q.reconstruction.streams import Stream
from tflite2q.rewrites.biases import BIAS_DTYPES, accumulator_units
from tflite2q.rewrites.traces import Trace, slot_of
from tflite2q.rewrites.weights import ends

Array = npt.NDArray[Any]

# A bias is moved by no less than this part of a step of the result: rounding twice moves it by as much.
LEAST_SHIFT = 1 / 64


@dataclass(frozen=True)
class Skip:
    """The addition behind a layer and its other operand in both networks: what went wrong there, the layer can mend."""

    old: str
    new: str


@dataclass(frozen=True)
class Outcome:
    """New constants of a layer, None where they stay, and the mean squared error of its results relative to their
    variance: as plainly rounded, and now."""

    weights: Value | None
    bias: Value | None
    before: float
    after: float


def reconstructed(trace: Trace, old: Stream, new: Stream, weights: Value, skip: Skip | None, seed: int) -> Outcome:
    """The layer of `trace`, the next op of both streams, with `weights` as the constant to replace."""
    op = new.graph.ops[new.done]
    halves = observed(trace, old, new, skip, seed)
    biased = trace.exact.bias is not None
    rows = Rows(op, new.known[str(op.source)], weights)
    both = Moments.of(halves[0] + halves[1], biased)
    start = _start(weights, rows, op)
    chosen = start
    if trace.exact.rescaled.any():
        exact = rows.matrix(trace.exact.weights).astype(np.float64)
        ideal = moments.compensated(halves, biased, exact)
        grid = _grid(trace, weights)
        found = rounding.rounded(ideal, both.damped(moments.DAMPING), grid, start)
        kept = ~rows.per_channel(np.array(trace.exact.rescaled)) & grid.per_channel
        chosen = Rounded(
            np.where(kept[:, None, :], start.codes, found.codes),
            np.where(kept, start.scales, found.scales),
            found.error,
        )
    spread = both.tt.sum() or 1.0
    before, after = (float(both.loss(each.weights).sum() / spread) for each in (start, chosen))
    value = None if chosen is start else _weights(weights, chosen, rows, op)
    bias = _bias(trace, op, new, value or weights, both, chosen) if biased else None
    return Outcome(value, bias, before, after)


def observed(trace: Trace, old: Stream, new: Stream, skip: Skip | None, seed: int) -> tuple[Sums, Sums]:
    """Sums over the inputs of the new network and the results wanted for them, of the even and of the odd samples."""
    was, now = old.graph.ops[old.done], new.graph.ops[new.done]
    x_old, x_new = old.known[str(was.source)], new.known[str(now.source)]
    exact = trace.exact
    weights = (exact.weights * (1 / exact.source_gain)).astype(np.float32)
    shaped = Value("weights", new.known[str(now.inputs[1])].type)
    rows_old, rows_new = Rows(was, x_old, shaped), Rows(now, x_new, shaped)
    matrix = np.ascontiguousarray(rows_old.matrix(weights))
    bias = None if exact.bias is None else rows_old.per_channel(exact.bias.astype(np.float32))[:, None, :]
    random = np.random.default_rng(seed)
    halves = (Sums(), Sums())
    for sample in range(new.samples):
        positions = rows_new.positions(random)
        arrays = old.of(x_old.name, sample), new.of(x_new.name, sample)
        assert arrays[0] is not None and arrays[1] is not None
        t = rows_old.of(arrays[0], x_old.type, positions) @ matrix
        if bias is not None:
            t += bias
        if skip is not None:
            t += _other(old, skip.old, sample, rows_old, positions) - _other(new, skip.new, sample, rows_new, positions)
        halves[sample % 2].add(rows_new.of(arrays[1], x_new.type, positions), t)
    return halves


def _other(stream: Stream, name: str, sample: int, rows: Rows, positions: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    array = stream.of(name, sample)
    assert array is not None
    return rows.results(array, stream.known[name].type, positions)


def _grid(trace: Trace, weights: Value) -> Grid:
    settings = trace.exact.settings.weights
    low, high = ends(settings)
    zero = weights.type.parameters.zero_point[0]
    if not settings.symmetric:
        low, high = low - zero, high - zero
    return Grid(low, high, settings.granularity == "per-channel", settings.scale == "power-of-two")


def _start(weights: Value, rows: Rows, op: Op) -> Rounded:
    """The weights as they are."""
    q, channels = weights.type.parameters, weights.type.shape[op.channel_axis]
    shape = [1] * weights.data.ndim
    shape[op.channel_axis] = -1
    codes = weights.data.astype(np.float32) - q.zero_points(channels).reshape(shape).astype(np.float32)
    scales = rows.per_channel(np.array(q.scales(channels)))
    return Rounded(np.ascontiguousarray(rows.matrix(codes)), scales, np.empty(0))


def _weights(old: Value, found: Rounded, rows: Rows, op: Op) -> Value:
    """The constant that holds what was found."""
    q = old.type.parameters
    codes = rows.layout(found.codes)
    if q.axis is None:
        new = Quantization.per_tensor(float(found.scales.flat[0]), q.zero_point[0])
        codes = codes + q.zero_point[0]
    else:
        new = Quantization.per_channel(found.scales.reshape(-1), q.axis)
    return old.with_(type=old.type.with_(quantization=new), constant=Constant(codes.astype(old.data.dtype)))


def _bias(trace: Trace, op: Op, new: Stream, weights: Value, both: Moments, found: Rounded) -> Value | None:
    """The bias that gives the results their wanted means (eq. R2); None if it is right as it is."""
    slot = slot_of(op, "bias")
    assert slot is not None
    old, y = new.known[str(op.inputs[slot])], new.known[op.name].type
    best = (both.wanted - (both.mean[:, None, :] @ found.weights)[:, 0]).reshape(-1)
    if old.type.dtype == "float32":
        return old.with_(constant=Constant(best.astype(np.float32).reshape(old.type.shape)))
    x = new.known[str(op.source)].type
    units = np.array(accumulator_units(x.parameters, weights.type.parameters, best.size))
    present = old.data.reshape(-1) * np.array(accumulator_units(x.parameters, new_scales(op, new), best.size))
    shift = best - present
    rounded = np.any(found.scales.reshape(-1) != new_scales(op, new).scales(best.size))
    if not rounded and (np.abs(shift) < LEAST_SHIFT * y.scale).all():
        return None
    low, high = arithmetic.code_range(BIAS_DTYPES[x.dtype])
    codes = np.clip(arithmetic.round_half_away(best / units), low, high).astype(old.data.dtype)
    scales = np.float32(x.scale) * np.array(weights.type.parameters.scale, np.float32)
    kind = old.type.with_(quantization=Quantization.per_channel(scales, 0))
    return replace(old, type=kind, constant=Constant(codes.reshape(old.type.shape)))


def new_scales(op: Op, new: Stream) -> Quantization:
    """The parameters of the op's weights before they were changed."""
    return new.known[str(op.inputs[1])].type.parameters
