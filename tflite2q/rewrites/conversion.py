"""Converting a graph to a scheme: guard boundaries, assign types, rewrite ops, drop boundaries that do nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.ops.eltwise import Requantize
from tflite2q.flatbuffer import writer
from tflite2q.rewrites import clamps
from tflite2q.rewrites.apply import Applier
from tflite2q.rewrites.boundaries import drop_identities, guard, join_casts, split_casts
from tflite2q.rewrites.clamps import Clamp
from tflite2q.rewrites.complete import complete
from tflite2q.rewrites.losses import LayerChange, change
from tflite2q.rewrites.parameters import Boundaries, assign, planned
from tflite2q.rewrites.plan import unchanged
from tflite2q.rewrites.scheme import Scheme
from tflite2q.rewrites.statistics import Observation


@dataclass(frozen=True)
class Conversion:
    """A converted graph, the loss of each layer, the number of inserted requantizations, and the clamps that the
    original left to the range of its codes."""

    graph: Graph
    scheme: Scheme
    layers: tuple[LayerChange, ...]
    requantizations: int
    clamps: tuple[Clamp, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user: how the model was read, explicit clamps, inserted requantizations, and properties that a
        .tflite cannot store."""
        notes = list(self.graph.notes)
        if note := clamps.note(self.clamps):
            notes.append(note)
        if self.requantizations > 0:
            notes.append(f"{self.requantizations} requantizations inserted where neighbouring types differ")
        kinds = sorted({getattr(op, "rescale", "tflite") for op in self.graph.ops} - {"tflite"})
        if kinds:
            notes.append(
                f"a .tflite holds this scheme's parameters but not its {' and '.join(kinds)} rescaling: "
                "interpreters use their own fixed point; compile with --lib to get this rescaling"
            )
        return tuple(notes)

    def save(self, path: str | os.PathLike[str], force: bool = False) -> None:
        """Write as .tflite.  Raises UsageError if the file exists and `force` is not given, or cannot be written."""
        writer.save(self.graph, path, force=force)


def convert(
    graph: Graph, scheme: Scheme, seen: Mapping[str, Observation] | None = None, calibrate: bool = False
) -> Conversion:
    """Rewrite `graph` to `scheme`.

    `seen` holds observations of the original's activations, by name; bias correction and equalization need it (see
    `needs_observations`).  With `calibrate` it also narrows the ranges that new scales cover; real data may do this,
    noise may not.

    Raises SchemeError where the scheme is impossible for a layer, Unchanged if there is nothing to do, UnsupportedError
    if nothing can be done.
    """
    plan = planned(scheme, graph)
    guarded, boundaries = guard(join_casts(graph), plan)
    own, plan = plan, plan.renamed(boundaries.inner)
    known = _behind_boundaries(guarded, graph, boundaries, seen or {})
    types = assign(guarded, plan, boundaries, known if calibrate else {})
    cuts = clamps.cuts(guarded)
    applier = Applier(guarded, plan, types, known, cuts)
    kept = clamps.lost(guarded, types, cuts, boundaries.inner.values())
    new = split_casts(drop_identities(clamps.keep(applier.run(), kept), graph))
    if new == graph:
        raise unchanged(graph, own)
    new = complete(new)
    inner = {op.name: boundaries.inner.get(op.name, op.name) for op in graph.ops}
    changes = (
        change(op, graph, new, name, applier.weights.get(name), kept.get(name))
        for op, name in ((op, inner[op.name]) for op in graph.ops)
    )
    layers = tuple(replace(layer, stays=plan.stays(op, graph)) for op, layer in zip(graph.ops, changes, strict=True))
    inserted = _requantizations(new) - _requantizations(graph)
    return Conversion(verify(new), scheme, layers, inserted, tuple(kept.values()))


def needs_observations(graph: Graph, scheme: Scheme) -> bool:
    """Whether a conversion of `graph` to `scheme` uses observations of activations."""
    settings = [layer.recover for layer in scheme.layers(graph).values()]
    return any(recover.bias_correction or recover.equalize for recover in settings)


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


def _requantizations(graph: Graph) -> int:
    return sum(isinstance(op, Requantize) for op in graph.ops)
