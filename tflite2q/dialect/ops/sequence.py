"""Recurrent operators of real numbers: RNN, LSTM and the layers that read a sequence in both directions.

State lives in variables; a run starts from the values that the variables hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops.float_recurrent import (
    DYNAMIC,
    MOST_STEPS,
    LstmCell,
    RnnCell,
    check_activation,
    check_clips,
    check_dynamic,
    check_lstm,
    check_real,
    check_rnn,
    check_steps,
    lstm_units,
    lstm_weights,
    matrices,
    sequence_of,
    steps_of,
)
from tflite2q.dialect.ops.formulas import FORMULAS
from tflite2q.dialect.spans import EVERYTHING, Span
from tflite2q.dialect.types import Value

T = TypeVar("T")

STARTS = "float32 within 1e-5"


def _rnn_weights(prefix: str) -> tuple[Operand, ...]:
    return tuple(Operand(prefix + name, "fixed") for name in ("weights", "recurrent", "bias", "hidden"))


@dataclass(frozen=True, kw_only=True)
class Recurrent(Op):
    """Base of recurrent operators on float32; `integer` are slots that may be int8, together."""

    activation: str = attribute("FusedActivationFunction", "NONE", enum="ActivationFunctionType")
    asymmetric_inputs: bool = attribute("AsymmetricQuantizeInputs", False)

    dtypes: ClassVar[tuple[str, ...]] = ()
    deviation: ClassVar[str] = STARTS
    hybrid_deviation: ClassVar[str] = DYNAMIC
    integer: ClassVar[tuple[str, ...]] = ()

    def check(self, ins: Values, axes: int) -> None:
        weights = [value for name in self.integer if (value := ins.get(name)) is not None]
        if any(value.type.dtype != "float32" for value in weights):
            check_dynamic(self, ins, self.integer)
        else:
            check_real(ins)
        shape = ins["x"].type.shape
        require(len(shape) == axes, f"input must have {axes} axes, has {len(shape)}")
        usual = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1", "TANH")
        supported(self.activation in usual, f"activation {self.activation}")


@dataclass(frozen=True, kw_only=True)
class Rnn(Recurrent):
    """One step of a plain recurrent layer, x [batch, depth]."""

    mnemonic: ClassVar[str] = "q.rnn"
    integer: ClassVar[tuple[str, ...]] = ("weights", "recurrent")
    updates: ClassVar[tuple[str, ...]] = ("hidden",)
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("RNN", "RNNOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"), *_rnn_weights(""))

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        self.check(ins, 2)
        check_rnn(ins, "", *ins["x"].type.shape)

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return ((ins["x"].type.shape[0], ins["bias"].type.size),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        cell = RnnCell(core, ins, "", self.activation, asymmetric=self.asymmetric_inputs)
        (y,), state = cell.run([ins["x"].data], ins["hidden"].data)
        return y, state


@dataclass(frozen=True, kw_only=True)
class SequenceRnn(Recurrent):
    """A plain recurrent layer over a sequence [batch, steps, depth], or [steps, batch, depth] if `time_major`."""

    time_major: bool = attribute("TimeMajor", False)

    mnemonic: ClassVar[str] = "q.sequence_rnn"
    integer: ClassVar[tuple[str, ...]] = ("weights", "recurrent")
    updates: ClassVar[tuple[str, ...]] = ("hidden",)
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("UNIDIRECTIONAL_SEQUENCE_RNN", "SequenceRNNOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"), *_rnn_weights(""))

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        self.check(ins, 3)
        shape = ins["x"].type.shape
        check_steps(shape, self.time_major)
        check_rnn(ins, "", shape[1 if self.time_major else 0], shape[2])

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return ((*ins["x"].type.shape[:2], ins["bias"].type.size),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        steps = steps_of(core, ins["x"].data, ins["x"].type.shape, self.time_major)
        cell = RnnCell(core, ins, "", self.activation, asymmetric=self.asymmetric_inputs)
        results, state = cell.run(steps, ins["hidden"].data)
        return sequence_of(core, results, outs[0].type.shape, self.time_major), state


@dataclass(frozen=True, kw_only=True)
class Bidirectional(Recurrent):
    """Base of layers that read a sequence in both directions; `merged` puts both results side by side in one."""

    time_major: bool = attribute("TimeMajor", False)
    merged: bool = attribute("MergeOutputs", False)

    def batch(self, ins: Values) -> int:
        return ins["x"].type.shape[1 if self.time_major else 0]

    def shapes(self, ins: Values, units: Sequence[int]) -> tuple[Shape, ...]:
        front = ins["x"].type.shape[:2]
        return ((*front, sum(units)),) if self.merged else tuple((*front, n) for n in units)

    def joined(
        self, core: Core[T], ins: Operands[T], units: Sequence[int], results: Sequence[list[T]]
    ) -> tuple[T, ...]:
        """The results of both directions as the op's results."""
        front = ins["x"].type.shape[:2]
        parts = [
            sequence_of(core, steps, (*front, n), self.time_major) for steps, n in zip(results, units, strict=True)
        ]
        return (core.concat(parts, 2),) if self.merged else tuple(parts)


@dataclass(frozen=True, kw_only=True)
class BidirectionalRnn(Bidirectional):
    """Two plain recurrent layers, one from the start and one from the end."""

    mnemonic: ClassVar[str] = "q.bidirectional_rnn"
    integer: ClassVar[tuple[str, ...]] = tuple(
        f"{prefix}{name}" for prefix in ("fw_", "bw_") for name in ("weights", "recurrent")
    )
    hybrid_deviation: ClassVar[str] = (
        f"{DYNAMIC}; several batches, time major, merged and symmetric: LiteRT's process ends"
    )
    updates: ClassVar[tuple[str, ...]] = ("fw_hidden", "bw_hidden")
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("BIDIRECTIONAL_SEQUENCE_RNN", "BidirectionalSequenceRNNOptions"),
    )
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("x", "fixed"),
        *_rnn_weights("fw_"),
        *_rnn_weights("bw_"),
        *(Operand(name, "fixed", optional=True) for name in ("aux", "fw_aux_weights", "bw_aux_weights")),
    )

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        self.check(ins, 3)
        check_steps(ins["x"].type.shape, self.time_major)
        supported(ins.get("aux") is None, "an auxiliary input")
        for prefix in ("fw_", "bw_"):
            check_rnn(ins, prefix, self.batch(ins), ins["x"].type.shape[2])
        steps = ins["x"].type.shape[0]
        fits = self.passes(ins) * steps <= MOST_STEPS
        supported(fits, f"a time major sequence of {steps} steps with int8 weights, which TFLite reads {steps} times")

    def passes(self, ins: Values) -> int:
        """How many times TFLite's kernel goes through the sequence, from the state that the last time left: as many
        times as it has steps where weights are integers and time comes first."""
        again = self.time_major and ins["fw_weights"].type.dtype != "float32"
        return ins["x"].type.shape[0] if again else 1

    def units(self, ins: Values) -> list[int]:
        return [ins["fw_bias"].type.size, ins["bw_bias"].type.size]

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return self.shapes(ins, self.units(ins))

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        steps = steps_of(core, ins["x"].data, ins["x"].type.shape, self.time_major)
        results, states = [], []
        for prefix in ("fw_", "bw_"):
            cell = RnnCell(core, ins, prefix, self.activation, asymmetric=self.asymmetric_inputs)
            found, state = cell.run(steps, ins[f"{prefix}hidden"].data, prefix == "bw_")
            for _ in range(1, self.passes(ins.values)):
                found, state = cell.run(steps, state, prefix == "bw_")
            results.append(found)
            states.append(state)
        return (*self.joined(core, ins, self.units(ins.values), results), *states)


@dataclass(frozen=True, kw_only=True)
class BidirectionalLstm(Bidirectional):
    """Two LSTM layers, one from the start and one from the end."""

    cell_clip: float = attribute("CellClip", 0.0)
    projection_clip: float = attribute("ProjClip", 0.0)
    time_major: bool = attribute("TimeMajor", True)

    mnemonic: ClassVar[str] = "q.bidirectional_lstm"
    integer: ClassVar[tuple[str, ...]] = (*matrices("fw_"), *matrices("bw_"))
    updates: ClassVar[tuple[str, ...]] = ("fw_hidden", "fw_memory", "bw_hidden", "bw_memory")
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin(
            "BIDIRECTIONAL_SEQUENCE_LSTM",
            "BidirectionalSequenceLSTMOptions",
            deviation=f"{STARTS}; several batches that are not time major, merged: LiteRT reads beyond its state",
        ),
    )
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("x", "fixed"),
        *lstm_weights("fw_"),
        *lstm_weights("bw_"),
        *(Operand(f"{prefix}{state}", "fixed") for prefix in ("fw_", "bw_") for state in ("hidden", "memory")),
        Operand("aux", "fixed", optional=True),
        *(
            Operand(f"{prefix}aux_to_{gate}", "fixed", optional=True)
            for prefix in ("fw_", "bw_")
            for gate in ("input", "forget", "cell", "output")
        ),
    )

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        self.check(ins, 3)
        check_activation(self.activation)
        check_clips(self.cell_clip, self.projection_clip)
        check_steps(ins["x"].type.shape, self.time_major)
        supported(ins.get("aux") is None, "an auxiliary input")
        for prefix in ("fw_", "bw_"):
            states = f"{prefix}hidden", f"{prefix}memory"
            check_lstm(ins, prefix, self.batch(ins), ins["x"].type.shape[2], states)

    def fused(self, ins: Values) -> Span:
        """The activation is the cell's."""
        return EVERYTHING

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return self.shapes(ins, [lstm_units(ins, prefix) for prefix in ("fw_", "bw_")])

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        steps = steps_of(core, ins["x"].data, ins["x"].type.shape, self.time_major)
        results, states = [], []
        for prefix in ("fw_", "bw_"):
            clips = (self.cell_clip, self.projection_clip)
            cell = LstmCell(core, ins, prefix, self.activation, *clips, asymmetric=self.asymmetric_inputs)
            h, c = ins[f"{prefix}hidden"].data, ins[f"{prefix}memory"].data
            found, h, c = cell.run(steps, h, c, prefix == "bw_")
            results.append(found)
            states += [h, c]
        units = [lstm_units(ins.values, prefix) for prefix in ("fw_", "bw_")]
        return (*self.joined(core, ins, units, results), *states)


@dataclass(frozen=True, kw_only=True)
class BasicLstm(Recurrent):
    """One step of an LSTM whose weights are one matrix [4 * units, depth + units].

    Results: the hidden state, the cell's memory, x beside the last hidden state, and the gates before activation.
    """

    cell_clip: float = attribute("CellClip", 0.0)
    projection_clip: float = attribute("ProjClip", 0.0)
    kernel: str = attribute("KernelType", "FULL", enum="LSTMKernelType")

    mnemonic: ClassVar[str] = "q.basic_lstm"
    updates: ClassVar[tuple[str, ...]] = ("hidden", "memory")
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("LSTM", "LSTMOptions", deviation=f"{STARTS}; kernel type BASIC alone"),
    )
    hybrid_deviation: ClassVar[str] = ""
    operands: ClassVar[tuple[Operand, ...]] = tuple(
        Operand(name, "fixed") for name in ("x", "hidden", "weights", "bias", "memory")
    )
    results: ClassVar[tuple[str, ...]] = ("y", "state", "inputs", "gates")

    def check_operands(self) -> None:
        supported(self.kernel == "BASIC", "an LSTM of kernel type FULL; convert it to UNIDIRECTIONAL_SEQUENCE_LSTM")
        super().check_operands()

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        self.check(ins, 2)
        supported(self.activation in ("TANH", "NONE"), f"activation {self.activation}")
        supported(self.cell_clip == 0 and self.projection_clip == 0, "clipping")
        batch, depth = ins["x"].type.shape
        require(len(outs) == 4 and len(ins["hidden"].type.shape) == 2, "needs four results and a hidden state")
        units = ins["hidden"].type.shape[1]
        shapes = {
            "hidden": (batch, units),
            "memory": (batch, units),
            "weights": (4 * units, depth + units),
            "bias": (4 * units,),
        }
        for name, shape in shapes.items():
            require(ins[name].type.shape == shape, f"{name} is {list(ins[name].type.shape)}, not {list(shape)}")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        (batch, depth), units = ins["x"].type.shape, ins["hidden"].type.shape[1]
        return (batch, units), (batch, units), (batch, depth + units), (batch, 4 * units)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        units = ins["hidden"].type.shape[1]
        inputs = core.concat([ins["x"].data, ins["hidden"].data], 1)
        gates = core.matmul(inputs, core.permute_dims(ins["weights"].data, (1, 0)), "float32")
        gates = core.add(gates, ins["bias"].data)
        parts = [core.strided_slice(gates, (1,), (i * units,), ((i + 1) * units,), (1,)) for i in range(4)]
        admit, forget, opened = (FORMULAS["LOGISTIC"](core, parts[i], "float32", 0.0) for i in (0, 2, 3))
        memory = core.multiply(admit, core.tanh(parts[1]))
        memory = core.add(memory, core.multiply(forget, ins["memory"].data))
        hidden = core.multiply(opened, core.tanh(memory))
        return hidden, memory, inputs, gates, hidden, memory
