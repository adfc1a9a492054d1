"""Cases of recurrent layers on real numbers, and of the int8 LSTM with options; part of `cases`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from draw import Case, Draw, Family

from tflite2q.dialect import ops
from tflite2q.dialect.types import Quantization, TensorType, Value

REAL = "float32"
SPREAD = 0.4
FUSED = ("NONE", "RELU", "RELU6", "TANH", "TANH")


def _real(d: Draw, *shape: int) -> str:
    return d.constant(d.data(TensorType(shape, REAL), SPREAD))


def _weights(d: Draw, dtype: str, *shape: int) -> str:
    """Real numbers, or codes of such."""
    if dtype == REAL:
        return _real(d, *shape)
    kind = d.kind(shape, dtype, d.scale(0.002, 0.02), 0)
    return d.constant(np.maximum(d.data(kind), -127), kind)


def _state(d: Draw, *shape: int) -> str:
    return d.state(TensorType(shape, REAL))


def _sequence(d: Draw, time_major: bool, batch: int, steps: int, depth: int) -> str:
    x = TensorType((steps, batch, depth) if time_major else (batch, steps, depth), REAL)
    return d.input(x, d.data(x, 1.0))


def _inputs(d: Draw, dtype: str) -> dict[str, bool]:
    return {"asymmetric_inputs": dtype != REAL and d.chance(0.5)}


def _clips(d: Draw, projected: bool) -> dict[str, float]:
    return {
        "cell_clip": d.pick((0.0, 0.0, 0.5)),
        "projection_clip": d.pick((0.0, float(np.float32(0.3)))) if projected else 0.0,
    }


def _lstm_weights(
    d: Draw, depth: int, cells: int, units: int, coupled: bool, peepholes: bool, projected: bool, dtype: str = REAL
) -> list[str | None]:
    """The seventeen operands of one direction."""
    gates = [not coupled, True, True, True]
    weights = [_weights(d, dtype, cells, size) if wanted else None for size in (depth, units) for wanted in gates]
    holes = [_weights(d, dtype, cells) if peepholes and wanted else None for wanted in (not coupled, True, True)]
    biases = [_real(d, cells) if wanted else None for wanted in gates]
    bias = _real(d, units) if projected and d.chance(0.5) else None
    return [*weights, *holes, *biases, _weights(d, dtype, units, cells) if projected else None, bias]


def _choices(d: Draw) -> tuple[bool, bool, bool]:
    return d.chance(0.3), d.chance(0.4), d.chance(0.4)


def _lstm(d: Draw, dtype: str = REAL) -> Case:
    time_major, (coupled, peepholes, projected) = d.chance(0.5), _choices(d)
    batch, steps, depth, cells = (d.number(1, 5) for _ in range(4))
    units = d.number(1, 5) if projected else cells
    operands = [_sequence(d, time_major, batch, steps, depth)]
    operands += _lstm_weights(d, depth, cells, units, coupled, peepholes, projected, dtype)
    operands += [_state(d, batch, units), _state(d, batch, cells)]
    if d.chance(0.4):
        operands += [None if coupled and gate == 0 else _real(d, cells) for gate in range(4)]
    else:
        operands += [None] * 4
    options = {"time_major": time_major, "activation": d.pick(("TANH", "TANH", "RELU", "RELU6"))}
    options.update(_inputs(d, dtype))
    return d.case(ops.Lstm, operands, TensorType((), REAL), **options, **_clips(d, projected))


def _bidirectional_lstm(d: Draw, dtype: str = REAL) -> Case:
    time_major, merged = d.chance(0.5), d.chance(0.5)
    batch, steps, depth = (d.number(1, 4) for _ in range(3))
    batch = 1 if merged and not time_major else batch  # LiteRT reads beyond its state otherwise
    operands: list[str | None] = [_sequence(d, time_major, batch, steps, depth)]
    sizes = []
    coupled, peepholes, projected = _choices(d)
    cells = d.number(1, 5)
    units = d.number(1, 5) if projected else cells
    for _ in range(2):
        operands += _lstm_weights(d, depth, cells, units, coupled, peepholes, projected, dtype)
        sizes += [units, cells]
    operands += [_state(d, batch, size) for size in sizes]
    operands += [None] * 9
    options = {"time_major": time_major, "merged": merged, "activation": "TANH", **_inputs(d, dtype)}
    kinds = [TensorType((), REAL)] * (1 if merged else 2)
    return d.case(ops.BidirectionalLstm, operands, *kinds, **options, **_clips(d, projected))


def _rnn_weights(d: Draw, batch: int, depth: int, dtype: str = REAL) -> Sequence[str]:
    units = d.number(1, 5)
    return _weights(d, dtype, units, depth), _weights(d, dtype, units, units), _real(d, units), _state(d, batch, units)


def _rnn(d: Draw, dtype: str = REAL) -> Case:
    batch, depth = d.number(1, 4), d.number(1, 5)
    operands = (d.input(TensorType((batch, depth), REAL)), *_rnn_weights(d, batch, depth, dtype))
    return d.case(ops.Rnn, operands, TensorType((), REAL), activation=d.pick(FUSED), **_inputs(d, dtype))


def _sequence_rnn(d: Draw, dtype: str = REAL) -> Case:
    time_major, (batch, steps, depth) = d.chance(0.5), d.shape(3, 5)
    operands = (_sequence(d, time_major, batch, steps, depth), *_rnn_weights(d, batch, depth, dtype))
    options = {"time_major": time_major, "activation": d.pick(FUSED), **_inputs(d, dtype)}
    return d.case(ops.SequenceRnn, operands, TensorType((), REAL), **options)


def _bidirectional_rnn(d: Draw, dtype: str = REAL) -> Case:
    time_major, merged, (batch, steps, depth) = d.chance(0.5), d.chance(0.5), d.shape(3, 5)
    again = dtype != REAL and time_major  # LiteRT reads a sequence as many times as it has steps
    steps = min(steps, 2) if again else steps  # a code that got the other side of a border changes ever more
    x = _sequence(d, time_major, batch, steps, depth)
    both = [_rnn_weights(d, batch, depth, dtype) for _ in range(2)]
    operands = (x, *both[0], *both[1], None, None, None)
    fused = ("RELU6", "TANH") if again else FUSED
    options = {"time_major": time_major, "merged": merged, "activation": d.pick(fused), **_inputs(d, dtype)}
    if again and merged and batch > 1:
        options["asymmetric_inputs"] = True  # LiteRT's process ends otherwise
    kinds = [TensorType((), REAL)] * (1 if merged else 2)
    return d.case(ops.BidirectionalRnn, operands, *kinds, **options)


def _codes(d: Draw, dtype: str, scale: float, *shape: int) -> str:
    kind = TensorType(shape, dtype, Quantization.per_tensor(scale, 0))
    data = d.data(kind)
    return d.constant(np.maximum(data, -127) if dtype == "int8" else data, kind)


def _integer_lstm(d: Draw) -> Case:
    """int8 with a 16-bit cell, with some of the options; LiteRT reads beyond peepholes of fewer cells than results."""
    coupled, peepholes, projected = d.chance(0.3), d.chance(0.5), d.chance(0.5)
    normalized, time_major = d.chance(0.5), d.chance(0.5)
    batch, steps, depth, cells = d.number(1, 3), d.number(1, 4), d.number(1, 6), d.number(1, 8)
    results = d.number(1, cells if peepholes else 8) if projected else cells
    gates = range(1, 4) if coupled else range(4)
    x = d.kind((steps, batch, depth) if time_major else (batch, steps, depth), "int8", d.scale(0.005, 0.1))
    hidden = TensorType((batch, results), "int8", Quantization.per_tensor(d.scale(0.004, 0.03), d.number(-5, 5)))
    cell = TensorType((batch, cells), "int16", Quantization.per_tensor(2.0 ** -d.number(9, 14), 0))
    operands: list[str | None] = [None] * 24
    operands[0] = d.input(x)
    for gate in gates:
        operands[1 + gate] = _codes(d, "int8", d.scale(0.005, 0.05), cells, depth)
        operands[5 + gate] = _codes(d, "int8", d.scale(0.005, 0.05), cells, results)
        bias = TensorType((cells,), "int32", Quantization.per_tensor(x.scale * 0.01, 0))
        most = 3_000_000 if normalized else 3000
        operands[12 + gate] = d.constant(d.rng.integers(-most, most, cells), bias)
        if peepholes and gate != 2:
            operands[9 + min(gate, 2)] = _codes(d, "int16", d.scale(1e-6, 1e-4), cells)
        if normalized:
            operands[20 + gate] = _codes(d, "int16", d.scale(1e-6, 1e-4), cells)
    if projected:
        operands[16] = _codes(d, "int8", d.scale(0.005, 0.05), results, cells)
        bias = TensorType((results,), "int32", Quantization.per_tensor(1e-4, 0))
        operands[17] = d.constant(d.rng.integers(-3000, 3000, results), bias) if d.chance(0.5) else None
    operands[18], operands[19] = d.state(hidden), d.state(cell)
    scales = [Quantization.per_tensor(d.scale(1e-4, 1e-2) if normalized else 2.0**-12, 0) for _ in range(4)]
    inside = [Value(f"inside{i}", TensorType((), "int16", scale)) for i, scale in enumerate(scales)]
    within = Quantization.per_tensor(d.scale(0.004, 0.01), d.number(-5, 5)) if projected else hidden.quantization
    inside.append(Value("inside4", TensorType((), "int8", within)))
    options = {"time_major": time_major, "intermediates": tuple(inside), **_clips(d, projected)}
    return d.case(ops.Lstm, operands, hidden.with_(shape=()), **options)


def _basic_lstm(d: Draw) -> Case:
    batch, depth, units = (d.number(1, 5) for _ in range(3))
    operands = (
        d.input(TensorType((batch, depth), REAL)),
        _state(d, batch, units),
        _real(d, 4 * units, depth + units),
        _real(d, 4 * units),
        _state(d, batch, units),
    )
    kinds = [TensorType((), REAL)] * 4
    return d.case(ops.BasicLstm, operands, *kinds, kernel="BASIC", activation="TANH", version=2)


def _svdf(d: Draw, dtype: str = REAL) -> Case:
    batch, depth, units, rank, memory = (d.number(1, 4) for _ in range(5))
    filters = units * rank
    operands = (
        d.input(TensorType((batch, depth), REAL)),
        _weights(d, dtype, filters, depth),
        _weights(d, dtype, filters, memory),
        _real(d, units) if d.chance(0.6) else None,
        _state(d, batch, memory * filters),
    )
    options = {"rank": rank, "activation": d.pick(("NONE", "RELU"))}
    options.update(_inputs(d, dtype))
    return d.case(ops.Svdf, operands, TensorType((), REAL), **options)


LAYERS: Mapping[str, Callable[..., Case]] = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
    "BIDIRECTIONAL_SEQUENCE_LSTM": _bidirectional_lstm,
    "RNN": _rnn,
    "UNIDIRECTIONAL_SEQUENCE_RNN": _sequence_rnn,
    "BIDIRECTIONAL_SEQUENCE_RNN": _bidirectional_rnn,
    "SVDF": _svdf,
}
FAMILIES: Mapping[str, Family] = {
    **{f"{name}-float32": make for name, make in LAYERS.items()},
    **{f"{name}-float32-int8": partial(make, dtype="int8") for name, make in LAYERS.items()},
    "UNIDIRECTIONAL_SEQUENCE_LSTM-options": _integer_lstm,
    "LSTM-float32": _basic_lstm,
}
