"""LSTM and SVDF layers of 8-bit codes: products by kernels, the cell's arithmetic from the op's own meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.arithmetic.gemmlowp16 import logistic_table, tanh_table
from tflite2q.arithmetic.rescale import Rescale
from tflite2q.dialect.op import Values
from tflite2q.dialect.ops.integer_lstm import options_of
from tflite2q.dialect.ops.recurrent import SOURCES, Lstm, Svdf, gate_multipliers, gates_of
from tflite2q.dialect.types import Value
from tflite2q.errors import UnsupportedError
from tflite2q.micro.calls import Call, rescale_text
from tflite2q.micro.expressions import CCore, Expr
from tflite2q.micro.program import Array, Table
from tflite2q.micro.rescaling import Form, within

MOST_BITS = 12  # integer bits of a function's argument: its polynomial needs the rest
GATE_BITS = 3  # of gates before their activation


@dataclass
class _Unit:
    """The core vocabulary for one unit of a layer: tensors are one C expression for each gate."""

    core: CCore
    units: int
    bits: int  # of the cell's state before the point

    def const(self, array: Array) -> Any:
        """Functions stay what they are: a table of 65,536 numbers stands for a function of C."""
        return array if array.size > 1 else (self.core.const(array),)

    def take(self, table: Array, index: Sequence[Expr]) -> tuple[Expr, ...]:
        known = (
            ("logistic", GATE_BITS, logistic_table),
            ("tanh", GATE_BITS, tanh_table),
            ("tanh", self.bits, tanh_table),
        )
        name, bits = next((name, bits) for name, bits, make in known if make(bits) is table)
        return tuple(self.core.bind(f"q_{name}15({each.text} - 32768, {bits})", "int16") for each in index)

    def strided_slice(self, x: Sequence[Expr], axes: Any, begin: Any, end: Any, strides: Any) -> Sequence[Expr]:
        return x[begin[0] // self.units : end[0] // self.units]

    def __getattr__(self, name: str) -> Callable[..., tuple[Expr, ...]]:
        function = getattr(self.core, name)

        def each(*operands: Any) -> tuple[Expr, ...]:
            count = max(len(x) for x in operands if isinstance(x, tuple))
            rows = ([x[k % len(x)] if isinstance(x, tuple) else x for x in operands] for k in range(count))
            return tuple(function(*row) for row in rows)

        return each


def lstm(name: str, op: Lstm, ins: Values) -> Call:
    """The call of an int8 LSTM, which reads x and updates both states.  Raises UnsupportedError for others."""
    x, hidden, cell = ins["x"], ins["hidden"].type, ins["cell"].type
    _check(op, ins, x, ("hidden", "cell"))
    options = options_of(ins)
    if options:
        raise UnsupportedError(f"an LSTM with {' and '.join(options)}")
    gates = gates_of(ins)
    batch, steps = (x.type.shape[axis] for axis in ((1, 0) if op.time_major else (0, 1)))
    depth, units = x.type.shape[2], hidden.shape[1]
    if not 0 <= op.bits(cell) <= MOST_BITS:
        raise UnsupportedError(f"a cell state of scale {cell.scale:g}")
    texts, tables = [], list[Table]()
    for number, gate in enumerate(gates):
        text, more = _gate(f"{name}_g{number}", ins, gate)
        texts.append(text)
        tables += more
    core = CCore(name, 1)
    sums = tuple(core.bind(f"q_gated(&{name}_g{k}, u, row, {depth}, h, {units})", "int32") for k in range(len(gates)))
    unit = _Unit(core, units, op.bits(cell))
    old = (core.bind("c[u]", "int16"),)
    wide: Any = tuple(core.astype(each, "int64") for each in sums)
    (c,), (h,) = op.step(unit, wide, old, len(gates) == 3, cell, op.inside(hidden, False))  # type: ignore[arg-type]
    body = "\n".join(f"        {line}" for line in (*core.lines, f"c[u] = {c.text};", f"to[u] = {h.text};"))
    at = "t * {b} + n" if op.time_major else "n * {s} + t"
    place = at.format(b=batch, s=steps)
    loop = (
        f"Q_KERNEL void {name}(const int8_t *x, int8_t *hidden, int16_t *cell, int8_t *y) {{\n"
        f"  for (int32_t n = 0; n < {batch}; n++)\n    for (int32_t t = 0; t < {steps}; t++) {{\n"
        f"      const int8_t *row = x + ({place}) * {depth};\n"
        f"      int8_t *h = hidden + n * {units}, *to = y + ({place}) * {units};\n"
        f"      int16_t *c = cell + n * {units};\n      for (int32_t u = 0; u < {units}; u++) {{\n{body}\n      }}\n"
        f"      q_copy(h, to, {units});\n    }}\n}}\n"
    )
    text = "\0" + "".join(texts) + loop
    return Call(f"{name}({{x0}}, {{y1}}, {{y2}}, {{y0}});", ("dot", "recurrent"), text, tuple(tables), 0, None)


def svdf(name: str, op: Svdf, ins: Values, y: Value) -> Call:
    """The call of an int8 SVDF with a 16-bit state.  Raises UnsupportedError for others."""
    x, features, times, bias = ins["x"], ins["features"], ins["times"], ins.get("bias")
    _check(op, ins, x, ("state",))
    if times.type.dtype != "int16":
        raise UnsupportedError(f"time weights are {times.type.dtype}, not int16")
    sums = _folded(features.data, None, x.type.zero_point)
    tables = [Table(f"{name}_f", features.data, True), Table(f"{name}_t", times.data, True)]
    tables.append(Table(f"{name}_z", sums, True))
    if bias is not None:
        tables.append(Table(f"{name}_b", bias.data, True))
    texts = []
    for letter, rescale in zip("nr", op.rescalings(ins, y.type), strict=True):
        text, more = rescale_text(f"{name}_{letter}", _exact(rescale))
        texts.append(text)
        tables += more
    filters, memory = times.type.shape
    struct = (
        f"static const q_svdf_layer {name} = {{{name}_f, {name}_z, {'0' if bias is None else f'{name}_b'}, {name}_t, "
        f"{texts[0]}, {texts[1]}, {x.type.shape[0]}, {x.type.shape[1]}, {filters // op.rank}, {op.rank}, {memory}}};\n"
    )
    return Call(
        f"q_svdf(&{name}, {{x0}}, {{y1}}, {{y0}});", ("dot", "recurrent"), "\0" + struct, tuple(tables), 0, None
    )


def _check(op: Lstm | Svdf, ins: Values, x: Value, states: Sequence[str]) -> None:
    """Raise UnsupportedError for layers of real numbers, and for weights that are computed."""
    if x.type.dtype != "int8":
        raise UnsupportedError(f"codes are {x.type.dtype}; there are kernels for int8")
    for index, value in enumerate(ins):
        slot = op.operand(index).name
        if value is not None and slot not in ("x", *states) and value.constant is None:
            raise UnsupportedError(f"{slot} is computed when the model runs")


def _gate(name: str, ins: Values, gate: str) -> tuple[str, list[Table]]:
    """The C of a q_gate, and its tables."""
    tables, factors = [], []
    for source, x in zip(SOURCES, (ins["x"].type, ins["hidden"].type), strict=True):
        weights = ins[f"{source}_to_{gate}"]
        bias = ins[f"bias_{gate}"].data if source == "input" else None
        tables.append(Table(f"{name}_{source[0]}", weights.data, True))
        tables.append(Table(f"{name}_{source[0]}b", _folded(weights.data, bias, x.zero_point), True))
        m, shift = gate_multipliers([weights.type], x)
        factors.append((int(m[0]), int(within(shift)[0])))
    (m0, shift0), (m1, shift1) = factors
    names = [table.name for table in tables]
    text = (
        f"static const q_gate {name} = {{{{{names[0]}, {names[2]}}}, {{{names[1]}, {names[3]}}}, {{{m0}, {m1}}}, "
        f"{{{shift0}, {shift1}}}}};\n"
    )
    return text, tables


def _folded(weights: Array, bias: Array | None, zero_point: int) -> Array:
    """Biases of rows of weights with the input's zero point in them.  Raises UnsupportedError where sums of products
    may leave 32 bits."""
    wide = weights.astype(np.int64)
    found = -zero_point * wide.sum(axis=1) + (0 if bias is None else bias.astype(np.int64))
    if (np.abs(found) + 128 * np.abs(wide).sum(axis=1)).max(initial=0) >= 2**31:
        raise UnsupportedError("sums may leave 32 bits")
    folded: Array = found.astype(np.int32)
    return folded


def _exact(rescale: Rescale) -> Form:
    """Fixed point in 64 bits, which takes any sum of 32 bits."""
    m, shift = rescale.fixed_point()
    return Form("exact", m, within(shift), rescale.zero_point, rescale.low, rescale.high)
