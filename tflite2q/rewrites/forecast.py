"""The loss of each layer, predicted from types and the magnitude of weights without converting anything.

It agrees with the report of `convert` and costs much less, so that `inspect` can try every scheme.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Value
from tflite2q.rewrites import clamps, regions
from tflite2q.rewrites.decide import decide
from tflite2q.rewrites.equalize import equalize
from tflite2q.rewrites.fitting import ends, fits_around_middle, outgrown
from tflite2q.rewrites.losses import LayerChange, change
from tflite2q.rewrites.parameters import quantizing, rescaling
from tflite2q.rewrites.plan import Plan, unchanged, weights_of
from tflite2q.rewrites.provisional import needs_data, wanting
from tflite2q.rewrites.scheme import Layer, Scheme, Weights
from tflite2q.rewrites.stored import lifted
from tflite2q.rewrites.weights import conforms, in_blocks


@dataclass(frozen=True)
class Extent:
    """Lowest and highest weight of each output channel, zero point taken off, in units of that channel's scale; `real`
    weights have none."""

    low: rounding.Floats
    high: rounding.Floats
    scale: rounding.Floats
    real: bool = False

    @staticmethod
    def of(value: Value, axis: int) -> Extent:
        q, channels = value.type.quantization, value.type.shape[axis]
        others = tuple(index for index in range(len(value.type.shape)) if index != axis)
        low, high = (
            found.astype(np.float64) - (0 if q is None or q.block else q.zero_points(channels))
            for found in (value.data.min(others), value.data.max(others))
        )
        if q is None or q.block:  # real numbers, in units of 1
            return Extent(low, high, np.ones(channels), real=True)
        return Extent(low, high, q.scales(channels).astype(np.float64))


class Forecast:
    """Forecasts for one graph; weights are analysed once for all schemes."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.stored = lifted(graph)
        graph = self.graph
        found = {op.name: (weights, op.channel_axis) for op in graph.ops if (weights := weights_of(op, graph))}
        self.extents = {name: Extent.of(*weights) for name, weights in found.items() if weights[0].constant is not None}

    def layers(self, scheme: Scheme) -> tuple[LayerChange, ...]:
        """The layers that `convert` would report, without bounds.  Raises the same errors, Unchanged included."""
        wanted = Plan.of(scheme, self.graph)
        if wanting(self.graph, wanted):
            raise needs_data(scheme)
        decided = decide(self.graph, wanted)
        plan = decided.own
        weights = {op.name: plan.real(op, self.graph) or plan.reweighted(op, self.graph) for op in self.graph.ops}
        retyped = any(kind != decided.guarded[name].type for name, kind in decided.types.items())
        inner = self._inner(scheme)
        changes = (self._changes(op, plan, weights.get(op.name)) for op in self.graph.ops)
        if not (retyped or inner or any(changes)):
            raise unchanged(self.graph, plan)
        # Without samples only what no bound cuts off is evened out.
        even = equalize(self.graph, plan, {}, {}, clamps.limits(self.graph).cuts)
        layers = []
        for op in self.graph.ops:
            value = weights.get(op.name)
            evened = op.name in even or op.source in even
            channels = None if value is None else self._channels(op, value, plan.layer(op).weights, evened)
            layers.append(change(op, self.graph, decided, channels))
        return (*layers, *inner)

    def _inner(self, scheme: Scheme) -> tuple[LayerChange, ...]:
        """The layers of regions that change."""
        found: list[LayerChange] = []
        for op, region in regions.each(self.graph):
            layers = regions.attempted(region, scheme, lambda graph, inner: Forecast(graph).layers(inner))
            found += regions.called(op, region, layers or ())
        return tuple(found)

    def _changes(self, op: Op, plan: Plan, weights: Value | None) -> bool:
        """Whether the op itself is rewritten where its activations keep their types."""
        layer = plan.layer(op)
        if weights is not None and plan.real(op, self.graph) is not None:
            return self._changes_real(op, weights, layer)
        if plan.wanted(op, self.graph) is None:
            return False
        if weights is not None and not conforms(weights, layer.weights):
            return True
        kinds = [value.type for value in (*self.graph.ins(op), *self.graph.outs(op)) if value is not None]
        return rescaling(op, layer, kinds) != op

    def _changes_real(self, op: Op, weights: Value, layer: Layer) -> bool:
        """Whether a layer of real numbers gets other weights, or computes with them in another way."""
        if not conforms(weights, layer.weights):
            return True
        if not weights.type.quantized:
            return False
        dynamic = layer.weights.compute == "integer"
        if dynamic != (weights.name not in self.stored.ops):
            return True
        return dynamic and quantizing(op, layer) != op

    def _channels(self, op: Op, weights: Value, settings: Weights, evened: bool) -> tuple[int, int]:
        """The number of output channels, and of those that would lose precision, except that some may fit the new grid
        by chance.  `evened` weights are multiplied by factors first, which makes them real numbers."""
        extent = self.extents[op.name]
        if settings.dtype == "float32" or (conforms(weights, settings) and not evened):
            return len(extent.scale), 0
        low, high, scale = extent.low, extent.high, extent.scale
        if extent.real or evened or in_blocks(weights, settings):  # blocks get steps of their own
            return len(scale), int(((low != 0) | (high != 0)).sum())
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
            # Unlike scales are put on one new step, which none keeps.
            fits = fits_around_middle(low.min(initial=0.0), high.max(initial=0.0), settings.dtype)
            rows = np.full_like(unlike, unlike.any() or not fits)
        elif unlike.any():  # one step for all is made to cover the largest weight
            rows = unlike | (largest.max() != ends(settings)[1])
        else:
            rows = outgrown(largest, scale, settings)
        return len(scale), int((rows & (largest > 0)).sum())
