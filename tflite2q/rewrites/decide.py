"""The decisions of a conversion, made before anything is rewritten; `convert` and `Forecast` both start from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.eltwise import Requantize
from tflite2q.dialect.types import TensorType
from tflite2q.rewrites import clamps
from tflite2q.rewrites.boundaries import guard, join_casts
from tflite2q.rewrites.clamps import Clamp, Cut
from tflite2q.rewrites.parameters import Boundaries, assign
from tflite2q.rewrites.plan import Plan
from tflite2q.rewrites.statistics import Observation
from tflite2q.rewrites.staying import planned


@dataclass(frozen=True)
class Decisions:
    """`own` is the plan for the original graph, `plan` the one for the guarded graph.

    `types` are the new types of activations, `known` the observations, `cuts` the values cut off by the range of their
    codes, and `kept` the clamps that keep such cuts, all by the names of the guarded graph.  The codes of a
    `provisional` graph are no real model's, and cut nothing.
    """

    own: Plan
    guarded: Graph
    boundaries: Boundaries
    plan: Plan
    known: Mapping[str, Observation]
    types: Mapping[str, TensorType]
    cuts: Mapping[str, Cut]
    kept: Mapping[str, Clamp]
    provisional: bool = False

    def inner(self, op: Op) -> str:
        """The name in the guarded graph of what `op` of the original computes."""
        return self.boundaries.inner.get(op.name, op.name)

    def result(self, op: Op, graph: Graph) -> TensorType:
        """The new type of what `op` of the original `graph` computes, before any cast that a model's output needs."""
        return self.types.get(self.inner(op), graph[op.name].type)


def decide(
    graph: Graph,
    plan: Plan,
    seen: Mapping[str, Observation] | None = None,
    calibrate: bool = False,
    provisional: bool = False,
) -> Decisions:
    """The decisions of a conversion of `graph` by `plan`; `seen` and `calibrate` are those of `convert`.

    Raises SchemeError where the scheme is impossible for a layer.
    """
    own = planned(plan, graph, clamps.limits(graph).spans, provisional)
    guarded, boundaries = guard(join_casts(graph), own)
    plan = own.renamed(boundaries.inner)
    known = _behind_boundaries(guarded, graph, boundaries, seen or {})
    limits = clamps.limits(guarded)
    types = assign(guarded, plan, boundaries, limits.spans, known if calibrate else {}, provisional)
    cuts = {} if provisional else limits.cuts
    kept = clamps.lost(guarded, types, cuts, boundaries.inner.values())
    return Decisions(own, guarded, boundaries, plan, known, types, cuts, kept, provisional)


def _behind_boundaries(
    guarded: Graph, graph: Graph, boundaries: Boundaries, seen: Mapping[str, Observation]
) -> dict[str, Observation]:
    """Observations, extended to the values before and after each boundary, which hold the same numbers."""
    known = dict(seen)
    known.update({inner: seen[outer] for outer, inner in boundaries.inner.items() if outer in seen})
    for op in guarded.ops:
        source = op.inputs[0] if op.inputs else None
        added = isinstance(op, Requantize) and op.name not in graph.by_name
        if added and source in known and guarded[op.name].type == guarded[source].type:
            known[op.name] = known[source]
    return known
