"""Sums over samples of how far two models agree: answers, numbers, and correct answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.types import Value
from tflite2q.evaluation import coding
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.figures import ClassLine, Difference, Figure, Pair, Score, TaskInfo
from tflite2q.evaluation.results import Accuracy
from tflite2q.evaluation.tasks.base import Grade, Graded, Task, Truth, mean_of

Array = npt.NDArray[Any]


def sqnr(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise) of two powers in dB; None without noise, lowest without signal or if it is endless."""
    if noise == 0:
        return None
    bound = np.finfo(np.float64)
    ratio = max(signal, bound.tiny) / noise if math.isfinite(noise) else 0.0
    return 10 * float(np.log10(max(ratio, bound.smallest_subnormal)))


def apart(before: Array, after: Array) -> tuple[Array, Array]:
    """The original's finite numbers, and how far the other model's are from them; of the others nothing is said.

    -inf, with which PyTorch pads, is stood for by the least code.
    """
    known = np.isfinite(before)
    if not known.all():
        before, after = before[known], after[known]
    a = before.astype(np.float64)
    return a, np.abs(a - after)


def steps(difference: float, value: Value) -> float | None:
    """A difference of real numbers in steps of `value`, to a thousandth; None where it has no single step."""
    kind = value.type
    if not kind.quantized or len(kind.parameters.scale) != 1:
        return None
    return round(difference / kind.scale, 3)


@dataclass
class Numbers:
    """How outputs differ as numbers; `values` are the original's outputs of which `indices` are numbers at all."""

    values: Sequence[Value]
    indices: Sequence[int]
    errors: list[float] = field(default_factory=list)
    worst_steps: float | None = None
    worst: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def add(self, before: Sequence[Array], after: Sequence[Array], others: Sequence[Value]) -> None:
        """One sample's outputs; `others` are the values of `after`."""
        total, count = 0.0, 0
        for k in self.indices:
            a, difference = apart(coding.real(before[k], self.values[k]), coding.real(after[k], others[k]))
            total, count = total + float(difference.sum()), count + difference.size
            largest = float(difference.max(initial=0.0))
            self.worst = max(self.worst, largest)
            self.signal += float(np.sum(np.square(a)))
            self.noise += float(np.sum(np.square(difference)))
            found = steps(largest, self.values[k])
            if found is not None:
                self.worst_steps = found if self.worst_steps is None else max(self.worst_steps, found)
        if self.indices:
            self.errors.append(total / max(count, 1))

    def figures(self) -> tuple[Figure, ...]:
        if not self.errors:
            return ()
        ratio = sqnr(self.signal, self.noise)
        found = [
            Figure("sqnr_db", "signal to noise of the outputs", math.inf if ratio is None else ratio, "dB"),
            Figure("mean_abs_error", "difference of the outputs, mean", mean_of(self.errors) or 0.0, ""),
            Figure("max_abs_error", "difference of the outputs, largest", self.worst, ""),
        ]
        if self.worst_steps is not None:
            found.append(
                Figure("max_step_error", "difference of the outputs, largest in steps", self.worst_steps, "steps")
            )
        return tuple(found)


@dataclass
class Alike:
    """The short form of likeness, for rows of the table of engines: agreement and the largest error."""

    task: Task[Any]
    numbers: Numbers
    equal: float = 0.0
    all: float = 0.0

    def add(
        self, before: Any, after: Any, arrays: tuple[Sequence[Array], Sequence[Array]], values: Sequence[Value]
    ) -> None:
        equal, count = self.task.agreement(before, after)
        self.equal, self.all = self.equal + equal, self.all + count
        self.numbers.add(*arrays, values)

    @property
    def agreement(self) -> float | None:
        return self.equal / self.all if self.all else None


def scores(truth: Truth[Any, Any], before: Grade[Any], after: Grade[Any]) -> tuple[Score, ...]:
    """Both models' scores, each with its paired difference."""
    return tuple(
        Score(a.name, a.label, a.value, b.value, truth.difference(a, b))
        for a, b in zip(before.scores(), after.scores(), strict=True)
    )


def first_difference(truth: Truth[Any, Any], before: Grade[Any], after: Grade[Any]) -> Difference | None:
    """The paired difference of the first score."""
    a, b = _first(before), _first(after)
    return truth.difference(a, b)


def _first(grade: Grade[Any]) -> Graded:
    return grade.scores()[0]


@dataclass
class Whole:
    """Everything about one pair of models in one engine."""

    task: Task[Any]
    info: TaskInfo
    samples: Dataset
    truth: Truth[Any, Any] | None
    numbers: Numbers

    def __post_init__(self) -> None:
        self.tally = self.task.tally()
        self.grades = None if self.truth is None else (self.truth.grade(), self.truth.grade())

    def add(
        self,
        index: int,
        answers: tuple[Any, Any],
        arrays: tuple[Sequence[Array], Sequence[Array]],
        others: Sequence[Value],
    ) -> None:
        true = None if self.truth is None else self.truth.says(index)
        self.tally.add(index, self.samples.names[index], *answers, true)
        self.numbers.add(*arrays, others)
        if self.grades is not None:
            for grade, answer in zip(self.grades, answers, strict=True):
                grade.add(index, answer)

    def result(self) -> Accuracy:
        alike = self.tally.result()
        found: tuple[Score, ...] = ()
        lines: tuple[ClassLine, ...] = alike.classes
        if self.truth is not None and self.grades is not None:
            found = scores(self.truth, *self.grades)
            lines = self.truth.classes(*self.grades)
        pairs = {score.name: Pair(score.original, score.converted) for score in found}
        numbers = self.numbers.figures()
        return Accuracy(
            source=self.samples.source,
            samples=len(self.samples),
            top1=pairs.get("top1"),
            top5=pairs.get("top5"),
            agreement_top1=alike.agreement if self.task.name == "classification" else None,
            max_step_error=self.numbers.worst_steps,
            mean_abs_error=mean_of(self.numbers.errors),
            agreement=alike.agreement,
            synthetic=self.samples.synthetic,
            task=self.info,
            scores=found,
            figures=(*alike.figures, *numbers),
            classes=lines,
            changed=alike.changed,
            changed_count=alike.changed_count,
        )
