"""The search: the first scheme, single layers, candidates, losses, the choice, and its confirmation.

Half of the samples choose: on a few of them layers and candidates are compared by output error, which has little noise,
and on all of them the candidates around the limit are judged.  The held-out half sees only the choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tflite2q import cgroups
from tflite2q.dialect.graph import Graph
from tflite2q.errors import LimitError, UnsupportedError, UsageError, either
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.results import Progress, quiet
from tflite2q.mixing import measure
from tflite2q.mixing.choosing import choose, undominated
from tflite2q.mixing.context import Context, reconstructs, with_conversions
from tflite2q.mixing.costs import GOALS, Clock
from tflite2q.mixing.crew import Budget, Crew, Inline, Processes, done
from tflite2q.mixing.evidence import Loss
from tflite2q.mixing.fronts import Candidate, Fronts
from tflite2q.mixing.judge import CHOOSING, CONFIRMING, Halves, Judge
from tflite2q.mixing.mix import Mix, Option, choices, key
from tflite2q.mixing.records import DEFAULTS, Found, Judged, Point, Settings
from tflite2q.mixing.state import State, fingerprint
from tflite2q.rewrites.rules import places
from tflite2q.rewrites.scheme import Scheme, dump
from tflite2q.version import __version__

FURTHER_STEPS = 8  # steps beyond the chosen mix that are each tried on their own
CONFIRMATIONS = 4  # mixes at most that the confirming half may refute
MEMORY = 512e6  # bytes for the runs of the first scheme that are kept


def search(
    original: Graph,
    schemes: Sequence[Scheme],
    samples: Dataset,
    settings: Settings = DEFAULTS,
    state_path: Path | None = None,
    progress: Progress = quiet,
    crew: Crew | None = None,
    budget: Budget | None = None,
) -> Found:
    """Find the mix of `schemes` (the first is the base) for `original`; see the module's text.

    `crew` does the measuring, instead of processes of this machine; it stays open.  Raises UsageError if no layer has a
    choice or the budget ends before the first scheme is measured, LimitError if the first scheme loses more than
    allowed, DataError if the model has no classes to lose, UnsupportedError if it keeps state in variables.
    """
    if settings.goal not in GOALS:
        raise UsageError(f"goal {settings.goal!r} is not one of {', '.join(GOALS)}")
    if any(state.resource is not None for state in original.states):
        raise UnsupportedError(
            "the model keeps state, and a search judges every sample alone; compare whole schemes over a stream"
        )
    options = choices(original, schemes)
    if not options:
        if all(place.channels is None for place in places(original)):
            raise UsageError(
                "no layer of the model has weights, so there is nothing to choose for; convert it as a whole"
            )
        names = ", ".join(scheme.name for scheme in schemes)
        raise UsageError(f"schemes {names} give every layer with weights the same settings; choose schemes that differ")
    budget = budget or Budget(settings.budget)
    state = State(state_path, _identity(original, schemes, samples, settings))
    jobs = settings.jobs or cgroups.processors()
    workers = crew or (Processes(jobs) if jobs > 1 else Inline())
    try:
        return _Search(original, schemes, samples, settings, options, state, workers, budget, progress).run()
    finally:
        state.save()
        if crew is None:
            workers.close()


def _identity(original: Graph, schemes: Sequence[Scheme], samples: Dataset, settings: Settings) -> dict[str, object]:
    calibrating = Halves.of(len(samples), settings.seed).calibrating
    return {
        "model": fingerprint(original),
        "schemes": [dump(scheme) for scheme in schemes],
        "version": __version__,
        "data": [samples.source, len(samples), _digest(samples, calibrating)],
        "settings": [settings.seed, settings.sensitivity_samples, settings.label_offset],
    }


def _digest(samples: Dataset, some: Sequence[int]) -> str:
    """sha256 of the labels, the samples' names, and what some of them hold."""
    found = hashlib.sha256("\n".join(samples.names).encode())
    found.update(b"" if samples.labels is None else samples.labels.tobytes())
    for index in some:
        for array in samples.make(index):
            found.update(array.tobytes())
    return found.hexdigest()


class _Search:
    def __init__(
        self, original: Graph, schemes: Sequence[Scheme], samples: Dataset, settings: Settings,
        options: dict[str, list[int]], state: State, crew: Crew, budget: Budget, progress: Progress,
    ) -> None:  # fmt: skip
        self.original, self.schemes, self.settings, self.options = original, tuple(schemes), settings, options
        self.state, self.crew, self.budget, self.progress = state, crew, budget, progress
        self.halves = Halves.of(len(samples), settings.seed)
        self.judge = Judge(original, samples, self.halves, settings.label_offset, settings.threads, crew, budget, state)
        self.samples = samples
        self.goal = GOALS[settings.goal]
        self.judged: dict[str, Judged] = {}
        self.clock: Clock | None = None
        self._converting = 0.0  # seconds that whole conversions took

    def run(self) -> Found:
        try:
            return self._run()
        finally:
            if self.clock is not None:
                self.clock.close()

    def _run(self) -> Found:
        self.context = self._prepared()
        self.handle = self.judge.context = self.crew.share(self.context)
        base = self._base()
        if self.goal.cost is None:
            self.clock = Clock(self.settings.target, self.settings.threads, self.settings.device)
            self.clock.seconds = float(self.state.get("seconds to time a mix") or 0.0)
        fronts = self._fronts()
        options = fronts.savings(self.options, self.clock)
        if not options:
            others = ", ".join(scheme.name for scheme in self.schemes[1:])
            raise UsageError(
                f"no layer has less {self.goal.label} under {others} than under {self.schemes[0].name}; choose other "
                "schemes, or put the most expensive one first"
            )
        start = self._measured_base(fronts, base)
        added = fronts.errors(options, self.budget.part(0.3, self._kept()))
        back = fronts.put_back(added, self.budget.part(0.3, self._kept())) if added else []
        candidates = fronts.candidates(added, back, self.budget.part(0.5, self._kept()))
        candidates = [c for c in candidates if c.error is not None] or candidates
        front = undominated([start.candidate, *candidates], lambda c: c.figures)
        self._halve(front)
        self._further(fronts, added)
        simple = self._largest_first(candidates)
        chosen, confirmed, refuted = self._confirmed(front)
        return self._found(fronts, front, chosen, confirmed, refuted, simple)

    # ----------------------------------------------------------------------------------------------------- preparation

    def _prepared(self) -> Context:
        """The original's observations on the calibration samples, and its whole conversions."""
        self.progress("observing the original", 0, 0)
        calibrating = tuple(self.samples.make(index) for index in self.halves.calibrating)
        (seen,) = self._must([(0, measure.observe, (self.original, calibrating))])
        context = Context(self.original, self.schemes, calibrating, seen)
        handle = self.crew.share(context)
        self.progress("converting to each scheme", 0, 0)
        began = self.budget.now()
        whole = self._must([(k, measure.converted, (handle, k)) for k in range(len(self.schemes))])
        self._converting = self.budget.now() - began
        return with_conversions(context, whole, self.options)

    def _must(self, calls: list[tuple[int, Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
        """The results of all calls.  Raises UsageError if the budget ends."""
        found = dict(done(self.crew, calls, self.budget, lambda: self.budget.left))
        if len(found) < len(calls):
            raise self.budget.ended("the first scheme was measured")
        return [found[number] for number, _, _ in calls]

    def _base(self) -> Loss:
        """The loss of the first scheme.  Raises LimitError if it is over the limit."""
        self.progress(f"measuring {self.schemes[0].name}", 0, 0)
        graph, left = self.context.whole[0], lambda: self.budget.left
        found = self.judge.loss({}, graph, CHOOSING, False, left)
        if found is None:
            raise self.budget.ended("the first scheme was measured")
        limit = self.settings.max_drop
        if found.points > limit:
            points, low, high = (round(figure, 1) + 0.0 for figure in (found.points, found.low, found.high))
            raise LimitError(
                f"{self.schemes[0].name}, with which every layer starts, already loses {points:.1f} points of "
                f"{self.judge.judges} ({low:.1f} to {high:.1f}), and {limit:g} are allowed; "
                f"allow more with {either('--max-top1-drop', 'max_drop')}, or put a finer scheme first"
            )
        if self.halves.confirming and self.judge.loss({}, graph, CONFIRMING, False, left) is None:
            raise self.budget.ended("the first scheme was measured")
        return found

    def _fronts(self) -> Fronts:
        each = sum(value.type.size for value in self.original.values if value.constant is None) * 2
        most = max(2, min(self.settings.sensitivity_samples, int(MEMORY / max(each, 1))))
        choosing = self.halves.choosing
        drawn = np.random.default_rng(self.settings.seed).permutation(len(choosing))[:most]
        pack = self.judge.pack(tuple(sorted(choosing[index] for index in drawn)))
        return Fronts(
            self.context, self.handle, pack, self.goal, self.crew, self.budget, self.state, self.progress
        )  # fmt: skip

    def _measured_base(self, fronts: Fronts, loss: Loss) -> Judged:
        graph = self.context.whole[0]
        cost = self.goal.cost(graph) if self.goal.cost is not None else self._timed({}, graph)
        fronts.base_cost = cost
        floor = fronts.floor(lambda: self.budget.left)
        found = Judged(Candidate({}, cost, floor or 0.0, cost, floor), loss, cost)
        self.judged[""] = found
        return found

    def _timed(self, mix: Mix, graph: Graph) -> float:
        """Milliseconds of a mix; the first scheme comes first, and all others are multiples of its time."""
        assert self.clock is not None  # as for every goal that counts nothing
        name = f"time {self.clock.name} {key(mix)}"
        known = self.state.get(name)
        if known is not None and mix:
            return float(known)
        self.progress("timing a mix", 0, 0)
        cost = self.clock.within(self.budget, lambda clock: clock.time(graph) if mix else clock.start(graph))
        if known is not None:
            cost = self.clock.base_ms = float(known)
        self.state.put(name, cost)
        self.state.put("seconds to time a mix", self.clock.seconds)
        return cost

    def _kept(self) -> float:
        """Seconds to keep for the end: judging a mix or two on the confirming half, and timing them."""
        return 2.5 * self.judge.seconds + (0.0 if self.clock is None else self.clock.seconds) + self._conversion()

    def _conversion(self) -> float:
        """Seconds that converting and judging again take, where mixes are only put together for measuring."""
        return self._converting + self.judge.seconds if self._approximate else 0.0

    @property
    def _approximate(self) -> bool:
        return self.context.spliced and any(reconstructs(self.original, scheme) for scheme in self.schemes)

    # ---------------------------------------------------------------------------------------------------------- choice

    def _enough(self) -> bool:
        """Whether there is time for one more mix, and for the end."""
        one = 1.1 * self.judge.seconds + (0.0 if self.clock is None else self.clock.seconds)
        return self.budget.left > one + self._kept()

    def _judge(self, candidate: Candidate) -> Judged | None:
        """A candidate's loss on the choosing half, and its cost; None if there is no time."""
        name = key(candidate.mix)
        if name not in self.judged:
            if not self._enough():
                return None
            graph = self.context.graph(candidate.mix)
            loss = self.judge.loss(candidate.mix, graph, CHOOSING, False, lambda: self.budget.left - self._kept())
            if loss is None:
                return None
            cost = candidate.cost
            if cost is None:
                cost = self._timed(candidate.mix, graph) if self.goal.cost is None else self.goal.cost(graph)
            self.judged[name] = Judged(candidate, loss, cost)
        return self.judged[name]

    def _halve(self, front: Sequence[Candidate]) -> None:
        """Judge mixes of the front around the limit, by binary search; the first scheme may be beaten, and not be on
        it."""
        low, high = -1, len(front) - 1
        while low < high:
            middle = (low + high + 1) // 2
            self.progress(f"judging mixes, {len(front[middle].mix)} layers changed", 0, 0)
            found = self._judge(front[middle])
            if found is None:
                return
            if found.loss.points <= self.settings.max_drop:
                low = middle
            else:
                high = middle - 1

    def _best(self) -> Judged:
        found = choose(list(self.judged.values()), lambda one: one.figures, self.settings.max_drop)
        return found or self.judged[""]  # the first scheme is within the limit

    def _further(self, fronts: Fronts, added: Sequence[Option]) -> None:
        """Try single further steps from the best mix so far, those first that save most for their error."""
        known = {(o.op, o.scheme): o for o in added}
        order = sorted(added, key=lambda o: (-o.saving / max(o.error, 1e-12), o.op))
        tried: set[str] = set()
        for number in range(FURTHER_STEPS):
            best = self._best()
            step = next((o for o in order if o.op not in best.candidate.mix and o.op not in tried), None)
            if step is None:
                return
            tried.add(step.op)
            self.progress("trying further steps", number, FURTHER_STEPS)
            mix = {**best.candidate.mix, step.op: step.scheme}
            if self._judge(fronts.candidate(mix, known, lambda: self.budget.left - self._kept())) is None:
                return

    def _largest_first(self, candidates: Sequence[Candidate]) -> Judged | None:
        """The simple mix to beat: the first of the largest-first ones that costs no more than the best; it is judged
        like any other, and chosen if it is better."""
        self.progress("measuring the largest-first mix", 0, 0)
        best = self._best()
        simple = [c for c in candidates if c.largest_first and c.mix and c.figures[0] <= best.cost]
        if not simple or not best.candidate.mix:
            return None
        return self._judge(max(simple, key=lambda c: c.figures[0]))

    # ---------------------------------------------------------------------------------------------------- confirmation

    def _confirmed(self, front: Sequence[Candidate]) -> tuple[Judged, Loss | None, int]:
        """The best mix that the confirming half does not refute, its loss there, and how many it refuted."""
        refuted: set[str] = set()
        true: dict[str, Graph] = {"": self.context.whole[0]}
        late = False
        while len(refuted) < CONFIRMATIONS:
            known = [(name, one) for name, one in self.judged.items() if name not in refuted]
            # Where mixes are only put together for measuring, without time to convert one those converted are left.
            open_to = [one for name, one in known if not late or name in true]
            best = choose(open_to, lambda one: one.figures, self.settings.max_drop) or self.judged[""]
            mix, name = best.candidate.mix, key(best.candidate.mix)
            if self._approximate and name not in true:
                graph = self._truly(mix)
                late = graph is None or len(true) > CONFIRMATIONS
                if graph is not None:  # its figures change, and with them perhaps the choice
                    true[name] = graph
                    self._converted(best, graph)
                continue
            if not self.halves.confirming:
                return best, None, len(refuted)
            self.progress("confirming the choice", 0, 0)
            approximate = self._approximate and bool(mix)
            graph = true[name] if approximate else self.context.graph(mix)
            found = self.judge.loss(mix, graph, CONFIRMING, approximate, lambda: self.budget.left)
            if not mix or found is None or found.low <= self.settings.max_drop:
                return best, found, len(refuted)
            refuted.add(name)
        return self.judged[""], self.judge.loss({}, self.context.whole[0], CONFIRMING, False, lambda: 0.0), len(refuted)

    def _truly(self, mix: Mix) -> Graph | None:
        """The model as converting to a mix makes it; None if there is no time."""
        self.progress("converting the chosen mix", 0, 0)
        if self.budget.left < self._converting:
            return None
        call = 0, measure.true_graph, (self.handle, mix)
        return dict(done(self.crew, [call], self.budget, lambda: self.budget.left)).get(0)

    def _converted(self, best: Judged, graph: Graph) -> None:
        """Judge a mix that was put together once more, now converted as `convert` will do it."""
        mix = best.candidate.mix
        loss = self.judge.loss(mix, graph, CHOOSING, True, lambda: self.budget.left) or best.loss
        cost = self._timed(mix, graph) if self.goal.cost is None else self.goal.cost(graph)
        self.judged[key(mix)] = Judged(replace(best.candidate, cost=cost), loss, cost)

    def _found(
        self, fronts: Fronts, front: Sequence[Candidate], chosen: Judged, confirmed: Loss | None, refuted: int,
        simple: Judged | None,
    ) -> Found:  # fmt: skip
        mix = chosen.candidate.mix
        scheme = replace(
            self.context.scheme(mix),
            summary=f"A mix of {', '.join(s.name for s in self.schemes)} found by measuring one model.",
            when=f"For that model, for {self.settings.goal}; {len(mix)} layers differ from {self.schemes[0].name}.",
        )
        base = self.judged[""]
        known = (
            None
            if not self.halves.confirming
            else self.judge.loss({}, self.context.whole[0], CONFIRMING, False, lambda: 0.0)
        )
        return Found(
            scheme=scheme,
            text=dump(scheme),
            mix=mix,
            chosen=replace(self._point(chosen.candidate), confirmed=confirmed),
            base=replace(self._point(base.candidate), confirmed=known),
            largest_first=None if simple is None else self._point(simple.candidate),
            points=tuple(self._point(candidate) for candidate in front),
            judged=tuple(self._point(one.candidate) for one in self.judged.values()),
            limit=self.settings.max_drop,
            judges=self.judge.judges,
            calibration=len(self.halves.calibrating),
            refuted=refuted,
            complete=fronts.complete,
            seconds=self.budget.spent,
        )

    def _point(self, candidate: Candidate) -> Point:
        judged = self.judged.get(key(candidate.mix))
        return Point(
            layers=len(candidate.mix),
            cost=candidate.estimated_cost,
            estimated_error=candidate.estimated_error,
            measured_error=candidate.error,
            measured_cost=candidate.cost if judged is None else judged.cost,
            loss=None if judged is None else judged.loss,
            mix=dict(candidate.mix),
        )
