"""Options of the int8 LSTM: peepholes, layer normalization and a projection (eq. 44 to 46).

Gates' sums are numbers of 16 bits in int64.  Source: TFLite's lstm_eval.cc and portable_tensor_utils.cc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.core import Core
from tflite2q.arithmetic.fixedpoint import inverse_square_root
from tflite2q.arithmetic.rescale import (
    Rescale,
    high_multiply,
    int_const,
    multiply_fixed,
    rounding_shift_by,
    wrapped32,
)
from tflite2q.dialect.op import Operands, Values, require, supported
from tflite2q.dialect.ops.common import centred
from tflite2q.dialect.types import TensorType
from tflite2q.errors import InvalidGraph

T = TypeVar("T")

LOW, HIGH = -(1 << 15), (1 << 15) - 1  # of 16 bits
MEAN_BITS = 10  # fractional bits of a row's mean
GUARD = np.float32(10000)  # times the weights' scale: the variance of a row that has none
OPTIONS: Mapping[str, str] = {
    "peephole_forget": "peepholes",
    "projection": "a projection",
    "normalization_forget": "layer normalization",
}


def log2(cell: TensorType) -> int:
    """log2 of the cell state's scale.  Raises InvalidGraph if that is no power of two."""
    power = rounding.nearest_log2(cell.scale)
    if power is None:
        raise InvalidGraph("the cell state's scale must be a power of two")
    return power


def options_of(ins: Values) -> list[str]:
    """The options that an LSTM uses, in words."""
    return [what for slot, what in OPTIONS.items() if ins.get(slot) is not None]


def check_options(ins: Values) -> None:
    """Raise InvalidGraph where types of an int8 LSTM's operands do not fit; UnsupportedError where TFLite's kernel
    reads beyond its weights."""
    kinds = {"bias": "int32", "peephole": "int16", "normalization": "int16", "projection": "int8"}
    for name, value in ((slot.name, ins.get(slot.name)) for slot in ins.op.slots):
        kind = "int32" if name == "projection_bias" else kinds.get(name.partition("_")[0])
        if value is None or kind is None:
            continue
        require(value.type.dtype == kind, f"{name} is {value.type.dtype}, not {kind}")
        scaled = kind == "int32" or (value.type.quantized and len(value.type.parameters.scale) == 1)
        require(scaled, f"{name} needs one scale")
    if ins.get("peephole_forget") is not None:
        cells, results = ins["recurrent_to_forget"].type.shape
        supported(results <= cells, f"peepholes of {cells} cells with {results} results, beyond which TFLite reads")


def normalized(ins: Values, gates: Sequence[str]) -> list[str]:
    """The gates that are normalized, all or none.  Raises InvalidGraph for some."""
    given = [gate for gate in gates if ins.get(f"normalization_{gate}") is not None]
    require(given in ([], list(gates)), "some gates are normalized, others not")
    return given


@dataclass(frozen=True)
class GateSums(Generic[T]):
    """Peepholes and layer normalization of gates' sums [batch, cells]; `steps`: what one is worth, by gate.

    `apart`: the kernel computes each row of the batch by itself.
    """

    core: Core[T]
    ins: Operands[T]
    steps: Mapping[str, np.float32]
    apart: bool

    def __call__(self, gates: Sequence[str], sums: T, cell: T) -> T:
        """`sums` of `gates` side by side, before their activations; `cell` is the state that their peepholes see."""
        core, units = self.core, self.ins["cell"].type.shape[1]
        parts = []
        for number, gate in enumerate(gates):
            part = core.strided_slice(sums, (1,), (number * units,), ((number + 1) * units,), (1,))
            parts.append(self.normalized(gate, self.peephole(gate, part, cell)))
        return core.concat(parts, 1)

    def peephole(self, gate: str, sums: T, cell: T) -> T:
        """eq. 44."""
        core, weights = self.core, None if gate == "cell" else self.ins.get(f"peephole_{gate}")
        if weights is None:
            return sums
        index, inside = self._seen
        spread = core.multiply(core.take(core.astype(weights.data, "int64"), core.const(index)), core.const(inside))
        product = core.multiply(core.astype(cell, "int64"), spread)
        step = 2.0 ** log2(self.ins["cell"].type) * weights.type.scale / float(self.steps[gate])
        m, shift = rounding.quantize_multiplier(np.array([np.float32(step)], np.float64))
        return core.clip(core.add(sums, multiply_fixed(core, product, m, shift)), LOW, HIGH)

    @cached_property
    def _seen(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """[batch, cells]: the peephole that each cell has, and 1 or 0 for whether it has one.

        The kernel takes rows to be as long as the results, which makes a difference where a projection shortens them.
        """
        batch, cells = self.ins["cell"].type.shape
        results = self.ins["recurrent_to_forget"].type.shape[1]
        place = np.arange(batch * cells).reshape(batch, cells)
        inside = place % cells < results if self.apart else place < batch * results
        index = place % (cells if self.apart else results)
        return np.where(inside, index, 0).astype(np.int32), inside.astype(np.int64)

    def normalized(self, gate: str, sums: T) -> T:
        """eq. 45."""
        core, weights = self.core, self.ins.get(f"normalization_{gate}")
        if weights is None:
            return sums
        count, scale = weights.type.size, np.float32(weights.type.scale)
        total = core.left_shift(core.sum(sums, (1,), keepdims=True), int_const(core, MEAN_BITS))
        mean = _quotient(core, total, count)
        squares = core.sum(core.multiply(sums, sums), (1,), keepdims=True)
        spread = core.multiply(squares, int_const(core, (1 << 2 * MEAN_BITS) // count))
        variance = core.right_shift(core.subtract(spread, core.multiply(mean, mean)), int_const(core, 2 * MEAN_BITS))
        least = int_const(core, max(1, int(GUARD * scale)))
        variance = core.where(core.less(variance, int_const(core, 1)), least, variance)
        inverse, shift = inverse_square_root(core, variance)
        centre = core.subtract(core.left_shift(sums, int_const(core, MEAN_BITS)), mean)
        unit = rounding_shift_by(core, high_multiply(core, centre, inverse), shift)
        weighted = core.multiply(unit, core.astype(weights.data, "int64"))
        shifted = wrapped32(core, core.add(weighted, core.astype(self.ins[f"bias_{gate}"].data, "int64")))
        rounded = _nearest(core, shifted)
        m, exponent = rounding.quantize_multiplier(np.array([scale], np.float64))
        return core.clip(multiply_fixed(core, rounded, m, exponent + 12), LOW, HIGH)


def _quotient(core: Core[T], x: T, divisor: int) -> T:
    """x / divisor, rounded toward zero."""
    whole = core.floor_divide(core.abs(x), int_const(core, divisor))
    return core.where(core.less(x, int_const(core, 0)), core.negative(whole), whole)


def _nearest(core: Core[T], x: T) -> T:
    """x / 1024, ties away from zero."""
    half, bits = int_const(core, 1 << MEAN_BITS - 1), int_const(core, MEAN_BITS)
    whole = core.right_shift(core.add(core.abs(x), half), bits)
    return core.where(core.less(x, int_const(core, 0)), core.negative(whole), whole)


def projected(core: Core[T], ins: Operands[T], codes: T, inside: TensorType, y: TensorType, clip: float) -> T:
    """eq. 46: codes of the hidden state [batch, cells] to results [batch, results]."""
    weights, bias, state = ins["projection"], ins.get("projection_bias"), ins["hidden"].type
    columns = core.astype(core.permute_dims(weights.data, (1, 0)), "int32")
    # The kernel adds the zero point where others subtract it, and made the codes in the same way.
    acc = core.matmul(centred(core, codes, -inside.zero_point), columns, "int32")
    acc = acc if bias is None else core.add(acc, bias.data)
    real = np.float32(weights.type.scale) * np.float32(inside.scale) / np.float32(state.scale)
    found = Rescale((float(real),), state.zero_point, *state.range, state.dtype).meaning(core, acc)
    if clip <= 0:
        return found
    limit = int(min(np.float32(clip) / np.float32(y.scale), np.float32(127)))
    return found if limit == 0 else core.clip(found, -limit, limit)
