"""Candidates: the errors of single layers, seen from both ends, and the mixes that they lead to, measured.

Errors of layers add up only to first order.  They are therefore measured twice: the error that each layer adds to the
first scheme, and the error that goes away if, in the mix of all changes, that layer alone is put back.  Both orders,
their mean and the largest layers first are measured as whole mixes; the front holds the mixes that no other one beats.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from tflite2q.dialect.graph import Graph
from tflite2q.evaluation.results import Progress
from tflite2q.micro import peak
from tflite2q.mixing import borders, measure
from tflite2q.mixing.choosing import spread
from tflite2q.mixing.context import Context
from tflite2q.mixing.costs import Clock, Goal, layer_time
from tflite2q.mixing.crew import Budget, Crew, done
from tflite2q.mixing.mix import Mix, Option, front, key, largest_first
from tflite2q.mixing.state import State

MOST = 24  # mixes of each order that are measured
FEW = 1e-12
Left = Callable[[], float]
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Candidate:
    """A mix with its cost and error: estimated to first order, and measured (None: not)."""

    mix: Mix
    estimated_cost: float
    estimated_error: float
    cost: float | None = None
    error: float | None = None
    largest_first: bool = False

    @property
    def figures(self) -> tuple[float, float]:
        """Cost and error, measured where they were."""
        return (
            self.estimated_cost if self.cost is None else self.cost,
            self.estimated_error if self.error is None else self.error,
        )

    def beats(self, other: Candidate) -> bool:
        """Whether cost and error are at least as good as another's, and one of them is better."""
        mine, its = self.figures, other.figures
        return mine != its and mine[0] <= its[0] and mine[1] <= its[1]


class Fronts:
    """Measures layers and whole mixes on a few samples; `handle` and `pack` are the crew's for context and samples."""

    def __init__(
        self, context: Context, handle: Any, pack: Any, goal: Goal, crew: Crew, budget: Budget, state: State,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.context, self.handle, self.pack, self.goal = context, handle, pack, goal
        self.crew, self.budget, self.state, self.progress = crew, budget, state, progress
        self.complete = True
        self.borders: list[borders.Border] = []
        self.base_cost = 0.0  # of the first scheme

    # --------------------------------------------------------------------------------------------------- single layers

    def savings(self, options: Mapping[str, Sequence[int]], clock: Clock | None) -> list[Option]:
        """The savings of each layer under each other scheme, largest first; errors are unknown."""
        parts = [self._parts(k, options, clock) for k in range(len(self.context.schemes))]
        if clock is not None:
            self.borders = self._borders(options, clock)
        found = [Option(op, k, parts[0][op] - parts[k][op], 0.0) for op, ks in options.items() for k in ks]
        return sorted((o for o in found if o.saving > 0), key=lambda o: (-o.saving, o.op, o.scheme))

    def _parts(self, k: int, options: Mapping[str, Sequence[int]], clock: Clock | None) -> Mapping[str, float]:
        """Each layer's part of the cost of the whole model under scheme k."""
        graph = self.context.whole[k]
        if self.goal.layer is not None:
            return {op: self.goal.layer(graph, op) for op in options}
        assert clock is not None  # which a search has for every goal that counts nothing
        times = self._times(f"{self.context.schemes[k].name} {k}", graph, clock)
        return {op: layer_time(times, graph, op) for op in options}

    def _times(self, name: str, graph: Graph, clock: Clock) -> dict[str, float]:
        known = self.state.get(f"times {clock.name} {name}")
        if known is None:
            self.progress(f"timing the layers of {name.partition(' ')[0]}", 0, 0)
            known = clock.within(self.budget, lambda ready: ready.ops(graph))
            self.state.put(f"times {clock.name} {name}", known)
        return dict(known)

    def _borders(self, options: Mapping[str, Sequence[int]], clock: Clock) -> list[borders.Border]:
        """The time of requantizations, measured where every second layer follows another scheme."""
        pairs = borders.neighbours(self.context.original, options)
        layers = [scheme.layers(self.context.original) for scheme in self.context.schemes]
        if all(a[op].activations == layers[0][op].activations for a in layers for op in a):
            return []
        mixed = self.context.graph({op: ks[-1] for op, ks in list(options.items())[::2]})
        times = self._times("alternating", mixed, clock)
        casts = [op.name for op in mixed.ops if op.mnemonic == "q.requantize"]
        elements = sum(mixed[name].type.size for name in casts) or 1
        each = sum(times.get(name, 0.0) for name in casts) / elements
        return [borders.Border(a, b, each * self.context.original[a].type.size) for a, b in pairs]

    def errors(self, options: Sequence[Option], left: Left) -> list[Option]:
        """The options with the errors that they add to the first scheme.  Where the time ends before, errors follow
        from how far the weights move, in the proportion that the measured layers show."""
        floor = self.floor(left)
        jobs = {(o.op, o.scheme): {o.op: o.scheme} for o in options}
        if floor is None:
            self.complete = False
            return []
        measured = self._measured(jobs, {}, left, "measuring layers")
        known = {pair: max(error - floor, 0.0) for pair, error in measured.items()}
        if len(known) < len(jobs):
            self.complete = False
        return self._completed(options, known)

    def _completed(self, options: Sequence[Option], known: Mapping[tuple[str, int], float]) -> list[Option]:
        if len(known) == len(options):
            return [replace(o, error=known[o.op, o.scheme]) for o in options]
        noise = {(o.op, o.scheme): measure.weight_noise(self.context, o.op, o.scheme) for o in options}
        ratios = [error / noise[pair] for pair, error in known.items() if noise[pair] > 0]
        found = []
        for option in options:
            pair = option.op, option.scheme
            if pair in known:
                found.append(replace(option, error=known[pair]))
            elif ratios and noise[pair] > 0:
                found.append(replace(option, error=statistics.median(ratios) * noise[pair]))
        return found

    def put_back(self, options: Sequence[Option], left: Left) -> list[Option]:
        """The options of the mix of all changes, with the error that is gained if each alone is put back; none if the
        time ends before all are measured."""
        full = self.orders(options)[0][-1]
        chosen = [o for o in options if full.get(o.op) == o.scheme]
        jobs: dict[tuple[str, int], Mix] = {
            (o.op, o.scheme): {op: k for op, k in full.items() if op != o.op} for o in chosen
        }
        whole = self._measured({("", 0): full}, full, left, "measuring all changes together")
        if not whole:
            return []
        measured = self._measured(jobs, full, left, "measuring layers from the other end")
        if len(measured) < len(jobs):
            return []
        return [replace(o, error=max(whole["", 0] - measured[o.op, o.scheme], 0.0)) for o in chosen]

    def floor(self, left: Left) -> float | None:
        """The error of the first scheme; None if the time ends."""
        return self._measured({("", 0): {}}, {}, left, "measuring the first scheme").get(("", 0))

    def _measured(
        self, jobs: Mapping[tuple[str, int], Mix], base: Mix, left: Left, what: str
    ) -> dict[tuple[str, int], float]:
        """Errors of mixes, as far as the time allows; what is shared with `base` is not computed again."""
        calls = {pair: (measure.error, (self.handle, base, mix, self.pack)) for pair, mix in jobs.items()}
        return self._kept({pair: f"error {key(mix)}" for pair, mix in jobs.items()}, calls, left, what)

    def _kept(
        self, names: Mapping[K, str], calls: Mapping[K, tuple[Callable[..., Any], tuple[Any, ...]]], left: Left,
        what: str,
    ) -> dict[K, Any]:  # fmt: skip
        """The results of calls, as far as they are known under their names or the time allows."""
        found = {each: self.state.get(name) for each, name in names.items()}
        wanted = [each for each, value in found.items() if value is None]
        count = len(names) - len(wanted)
        for each, value in done(self.crew, ((one, *calls[one]) for one in wanted), self.budget, left):
            found[each] = value
            self.state.put(names[each], value)
            count += 1
            self.progress(what, count, len(names))
        return {each: value for each, value in found.items() if value is not None}

    # ----------------------------------------------------------------------------------------------------- whole mixes

    def orders(self, options: Sequence[Option]) -> list[list[dict[str, int]]]:
        """Series of mixes from nothing changed to everything: the best to first order, and the largest layers first."""
        if not self.goal.adds:
            return [self._peaks(options, by_size=False), self._peaks(options, by_size=True)]
        if self.borders:
            return [borders.front(options, self.borders), largest_first(options)]
        return [front(options), largest_first(options)]

    def candidates(self, added: Sequence[Option], back: Sequence[Option], left: Left) -> list[Candidate]:
        """The mixes of all orders, measured as far as the time allows."""
        known = {(o.op, o.scheme): o for o in added}
        ways = self.orders(added)
        if back:
            gained = {(o.op, o.scheme): o.error for o in back}
            both = [o for o in added if (o.op, o.scheme) in gained]
            mean = [replace(o, error=(max(o.error, FEW) * max(gained[o.op, o.scheme], FEW)) ** 0.5) for o in both]
            ways += [self.orders(back)[0], self.orders(mean)[0]]
        mixes: dict[str, Mix] = {}
        # In turns and from coarse to fine, so that time that ends early leaves all of them covered.
        for series in zip(*(_coarse_first(spread(way, MOST)) for way in ways), strict=False):
            mixes.update({key(mix): mix for mix in series})
        for way in ways:
            mixes.update({key(mix): mix for mix in spread(way, MOST)})
        calls = {
            name: (measure.candidate, (self.handle, mix, self.pack, self.goal.name)) for name, mix in mixes.items()
        }
        measured = self._kept({n: f"mix {self.goal.name} {n}" for n in mixes}, calls, left, "measuring mixes")
        if len(measured) < len(mixes):
            self.complete = False
        simple = {key(mix) for mix in ways[1]}
        return [self._candidate(mix, known, measured.get(name), name in simple) for name, mix in mixes.items()]

    def candidate(self, mix: Mix, known: Mapping[tuple[str, int], Option], left: Left) -> Candidate:
        """One more mix, measured if there is time."""
        call = measure.candidate, (self.handle, mix, self.pack, self.goal.name)
        measured = self._kept({0: f"mix {self.goal.name} {key(mix)}"}, {0: call}, left, "measuring mixes")
        return self._candidate(mix, known, measured.get(0), False)

    def _candidate(
        self, mix: Mix, known: Mapping[tuple[str, int], Option], measured: Sequence[Any] | None, simple: bool
    ) -> Candidate:
        error, cost = measured or (None, None)
        chosen = [known[op, k] for op, k in mix.items()]
        between = sum(b.cost for b in self.borders if mix.get(b.first, 0) != mix.get(b.second, 0))
        estimate = self.base_cost - sum(option.saving for option in chosen) + between
        if not self.goal.adds and self.goal.cost is not None:
            estimate = self.goal.cost(self.context.graph(mix)) if cost is None else cost
        floor = self.state.get("error ") or 0.0
        return Candidate(mix, estimate, floor + sum(option.error for option in chosen), cost, error, simple)

    def _peaks(self, options: Sequence[Option], by_size: bool) -> list[dict[str, int]]:
        """Mixes that lower the peak of memory step by step: of the layers around what is held then, the one that saves
        most for its error, or that saves most."""
        mixes: list[dict[str, int]] = [{}]
        mix: dict[str, int] = {}
        least = peak.peak(self.context.graph(mix))
        best = least.bytes
        while True:
            near = self._near({*least.values, least.op}, {o.op for o in options})
            open_to = [o for o in options if o.op not in mix and o.op in near and o.saving > 0]
            if not open_to:
                return mixes
            chosen = max(open_to, key=lambda o: (o.saving / (1 if by_size else max(o.error, FEW)), o.op))
            mix = {**mix, chosen.op: chosen.scheme}
            least = peak.peak(self.context.graph(mix))
            if least.bytes < best:
                best = least.bytes
                mixes.append(mix)

    def _near(self, values: Collection[str], layers: Collection[str]) -> set[str]:
        """The layers that decide the types of values: those they come from, and those of the ops that read them, which
        may need them requantized."""
        graph = self.context.original
        behind = borders.sources(graph, layers)
        found = {source for name in values for source in behind.get(name, ())}
        readers = [op for name in values if name in graph.by_name for op in graph.consumers[name]]
        return found | {source for op in readers for source in behind[op.name]}


def _coarse_first(items: Sequence[Any]) -> list[Any]:
    """The items with those first that halve what is left between the ones before."""
    found, step = [], 1
    while step < len(items):
        step *= 2
    while step:
        found += [item for index, item in enumerate(items) if index % step == 0 and item not in found]
        step //= 2
    return found
