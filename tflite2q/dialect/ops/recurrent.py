"""Recurrent layers in integers: UNIDIRECTIONAL_SEQUENCE_LSTM and SVDF.

State lives in variables, which a run reads and updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.core import Core
from tflite2q.arithmetic.gemmlowp16 import logistic_table, tanh_table
from tflite2q.arithmetic.rescale import Rescale, int_const, multiply_fixed, rounding_shift_right
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Values, attribute, require
from tflite2q.dialect.ops.common import centred, check_codes
from tflite2q.dialect.ops.float_recurrent import (
    DYNAMIC,
    GATES,
    MOST_STEPS,
    LstmCell,
    check_activation,
    check_clips,
    check_dynamic,
    check_lstm,
    check_real,
    check_steps,
    lstm_units,
    lstm_weights,
    matrices,
    real_numbers,
    sequence_of,
    squashed,
    steps_of,
)
from tflite2q.dialect.ops.hybrid import products, quantized
from tflite2q.dialect.ops.integer_lstm import GateSums, check_options, log2, normalized, projected
from tflite2q.dialect.spans import EVERYTHING, Span
from tflite2q.dialect.types import TensorType, Value
from tflite2q.errors import UnsupportedError

T = TypeVar("T")

GATE_STEP = np.float32(2.0**-12)  # of the gates' sums before their activation, Q3.12
HIDDEN = 4  # the intermediate tensor that holds the parameters of the hidden state before projection
HALF_RANGE = 1 << 15  # of a gate after its activation, Q0.15


def _lstm_operands() -> tuple[Operand, ...]:
    return (
        Operand("x", "fixed"),
        *lstm_weights(""),
        Operand("hidden", "fixed"),
        Operand("cell", "fixed"),
        *(Operand(f"normalization_{gate}", "fixed", True) for gate in GATES),
    )


SOURCES = ("input", "recurrent")  # what gates have weights for
Inner = Callable[[Sequence[str], T, T], T]  # of sums of gates side by side, and the cell's state that they see


def _as_they_are(gates: Sequence[str], sums: T, cell: T) -> T:
    return sums


@dataclass(frozen=True, kw_only=True)
class Lstm(Op):
    """The int8 LSTM with a 16-bit cell (eq. 32).  Without input-gate weights, that gate is 1 - forget (CIFG)."""

    activation: str = attribute("FusedActivationFunction", "TANH", enum="ActivationFunctionType")
    cell_clip: float = attribute("CellClip", 0.0)
    projection_clip: float = attribute("ProjClip", 0.0)
    time_major: bool = attribute("TimeMajor", False)
    asymmetric_inputs: bool = attribute("AsymmetricQuantizeInputs", False)

    mnemonic: ClassVar[str] = "q.lstm"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("UNIDIRECTIONAL_SEQUENCE_LSTM", "UnidirectionalSequenceLSTMOptions"),
    )
    operands: ClassVar[tuple[Operand, ...]] = _lstm_operands()
    dtypes: ClassVar[tuple[str, ...]] = ("int8",)
    updates: ClassVar[tuple[str, ...]] = ("hidden", "cell")
    deviation: ClassVar[str] = "float32 within 1e-5"
    hybrid_deviation: ClassVar[str] = DYNAMIC

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        x, hidden, cell = ins["x"], ins["hidden"], ins["cell"]
        check_clips(self.cell_clip, self.projection_clip)
        if x.type.dtype == "float32":
            self.verify_real(ins)
            return
        if x.type.dtype != "int8" or ins["input_to_forget"].type.dtype != "int8":
            raise UnsupportedError(f"{self.name!r}: only the int8 LSTM is supported, this one reads {x.type.dtype}")
        check_codes(x, hidden, outs[0])
        require(cell.type.dtype == "int16", f"cell state is {cell.type.dtype}, not int16")
        log2(cell.type)
        require(len(self.intermediates) > HIDDEN, "the parameters of the hidden state are missing")
        self.check_shapes(ins)
        gates = gates_of(ins)
        inside = (HIDDEN, *map(GATES.index, normalized(ins, gates)))
        described = all(self.intermediates[index].type.quantized for index in inside)
        require(described, "the parameters of the hidden state, or of normalized gates, are missing")
        for name in (f"{source}_to_{gate}" for source in SOURCES for gate in gates):
            require(ins[name].type.quantized, f"{name} has no quantization parameters")
        check_options(ins)

    def verify_real(self, ins: Values) -> None:
        """Check an LSTM of real numbers, perhaps with integer weights; it may have every option."""
        check_activation(self.activation)
        if ins["input_to_forget"].type.dtype == "float32":
            check_real(ins)
        else:
            check_dynamic(self, ins, matrices(""))
        self.check_shapes(ins)

    def check_shapes(self, ins: Values) -> None:
        """All gates have the same cells; states are [batch, results] and [batch, cells]."""
        shape, cells = ins["x"].type.shape, ins["input_to_forget"].type.shape[0]
        require(len(shape) == 3, f"input must have 3 axes, has {len(shape)}")
        check_steps(shape, self.time_major, MOST_STEPS if ins["x"].type.dtype == "float32" else math.inf)
        check_lstm(ins, "", shape[1 if self.time_major else 0], shape[2], ("hidden", "cell"))
        given = normalized(ins, [gate for gate in GATES if gate != "input" or ins.get("input_to_input") is not None])
        sized = all(ins[f"normalization_{gate}"].type.shape == (cells,) for gate in given)
        require(sized, f"normalization does not fit {cells} cells")

    def fused(self, ins: Values) -> Span:
        """The activation is the cell's."""
        return EVERYTHING

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return ((*ins["x"].type.shape[:2], lstm_units(ins)),)

    def macs(self, ins: Values, outs: Sequence[Value]) -> int:
        steps = int(np.prod(ins["x"].type.shape[:2]))
        names = (*(f"{source}_to_{gate}" for source in SOURCES for gate in GATES), "projection")
        weights = (ins.get(name) for name in names)
        return steps * sum(value.type.size for value in weights if value is not None)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, hidden, cell = ins["x"], ins["hidden"], ins["cell"]
        if x.type.dtype == "float32":
            normalized = ins.get("normalization_output") is not None
            clips = (self.cell_clip, self.projection_clip)
            layer = LstmCell(core, ins, "", self.activation, *clips, normalized, asymmetric=self.asymmetric_inputs)
            steps_in = steps_of(core, x.data, x.type.shape, self.time_major)
            found, *states = layer.run(steps_in, hidden.data, cell.data)
            return (sequence_of(core, found, outs[0].type.shape, self.time_major), *states)
        return self.codes(core, ins, outs[0].type)

    def codes(self, core: Core[T], ins: Operands[T], y: TensorType) -> tuple[T, ...]:
        """The int8 LSTM (eq. 32)."""
        x, hidden, cell, gates = ins["x"], ins["hidden"].type, ins["cell"].type, gates_of(ins.values)
        batch_axis = 1 if self.time_major else 0
        batch, steps = x.type.shape[batch_axis], x.type.shape[1 - batch_axis]
        width = len(gates) * cell.shape[1]
        sequence = x.data if self.time_major else core.permute_dims(x.data, (1, 0, 2))
        rows = core.reshape(sequence, (steps * batch, x.type.shape[2]))
        from_input = core.clip(self.products(core, ins, "input", gates, x.type, rows), -HALF_RANGE, HALF_RANGE - 1)
        wide = core.reshape(from_input, (steps, batch, width))
        inner = self.inner(core, ins, gates)
        shortened = ins.get("projection") is not None
        inside = self.inside(hidden, shortened)
        h, c = ins["hidden"].data, ins["cell"].data
        results = []
        for step in range(steps):
            now = core.reshape(core.strided_slice(wide, (0,), (step,), (step + 1,), (1,)), (batch, width))
            recurrent = self.products(core, ins, "recurrent", gates, hidden, h)
            sums = core.clip(core.add(now, recurrent), -HALF_RANGE, HALF_RANGE - 1)
            c, h = self.step(core, sums, c, len(gates) == 3, cell, inside, inner)
            if shortened:
                h = projected(core, ins, h, self.intermediates[HIDDEN].type, y, self.projection_clip)
            results.append(core.reshape(h, (1, *hidden.shape)))
        found = core.concat(results, 0)
        return (found if self.time_major else core.permute_dims(found, (1, 0, 2)), h, c)

    def products(self, core: Core[T], ins: Operands[T], source: str, gates: list[str], x: TensorType, data: T) -> T:
        """Sums of all gates side by side, in steps of 2**-12; int64.  Biases go with the input's products."""
        weights = [ins[f"{source}_to_{gate}"] for gate in gates]
        columns = core.permute_dims(core.concat([w.data for w in weights], 0), (1, 0))
        acc = core.matmul(centred(core, data, x.zero_point), core.astype(columns, "int32"), "int32")
        if source == "input" and ins.get("normalization_output") is None:
            acc = core.add(acc, core.concat([ins[f"bias_{gate}"].data for gate in gates], 0))
        units = weights[0].type.shape[0]
        m, shift = gate_multipliers([w.type for w in weights], x, list(self.gate_steps(ins.values, gates).values()))
        return multiply_fixed(core, acc, np.repeat(m, units), np.repeat(shift, units))

    def gate_steps(self, ins: Values, gates: Sequence[str]) -> dict[str, np.float32]:
        """What one is worth in the sum of each gate: its own scale if it is normalized afterwards."""
        if ins.get("normalization_output") is None:
            return dict.fromkeys(gates, GATE_STEP)
        return {gate: np.float32(self.intermediates[GATES.index(gate)].type.scale) for gate in gates}

    def inner(self, core: Core[T], ins: Operands[T], gates: Sequence[str]) -> Inner[T]:
        """What happens to sums of gates before their activations."""
        if ins.get("peephole_output") is None and ins.get("normalization_output") is None:
            return _as_they_are
        return GateSums(core, ins, self.gate_steps(ins.values, gates), not self.time_major)

    def inside(self, hidden: TensorType, shortened: bool) -> Rescale:
        """How products of 2 times 15 bits become codes of the hidden state; `shortened`: of what is projected."""
        kind = self.intermediates[HIDDEN].type
        real = np.float32(2.0**-15) / np.float32(kind.scale) * np.float32(2.0**-15)
        zero_point = -kind.zero_point if shortened else kind.zero_point
        return Rescale((float(real),), zero_point, *hidden.range, hidden.dtype)

    @staticmethod
    def bits(cell: TensorType) -> int:
        """Integer bits of the cell's state."""
        return 15 + log2(cell)

    def step(
        self, core: Core[T], sums: T, c: T, coupled: bool, cell: TensorType, inside: Rescale,
        inner: Inner[T] = _as_they_are,
    ) -> tuple[T, T]:  # fmt: skip
        """The next cell (int16) and hidden state (int8) from the gates' sums; coupled: the input gate is 1 - forget."""
        units, early = cell.shape[1], ("forget",) if coupled else ("input", "forget")
        count = len(early) + 1

        def part(x: T, first: int, parts: int = 1) -> T:
            return core.strided_slice(x, (1,), (first * units,), ((first + parts) * units,), (1,))

        opened = _by_table(core, logistic_table(3), inner(early, part(sums, 0, count - 1), c))
        admitted = _by_table(core, tanh_table(3), inner(("cell",), part(sums, count), c))
        forget = part(opened, count - 2)
        admit = core.subtract(int_const(core, HALF_RANGE - 1), forget) if coupled else part(opened, 0)
        power = log2(cell)
        kept = rounding_shift_right(core, core.multiply(forget, core.astype(c, "int64")), 15)
        added = rounding_shift_right(core, core.multiply(admit, admitted), 30 + power)
        state = core.clip(core.add(kept, added), -HALF_RANGE, HALF_RANGE - 1)
        limit = int(min(np.float32(self.cell_clip) / np.float32(cell.scale), np.float32(HALF_RANGE - 1)))
        state = core.clip(state, -limit, limit) if limit > 0 else state
        shown = _by_table(core, logistic_table(3), inner(("output",), part(sums, count - 1), state))
        squashed = _by_table(core, tanh_table(self.bits(cell)), state)
        return core.astype(state, "int16"), inside.meaning(core, core.multiply(shown, squashed))


def gates_of(ins: Values) -> list[str]:
    """The gates of an int8 LSTM: those with a logistic function side by side, the one with tanh behind them."""
    return [gate for gate in ("input", "forget", "output", "cell") if ins.get(f"input_to_{gate}") is not None]


def gate_multipliers(
    weights: Sequence[TensorType], x: TensorType, steps: Sequence[np.float32] = ()
) -> tuple[rounding.Ints, rounding.Ints]:
    """(m, shift) of eq. 5, one each per gate: what takes sums of products of `x` to steps of 2**-12, or of `steps`."""
    units = steps or [GATE_STEP] * len(weights)
    real = [np.float32(w.scale) * np.float32(x.scale) / step for w, step in zip(weights, units, strict=True)]
    return rounding.quantize_multiplier(np.array(real, np.float64))


def _by_table(core: Core[T], table: np.ndarray[tuple[int, ...], np.dtype[np.int16]], x: T) -> T:
    """A function of 16-bit numbers held in int64; int64 out."""
    index = core.add(core.astype(x, "int32"), core.const(np.array([HALF_RANGE], np.int32)))
    return core.astype(core.take(core.const(table), index), "int64")


@dataclass(frozen=True, kw_only=True)
class Svdf(Op):
    """A dense layer factored into features and time (eq. 33): int8 features, int16 state and time weights."""

    rank: int = attribute("Rank", 1)
    activation: str = attribute("FusedActivationFunction", "NONE", enum="ActivationFunctionType")
    asymmetric_inputs: bool = attribute("AsymmetricQuantizeInputs", False)

    mnemonic: ClassVar[str] = "q.svdf"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("SVDF", "SVDFOptions", {"int8": 3}),)
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("x", "fixed"),
        Operand("features", "fixed"),
        Operand("times", "fixed"),
        Operand("bias", "fixed", optional=True),
        Operand("state", "fixed"),
    )
    dtypes: ClassVar[tuple[str, ...]] = ("int8",)
    updates: ClassVar[tuple[str, ...]] = ("state",)
    deviation: ClassVar[str] = "the state of int8 layers is int16"

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        x, features, times, state = (ins[name] for name in ("x", "features", "times", "state"))
        real = x.type.dtype == "float32"
        if real and features.type.dtype != "float32":
            check_dynamic(self, ins, ("features", "times"))
        elif real:
            check_real(ins)
        elif x.type.dtype != "int8" or state.type.dtype != "int16":
            raise UnsupportedError(f"{self.name!r}: only float32 SVDF and int8 SVDF with int16 state are supported")
        else:
            check_codes(x, outs[0])
            for value in (features, times, state):
                require(value.type.quantized, f"{value.name!r} has no quantization parameters")
        require(len(x.type.shape) == 2 and len(times.type.shape) == 2, "input and time weights must have 2 axes")
        filters, memory = times.type.shape
        require(self.rank > 0 and filters % self.rank == 0, f"{filters} filters of rank {self.rank}")
        require(features.type.shape == (filters, x.type.shape[1]), "feature weights do not fit input and filters")
        bias, kind = ins.get("bias"), "float32" if real else "int32"
        fits = bias is None or (bias.type.shape == (filters // self.rank,) and bias.type.dtype == kind)
        require(fits, f"bias does not fit {filters // self.rank} units of {kind}")
        require(state.type.shape == (x.type.shape[0], memory * filters), "state does not fit batch, filters and memory")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return ((ins["x"].type.shape[0], ins["times"].type.shape[0] // self.rank),)

    def macs(self, ins: Values, outs: Sequence[Value]) -> int:
        return ins["x"].type.shape[0] * (ins["features"].type.size + ins["times"].type.size)

    def fused(self, ins: Values) -> Span:
        """Kernels of codes ignore the activation."""
        return EVERYTHING if ins["x"].type.quantized else super().fused(ins)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, features, times, bias, state = ins["x"], ins["features"], ins["times"], ins.get("bias"), ins["state"]
        batch, (filters, memory) = x.type.shape[0], times.type.shape
        y = outs[0].type
        if x.type.dtype == "float32":
            return self.real(core, ins)
        columns = core.astype(core.permute_dims(features.data, (1, 0)), "int32")
        acc = core.matmul(centred(core, x.data, x.type.zero_point), columns, "int32")
        to_state, to_result = self.rescalings(ins.values, y)
        newest = to_state.meaning(core, acc)
        old = core.reshape(state.data, (batch, filters, memory))
        kept = core.strided_slice(old, (2,), (1,), (memory,), (1,))
        line = core.concat([kept, core.reshape(newest, (batch, filters, 1))], 2)
        products = core.multiply(core.astype(line, "int32"), core.astype(times.data, "int32"))
        units = filters // self.rank
        total = core.sum(core.reshape(products, (batch, units, self.rank * memory)), (2,))
        if bias is not None:
            total = core.add(total, bias.data)
        return to_result.meaning(core, total), core.reshape(line, (batch, filters * memory))

    def rescalings(self, ins: Values, y: TensorType) -> tuple[Rescale, Rescale]:
        """How sums of an int8 layer's features become the state's newest numbers, and sums over time the result."""
        x, features, times, state = (np.float32(ins[n].type.scale) for n in ("x", "features", "times", "state"))
        newest = Rescale((float(x * features / state),), 0, -HALF_RANGE, HALF_RANGE - 1, "int16")
        real = state * times / np.float32(y.scale)
        return newest, Rescale((float(real),), y.zero_point, *y.range, y.dtype)

    def real(self, core: Core[T], ins: Operands[T]) -> tuple[T, ...]:
        """The layer on real numbers, perhaps with integer weights."""
        batch, (filters, memory) = ins["x"].type.shape[0], ins["times"].type.shape
        features, columns = ins["features"].type, core.permute_dims(ins["features"].data, (1, 0))
        if features.dtype == "float32":
            newest = core.matmul(ins["x"].data, columns, "float32")
        else:
            codes = quantized(core, ins["x"].data, self.asymmetric_inputs)
            newest = products(core, codes, columns, features, None)
        old = core.reshape(ins["state"].data, (batch, filters, memory))
        kept = core.strided_slice(old, (2,), (1,), (memory,), (1,))
        line = core.concat([kept, core.reshape(newest, (batch, filters, 1))], 2)
        weighted = core.multiply(line, real_numbers(core, ins["times"]))
        units = filters // self.rank
        total = core.sum(core.reshape(weighted, (batch, units, self.rank * memory)), (2,))
        bias = ins.get("bias")
        total = total if bias is None else core.add(total, bias.data)
        state = core.reshape(line, (batch, filters * memory))
        return squashed(core, total, self.activation), state
