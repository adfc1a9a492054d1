"""The loss of each layer, predicted from types and the magnitude of weights without converting anything.

It agrees with what `convert` reports at a small part of the cost, so that a model can be compared with every scheme.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import TensorType, Value
from tflite2q.rewrites import clamps
from tflite2q.rewrites.boundaries import guard, join_casts
from tflite2q.rewrites.clamps import Clamp
from tflite2q.rewrites.losses import LayerChange, loss_class
from tflite2q.rewrites.parameters import assign, planned
from tflite2q.rewrites.plan import Plan, activation_operands, is_activation, unchanged
from tflite2q.rewrites.scheme import Scheme, Weights
from tflite2q.rewrites.weights import conforms, outgrown


@dataclass(frozen=True)
class Extent:
    """Lowest and highest weight of each output channel, zero point taken off, in units of that channel's scale."""

    low: rounding.Floats
    high: rounding.Floats
    scale: rounding.Floats

    @staticmethod
    def of(value: Value, axis: int) -> Extent:
        q, channels = value.type.parameters, value.type.shape[axis]
        others = tuple(index for index in range(len(value.type.shape)) if index != axis)
        low, high = (
            found.astype(np.float64) - q.zero_points(channels)
            for found in (value.data.min(others), value.data.max(others))
        )
        return Extent(low, high, q.scales(channels).astype(np.float64))


class Forecast:
    """Forecasts for one graph; weights are analysed once for all schemes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.weights = {op.name: value for op in graph.ops if (value := _weights(op, graph)) is not None}
        self.extents = {
            op.name: Extent.of(self.weights[op.name], op.channel_axis) for op in graph.ops if op.name in self.weights
        }

    def layers(self, scheme: Scheme) -> tuple[LayerChange, ...]:
        """The layers that `convert` would report, without bounds.  Raises the same errors, Unchanged included."""
        plan = planned(scheme, self.graph)
        guarded, boundaries = guard(join_casts(self.graph), plan)
        types = assign(guarded, plan.renamed(boundaries.inner), boundaries, {})
        retyped = any(kind != guarded[name].type for name, kind in types.items())
        if not (retyped or self._reweighted(plan) or self._rescaled_otherwise(plan)):
            raise unchanged(self.graph, plan)
        kept = clamps.lost(guarded, types, clamps.cuts(guarded), boundaries.inner.values())
        inner = (boundaries.inner.get(op.name, op.name) for op in self.graph.ops)
        return tuple(
            self._layer(op, plan, types.get(name), kept.get(name))
            for op, name in zip(self.graph.ops, inner, strict=True)
        )

    def _reweighted(self, plan: Plan) -> bool:
        return any(
            op.name in self.weights
            and plan.wanted(op, self.graph) is not None
            and not conforms(self.weights[op.name], plan.layer(op).weights)
            for op in self.graph.ops
        )

    def _rescaled_otherwise(self, plan: Plan) -> bool:
        return any(
            getattr(op, "rescale", None) not in (None, plan.layer(op).rescale.arithmetic)
            for op in self.graph.ops
            if plan.wanted(op, self.graph) is not None
        )

    def _layer(self, op: Op, plan: Plan, now: TensorType | None, clamp: Clamp | None) -> LayerChange:
        touched = [v for v in (*activation_operands(op, self.graph), *self.graph.outs(op)) if is_activation(v)]
        stays = plan.stays(op, self.graph)
        if not touched:
            return LayerChange(op.name, op.mnemonic, None, stays=stays)
        result = self.graph[op.name].type
        channels = rescaled = None
        if op.name in self.weights and plan.wanted(op, self.graph) is not None:
            channels = len(self.extents[op.name].scale)
            rescaled = self._rescaled(op, plan.layer(op).weights)
        loss = loss_class(result, now or result, bool(rescaled))
        return LayerChange(op.name, op.mnemonic, loss, channels, rescaled, None, str(clamp) if clamp else None, stays)

    def _rescaled(self, op: Op, settings: Weights) -> int:
        """The number of output channels that would lose precision, except that some may fit the new grid by chance."""
        extent = self.extents[op.name]
        if settings.dtype == "float32" or conforms(self.weights[op.name], settings):
            return 0
        low, high, scale = extent.low, extent.high, extent.scale
        unlike = np.zeros(len(scale), bool)
        if settings.granularity == "per-tensor":
            common = scale.max(initial=0.0)
            unlike, low, high, scale = (
                scale != common,
                low * scale / common,
                high * scale / common,
                np.full_like(scale, common),
            )
        largest = np.maximum(np.abs(low), np.abs(high))
        if not settings.symmetric:
            bottom, top = rounding.code_range(settings.dtype)
            middle = (bottom + top + 1) // 2
            rows = unlike | (low.min() < bottom - middle) | (high.max() > top - middle)
        elif unlike.any():  # one step for all is made to cover the largest weight
            rows = unlike | (largest.max() != rounding.code_range(settings.dtype)[1])
        else:
            rows = outgrown(largest, scale, settings)
        return int((rows & (largest > 0)).sum())


def _weights(op: Op, graph: Graph) -> Value | None:
    """The constant, quantized weights of `op`."""
    for index, name in enumerate(op.inputs):
        if name is not None and op.operand(index).role == "weights":
            value = graph[name]
            return value if value.constant is not None and value.type.quantized else None
    return None
