"""Converting a graph to a scheme: guard boundaries, assign types, rewrite ops, drop boundaries that do nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tflite2q.dialect import needs
from tflite2q.dialect.graph import Graph, used, verify
from tflite2q.dialect.infer import inferred
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.eltwise import Requantize
from tflite2q.dialect.types import TensorType
from tflite2q.errors import hint
from tflite2q.flatbuffer import writer
from tflite2q.rewrites import clamps, regions
from tflite2q.rewrites.apply import Applier
from tflite2q.rewrites.boundaries import drop_identities, split_casts
from tflite2q.rewrites.clamps import Clamp
from tflite2q.rewrites.complete import complete
from tflite2q.rewrites.decide import Decisions, decide
from tflite2q.rewrites.losses import LayerChange, bound, change
from tflite2q.rewrites.plan import Plan, unchanged, weights_of
from tflite2q.rewrites.provisional import Coding, needs_data, provisional
from tflite2q.rewrites.scheme import Scheme
from tflite2q.rewrites.statistics import Observation, RealRange
from tflite2q.rewrites.stored import Stored, lifted, restored
from tflite2q.rewrites.traces import Trace, traced
from tflite2q.rewrites.weights import NewWeights

BLOCKS_IGNORED = (
    "LiteRT's reference kernels ignore the scales of blocks of weights and compute something else; its default kernels "
    "and compiled code do not"
)


@dataclass(frozen=True)
class Conversion:
    """A converted graph, the loss of each layer, the number of inserted requantizations, the clamps that the
    original left to the range of its codes, the ops whose branches or loops stay in real numbers, and why no
    activations were observed where the scheme asks for it ("" if they were), and what was left out of the samples.

    `traces` are the layers with weights, `remarks` what later steps have to say."""

    graph: Graph
    scheme: Scheme
    layers: tuple[LayerChange, ...]
    requantizations: int
    clamps: tuple[Clamp, ...] = ()
    unobserved: tuple[str, ...] = ()
    unsampled: str = ""
    left_out: tuple[str, ...] = ()
    traces: tuple[Trace, ...] = field(default=(), repr=False, compare=False)
    remarks: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user: how the model was read, explicit clamps, inserted requantizations, and properties that a
        .tflite cannot store."""
        notes = list(self.graph.notes)
        if note := clamps.note(self.clamps):
            notes.append(note)
        if self.requantizations > 0:
            notes.append(f"{self.requantizations} requantizations inserted where neighbouring types differ")
        if self.unobserved:
            names = ", ".join(map(repr, self.unobserved))
            notes.append(f"samples are not observed in branches and loops: those of {names} stay in real numbers")
        notes += self.remarks
        if self.unsampled:
            notes.append(f"biases and channels stay without correction, which {hint('needs --data')}: {self.unsampled}")
        kinds = sorted({getattr(op, "rescale", "tflite") for op in self.graph.every_op()} - {"tflite"})
        if kinds:
            notes.append(
                f"a .tflite holds this scheme's parameters but not its {' and '.join(kinds)} rescaling: "
                "interpreters use their own fixed point; compile it to a library to get this rescaling"
            )
        return (*notes, *kernel_notes(self.graph), *self.left_out)

    def __repr__(self) -> str:
        counts = Counter(layer.loss for layer in self.layers if layer.loss is not None)
        losses = ", ".join(f"{count} {loss}" for loss, count in counts.most_common())
        return f"<Conversion to {self.scheme.name}: {losses or 'no layer changed'}; {self.graph!r}>"

    def save(self, path: str | os.PathLike[str], force: bool = False) -> None:
        """Write as .tflite.  Raises UsageError if the file exists and `force` is not given, or cannot be written."""
        writer.save(self.graph, path, force=force)


def kernel_notes(graph: Graph) -> tuple[str, ...]:
    """Notes on where LiteRT's kernels do not compute what the model says."""
    blocks = any(value.type.quantization is not None and value.type.quantization.block for value in graph.values)
    return (BLOCKS_IGNORED,) if blocks else ()


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
    needs.require_convert(graph)
    original = graph
    inner = regions.converted(graph, scheme, convert)
    graph = inner.graph
    source, stored = lifted(graph)
    names: Mapping[str, str] = {op.name: op.name for op in source.ops}
    plan = Plan.of(scheme, source)
    coding = Coding(source, plan)
    real = bool(coding.ops)
    if real:
        if not calibrate or seen is None:
            raise needs_data(scheme)
        made = provisional(coding, seen)
        source, names = made.graph, made.names
        seen = {made.codes.get(name, name): observation for name, observation in seen.items()}
        plan = plan.renamed({old: new for new, old in names.items()})
    decided = decide(source, plan, seen, calibrate, real)
    applier = Applier(decided.guarded, decided.plan, decided.types, decided.known, decided.cuts, real)
    new = applier.run()
    new = restored(new, stored, graph, _in_real_numbers(new, decided.plan, stored))
    new = split_casts(drop_identities(clamps.keep(new, decided.kept), source))
    widened = new == source and scheme.layer.weights.dtype != "float32"  # halves are no reason to write a file
    if (new == graph or widened) and graph == original:
        raise unchanged(graph, decided.own)
    new = _known_anew(complete(new, graph))
    layers = tuple(
        replace(_change(op, source, decided, applier.weights.get(decided.inner(op))), name=names[op.name])
        for op in source.ops
        if op.name in names
    )
    inserted = _requantizations(new) - _requantizations(graph) + inner.requantizations
    kept = tuple(decided.kept.values())
    origins = {decided.inner(op): names[op.name] for op in source.ops if op.name in names}
    traces = traced(decided.guarded, new, applier.exact, origins)
    layers = (*layers, *inner.layers)
    return Conversion(verify(new), scheme, layers, inserted, kept, inner.unobserved, traces=traces)


def _known_anew(graph: Graph) -> Graph:
    """The graph with the numbers that follow from its constants, as a reader of its file finds them.

    Those of the original are not these: codes became real numbers, or real numbers codes, which are rounded.
    """
    made = {name for op in graph.ops for name in op.outputs}
    values = tuple(value.with_(constant=None) if value.name in made else value for value in graph.values)
    return used(inferred(graph.with_(values=values)).graph)


def _in_real_numbers(graph: Graph, plan: Plan, stored: Stored) -> list[str]:
    """The ops of a converted graph whose integer weights are to be dequantized: as the scheme says, or as before, or
    because no kernel multiplies them."""
    found = []
    for op in graph.ops:
        weights, layer = weights_of(op, graph), plan.layer(op)
        if weights is None or not weights.type.quantized or graph[op.name].type.dtype != "float32":
            continue
        follows = layer.activations.dtype == "float32"
        real = layer.weights.compute == "float" if follows else weights.name in stored.ops
        if real or not op.takes_integers(graph.ins(op)):
            found.append(op.name)
    return found


def real_kinds(graph: Graph, scheme: Scheme, extremes: Mapping[str, RealRange] | None = None) -> dict[str, TensorType]:
    """The types in which to observe the values that `scheme` turns from real numbers to codes, by name; none for models
    that have codes.

    `extremes` are the least and the greatest number of each.
    """
    source, _ = lifted(graph)
    coding = Coding(source, Plan.of(scheme, source))
    return coding.kinds(coding.with_room(extremes or {}))


def needs_observations(graph: Graph, scheme: Scheme) -> bool:
    """Whether a conversion of `graph` to `scheme` uses observations of activations."""
    settings = [layer.recover for layer in scheme.layers(graph).values()]
    return any(recover.bias_correction or recover.equalize for recover in settings)


def _change(op: Op, graph: Graph, decided: Decisions, weights: NewWeights | None) -> LayerChange:
    """The loss of `op` of `graph`, with its bound."""
    channels = None if weights is None else (len(weights.rescaled), int(weights.rescaled.sum()))
    layer = change(op, graph, decided, channels)
    return layer if layer.loss is None else replace(layer, bound=bound(op, graph, decided, weights))


def _requantizations(graph: Graph) -> int:
    """Casts to codes, without those of a float model's own inputs."""
    real = {name for name in graph.inputs if graph[name].type.dtype == "float32"}
    return sum(isinstance(op, Requantize) and op.inputs[0] not in real for op in graph.ops)
