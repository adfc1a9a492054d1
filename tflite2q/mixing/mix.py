"""Mixes of schemes: the options of each layer, the mixes that save most to first order, and a mix as a scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from glob import escape

from tflite2q.dialect.graph import Graph
from tflite2q.rewrites.rules import Match, Rule, places
from tflite2q.rewrites.scheme import ROLES, Layer, Scheme

# Op name -> index of the scheme it follows; ops that are not named follow scheme 0.
Mix = Mapping[str, int]


@dataclass(frozen=True)
class Option:
    """Layer `op` under scheme `scheme` instead of the base: what it saves, and the output error it adds."""

    op: str
    scheme: int
    saving: float
    error: float


def key(mix: Mix) -> str:
    """A mix as text, equal for equal mixes."""
    return ",".join(f"{op}={k}" for op, k in sorted(mix.items()) if k)


def choices(graph: Graph, schemes: Sequence[Scheme]) -> dict[str, list[int]]:
    """For each op with weights, the schemes whose settings differ from those of the first and of all before them."""
    by_scheme = [scheme.layers(graph) for scheme in schemes]
    found: dict[str, list[int]] = {}
    for place in places(graph):
        if place.channels is None:
            continue
        said = [layers[place.op.name] for layers in by_scheme]
        different = [k for k in range(1, len(said)) if said[k] not in said[:k]]
        if different:
            found[place.op.name] = different
    return found


def scheme_of(mix: Mix, graph: Graph, schemes: Sequence[Scheme], name: str = "mixed") -> Scheme:
    """The first scheme with one rule for each layer of the mix that uses another one."""
    base = schemes[0]
    by_scheme = [scheme.layers(graph) for scheme in schemes]
    rules = list(base.rules)
    for op, index in followed(mix, graph, by_scheme).items():
        changes = _difference(by_scheme[0][op], by_scheme[index][op])
        if changes:
            rules.append(Rule(Match(name=escape(op)), changes))
    return replace(base, name=name, rules=tuple(rules))


def followed(mix: Mix, graph: Graph, by_scheme: Sequence[Mapping[str, Layer]]) -> dict[str, int]:
    """The mix with the ops that have no choice of their own: one whose operands all come from layers of one scheme
    follows it, so that nothing is requantized inside a region of that scheme."""
    weighted = {place.op.name for place in places(graph) if place.channels is not None}
    found = {op: k for op, k in mix.items() if k}
    for op in graph.ops:
        if op.name in weighted:
            continue
        makers = {graph.producers[name].name for name in op.inputs if name is not None and name in graph.producers}
        said = {found.get(maker, 0) for maker in makers}
        if len(said) == 1 and (k := said.pop()):
            found[op.name] = k

    def differs(op: str, k: int) -> bool:
        base, other = by_scheme[0][op], by_scheme[k][op]
        if op in weighted:
            return base != other
        return (base.activations, base.rescale) != (other.activations, other.rescale)

    return {op: k for op, k in found.items() if differs(op, k)}


def _difference(base: Layer, other: Layer) -> tuple[tuple[str, str, object], ...]:
    return tuple(
        (role, f.name, getattr(getattr(other, role), f.name))
        for role, kind in ROLES.items()
        for f in fields(kind)
        if getattr(getattr(other, role), f.name) != getattr(getattr(base, role), f.name)
    )


def front(options: Sequence[Option]) -> list[dict[str, int]]:
    """Mixes from nothing changed to everything, each the previous one with the best remaining step.

    To first order errors and savings add, and then the mixes that save most for their error take the steps in the order
    of saving per error; where a layer has several options only those on its own convex hull are steps.  Ties are broken
    by name, so equal measurements give equal fronts.
    """
    steps: list[tuple[float, str, int]] = []
    for op in sorted({option.op for option in options}):
        saving = error = 0.0
        for option in _hull([o for o in options if o.op == op]):
            gain = (option.saving - saving) / max(option.error - error, 1e-12)
            steps.append((gain, op, option.scheme))
            saving, error = option.saving, option.error
    mixes: list[dict[str, int]] = [{}]
    for _, op, scheme in sorted(steps, key=lambda step: (-step[0], step[1])):
        mixes.append({**mixes[-1], op: scheme})
    return mixes


def largest_first(options: Sequence[Option]) -> list[dict[str, int]]:
    """The simple mixes to beat: the layers that save most first, whatever they cost in error."""
    mixes: list[dict[str, int]] = [{}]
    for option in sorted(options, key=lambda o: (-o.saving, o.op, o.scheme)):
        if option.saving > 0 and option.op not in mixes[-1]:
            mixes.append({**mixes[-1], option.op: option.scheme})
    return mixes


def _hull(options: Sequence[Option]) -> list[Option]:
    """The options of one layer that are best for some price of error, by rising saving."""
    hull: list[Option] = []
    start = (0.0, 0.0)
    for option in sorted((o for o in options if o.saving > 0), key=lambda o: (o.saving, o.error)):
        if hull and option.saving == hull[-1].saving:
            continue  # sorted after one that saves as much for no more error
        while hull:
            before = (hull[-2].saving, hull[-2].error) if len(hull) > 1 else start
            last = hull[-1]
            if _slope(before, option) <= _slope(before, last):
                hull.pop()
            else:
                break
        hull.append(option)
    return hull


def _slope(start: tuple[float, float], option: Option) -> float:
    """Error for each unit of saving."""
    return (option.error - start[1]) / max(option.saving - start[0], 1e-12)
