"""rewrite: the graphs that ops run are converted by themselves, between borders that keep their types.

    before: %y = q.while(%x) with a body  %a -> %c:  %b = q.conv2d(%a);   %c = q.add(%b, %a)
    after:  the same op, and inside  %a1 = q.requantize(%a);  ...;  %c = q.requantize(%c1)

A loop variable has one type before and after each iteration, and so have the results of two branches: the type of the
original.  Rules of a scheme that count ops do not apply there, and those that match nothing there are no errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from tflite2q.dialect.graph import Graph, inner_name
from tflite2q.dialect.op import Op
from tflite2q.errors import Unchanged, UnsupportedError
from tflite2q.rewrites.losses import LayerChange
from tflite2q.rewrites.plan import Plan
from tflite2q.rewrites.provisional import wanting
from tflite2q.rewrites.scheme import Scheme
from tflite2q.rewrites.stored import lifted

D = TypeVar("D")


class Done(Protocol):
    """The result of converting one graph."""

    @property
    def graph(self) -> Graph: ...
    @property
    def layers(self) -> tuple[LayerChange, ...]: ...
    @property
    def requantizations(self) -> int: ...


@dataclass(frozen=True)
class Regions:
    """A graph with its regions converted: their layers by the names that reports give them, how many requantizations
    they got, and the ops whose regions would need samples, and so stay as they are."""

    graph: Graph
    layers: tuple[LayerChange, ...] = ()
    requantizations: int = 0
    unobserved: tuple[str, ...] = ()


def converted(graph: Graph, scheme: Scheme, convert: Callable[[Graph, Scheme], Done]) -> Regions:
    """The regions of `graph` converted by `convert`."""
    if not any(op.regions for op in graph.ops):
        return Regions(graph)
    ops: list[Op] = []
    made = Regions(graph)
    for op in graph.ops:
        new = []
        for region in op.regions:
            done = attempted(region, scheme, convert)
            new.append(region if done is None else done.graph)
            if done is not None:
                made = replace(
                    made,
                    layers=(*made.layers, *called(op, region, done.layers)),
                    requantizations=made.requantizations + done.requantizations,
                )
        if any(needs_samples(region, scheme) for region in op.regions):
            made = replace(made, unobserved=(*made.unobserved, op.name))
        ops.append(op.with_(regions=tuple(new)) if new else op)
    return replace(made, graph=graph.with_(ops=tuple(ops)))


def attempted(region: Graph, scheme: Scheme, work: Callable[[Graph, Scheme], D]) -> D | None:
    """`work` on a region; None where it stays as it is."""
    if needs_samples(region, scheme):
        return None
    try:
        return work(region, _inside(scheme))
    except (Unchanged, UnsupportedError):
        return None


def each(graph: Graph) -> Iterator[tuple[Op, Graph]]:
    """(op, region) for each region of the ops of a graph."""
    return ((op, region) for op in graph.ops for region in op.regions)


def called(op: Op, region: Graph, layers: Sequence[LayerChange]) -> tuple[LayerChange, ...]:
    """Layers of a region by the names that reports of the whole graph give them."""
    return tuple(replace(layer, name=inner_name(op, region, layer.name)) for layer in layers)


def needs_samples(region: Graph, scheme: Scheme) -> bool:
    """Whether a scheme wants codes for real numbers of a region: samples are not observed there."""
    source, _ = lifted(region)
    return bool(wanting(source, Plan.of(_inside(scheme), source)))


def _inside(scheme: Scheme) -> Scheme:
    """The parts of `scheme` that apply to regions."""
    rules = [rule for rule in scheme.rules if not rule.match.counts]
    return replace(scheme, interface="keep", rules=tuple(replace(rule, optional=True) for rule in rules))
