"""Classification: one class of several, by the highest score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tflite2q.dialect.types import Value
from tflite2q.errors import DataError
from tflite2q.evaluation import statistics
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.figures import Change, ClassLine, Difference, Figure
from tflite2q.evaluation.tasks.base import MOST_CHANGES, Array, Grade, Graded, Interface, Likeness, Tally, Task, Truth
from tflite2q.evaluation.tasks.label_names import fitting

HIGHEST = 5
SURE = 0.5  # the score from which a single output means yes
SCORE_OPS = ("q.softmax", "q.log_softmax")
POOLING_OPS = ("q.average_pool2d", "q.max_pool2d", "q.mean", "q.l2_norm", "q.reduce_max", "q.l2_pool2d")


@dataclass(frozen=True, eq=False)
class Classes:
    """Scores of [rows, classes] in real numbers, and the best class of each row; of equal scores the lower class
    counts.  An output that only names the class has no scores: they are empty."""

    best: Array
    scores: Array

    def ranked(self, row: int = 0) -> Array:
        """The classes of a row, best first."""
        if not self.scores.size:
            return self.best[row : row + 1]
        return np.argsort(-self.scores[row].astype(np.float64), kind="stable")


class Classification(Task[Classes]):
    """The first output that can hold a score per class, one score of a binary question, or the number of a class."""

    name: ClassVar[str] = "classification"
    measure: ClassVar[str] = "same class"

    def __init__(self, model: Interface) -> None:
        super().__init__(model)
        self.index = next((k for k, v in enumerate(model.outputs) if _reason(model, v)), 0)
        output = model.outputs[self.index]
        self.binary = output.type.size == 1
        self.classes = 2 if self.binary else output.type.shape[-1]
        self.by_number = model.is_index(output)
        if self.names is not None and not self.by_number:
            self.names = fitting(self.names, self.classes)

    @classmethod
    def guess(cls, model: Interface) -> str | None:
        return next(filter(None, (_reason(model, value) for value in model.outputs)), None)

    @classmethod
    def obstacle(cls, model: Interface) -> str | None:
        first = model.outputs[0].type if model.outputs else None
        if any(_reason(model, value) for value in model.outputs):
            return None
        if first is None or not first.shape or first.size not in (1, first.shape[-1]):
            shape = "nothing" if first is None else str(list(first.shape))
            return f"a classifier's output has one score per class, this model's is {shape}"
        return None

    def decode(self, arrays: Sequence[Array], values: Sequence[Value]) -> Classes:
        if self.by_number:
            return Classes(arrays[self.index].reshape(-1), np.empty((0, 0)))
        real = self.real(arrays, values, self.index)
        if self.binary:
            score = real.reshape(-1, 1)
            return Classes((score[:, 0] >= SURE).astype(np.int64), np.concatenate([1 - score, score], axis=1))
        scores = real.reshape(-1, self.classes)
        return Classes(scores.argmax(1), scores)

    def agreement(self, before: Classes, after: Classes) -> tuple[float, float]:
        return float(np.sum(before.best == after.best)), len(before.best)

    def tally(self) -> Tally[Classes]:
        return _Tally(self)

    def truth(self, samples: Dataset, labels: Any, label_offset: int | None) -> Truth[Classes, Any] | None:
        if samples.labels is None:
            return None
        output = self.model.outputs[self.index]
        if not self.by_number and not self.binary and output.type.size != self.classes:
            raise DataError(
                f"labels need an output with one score per class; {output.name!r} is {list(output.type.shape)}"
            )
        if self.by_number:
            return _Truth(self, samples.labels + (label_offset or 0))
        return _Truth(self, samples.classes(self.classes, label_offset))

    def says(self, answer: Classes) -> str:
        return "; ".join(self._row(answer, row) for row in range(len(answer.best)))

    def ranking(self, answer: Classes) -> str:
        """The best classes of a single position with their scores; the best one of each of several."""
        if len(answer.best) != 1 or not answer.scores.size:
            return self.says(answer)
        scores = answer.scores[0]
        # The order of classes that share the lowest score means nothing.
        told = [k for rank, k in enumerate(answer.ranked()[:HIGHEST]) if rank == 0 or scores[k] > scores.min()]
        return ", ".join(f"{self.called(int(k))}: {scores[k]:.4g}" for k in told)

    def _row(self, answer: Classes, row: int) -> str:
        if not answer.scores.size:
            return self.called(int(answer.best[row]))
        best = int(answer.best[row])
        return f"{self.called(best)} ({answer.scores[row, best]:.4g})"

    def document(self, answer: Classes) -> Mapping[str, Any]:
        return {"classes": [self._entry(answer, k) for k in answer.ranked()[:HIGHEST]]}

    def _entry(self, answer: Classes, number: int) -> dict[str, Any]:
        score = float(answer.scores[0, number]) if answer.scores.size else None
        return {"class": int(number), "name": self.class_name(int(number)), "score": score}


def _reason(model: Interface, value: Value) -> str | None:
    """Why an output looks like classes."""
    kind, shape = value.type, value.type.shape
    op, made = model.maker(value)
    made_by = op.mnemonic if op is not None else None
    sigmoid = made_by == "q.lookup" and getattr(op, "function", None) == "LOGISTIC"
    if model.is_index(value):
        return f"output {value.name!r} is the number of a class" if kind.size == 1 else None
    if kind.size == 1:
        return f"output {value.name!r} is one sigmoid, a yes or no" if sigmoid and len(shape) >= 1 else None
    if len(shape) < 2 or shape[-1] < 2 or (kind.size != shape[-1] and len(shape) != 2):
        return None
    if made_by in SCORE_OPS:
        return f"output {value.name!r} is a softmax of {shape[-1]} classes"
    alone = kind.size == shape[-1]
    if alone and model.names is not None and abs(len(model.names) - shape[-1]) <= 1:
        return f"output {value.name!r} has a score for each of {shape[-1]} named classes"
    if alone and model.labelled:
        return f"output {value.name!r} has {shape[-1]} numbers, and there are labels"
    if sigmoid and alone:
        return f"output {value.name!r} is a sigmoid of {shape[-1]} classes"
    pooled = made_by in POOLING_OPS or made.type.shape[-1:] != shape[-1:] or made.type.size != kind.size
    mirrored = any(v.type.shape == shape for v in model.inputs)
    if alone and not pooled and not mirrored and (len(model.outputs) == 1):
        return f"output {value.name!r} has {shape[-1]} numbers for one position"
    return None


class _Tally(Tally[Classes]):
    def __init__(self, task: Classification) -> None:
        self.task = task
        self.same: list[float] = []
        self.top5: list[float] = []
        self.seen: dict[int, list[float]] = {}
        self.changes: list[Change] = []

    def add(self, index: int, sample: str, before: Classes, after: Classes, truth: str | None = None) -> None:
        equal = before.best == after.best
        self.same.append(float(np.mean(equal)))
        for number, hit in zip(before.best, equal, strict=True):
            self.seen.setdefault(int(number), []).append(float(hit))
        if before.scores.size and before.scores.shape[1] > HIGHEST:
            self.top5.extend(float(b in after.ranked(row)[:HIGHEST]) for row, b in enumerate(before.best))
        if not equal.all():
            self.changes.append(Change(index, sample, self.task.says(before), self.task.says(after), truth))

    def result(self) -> Likeness:
        share = float(np.mean(self.same))
        low, high = statistics.wilson(sum(self.same), len(self.same))
        figures = [Figure("agreement", "same class", share, "share", low, high)]
        if self.top5:
            label = "original's class among the converted model's five best"
            figures.append(Figure("agreement_top5", label, float(np.mean(self.top5)), "share"))
        lines = tuple(
            ClassLine(number, self.task.class_name(number), len(hits), None, float(np.mean(hits)))
            for number, hits in sorted(self.seen.items())
        )
        changed = tuple(self.changes[:MOST_CHANGES])
        return Likeness(share, tuple(figures), lines, changed, len(self.changes))


class _Truth(Truth[Classes, "_Grade"]):
    def __init__(self, task: Classification, labels: Array) -> None:
        self.task, self.labels = task, labels

    def grade(self) -> _Grade:
        return _Grade(self)

    def paired(self, score: str, before: Array, after: Array) -> Difference | None:
        return statistics.paired_proportions(before, after)

    def says(self, index: int) -> str | None:
        return self.task.called(int(self.labels[index]))

    def classes(self, before: _Grade, after: _Grade) -> tuple[ClassLine, ...]:
        first, second = before.each[:, 0], after.each[:, 0]
        labels = self.labels[: len(first)]
        return tuple(
            ClassLine(
                int(number),
                self.task.class_name(int(number)),
                int((labels == number).sum()),
                float(first[labels == number].mean()),
                float(second[labels == number].mean()),
            )
            for number in np.unique(labels)
        )


class _Grade(Grade[Classes]):
    def __init__(self, truth: _Truth) -> None:
        self.truth = truth
        self.right: list[tuple[bool, bool]] = []

    def add(self, index: int, answer: Classes) -> None:
        label = self.truth.labels[index]
        self.right.append((bool(answer.best[0] == label), bool(label in answer.ranked()[:HIGHEST])))

    @property
    def each(self) -> Array:
        """By sample, whether the best class is right, and whether one of the best few is."""
        return np.array(self.right, bool).reshape(-1, 2)

    def scores(self) -> tuple[Graded, ...]:
        each = self.each
        found = [Graded("top1", "top-1", float(each[:, 0].mean()), each[:, 0])]
        if not self.truth.task.by_number:
            found.append(Graded("top5", "top-5", float(each[:, 1].mean()), each[:, 1]))
        return tuple(found)
