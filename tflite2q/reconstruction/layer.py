"""One layer in both networks: the results that its weights should give, and its new constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding as arithmetic
from tflite2q.dialect import spans
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.reconstruction import adaptive, moments, rounding
from tflite2q.reconstruction.adaptive import Task
from tflite2q.reconstruction.grid import Floats, Grid, Reals
from tflite2q.reconstruction.moments import Moments, Sums
from tflite2q.reconstruction.rounding import Rounded
from tflite2q.reconstruction.rows import Rows
from tflite2q.reconstruction.streams import Stream
from tflite2q.rewrites.biases import accumulator_units
from tflite2q.rewrites.fitting import ends
from tflite2q.rewrites.traces import Trace

Array = npt.NDArray[Any]

# A bias is moved by no less than this part of a step of the result: rounding twice moves it by as much.
LEAST_SHIFT = 1 / 64
ROOM = 1 << 24  # numbers that are kept of a layer to learn from
CLEARLY = 0.99  # of the old loss is what the new one must be below
JUDGE = 3  # of every four samples, the one to judge by


@dataclass(frozen=True)
class Skip:
    """The addition behind a layer and its other operand in both networks: the layer can compensate for its error."""

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

    @property
    def changed(self) -> bool:
        return self.weights is not None or self.bias is not None


def reconstructed(trace: Trace, old: Stream, new: Stream, weights: Value, skip: Skip | None, seed: int) -> Outcome:
    """The layer of `trace`, the next op of both streams, with `weights` as the constant to replace."""
    op = new.graph.ops[new.done]
    rescaled = bool(trace.exact.rescaled.any())
    learning = rescaled and trace.exact.settings.recover.reconstruct == "adaptive"
    halves, tasks = observed(trace, old, new, skip, seed, learning)
    biased = trace.exact.bias is not None
    if not all(np.isfinite(half.xx).all() and np.isfinite(half.tt).all() for half in halves):
        return Outcome(None, None, 0.0, 0.0)  # real numbers beyond all bounds say nothing
    rows = Rows(op, new.known[op.reads("x")], weights)
    both = Moments.of(halves[0] + halves[1], biased)
    start = _start(weights, rows, op)
    spread = both.tt.sum() or 1.0
    before = float(both.loss(start.weights).sum() / spread)
    if not rescaled:
        return Outcome(None, _bias(op, new, None, weights, _mean_bias(both, start)) if biased else None, before, before)
    ideal = moments.compensated(halves, biased, rows.matrix(trace.exact.weights).astype(np.float64))
    grid = _grid(trace, weights)
    found = rounding.rounded(ideal, both.damped(moments.DAMPING), grid, start)
    bias = _mean_bias(both, found) if biased else np.zeros_like(both.wanted)
    if tasks is not None and grid.high > grid.low:
        found, bias = _refined(tasks, found, bias, grid, biased)
    if grid.per_channel:  # channels that need not be rounded keep their integers
        kept = ~rows.per_channel(np.array(trace.exact.rescaled))
        codes, scales = (
            np.where(kept[:, None, :], a, b) for a, b in ((start.codes, found.codes), (start.scales, found.scales))
        )
        found = Rounded(codes, scales, found.error)
        bias = np.where(kept, _mean_bias(both, found), bias)
    value = _weights(weights, found, rows)
    after = float(both.loss(found.weights).sum() / spread)
    return Outcome(value, _bias(op, new, value, weights, bias) if biased else None, before, after)


def _refined(
    tasks: tuple[Task, Task], found: Rounded, bias: Floats, grid: Grid, biased: bool
) -> tuple[Rounded, Floats]:
    """Codes and bias refined on the first task, of the channels where that is better for the second."""
    new, moved = adaptive.refined(tasks[0], found, bias, grid, biased)
    wins = tasks[1].losses(new.weights, moved) < CLEARLY * tasks[1].losses(found.weights, bias)
    codes = np.where(wins[:, None, :], new.codes, found.codes)
    return Rounded(codes, found.scales, found.error), np.where(wins, moved, bias)


def _mean_bias(both: Moments, found: Rounded) -> Floats:
    """The bias [groups, channels] that gives the results their wanted means (eq. R2)."""
    return np.asarray(both.wanted - (both.mean[:, None, :] @ found.weights)[:, 0])


def observed(
    trace: Trace, old: Stream, new: Stream, skip: Skip | None, seed: int, keep: bool
) -> tuple[tuple[Sums, Sums], tuple[Task, Task] | None]:
    """Sums over the inputs of the new network and the results wanted for them, of the even and of the odd samples.

    With `keep` also rows of them: to learn from, and to judge by.
    """
    was, now = old.graph.ops[old.done], new.graph.ops[new.done]
    x_old, x_new = old.known[was.reads("x")], new.known[now.reads("x")]
    exact = trace.exact
    weights = (exact.weights * (1 / exact.source_gain)).astype(np.float32)
    shaped = Value("weights", new.known[str(now.inputs[1])].type)
    rows_old, rows_new = Rows(was, x_old, shaped), Rows(now, x_new, shaped)
    matrix = np.ascontiguousarray(rows_old.matrix(weights))
    bias = None if exact.bias is None else rows_old.per_channel(exact.bias.astype(np.float32))[:, None, :]
    random = np.random.default_rng(seed)
    halves = (Sums(), Sums())
    kept: list[tuple[Reals, Reals]] = []
    most = max(ROOM // (rows_new.groups * (rows_new.inputs + rows_new.channels) * new.samples), 1)
    for sample in range(new.samples):
        positions = rows_new.positions(random)
        t = rows_old.of(old.of(x_old.name, sample), x_old.type, positions) @ matrix
        if bias is not None:
            t += bias
        if skip is not None:
            t += _other(old, skip.old, sample, rows_old, positions) - _other(new, skip.new, sample, rows_new, positions)
        x = rows_new.of(new.of(x_new.name, sample), x_new.type, positions)
        halves[sample % 2].add(x, t)
        if keep:
            few = random.permutation(x.shape[1])[:most]
            kept.append((np.ascontiguousarray(x[:, few]), np.ascontiguousarray(t[:, few])))
    return halves, _tasks(kept, new.known[now.name].type, now) if len(kept) > 1 else None


def _tasks(kept: Sequence[tuple[Reals, Reals]], y: TensorType, op: Op) -> tuple[Task, Task]:
    """Every fourth sample is to judge by."""
    low, high = -np.inf, np.inf
    if y.quantized:
        codes = arithmetic.activation_range(getattr(op, "activation", "NONE"), y.scale, y.zero_point, y.dtype)
        low, high = ((code - y.zero_point) * y.scale for code in codes)
    else:
        low, high = spans.of_activation(getattr(op, "activation", "NONE"))
    parts = [[rows for i, rows in enumerate(kept) if (i % 4 == JUDGE) is last] for last in (False, True)]
    one, two = (
        Task(np.concatenate([x for x, _ in part], axis=1), np.concatenate([t for _, t in part], axis=1), low, high)
        for part in (parts if parts[1] else [kept[:-1], kept[-1:]])
    )
    return one, two


def _other(stream: Stream, name: str, sample: int, rows: Rows, positions: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    return rows.results(stream.of(name, sample), stream.known[name].type, positions)


def _grid(trace: Trace, weights: Value) -> Grid:
    settings, q = trace.exact.settings.weights, weights.type.parameters
    low, high = ends(settings)
    if not settings.symmetric:
        low, high = low - q.zero_point[0], high - q.zero_point[0]
    return Grid(low, high, settings.granularity == "per-channel", settings.scale == "power-of-two", q.block > 0)


def _start(weights: Value, rows: Rows, op: Op) -> Rounded:
    """The weights as they are."""
    q, channels = weights.type.parameters, weights.type.shape[op.channel_axis]
    if q.block:  # symmetric
        codes, scales = weights.data.astype(np.float32), rows.per_part(np.array(q.scale, np.float32))
    else:
        shape = [1] * weights.data.ndim
        shape[op.channel_axis] = -1
        codes = weights.data.astype(np.float32) - q.zero_points(channels).reshape(shape).astype(np.float32)
        scales = rows.per_part(np.array(q.scales(channels)))
    return Rounded(np.ascontiguousarray(rows.matrix(codes)), scales, np.empty(0))


def _weights(old: Value, found: Rounded, rows: Rows) -> Value:
    """The constant that holds what was found."""
    q = old.type.parameters
    codes = rows.layout(found.codes)
    if q.axis is None:
        new = Quantization.per_tensor(float(found.scales.flat[0]), q.zero_point[0])
        codes = codes + q.zero_point[0]
    else:
        scales = found.scales.swapaxes(1, 2).reshape(-1)
        new = replace(q, scale=tuple(scales.tolist()), zero_point=(0,) * scales.size)
    return old.with_(type=old.type.with_(quantization=new), constant=Constant(codes.astype(old.data.dtype)))


def _bias(op: Op, new: Stream, value: Value | None, weights: Value, best: Floats) -> Value | None:
    """The bias `best` [groups, channels] as a constant; None if it is right as it is.

    `value` are the new weights, None if they stay `weights`.
    """
    old, y, real = new.known[op.reads("bias")], new.known[op.name].type, best.reshape(-1)
    if old.type.dtype == "float32":
        if value is None:
            return None
        return old.with_(constant=Constant(real.astype(np.float32).reshape(old.type.shape)))
    x, q = new.known[op.reads("x")].type, (value or weights).type.parameters
    units = np.array(accumulator_units(x.parameters, q, real.size))
    if value is None and (np.abs(real - old.data.reshape(-1) * units) < LEAST_SHIFT * y.scale).all():
        return None
    low, high = arithmetic.code_range(old.type.dtype)
    codes = np.clip(arithmetic.round_half_away(real / units), low, high).astype(old.data.dtype)
    scales = np.float32(x.scale) * np.array(q.scale, np.float32)
    kind = old.type.with_(quantization=Quantization.per_channel(scales, 0))
    return replace(old, type=kind, constant=Constant(codes.reshape(old.type.shape)))
