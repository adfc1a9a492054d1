"""The search: sensitivities, costs, the front, and the mix on it that saves most within the loss allowed.

Errors of layers add to first order, so the Pareto front is computed from measurements of single layers alone.  It is
then checked by measuring whole mixes: first by binary search on the front, then by trying single further steps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.errors import DataError, UnsupportedError, UsageError
from tflite2q.evaluation import calibration
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.results import Accuracy, Progress, quiet
from tflite2q.mixing import measure
from tflite2q.mixing.measure import Judge, Sensitivity, convert, file_size, loss, op_times, weight_bytes, whole_times
from tflite2q.mixing.mix import Mix, Option, choices, front, scheme_of
from tflite2q.mixing.state import State, fingerprint
from tflite2q.rewrites.scheme import Scheme, dump

GOALS = ("size", "speed")
FURTHER_STEPS = 8  # steps beyond the chosen mix that are each tried on their own


@dataclass(frozen=True)
class Settings:
    """Settings of a search.

    `goal` size (bytes of the file) or speed (time on `target`); `max_drop` in points of top-1 (without labels: of
    agreement with the original); `sensitivity_samples` of the data judge single layers, all of it whole mixes; `budget`
    minutes after which measuring single layers stops and untried layers stay as the first scheme has them.
    """

    goal: str = "size"
    max_drop: float = 0.5
    target: str = "native"
    threads: int = 1
    seed: int = 0
    budget: float | None = None
    sensitivity_samples: int = 16
    label_offset: int | None = None


@dataclass(frozen=True)
class Point:
    """One mix: how many layers do not use the first scheme; its cost (bytes or ms) and the loss of output energy, both
    estimated to first order; and, where the whole mix was measured, that loss, the points lost and the true cost."""

    layers: int
    cost: float
    estimated_error: float
    measured_error: float | None = None
    points_lost: float | None = None
    measured_cost: float | None = None


@dataclass(frozen=True)
class Found:
    """The chosen mix as a scheme, the front, the largest-first mix of no greater cost, and the first scheme's point."""

    scheme: Scheme
    text: str
    mix: Mix
    chosen: Point
    base: Point
    largest_first: Point | None
    points: tuple[Point, ...]
    accuracy: Accuracy
    complete: bool


def search(
    original: Graph,
    schemes: Sequence[Scheme],
    samples: Dataset,
    settings: Settings = Settings(),
    state_path: Path | None = None,
    progress: Progress = quiet,
) -> Found:
    """Find the mix of `schemes` (the first is the base) for `original`; see the module's text.

    Raises UsageError if no layer has a choice, DataError if the model has no classes to lose, UnsupportedError if it
    keeps state in variables.
    """
    if settings.goal not in GOALS:
        raise UsageError(f"goal {settings.goal!r} is none of {', '.join(GOALS)}")
    if any(state.resource is not None for state in original.states):
        raise UnsupportedError(
            "the model keeps state, and a search judges every sample alone; compare whole schemes with compare --stream"
        )
    options = choices(original, schemes)
    if not options:
        names = ", ".join(scheme.name for scheme in schemes)
        raise UsageError(f"schemes {names} give every layer with weights the same settings; choose schemes that differ")
    return _Search(
        original,
        schemes,
        samples,
        settings,
        State(state_path, _identity(original, schemes, samples, settings)),
        progress,
    ).run()


def _identity(original: Graph, schemes: Sequence[Scheme], samples: Dataset, settings: Settings) -> dict[str, object]:
    kept = replace(settings, max_drop=0.0, budget=None)  # other limits can use the same measurements
    return {
        "model": fingerprint(original),
        "schemes": [dump(scheme) for scheme in schemes],
        "data": [samples.source, len(samples), samples.labels is not None],
        "settings": repr(kept),
    }


class _Search:
    def __init__(
        self,
        original: Graph,
        schemes: Sequence[Scheme],
        samples: Dataset,
        settings: Settings,
        state: State,
        progress: Progress,
    ) -> None:
        self.original, self.schemes, self.samples = original, schemes, samples
        self.settings, self.state, self.progress = settings, state, progress
        self.options = choices(original, schemes)
        self.deadline = None if settings.budget is None else time.monotonic() + 60 * settings.budget
        chosen = np.random.default_rng(settings.seed).permutation(len(samples))[: settings.sensitivity_samples]
        few = [samples.make(int(index)) for index in sorted(chosen)]
        progress("observing the original", 0, 0)
        # As a conversion without data does, so that converting to the scheme found gives the very file measured here.
        noise = [] if calibration.has_loops(original) else calibration.noise_images(original)
        self.seen = calibration.observe(original, noise) if noise else {}
        self.base = convert(original, schemes[0], self.seen)
        self.sensitivity = Sensitivity(original, self.base, few)
        self.complete = True

    def run(self) -> Found:
        costs = self._costs()
        measured = self._errors(costs)
        self.base_cost = self._base_cost()
        mixes = front(measured)
        by_key = {(o.op, o.scheme): o for o in measured}
        judge = Judge(
            self.original, self.samples, self.settings.label_offset, self.settings.target, self.settings.threads
        )
        points = [self._estimate(mix, by_key) for mix in mixes]
        best, accuracy, tried = self._halve(judge, mixes)
        mix, accuracy = self._further(judge, mixes, best, accuracy)
        for index, (lost, error) in tried.items():
            points[index] = replace(points[index], points_lost=lost, measured_error=error)
        chosen = self._measured(mix, by_key, accuracy)
        simple = self._largest_first(by_key, chosen)
        rival = None if simple is None else self._measured(simple, by_key, self._judge(judge, simple)[0])
        points[0], chosen, rival = self._true_costs((points[0], {}), (chosen, mix), (rival, simple))
        scheme = replace(
            scheme_of(mix, self.original, self.schemes),
            summary=f"A mix of {', '.join(s.name for s in self.schemes)} found by measuring one model.",
            when=f"For that model, for {self.settings.goal}; {len(mix)} layers differ from {self.schemes[0].name}.",
        )
        return Found(scheme, dump(scheme), mix, chosen, points[0], rival, tuple(points), accuracy, self.complete)

    # ------------------------------------------------------------------------------------------------ single layers

    def _costs(self) -> list[dict[str, float]]:
        """The cost of each layer when the whole model has one scheme."""
        found: list[dict[str, float]] = []
        for scheme in self.schemes:
            self.progress(f"costs under {scheme.name}", 0, 0)
            key = f"costs {scheme.name}"
            known = self.state.get(key)
            if known is None:
                graph = convert(self.original, scheme, self.seen)
                if self.settings.goal == "size":
                    known = {op: float(weight_bytes(graph, _result(op, graph))) for op in self.options}
                else:
                    times = op_times(graph, self.settings.target, self.settings.threads)
                    known = {op: times.get(_result(op, graph), 0.0) for op in self.options}
                    self.state.put(f"total {scheme.name}", sum(times.values()))
                self.state.put(key, known)
            found.append(known)
        return found

    def _base_cost(self) -> float:
        """Bytes of the first scheme's file, or milliseconds of all its ops."""
        if self.settings.goal == "size":
            return float(file_size(self.base))
        return float(self.state.get(f"total {self.schemes[0].name}"))

    def _true_costs(self, *mixes: tuple[Point | None, Mix | None]) -> list[Any]:
        """The points of whole mixes with their measured costs; None where there is no mix."""
        self.progress("measuring the cost of whole mixes", 0, 0)
        present = [(point, self._graph(mix)) for point, mix in mixes if point is not None and mix is not None]
        graphs = [graph for _, graph in present]
        if self.settings.goal == "size":
            costs = [float(file_size(graph)) for graph in graphs]
        else:
            costs = whole_times(graphs, self.settings.target, self.settings.threads)
        known = iter([replace(point, measured_cost=cost) for (point, _), cost in zip(present, costs, strict=True)])
        return [None if point is None else next(known) for point, _ in mixes]

    def _errors(self, costs: list[dict[str, float]]) -> list[Option]:
        """Each layer's options, the costliest layers first so that a budget is spent where there is most to save."""
        wanted = [(op, k) for op, schemes in self.options.items() for k in schemes if costs[0][op] > costs[k][op]]
        wanted.sort(key=lambda pair: (costs[pair[1]][pair[0]] - costs[0][pair[0]], pair[0], pair[1]))
        found: list[Option] = []
        for index, (op, k) in enumerate(wanted):
            self.progress("measuring layers", index, len(wanted))
            key = f"error {self.schemes[k].name} {op}"
            error = self.state.get(key)
            if error is None:
                if self.deadline is not None and time.monotonic() > self.deadline:
                    self.complete = False
                    break
                variant = convert(self.original, scheme_of({op: k}, self.original, self.schemes), self.seen)
                error = self.sensitivity.error(variant)
                self.state.put(key, error)
            found.append(Option(op, k, costs[0][op] - costs[k][op], max(error - self.sensitivity.floor, 0.0)))
        return found

    # -------------------------------------------------------------------------------------------------- whole mixes

    def _graph(self, mix: Mix) -> Graph:
        return convert(self.original, scheme_of(mix, self.original, self.schemes), self.seen)

    def _judge(self, judge: Judge, mix: Mix) -> tuple[Accuracy, Graph]:
        graph = self._graph(mix)
        accuracy = judge.accuracy(graph, quiet)
        if accuracy.top1 is None and accuracy.agreement is None:
            raise DataError("the model's output has no classes, so a search cannot tell how much accuracy a mix costs")
        return accuracy, graph

    def _halve(self, judge: Judge, mixes: Sequence[Mix]) -> tuple[int, Accuracy, dict[int, tuple[float, float]]]:
        """The last mix of the front within the allowed loss, found by binary search, and its measured accuracy."""
        tried: dict[int, tuple[float, float]] = {}
        low, high = 0, len(mixes) - 1
        best, graph = self._judge(judge, mixes[0])
        tried[0] = loss(best), self.sensitivity.error(graph)
        while low < high:
            middle = (low + high + 1) // 2
            self.progress(f"measuring mixes, {middle} of {len(mixes) - 1} layers changed", 0, 0)
            accuracy, graph = self._judge(judge, mixes[middle])
            tried[middle] = loss(accuracy), self.sensitivity.error(graph)
            if loss(accuracy) <= self.settings.max_drop:
                low, best = middle, accuracy
            else:
                high = middle - 1
        return low, best, tried

    def _further(self, judge: Judge, mixes: Sequence[Mix], best: int, accuracy: Accuracy) -> tuple[Mix, Accuracy]:
        """The chosen mix, extended by those of the next steps that keep it within the allowed loss."""
        mix = dict(mixes[best])
        for number, later in enumerate(mixes[best + 1 : best + 1 + FURTHER_STEPS]):
            step = {op: k for op, k in later.items() if mixes[best + number].get(op) != k}
            self.progress("trying further steps", number, FURTHER_STEPS)
            wider, _ = self._judge(judge, {**mix, **step})
            if loss(wider) <= self.settings.max_drop:
                mix, accuracy = {**mix, **step}, wider
        return mix, accuracy

    def _estimate(self, mix: Mix, known: dict[tuple[str, int], Option]) -> Point:
        error = self.sensitivity.floor + sum(known[op, k].error for op, k in mix.items())
        return Point(len(mix), self._cost(mix, known), error)

    def _cost(self, mix: Mix, known: dict[tuple[str, int], Option]) -> float:
        """Bytes of the file or milliseconds of all ops, to first order: the base's less what the mix saves."""
        return self.base_cost - sum(known[op, k].saving for op, k in mix.items())

    def _measured(self, mix: Mix, known: dict[tuple[str, int], Option], accuracy: Accuracy) -> Point:
        error = self.sensitivity.error(self._graph(mix))
        return replace(self._estimate(mix, known), measured_error=error, points_lost=loss(accuracy))

    def _largest_first(self, known: dict[tuple[str, int], Option], chosen: Point) -> Mix | None:
        """The simple mix to beat: the layers that save most, until it costs no more than the chosen one."""
        self.progress("measuring the largest-first mix", 0, 0)
        mix: dict[str, int] = {}
        for option in sorted(known.values(), key=lambda o: (-o.saving, o.op)):
            if option.op in mix:
                continue
            mix[option.op] = option.scheme
            if self._cost(mix, known) <= chosen.cost:
                return mix
        return None


def _result(op: str, graph: Graph) -> str:
    """The name of the layer's own result in a converted graph: the value before clamps, and a cast at the output."""
    while not _weighted(graph.producers[op]) and (source := measure.source_of(op, graph)) is not None:
        op = source
    return op


def _weighted(op: Op) -> bool:
    return any(op.operand(index).role == "weights" for index, name in enumerate(op.inputs) if name is not None)
