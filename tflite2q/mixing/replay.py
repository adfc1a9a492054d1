"""Running variants of one graph without computing what they share.

A variant differs from the base in a layer or two.  An op whose own fields, operands and result types are those of the
base is not run again but looked up, so a change near the output costs little; a result
that equals the base's bit for bit is treated as the base's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op, Operands, Tensor
from tflite2q.execution import reference

Array = npt.NDArray[Any]


class Replay:
    """The base graph run once on one sample, every value kept."""

    def __init__(self, base: Graph, sample: Sequence[Array]) -> None:
        self.base, self.sample = base, sample
        self.values = reference.run_every(base, *sample)
        self._ops = {op.name: op for op in base.ops}

    def value(self, variant: Graph, wanted: str) -> Array:
        """Value `wanted` of `variant` for the sample."""
        core = reference.core()
        values = {v.name: v.initial for v in variant.values if v.variable}
        values.update({v.name: v.constant.array for v in variant.values if v.constant is not None})
        values.update(zip(variant.inputs, self.sample, strict=True))
        # A variable holds different data at different times, so what touches one is computed again.
        same = {v.name for v in variant.values if v == self.base.by_name.get(v.name) and not v.variable}
        # So far only the types of computed values are compared; they are the base's once their op proves equal.
        computed = {name for op in variant.ops for name in op.outputs}
        clean = same - computed
        for op in variant.ops:
            if (
                op == self._ops.get(op.name)
                and all(n is None or n in clean for n in op.inputs)
                and self._typed(op, same)
            ):
                values.update((name, self.values[name]) for name in op.outputs)
                clean.update(op.outputs)
            else:
                operands = Operands(op, [None if n is None else Tensor(variant[n], values[n]) for n in op.inputs])
                for name, result in zip(op.written, op.compute(core, operands, variant.outs(op)), strict=True):
                    values[name] = result
                    if name in same and np.array_equal(result, self.values[name]):
                        clean.add(name)
            if wanted in op.outputs:
                break
        return values[wanted]

    @staticmethod
    def _typed(op: Op, same: set[str]) -> bool:
        return all(name in same for name in op.outputs)
