"""Converting a graph to a scheme: guard boundaries, assign types, rewrite ops, drop what turned out to be idle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.ops.eltwise import Requantize
from tflite2q.flatbuffer import writer
from tflite2q.rewrites.apply import Applier
from tflite2q.rewrites.boundaries import drop_identities, guard, split_casts
from tflite2q.rewrites.losses import LayerChange, change
from tflite2q.rewrites.parameters import Boundaries, assign
from tflite2q.rewrites.plan import Plan, unchanged
from tflite2q.rewrites.scheme import Scheme
from tflite2q.rewrites.statistics import Observation, real_ranges


@dataclass(frozen=True)
class Conversion:
    """A converted graph, what happened to each layer, and how many requantizations the scheme had to insert."""

    graph: Graph
    scheme: Scheme
    layers: tuple[LayerChange, ...]
    requantizations: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know beside the layers: how the model was read, inserted requantizations, and what a
        .tflite cannot hold."""
        notes = list(self.graph.notes)
        if self.requantizations > 0:
            notes.append(f"{self.requantizations} requantizations inserted where neighbouring types differ")
        kinds = sorted({getattr(op, "rescale", "tflite") for op in self.graph.ops} - {"tflite"})
        if kinds:
            notes.append(
                f"a .tflite holds this scheme's parameters but not its {' and '.join(kinds)} rescaling: its "
                "interpreters round in their own fixed point; compile with --lib to have it"
            )
        return tuple(notes)

    def save(self, path: str | os.PathLike[str], force: bool = False) -> None:
        """Write as .tflite.  Raises UsageError if the file exists and `force` is not given, or cannot be written."""
        writer.save(self.graph, path, force=force)


def convert(
    graph: Graph, scheme: Scheme, seen: Mapping[str, Observation] | None = None, calibrate: bool = False
) -> Conversion:
    """Rewrite `graph` to `scheme`.

    `seen` is what was observed of the original's activations, by name; bias correction and
    equalization need it (see `needs_observations`).
    With `calibrate` it also narrows the ranges that new scales cover, which real data may do and noise may not.

    Raises SchemeError where the scheme is impossible for a layer, Unchanged if there is nothing to do, UnsupportedError
    if nothing can be done.
    """
    plan = Plan.of(scheme, graph)
    guarded, boundaries = guard(graph, plan)
    own, plan = plan, plan.renamed(boundaries.inner)
    known = _behind_boundaries(guarded, graph, boundaries, seen or {})
    ranges = real_ranges(known, scheme.layer.activations) if calibrate else {}
    applier = Applier(guarded, plan, assign(guarded, plan, boundaries, ranges), known)
    new = split_casts(drop_identities(applier.run(), graph))
    if new == graph:
        raise unchanged(graph, own)
    weights = {name: applier.weights.get(boundaries.inner.get(name, name)) for name in graph.producers}
    layers = tuple(change(op, graph, new, weights.get(op.name)) for op in graph.ops)
    inserted = _requantizations(new) - _requantizations(graph)
    return Conversion(verify(new), scheme, layers, inserted)


def needs_observations(graph: Graph, scheme: Scheme) -> bool:
    """Whether a conversion of `graph` to `scheme` makes use of what activations are like."""
    settings = [layer.recover for layer in scheme.layers(graph).values()]
    return any(recover.bias_correction or recover.equalize for recover in settings)


def _behind_boundaries(
    guarded: Graph, graph: Graph, boundaries: Boundaries, seen: Mapping[str, Observation]
) -> dict[str, Observation]:
    """Observations also for the values that guards put before and behind a boundary, which hold the same numbers."""
    known = dict(seen)
    known.update({inner: seen[outer] for outer, inner in boundaries.inner.items() if outer in seen})
    for op in guarded.ops:
        source = op.inputs[0] if op.inputs else None
        added = isinstance(op, Requantize) and op.name not in graph.by_name
        if added and source in known and guarded[op.name].type == guarded[source].type:
            known[op.name] = known[source]
    return known


def _requantizations(graph: Graph) -> int:
    return sum(isinstance(op, Requantize) for op in graph.ops)
