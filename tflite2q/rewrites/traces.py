"""What a conversion records about each layer with weights, for later steps (reconstruction)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.eltwise import Dequantize
from tflite2q.dialect.types import Value
from tflite2q.rewrites.scheme import Layer
from tflite2q.rewrites.weights import NewWeights


@dataclass(frozen=True)
class Exact:
    """A layer's weights as they became, and its bias, if it has one, in real numbers before it was rounded.

    `rescaled` are the channels whose weights were rounded.  Channels of the operand and of the result were divided by
    `source_gain` and `result_gain` (equalization): the numbers are those of the divided channels.
    """

    new: NewWeights
    bias: rounding.Floats | None
    rescaled: npt.NDArray[np.bool_]
    source_gain: rounding.Floats
    result_gain: rounding.Floats
    settings: Layer

    @property
    def weights(self) -> rounding.Floats:
        """The weights in real numbers before they were rounded; computed when asked for, as they take eight times the
        memory of int8 ones."""
        value = self.new.value
        q = value.type.quantization
        real = value.data.astype(np.float64) if q is None else q.real(value.data)
        return np.asarray(real - self.new.error)


@dataclass(frozen=True)
class Trace:
    """A layer: the op `name` of the new graph does what `origin` of the original did, with the constant `weights`."""

    name: str
    origin: str
    weights: str
    exact: Exact


def traced(guarded: Graph, new: Graph, exact: Mapping[str, Exact], origins: Mapping[str, str]) -> tuple[Trace, ...]:
    """The layers of a conversion; `exact` and `origins` are by the names of the guarded graph.

    Later steps may rename results, but they neither move nor remove layers.
    """
    before, after = ([op for op in graph.ops if slot_of(op) is not None] for graph in (guarded, new))
    if [op.mnemonic for op in before] != [op.mnemonic for op in after]:
        return ()
    return tuple(
        Trace(made.name, origins[op.name], stored.name, exact[op.name])
        for op, made in zip(before, after, strict=True)
        if op.name in exact and op.name in origins and (stored := stored_weights(made, new)) is not None
    )


def slot_of(op: Op, role: str = "weights") -> int | None:
    """Where an op has its operand of that role."""
    return next(iter(op.in_role(role)), None)


def stored_weights(op: Op, graph: Graph) -> Value | None:
    """The constant with an op's weights, also before a q.dequantize; None if there is none."""
    slot = slot_of(op)
    name = None if slot is None else op.inputs[slot]
    maker = graph.producers.get(name or "")
    if isinstance(maker, Dequantize):
        name = maker.inputs[0]
    return graph[name] if name is not None and graph[name].constant is not None else None
