"""How much accuracy a mix loses, on the half of the samples that chooses or on the held-out half."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tflite2q.dialect.graph import Graph
from tflite2q.errors import DataError
from tflite2q.evaluation import tasks
from tflite2q.evaluation.comparison import inputs_of
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.tasks.classification import Classification
from tflite2q.mixing import evidence, measure
from tflite2q.mixing.crew import Budget, Crew, done
from tflite2q.mixing.evidence import Answers, Loss
from tflite2q.mixing.measure import Result
from tflite2q.mixing.mix import Mix, key
from tflite2q.mixing.state import State

CHOOSING, CONFIRMING = "choosing", "confirming"
CALIBRATING = 50  # samples at most, as for `convert --data`
CHUNK = 8  # samples of one call
# Multiply-accumulates beyond which compiling a model takes less time than the reference takes to run it.
WORTH_COMPILING = 100e9


@dataclass(frozen=True)
class Halves:
    """Indices of samples: those that calibrate are the first ones, as in a conversion, and help to choose."""

    calibrating: tuple[int, ...]
    choosing: tuple[int, ...]
    confirming: tuple[int, ...]

    @staticmethod
    def of(samples: int, seed: int) -> Halves:
        first = min(CALIBRATING, max(samples // 2, 1))
        rest = first + np.random.default_rng(seed).permutation(samples - first)
        more = max((samples + 1) // 2 - first, 0)
        choosing = (*range(first), *sorted(int(i) for i in rest[:more]))
        return Halves(tuple(range(first)), choosing, tuple(sorted(int(i) for i in rest[more:])))


class Judge:
    """Losses of mixes, each measured once; `context` is the crew's handle of the context.

    Raises DataError if the model's answers have no classes, positions or boxes that could agree.
    """

    def __init__(
        self, original: Graph, samples: Dataset, halves: Halves, label_offset: int | None, threads: int,
        crew: Crew, budget: Budget, state: State,
    ) -> None:  # fmt: skip
        self.original, self.samples, self.crew, self.budget, self.state = original, samples, crew, budget, state
        self.indices = {CHOOSING: halves.choosing, CONFIRMING: halves.confirming}
        self.threads = threads
        values = [original[name] for name in original.outputs]
        self.task, _ = tasks.choose(inputs_of(original), values, original, labelled=samples.labels is not None)
        self.classes = None
        if samples.labels is not None and isinstance(self.task, Classification) and not self.task.by_number:
            self.classes = samples.classes(self.task.classes, label_offset)
        elif samples.labels is not None:
            self.classes = samples.labels + (label_offset or 0)
        self.packs: dict[tuple[int, ...], Any] = {}
        self.context: Any = None
        self.seconds = float(state.get("seconds") or 0.0)  # that the last judgement took
        self._known: dict[str, tuple[list[Any], Answers]] = {}

    @property
    def judges(self) -> str:
        """The unit of the loss: points of "top-1", or of "agreement" with the original."""
        return "top-1" if self.classes is not None else "agreement"

    def pack(self, indices: tuple[int, ...]) -> Any:
        """The crew's handle of these samples."""
        if indices not in self.packs:
            self.packs[indices] = self.crew.share([self.samples.make(index) for index in indices])
        return self.packs[indices]

    def loss(self, mix: Mix, graph: Graph, half: str, true: bool, left: Callable[[], float]) -> Loss | None:
        """The loss of a mix, whose graph is `graph`, on a half; None if the time ended.

        `true`: the graph is not what the context makes of the mix.
        """
        name = f"loss {half} {'true ' if true else ''}{key(mix)}"
        known = self.state.get(name)
        if known is not None:
            return Loss(**known)
        before = self._originals(half, left)
        began = self.budget.now()
        after = self._results(self.crew.share(graph) if true else mix, half, left)
        if before is None or after is None:
            return None
        self.seconds = self.budget.now() - began
        self.state.put("seconds", self.seconds)
        values = [graph[each] for each in graph.outputs]
        answers = [self.task.decode(outputs, values) for outputs, _ in after]
        found = evidence.loss(before[1], self._answers(answers, after, half, before[0]), self._classes(half))
        self.state.put(name, asdict(found))
        return found

    def _originals(self, half: str, left: Callable[[], float]) -> tuple[list[Any], Answers] | None:
        if half not in self._known:
            found = self._results(None, half, left)
            if found is None:
                return None
            values = [self.original[each] for each in self.original.outputs]
            answers = [self.task.decode(outputs, values) for outputs, _ in found]
            self._known[half] = answers, self._answers(answers, found, half, answers)
        return self._known[half]

    def _classes(self, half: str) -> Any:
        return None if self.classes is None else self.classes[list(self.indices[half])]

    def _answers(self, answers: Sequence[Any], found: Sequence[Result], half: str, original: Sequence[Any]) -> Answers:
        classes = self._classes(half)
        if classes is not None:
            right = np.array([float(a.best[0] == c) for a, c in zip(answers, classes, strict=True)])
        else:
            counts = [self.task.agreement(a, b) for a, b in zip(original, answers, strict=True)]
            if not any(total for _, total in counts):
                raise DataError("the model's output has no classes, so a search cannot tell what accuracy a mix costs")
            right = np.array([equal / total if total else 1.0 for equal, total in counts])
        scores, single = None, isinstance(self.task, Classification) and len(answers[0].best) == 1
        if isinstance(self.task, Classification) and single and not self.task.binary:
            rows = [values.reshape(-1) for _, values in found]
            if all(len(row) == self.task.classes for row in rows):
                scores = np.stack(rows)
        return Answers(right, scores, classes is not None or single)

    def _results(self, what: Any, half: str, left: Callable[[], float]) -> list[Result] | None:
        indices = self.indices[half]
        heavy = len(indices) * self.original.macs() > WORTH_COMPILING
        compiled = ("native", self.threads) if heavy else None
        size = len(indices) if heavy else CHUNK
        packs = [self.pack(indices[start : start + size]) for start in range(0, len(indices), size)]
        calls = [(number, measure.results, (self.context, what, pack, compiled)) for number, pack in enumerate(packs)]
        found = dict(done(self.crew, calls, self.budget, left))
        if len(found) < len(packs):
            return None
        return [result for number in range(len(packs)) for result in found[number]]
