"""Recurrent layers of real numbers: LSTM cells with every option, and plain RNN cells.

Weights are named as operands of the ops that use them, behind a prefix ("fw_" and "bw_" for the directions of a
bidirectional layer).  A sequence is [steps, batch, depth] here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Op, Operand, Operands, Tensor, Values, require, supported
from tflite2q.dialect.ops.common import activated, centred, float32, number
from tflite2q.dialect.ops.formulas import FORMULAS
from tflite2q.dialect.ops.hybrid import Quantized, products, quantized

T = TypeVar("T")

GATES = ("input", "forget", "cell", "output")
NORMALIZATION_FLOOR = 1e-8  # added to the variance of a layer's normalization
# Of float32 activations with int8 weights: the last digit of a hyperbolic tangent may decide about a code.
DYNAMIC = "with int8 weights, a number on the border of two codes may get either one"
MOST_STEPS = 1024  # of a sequence, each of which is written out


def lstm_weights(prefix: str, role: str = "fixed") -> tuple[Operand, ...]:
    """The operands of one direction of an LSTM, in the order of TFLite."""

    def group(pattern: str, optional: bool, gates: Sequence[str] = GATES) -> list[Operand]:
        return [Operand(prefix + pattern.format(gate), role, optional or gate == "input") for gate in gates]

    return (
        *group("input_to_{}", False),
        *group("recurrent_to_{}", False),
        *group("peephole_{}", True, ("input", "forget", "output")),
        *group("bias_{}", False),
        Operand(f"{prefix}projection", role, optional=True),
        Operand(f"{prefix}projection_bias", role, optional=True),
    )


def matrices(prefix: str) -> tuple[str, ...]:
    """The operands of one direction of an LSTM that may be int8 where activations are float32."""
    return tuple(slot.name for slot in lstm_weights(prefix) if "bias" not in slot.name)


def check_real(ins: Values) -> None:
    """Every operand is float32."""
    for value in ins:
        real = value is None or value.type.dtype == "float32"
        supported(real, f"{'' if value is None else value.name!r} is not float32; float layers take nothing else")


def check_dynamic(op: Op, ins: Values, integer: Sequence[str]) -> None:
    """Operands in the slots `integer` are int8 with one scale, all others float32; source: TFLite's `EvalHybrid`."""
    for slot in op.slots:
        value = ins.get(slot.name)
        if value is None or (slot.name not in integer and value.type.dtype == "float32"):
            continue
        what = f"{value.name!r} is {value.type.dtype}"
        wanted = slot.name in integer and value.type.dtype == "int8"
        supported(wanted, f"{what}; {op.builtin.name} of float32 with int8 weights takes int8 weights and float32")
        q = value.type.quantization
        require(q is not None and len(q.scale) == 1, f"{value.name!r} needs one scale")
        symmetric = q is not None and (q.symmetric or slot.name == "times")
        require(symmetric, f"{value.name!r} has a zero point; {op.builtin.name} takes none but 0 here")


def check_activation(activation: str) -> None:
    """Raise UnsupportedError for an LSTM without one: of the cell's memory, LiteRT's kernels then take what its place
    held before."""
    supported(activation != "NONE", "an LSTM of real numbers without an activation; give it TANH or another one")


def check_clips(*clips: float) -> None:
    """Raise InvalidGraph for a bound of magnitudes that is below 0; 0 is no bound."""
    require(all(clip >= 0 for clip in clips), f"clips at {min(clips):g}")


def squashed(core: Core[T], x: T, activation: str) -> T:
    """A recurrent layer's activation."""
    return core.tanh(x) if activation == "TANH" else activated(core, x, activation, "float32")


def check_steps(shape: Sequence[int], time_major: bool, most: float = MOST_STEPS) -> None:
    """Raise UnsupportedError for a sequence [batch, steps, depth], or steps first, of more than `most` or no steps."""
    steps = shape[0 if time_major else 1]
    supported(0 < steps <= most, f"a sequence of {steps} steps; 1 to {most} are possible")


def steps_of(core: Core[T], x: T, shape: Sequence[int], time_major: bool) -> list[T]:
    """The inputs [batch, depth] of each step."""
    axis = 0 if time_major else 1
    parts = (core.strided_slice(x, (axis,), (step,), (step + 1,), (1,)) for step in range(shape[axis]))
    return [core.reshape(part, (shape[1 - axis], shape[2])) for part in parts]


def sequence_of(core: Core[T], steps: Sequence[T], shape: Sequence[int], time_major: bool) -> T:
    """Results [batch, units] of each step as one tensor of `shape`."""
    axis = 0 if time_major else 1
    thin = (1, *shape[1:]) if time_major else (shape[0], 1, shape[2])
    return core.concat([core.reshape(step, thin) for step in steps], axis)


@dataclass(frozen=True)
class _Cell(Generic[T]):
    """Products with the weights in operands with a prefix; `asymmetric` are the codes that integer weights meet."""

    core: Core[T]
    ins: Operands[T]
    prefix: str
    activation: str
    asymmetric: bool = field(default=False, kw_only=True)

    def factor(self, x: T, weights: str) -> T | Quantized[T]:
        """Rows as they are multiplied with weights: as codes, if those are."""
        kind = self.ins[self.prefix + weights].type
        return x if kind.dtype == "float32" else quantized(self.core, x, self.asymmetric)

    def product(self, x: T | Quantized[T], name: str) -> T:
        weights = self.ins[self.prefix + name]
        columns = self.core.permute_dims(weights.data, (1, 0))
        if isinstance(x, Quantized):
            return products(self.core, x, columns, weights.type, None)  # type: ignore[no-any-return]
        return self.core.matmul(x, columns, "float32")


@dataclass(frozen=True)
class LstmCell(_Cell[T]):
    """An LSTM cell over operands with a prefix; peepholes, projection, normalization and input gate are optional."""

    cell_clip: float
    projection_clip: float
    normalized: bool = False

    def data(self, name: str) -> T | None:
        tensor = self.ins.get(self.prefix + name)
        return None if tensor is None else tensor.data

    def needed(self, name: str) -> T:
        return self.ins[self.prefix + name].data

    @property
    def coupled(self) -> bool:
        return self.data("input_to_input") is None

    def run(self, steps: Sequence[T], h: T, c: T, backwards: bool = False) -> tuple[list[T], T, T]:
        """The results of each step [batch, units], and the last states."""
        results = []
        for x in reversed(steps) if backwards else steps:
            h, c = self.step(x, h, c)
            results.append(h)
        return results[::-1] if backwards else results, h, c

    def step(self, x: T, h: T, c: T) -> tuple[T, T]:
        core, one = self.core, self.core.const(float32(1))
        seen, past = self.factor(x, "input_to_forget"), self.factor(h, "recurrent_to_forget")
        forget = self.logistic(self.gate("forget", seen, past, c))
        admit = core.subtract(one, forget) if self.coupled else self.logistic(self.gate("input", seen, past, c))
        candidate = squashed(core, self.gate("cell", seen, past, None), self.activation)
        c = core.add(core.multiply(forget, c), core.multiply(admit, candidate))
        if self.cell_clip > 0:
            c = core.clip(c, -self.cell_clip, self.cell_clip)
        opened = self.logistic(self.gate("output", seen, past, c))
        h = core.multiply(opened, squashed(core, c, self.activation))
        if self.data("projection") is not None:
            h = self.product(self.factor(h, "projection"), "projection")
            bias = self.data("projection_bias")
            h = h if bias is None else core.add(h, bias)
            if self.projection_clip > 0:
                h = core.clip(h, -self.projection_clip, self.projection_clip)
        return h, c

    def gate(self, name: str, x: T | Quantized[T], h: T | Quantized[T], c: T | None) -> T:
        """The sum of a gate before its activation, in the order of the kernels; c is what its peephole sees."""
        core, bias = self.core, self.needed(f"bias_{name}")
        products = (self.product(x, f"input_to_{name}"), self.product(h, f"recurrent_to_{name}"))
        total = products[0] if self.normalized else core.add(bias, products[0])
        total = core.add(total, products[1])
        peephole = None if c is None else self.ins.get(f"{self.prefix}peephole_{name}")
        if c is not None and peephole is not None:
            total = core.add(total, core.multiply(c, real_numbers(core, peephole)))
        if not self.normalized:
            return total
        units = self.ins[f"{self.prefix}bias_{name}"].type.size
        scaled = core.multiply(normalized(core, total, units), self.needed(f"normalization_{name}"))
        return core.add(scaled, bias)

    def logistic(self, x: T) -> T:
        return FORMULAS["LOGISTIC"](self.core, x, "float32", 0.0)  # type: ignore[no-any-return]


def real_numbers(core: Core[T], x: Tensor[T]) -> T:
    """A tensor's real numbers: as they are, or of codes with one scale."""
    if x.type.dtype == "float32":
        return x.data
    steps = core.astype(centred(core, x.data, x.type.zero_point), "float32")
    return core.multiply(steps, core.const(float32(x.type.scale)))


def normalized(core: Core[T], x: T, units: int) -> T:
    """Rows of x with mean 0 and variance 1."""
    count = number(core, units, "float32")
    centre = core.subtract(x, core.divide(core.sum(x, (1,), keepdims=True), count))
    spread = core.divide(core.sum(core.multiply(centre, centre), (1,), keepdims=True), count)
    return core.divide(centre, core.sqrt(core.add(spread, number(core, NORMALIZATION_FLOOR, "float32"))))


def lstm_units(ins: Values, prefix: str = "") -> int:
    """Length of an LSTM's result."""
    shape = ins[f"{prefix}recurrent_to_output"].type.shape
    require(len(shape) == 2, f"recurrent weights must have 2 axes, have {len(shape)}")
    return shape[1]


def check_lstm(ins: Values, prefix: str, batch: int, depth: int, states: tuple[str, str]) -> None:
    """Raise InvalidGraph where shapes of an LSTM's operands do not fit each other."""
    results = lstm_units(ins, prefix)
    cells = ins[f"{prefix}input_to_output"].type.shape[0]

    def fits(name: str, *shape: int) -> None:
        value = ins.get(name)
        right = value is None or value.type.shape == shape
        require(right, f"{name} is {[] if value is None else list(value.type.shape)}, not {list(shape)}")

    for gate in GATES:
        fits(f"{prefix}input_to_{gate}", cells, depth)
        fits(f"{prefix}recurrent_to_{gate}", cells, results)
        fits(f"{prefix}bias_{gate}", cells)
    for gate in ("input", "forget", "output"):
        fits(f"{prefix}peephole_{gate}", cells)
    given = [ins.get(f"{prefix}{name}") is None for name in ("input_to_input", "recurrent_to_input", "bias_input")]
    require(len(set(given)) == 1, "the input gate has weights without a bias, or the other way round")
    holes = [name for name in ("input", "forget", "output") if ins.get(f"{prefix}peephole_{name}") is not None]
    coupled = given[0]
    require(holes in ([], ["forget", "output"] if coupled else ["input", "forget", "output"]), "peepholes are missing")
    require(
        ins.get(f"{prefix}projection") is not None or ins.get(f"{prefix}projection_bias") is None,
        "a projection has a bias without weights",
    )
    if ins.get(f"{prefix}projection") is None:
        require(results == cells, f"{cells} cells but {results} results without a projection")
    fits(f"{prefix}projection", results, cells)
    fits(f"{prefix}projection_bias", results)
    fits(states[0], batch, results)
    fits(states[1], batch, cells)


@dataclass(frozen=True)
class RnnCell(_Cell[T]):
    """activation(W x + R h + b), by the names of its operands behind a prefix."""

    def run(self, steps: Sequence[T], h: T, backwards: bool = False) -> tuple[list[T], T]:
        """The results of each step [batch, units], and the last state."""
        core, results = self.core, []
        bias = self.ins[f"{self.prefix}bias"].data
        for x in reversed(steps) if backwards else steps:
            total = core.add(bias, self.product(self.factor(x, "weights"), "weights"))
            total = core.add(total, self.product(self.factor(h, "recurrent"), "recurrent"))
            h = squashed(core, total, self.activation)
            results.append(h)
        return results[::-1] if backwards else results, h


def check_rnn(ins: Values, prefix: str, batch: int, depth: int) -> int:
    """The units of an RNN's operands.  Raises InvalidGraph where their shapes do not fit each other."""
    units = ins[f"{prefix}bias"].type.size
    shapes = {"weights": (units, depth), "recurrent": (units, units), "bias": (units,), "hidden": (batch, units)}
    for name, shape in shapes.items():
        have = ins[prefix + name].type.shape
        require(have == shape, f"{prefix}{name} is {list(have)}, not {list(shape)}")
    return units
