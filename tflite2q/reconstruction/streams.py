"""Both networks, run op after op over all samples, so that a layer can change before any later op runs.

Convolutions of codes are computed in float32 with one rounding: their results differ from the reference's by one code
where that rounds twice, which is rare and says nothing about weights.  The reference computes everything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.numpy_core import NUMPY
from tflite2q.dialect.fold import folded
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op, Operands, Tensor, Values
from tflite2q.dialect.ops.common import is_codes
from tflite2q.dialect.ops.conv import Convolution
from tflite2q.dialect.types import STORAGE, Value
from tflite2q.execution import reference

Array = npt.NDArray[Any]
Compute = Callable[[Operands[Array]], Sequence[Array]]


class Stream:
    """The values of `graph` over samples, as far as it was run; those that no op reads any more are dropped."""

    def __init__(self, graph: Graph, samples: Sequence[Sequence[Array]]) -> None:
        self.graph = folded(graph)
        self.known: dict[str, Value] = dict(self.graph.by_name)
        self.samples = len(samples)
        self.place = {op.name: index for index, op in enumerate(self.graph.ops)}
        self.done = 0
        self.left = Counter(name for op in self.graph.ops for name in set(op.inputs) if name is not None)
        self.core = reference.core()
        self._reading: dict[str, dict[int, str]] = {}  # constants that ops read instead of their own, by slot
        self._held: dict[str, list[Array]] = {
            name: [sample[index] for sample in samples] for index, name in enumerate(self.graph.inputs)
        }

    def run(self, until: str) -> None:
        """Run the ops before the one of that name."""
        while self.graph.ops[self.done].name != until:
            self.step()

    def step(self) -> None:
        """Run the next op on all samples."""
        op = self.graph.ops[self.done]
        self.done += 1
        replaced = self._reading.get(op.name, {})
        op = op.with_(inputs=tuple(replaced.get(slot, name) for slot, name in enumerate(op.inputs)))
        ins, outs = [None if n is None else self.known[n] for n in op.inputs], self.graph.outs(op)
        compute = _fast(op, ins, outs) or self._exactly(op, outs)
        made = [
            compute(Operands(op, [None if value is None else Tensor(value, self.of(value.name, i)) for value in ins]))
            for i in range(self.samples)
        ]
        for index, name in enumerate(op.written):
            self._held[name] = [results[index] for results in made]
        for name in {name for name in op.inputs if name in self._held}:
            self.left[str(name)] -= 1
            if not self.left[str(name)]:
                self._held.pop(str(name))

    def of(self, name: str, sample: int) -> Array:
        """The data of a value in one sample."""
        if name in self._held:
            return self._held[name][sample]
        value = self.known[name]
        return value.constant.array if value.constant is not None else value.initial

    def set(self, op: Op, slot: int, value: Value) -> None:
        """Another constant for an op that is not run yet."""
        name = f"{op.name}/{slot}" if len(self.graph.consumers[str(op.inputs[slot])]) > 1 else str(op.inputs[slot])
        self.known[name] = value.with_(name=name)
        self._reading.setdefault(op.name, {})[slot] = name

    def holds(self, name: str) -> bool:
        """Whether a computed value is there."""
        return name in self._held

    def _exactly(self, op: Op, outs: Sequence[Value]) -> Compute:
        def compute(operands: Operands[Array]) -> Sequence[Array]:
            with np.errstate(all="ignore"):
                return op.compute(self.core, operands, outs)

        return compute


def most_bytes(graph: Graph) -> int:
    """The most bytes of one sample that a stream of `graph` holds at a time."""
    left = Counter(name for op in graph.ops for name in set(op.inputs) if name is not None)
    sizes = {v.name: v.type.size * np.dtype(STORAGE[v.type.dtype]).itemsize for v in graph.values if not v.carried}
    held = {name: sizes[name] for name in graph.inputs}
    most = sum(held.values())
    for op in graph.ops:
        held.update({name: sizes.get(name, 0) for name in op.outputs})
        most = max(most, sum(held.values()))
        for name in {name for name in op.inputs if name is not None}:
            left[name] -= 1
            if not left[name]:
                held.pop(name, None)
    return most


def _fast(op: Op, ins: Sequence[Value | None], outs: Sequence[Value]) -> Compute | None:
    """A convolution of codes in float32; None for all else."""
    if not isinstance(op, Convolution) or len(ins) < 2:
        return None
    x, weights = ins[0], ins[1]
    if x is None or weights is None or weights.constant is None or not is_codes(x.type) or not weights.type.quantized:
        return None
    bias = ins[2] if len(ins) > 2 else None
    if bias is not None and bias.constant is None:
        return None
    rescale = op.rescaling(Values(op, ins), outs[0])
    geometry, groups = op.window(x, weights), op.groups(x.type, weights.type)
    zeros = weights.type.parameters.zero_points(weights.type.shape[op.channel_axis])
    shape = [1] * 4
    shape[op.channel_axis] = -1
    centred = weights.data.astype(np.float32) - zeros.reshape(shape).astype(np.float32)
    filters = op.hwio(NUMPY, centred, weights.type.shape)
    multiplier = np.array(rescale.real, np.float32)
    added = np.float32(0) if bias is None else bias.data.reshape(-1).astype(np.float64) * np.array(rescale.real)
    offset = (added + rescale.zero_point).astype(np.float32)
    x_zero, dtype = np.float32(x.type.zero_point), STORAGE[outs[0].type.dtype]

    def compute(operands: Operands[Array]) -> Sequence[Array]:
        image = operands["x"].data.astype(np.float32)
        image -= x_zero
        sums = NUMPY.conv2d(
            geometry.pad(NUMPY, image, 0), filters, geometry.strides, geometry.dilation, groups, "float32"
        )
        sums = sums * multiplier
        sums += offset
        np.rint(sums, out=sums)
        np.clip(sums, rescale.low, rescale.high, out=sums)
        return (sums.astype(dtype),)

    return compute
