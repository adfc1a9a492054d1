"""Mixes where neighbouring layers of different types need a requantization between them.

For a given price of error, the best mix minimizes a sum of layer terms (time and error) and neighbour terms (the time
of a requantization if their types differ).  For two schemes, a minimum cut solves this exactly.  For more, one scheme
after the other is offered to all layers until nothing is gained (Boykov, Veksler and Zabih, 2001).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tflite2q.dialect.graph import Graph
from tflite2q.mixing.mix import Option

PRICES = 24  # of error that are tried, evenly on a logarithmic scale
ROUNDS = 8
LEAST = 1e-12  # capacity that is not rounding


@dataclass(frozen=True)
class Border:
    """Two layers that are neighbours, and what a requantization between them takes."""

    first: str
    second: str
    cost: float


def sources(graph: Graph, layers: Collection[str]) -> dict[str, tuple[str, ...]]:
    """For each value that ops compute, the layers that it comes from without another one between."""
    found: dict[str, tuple[str, ...]] = {}
    for op in graph.ops:
        behind = {source for name in op.inputs if name is not None for source in found.get(name, ())}
        for name in op.outputs:
            found[name] = (op.name,) if op.name in layers else tuple(sorted(behind))
    return found


def neighbours(graph: Graph, layers: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of layers between which there are only ops without a choice of their own; the first one's result is what
    would be requantized."""
    behind = sources(graph, layers)
    return [
        (source, op.name)
        for op in graph.ops
        if op.name in layers
        for source in sorted({s for name in op.inputs if name is not None for s in behind.get(name, ())})
    ]


def front(options: Sequence[Option], borders: Sequence[Border]) -> list[dict[str, int]]:
    """The best mixes for a series of prices of error, from nothing changed."""
    ratios = sorted(o.saving / max(o.error, 1e-9) for o in options if o.saving > 0)
    mixes: list[dict[str, int]] = [{}]
    if not ratios:
        return mixes
    low, high = ratios[0] / 100, ratios[-1] * 2
    for step in range(PRICES):
        price = high * (low / high) ** (step / (PRICES - 1))
        found = best(options, borders, price, mixes[-1])
        if found != mixes[-1]:
            mixes.append(found)
    return mixes


def best(
    options: Sequence[Option], borders: Sequence[Border], price: float, start: Mapping[str, int]
) -> dict[str, int]:
    """The mix with the least time plus `price` times error, beginning from one."""
    terms = {(o.op, o.scheme): price * o.error - o.saving for o in options}
    layers = sorted({o.op for o in options})
    labels = {op: start.get(op, 0) for op in layers}
    schemes = sorted({0, *(o.scheme for o in options)})
    for _ in range(ROUNDS):
        before = dict(labels)
        for scheme in schemes:
            _offer(scheme, labels, terms, borders)
        if labels == before:
            break
    return {op: k for op, k in labels.items() if k}


def _offer(
    scheme: int, labels: dict[str, int], terms: Mapping[tuple[str, int], float], borders: Sequence[Border]
) -> None:
    """Let the layers take `scheme` that do so in the best of all choices between it and what they have."""
    gain: dict[str, float] = {}  # what taking it costs a layer
    for op, now in labels.items():
        offered = terms.get((op, scheme)) if scheme else 0.0
        if offered is not None and now != scheme:
            gain[op] = offered - (terms[op, now] if now else 0.0)
    edges: list[tuple[str, str, float]] = []
    for border in borders:
        u, v = border.first, border.second
        if u == v or u not in labels or v not in labels:
            continue
        stay = border.cost * (labels[u] != labels[v])
        if u in gain and v in gain:
            first, second = border.cost * (scheme != labels[v]), border.cost * (labels[u] != scheme)
            gain[u] += first - stay
            gain[v] -= first
            edges.append((u, v, first + second - stay))
        elif u in gain:
            gain[u] += border.cost * (scheme != labels[v]) - stay
        elif v in gain:
            gain[v] += border.cost * (scheme != labels[u]) - stay
    for op in _cut(gain, edges):
        labels[op] = scheme


def _cut(gain: Mapping[str, float], edges: Sequence[tuple[str, str, float]]) -> set[str]:
    """The set S with the least sum of `gain` in S, plus each edge (u, v, w) with u outside and v inside.

    Found as the sink's side of a minimum cut, by augmenting shortest paths (Edmonds and Karp, 1972).
    """
    source, sink = object(), object()
    rest: dict[object, dict[object, float]] = {source: {}, sink: {}, **{op: {} for op in gain}}

    def join(a: object, b: object, capacity: float) -> None:
        rest[a][b] = rest[a].get(b, 0.0) + capacity
        rest[b].setdefault(a, 0.0)

    for op, cost in gain.items():
        join(source, op, cost) if cost > 0 else join(op, sink, -cost)
    for u, v, weight in edges:
        if weight > 0:
            join(u, v, weight)
    while (parents := _path(rest, source, sink)) is not None:
        step, flow = sink, float("inf")
        while step is not source:
            flow, step = min(flow, rest[parents[step]][step]), parents[step]
        step = sink
        while step is not source:
            rest[parents[step]][step] -= flow
            rest[step][parents[step]] += flow
            step = parents[step]
    inside = _reaching(rest, sink)
    return {op for op in gain if op in inside}


def _path(rest: Mapping[object, Mapping[object, float]], source: object, sink: object) -> dict[object, object] | None:
    """The node from which each node on the way is reached, if the sink can be reached."""
    parents = {source: source}
    waiting = deque([source])
    while waiting and sink not in parents:
        node = waiting.popleft()
        for other, capacity in rest[node].items():
            if capacity > LEAST and other not in parents:
                parents[other] = node
                waiting.append(other)
    return parents if sink in parents else None


def _reaching(rest: Mapping[object, Mapping[object, float]], sink: object) -> set[object]:
    """The nodes from which the sink can be reached: of equal cuts, the one that changes least."""
    found, waiting = {sink}, [sink]
    while waiting:
        node = waiting.pop()
        for other in rest[node]:
            if other not in found and rest[other].get(node, 0.0) > LEAST:
                found.add(other)
                waiting.append(other)
    return found
