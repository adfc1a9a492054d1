"""The choice: which mixes are judged, the best of them, and its confirmation on the held-out half."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tflite2q.dialect.graph import Graph
from tflite2q.evaluation.results import Progress
from tflite2q.mixing import measure
from tflite2q.mixing.choosing import choose
from tflite2q.mixing.context import Context
from tflite2q.mixing.costs import Meter
from tflite2q.mixing.crew import Budget, Crew, done
from tflite2q.mixing.evidence import Loss
from tflite2q.mixing.fronts import Candidate, Fronts
from tflite2q.mixing.judge import CHOOSING, CONFIRMING, Judge
from tflite2q.mixing.mix import Mix, Option, key
from tflite2q.mixing.records import Judged

FURTHER_STEPS = 8  # steps beyond the chosen mix that are each tried on their own
CONFIRMATIONS = 4  # mixes at most that the confirming half may refute


class Choice:
    """Judges mixes, the cheapest of which that lose at most `limit` points is the best; `base` is the first scheme.

    `converting`: the seconds of converting a mix as a whole, where mixes are only put together for measuring; None
    where what is put together is what converting gives.
    """

    def __init__(
        self, context: Context, handle: Any, judge: Judge, meter: Meter, crew: Crew, budget: Budget, limit: float,
        converting: float | None, base: Judged, progress: Progress,
    ) -> None:  # fmt: skip
        self.context, self.handle, self.judge, self.meter, self.crew = context, handle, judge, meter, crew
        self.budget, self.limit, self.progress, self.base = budget, limit, progress, base
        self.approximate, self.converting = converting is not None, converting or 0.0
        self.judged: dict[str, Judged] = {"": base}
        self.complete = True  # whether the time sufficed for all that was to be judged

    # ------------------------------------------------------------------------------------------------------------ time

    def kept(self) -> float:
        """Seconds to keep for the end: judging a mix or two on the confirming half, and timing them."""
        converted = self.converting + self.judge.seconds if self.approximate else 0.0
        return 2.5 * self.judge.seconds + self.meter.seconds + converted

    def left(self) -> float:
        """Seconds before the end."""
        return self.budget.left - self.kept()

    # --------------------------------------------------------------------------------------------------------- judging

    def settle(
        self, fronts: Fronts, added: Sequence[Option], measured: Sequence[Candidate], front: Sequence[Candidate]
    ) -> Judged | None:
        """Judge those of the measured mixes, of which none beats those of `front`, that may be the best; gives the
        largest-first one to compare it with."""
        self._halve(front)
        self._further(fronts, added)
        self._rivals(measured, ())
        return self._largest_first(measured)

    def _judge(self, candidate: Candidate) -> Judged | None:
        """A candidate's loss on the choosing half, and its cost; None if there is no time."""
        name = key(candidate.mix)
        if name not in self.judged:
            graph = self.context.graph(candidate.mix)
            enough = self.left() > 1.1 * self.judge.seconds + self.meter.seconds
            loss = self.judge.loss(candidate.mix, graph, CHOOSING, False, self.left) if enough else None
            if loss is None:
                self.complete = False
                return None
            cost = self.meter.cost(candidate.mix, graph) if candidate.cost is None else candidate.cost
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
            if found.loss.points <= self.limit:
                low = middle
            else:
                high = middle - 1

    def _best(self, among: Mapping[str, Judged]) -> Judged:
        found = choose(list(among.values()), lambda one: one.figures, self.limit)
        return found or self.base  # which is within the limit

    def _further(self, fronts: Fronts, added: Sequence[Option]) -> None:
        """Try single further steps from the best mix so far, those first that save most for their error."""
        known = {(o.op, o.scheme): o for o in added}
        order = sorted(added, key=lambda o: (-o.saving / max(o.error, 1e-12), o.op))
        tried: set[str] = set()
        for number in range(FURTHER_STEPS):
            best = self._best(self.judged)
            step = next((o for o in order if o.op not in best.candidate.mix and o.op not in tried), None)
            if step is None:
                return
            tried.add(step.op)
            self.progress("trying further steps", number, FURTHER_STEPS)
            mix = {**best.candidate.mix, step.op: step.scheme}
            if self._judge(fronts.candidate(mix, known, self.left)) is None:
                return

    def _largest_first(self, measured: Sequence[Candidate]) -> Judged | None:
        """The simple mix to beat: the first of the largest-first ones that costs no more than the best; it is judged
        like any other, and chosen if it is better."""
        self.progress("measuring the largest-first mix", 0, 0)
        best = self._best(self.judged)
        simple = [c for c in measured if c.largest_first and c.mix and c.figures[0] <= best.cost]
        if not simple or not best.candidate.mix:
            return None
        return self._judge(max(simple, key=lambda c: c.figures[0]))

    def _rivals(self, measured: Sequence[Candidate], refuted: Collection[str]) -> None:
        """Judge the measured mixes that beat the best in cost and error, the cheapest first: the binary search may pass
        by one that loses less too."""
        while True:
            best = self._best({name: one for name, one in self.judged.items() if name not in refuted})
            rivals = [c for c in measured if key(c.mix) not in self.judged and c.beats(best.candidate)]
            if not rivals:
                return
            self.progress("judging mixes of less cost and error than the best", 0, 0)
            if self._judge(min(rivals, key=lambda c: c.figures)) is None:
                return

    # ---------------------------------------------------------------------------------------------------- confirmation

    def confirmed(self, measured: Sequence[Candidate], confirming: bool) -> tuple[Judged, Loss | None, int]:
        """The best mix that the confirming half does not refute, its loss there, and how many it refuted."""
        refuted: set[str] = set()
        true: dict[str, Graph] = {"": self.context.whole[0]}
        late = False
        while len(refuted) < CONFIRMATIONS:
            if not late:
                self._rivals(measured, refuted)
            # Where mixes are only put together for measuring, without time to convert one those converted are left.
            known = {name: one for name, one in self.judged.items() if name not in refuted}
            best = self._best({name: one for name, one in known.items() if not late or name in true})
            mix, name = best.candidate.mix, key(best.candidate.mix)
            if self.approximate and name not in true:
                graph = self._truly(mix)
                late = graph is None or len(true) > CONFIRMATIONS
                if graph is not None:  # its figures change, and with them perhaps the choice
                    true[name] = graph
                    self._converted(best, graph)
                continue
            if not confirming:
                return best, None, len(refuted)
            self.progress("confirming the choice", 0, 0)
            approximate = self.approximate and bool(mix)
            graph = true[name] if approximate else self.context.graph(mix)
            found = self.judge.loss(mix, graph, CONFIRMING, approximate, lambda: self.budget.left)
            if not mix or found is None or found.low <= self.limit:
                return best, found, len(refuted)
            refuted.add(name)
        return self.base, self.base_confirmed(), len(refuted)

    def base_confirmed(self) -> Loss | None:
        """The first scheme's loss on the confirming half, where it was judged."""
        return self.judge.loss({}, self.context.whole[0], CONFIRMING, False, lambda: 0.0)

    def _truly(self, mix: Mix) -> Graph | None:
        """The model as converting to a mix makes it; None if there is no time."""
        self.progress("converting the chosen mix", 0, 0)
        if self.budget.left < self.converting:
            return None
        call = 0, measure.true_graph, (self.handle, mix)
        return dict(done(self.crew, [call], self.budget, lambda: self.budget.left)).get(0)

    def _converted(self, best: Judged, graph: Graph) -> None:
        """Judge a mix that was put together once more, now converted as `convert` will do it."""
        mix = best.candidate.mix
        loss = self.judge.loss(mix, graph, CHOOSING, True, lambda: self.budget.left) or best.loss
        cost = self.meter.cost(mix, graph)
        self.judged[key(mix)] = Judged(replace(best.candidate, cost=cost), loss, cost)
