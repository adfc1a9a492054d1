"""What workers need to measure any mix: the model, the schemes, and how a mix becomes a graph.

If schemes differ only in weights, a mix is assembled from whole conversions, layer by layer, which takes
milliseconds.  Otherwise each mix is converted.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy.typing as npt

from tflite2q import rewrites
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Value
from tflite2q.errors import Unchanged
from tflite2q.evaluation import calibration
from tflite2q.flatbuffer import writer
from tflite2q.mixing.mix import Mix, scheme_of
from tflite2q.rewrites.scheme import Recovery, Scheme
from tflite2q.rewrites.statistics import Observation

Array = npt.NDArray[Any]
Sample = Sequence[Array]


@dataclass(frozen=True, eq=False)
class Context:
    """`seen` are the original's activations over the samples that calibrate, `whole` its conversions to each scheme.

    `spliced`: mixes are put together from `whole`.  `memo` is for functions that measure; it stays where it is.
    """

    original: Graph
    schemes: tuple[Scheme, ...]
    samples: tuple[Sample, ...]
    seen: Mapping[str, Observation]
    whole: tuple[Graph, ...] = ()
    spliced: bool = False
    memo: dict[str, Any] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.RLock)

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("memo", "lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, memo={}, lock=threading.RLock())

    def scheme(self, mix: Mix) -> Scheme:
        return scheme_of(mix, self.original, self.schemes)

    def graph(self, mix: Mix) -> Graph:
        """The model under a mix, for measuring."""
        if self.whole and len({k for k in mix.values() if k}) == 0:
            return self.whole[0]
        return splice(self.whole, mix) if self.spliced else self.converted(mix)

    def converted(self, mix: Mix) -> Graph:
        """The model as `convert --data` makes it of the mix's scheme."""
        return convert(self.original, self.scheme(mix), self.samples, self.seen)


def convert(original: Graph, scheme: Scheme, samples: Sequence[Sample], seen: Mapping[str, Observation]) -> Graph:
    """`original` under `scheme`, calibrated on `samples`; itself where that changes nothing.

    What was `seen` on these samples is all that most schemes need of them.
    """
    try:
        if reconstructs(original, scheme) or rewrites.real_kinds(original, scheme):
            return calibration.convert(original, scheme, samples).graph
        return rewrites.convert(original, scheme, seen, calibrate=True).graph
    except Unchanged:
        return original


def reconstructs(graph: Graph, scheme: Scheme) -> bool:
    """Whether the scheme rounds weights by running the model, which takes minutes and makes layers depend on those
    before them."""
    off = {f.name: f.default for f in fields(Recovery)}.get("reconstruct")
    return any(getattr(layer.recover, "reconstruct", off) != off for layer in scheme.layers(graph).values())


def with_conversions(context: Context, whole: Sequence[Graph], options: Mapping[str, Sequence[int]]) -> Context:
    """The context with whole conversions.  Mixes are spliced from them if that is what converting would give, which one
    mix tells, or near enough where each conversion would take minutes."""
    found = replace(context, whole=tuple(whole), spliced=False)
    if not all(fits(whole, op, k) for op, schemes in options.items() for k in schemes):
        return found
    if any(reconstructs(context.original, scheme) for scheme in context.schemes):
        return replace(found, spliced=True)
    probe = {op: schemes[-1] for op, schemes in list(options.items())[::2]}
    same = writer.write(splice(whole, probe)) == writer.write(found.converted(probe))
    return replace(found, spliced=same)


def splice(whole: Sequence[Graph], mix: Mix) -> Graph:
    """The first of the graphs with layers of the others: ops with their constants."""
    base = whole[0]
    ops: dict[str, Op] = {}
    values: dict[str, Value] = {}
    for op, k in mix.items():
        if not k:
            continue
        mine, other = (maker(graph, op) for graph in (base, whole[k]))
        ops[mine.name] = replace(other, inputs=mine.inputs, outputs=mine.outputs)
        for slot, name in enumerate(mine.inputs):
            theirs = other.inputs[slot]
            if name is not None and theirs is not None and base[name].constant is not None:
                values[name] = replace(whole[k][theirs], name=name)
    return base.with_(
        ops=tuple(ops.get(op.name, op) for op in base.ops),
        values=tuple(values.get(value.name, value) for value in base.values),
    )


def fits(whole: Sequence[Graph], op: str, k: int) -> bool:
    """Whether layer `op` of graph k can take its place in the first one: the same kind, the same activations around
    it, and constants of its own."""
    base, other = whole[0], whole[k]
    mine, theirs = maker(base, op), maker(other, op)
    if type(mine) is not type(theirs) or len(mine.inputs) != len(theirs.inputs):
        return False
    for a, b in zip(mine.inputs, theirs.inputs, strict=True):
        if (a is None) != (b is None):
            return False
        if a is None or b is None:
            continue
        if (base[a].constant is None) != (other[b].constant is None):
            return False
        if base[a].constant is None and (a != b or base[a].type != other[b].type):
            return False
        if base[a].constant is not None and len(base.consumers[a]) > 1:
            return False
    return mine.outputs == theirs.outputs and all(base[name].type == other[name].type for name in mine.outputs)


def maker(graph: Graph, op: str) -> Op:
    """The op that computes layer `op` of the original in a converted graph: behind it are clamps, and a cast at the
    output."""
    found = graph.producers[op]
    while not _weighted(found) and (source := found.inputs[0]) is not None and source in graph.producers:
        found = graph.producers[source]
    return found


def _weighted(op: Op) -> bool:
    return bool(op.in_role("weights"))
