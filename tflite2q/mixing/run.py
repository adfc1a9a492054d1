"""The search: the first scheme, single layers, candidates, and the choice with its confirmation.

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
from tflite2q.mixing.choice import Choice
from tflite2q.mixing.choosing import undominated
from tflite2q.mixing.context import Context, reconstructs, with_conversions
from tflite2q.mixing.costs import GOALS, SECONDS, Clock, Meter
from tflite2q.mixing.crew import Budget, Crew, Inline, Processes, done
from tflite2q.mixing.evidence import Loss
from tflite2q.mixing.fronts import Candidate, Fronts
from tflite2q.mixing.judge import CHOOSING, CONFIRMING, Halves, Judge
from tflite2q.mixing.mix import choices, key
from tflite2q.mixing.records import DEFAULTS, Found, Judged, Point, Settings
from tflite2q.mixing.state import State, fingerprint
from tflite2q.rewrites.rules import places
from tflite2q.rewrites.scheme import Scheme, dump
from tflite2q.version import __version__

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
        self.clock: Clock | None = None
        self._converting: float | None = None  # seconds of a whole conversion, where mixes are only put together

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
            self.clock.seconds = float(self.state.get(SECONDS) or 0.0)
        fronts = self._fronts()
        options = fronts.savings(self.options, self.clock)
        if not options:
            others = ", ".join(scheme.name for scheme in self.schemes[1:])
            raise UsageError(
                f"no layer has less {self.goal.label} under {others} than under {self.schemes[0].name}; choose other "
                "schemes, or put the most expensive one first"
            )
        choice = self._choice(fronts, base)
        added = fronts.errors(options, self.budget.part(0.3, choice.kept()))
        back = fronts.put_back(added, self.budget.part(0.3, choice.kept())) if added else []
        candidates = fronts.candidates(added, back, self.budget.part(0.5, choice.kept()))
        candidates = [c for c in candidates if c.error is not None] or candidates
        front = undominated([choice.base.candidate, *candidates], lambda c: c.figures)
        simple = choice.settle(fronts, added, candidates, front)
        chosen, confirmed, refuted = choice.confirmed(candidates, bool(self.halves.confirming))
        complete = fronts.complete and choice.complete
        return self._found(choice, front, simple, chosen, confirmed, refuted, complete)

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
        ready = with_conversions(context, whole, self.options)
        if ready.spliced and any(reconstructs(self.original, scheme) for scheme in self.schemes):
            self._converting = self.budget.now() - began
        return ready

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

    def _choice(self, fronts: Fronts, loss: Loss) -> Choice:
        """What chooses, with the first scheme measured, whose loss is `loss`."""
        meter = Meter(self.goal, self.clock, self.budget, self.state, self.progress)
        cost = fronts.base_cost = meter.cost({}, self.context.whole[0])
        floor = fronts.floor(lambda: self.budget.left)
        base = Judged(Candidate({}, cost, floor or 0.0, cost, floor), loss, cost)
        return Choice(
            self.context, self.handle, self.judge, meter, self.crew, self.budget, self.settings.max_drop,
            self._converting, base, self.progress,
        )  # fmt: skip

    def _found(
        self, choice: Choice, front: Sequence[Candidate], simple: Judged | None, chosen: Judged,
        confirmed: Loss | None, refuted: int, complete: bool,
    ) -> Found:  # fmt: skip
        def point(one: Judged) -> Point:
            return _point(one.candidate, one)

        mix = chosen.candidate.mix
        scheme = replace(
            self.context.scheme(mix),
            summary=f"A mix of {', '.join(s.name for s in self.schemes)} found by measuring one model.",
            when=f"For that model, for {self.settings.goal}; {len(mix)} layers differ from {self.schemes[0].name}.",
        )
        known = choice.base_confirmed() if self.halves.confirming else None
        return Found(
            scheme=scheme,
            text=dump(scheme),
            mix=mix,
            chosen=replace(point(chosen), confirmed=confirmed),
            base=replace(point(choice.base), confirmed=known),
            largest_first=None if simple is None else point(choice.judged[key(simple.candidate.mix)]),
            points=tuple(_point(candidate, choice.judged.get(key(candidate.mix))) for candidate in front),
            judged=tuple(point(one) for one in choice.judged.values()),
            limit=self.settings.max_drop,
            judges=self.judge.judges,
            calibration=len(self.halves.calibrating),
            refuted=refuted,
            complete=complete,
            seconds=self.budget.spent,
        )


def _point(candidate: Candidate, judged: Judged | None) -> Point:
    return Point(
        layers=len(candidate.mix),
        cost=candidate.estimated_cost,
        estimated_error=candidate.estimated_error,
        measured_error=candidate.error,
        measured_cost=candidate.cost if judged is None else judged.cost,
        loss=None if judged is None else judged.loss,
        mix=dict(candidate.mix),
    )
