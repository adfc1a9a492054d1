"""Results from the engines' outputs: the table of engines, the headline, and all figures of one pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tflite2q.evaluation.contenders import of
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.engines import (
    COMPILED,
    CONVERTED,
    LABELS,
    LITERT,
    LITERT_REFERENCE,
    ORIGINAL,
    REFERENCE,
    Contender,
)
from tflite2q.evaluation.figures import Difference, TaskInfo
from tflite2q.evaluation.likeness import Alike, Numbers, Whole, first_difference
from tflite2q.evaluation.results import Accuracy, EngineRun, Headline, Stage
from tflite2q.evaluation.tasks.base import Grade, Task, Truth

Key = tuple[str, str]  # engine, model


@dataclass
class Judging:
    """Collects, after each sample, what the present outputs of all contenders show."""

    contenders: Sequence[Contender]
    task: Task[Any]
    info: TaskInfo
    samples: Dataset
    truth: Truth[Any, Any] | None
    counts: dict[Key, int] = field(default_factory=dict)
    alike: dict[tuple[Key, Key], Alike] = field(default_factory=dict)
    grades: dict[Key, Grade[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        held = list(self.contenders)
        self.main = COMPILED if of(held, COMPILED, ORIGINAL) else REFERENCE
        first = next(c for c in held if (c.engine, c.model) == (self.main, ORIGINAL))
        self.whole = Whole(self.task, self.info, self.samples, self.truth, self._numbers(first))
        judge = LITERT_REFERENCE if any(c.engine == LITERT_REFERENCE for c in held) else REFERENCE
        self.judge = judge if any(c.engine == judge and c.model == ORIGINAL for c in held) else None

    def _numbers(self, contender: Contender) -> Numbers:
        return Numbers(contender.values, self.task.numeric)

    def seen(self, index: int) -> None:
        """Take the outputs of one sample in."""
        present = {(c.engine, c.model): c for c in self.contenders if c.outputs is not None}
        answers = {key: self.task.decode(c.outputs or [], c.values) for key, c in present.items()}
        for key in present:
            self.counts[key] = self.counts.get(key, 0) + 1
            if self.truth is not None:
                self.grades.setdefault(key, self.truth.grade()).add(index, answers[key])
        for a, b in self._pairs(present):
            first, second = present[a], present[b]
            alike = self.alike.setdefault((a, b), Alike(self.task, self._numbers(first)))
            alike.add(answers[a], answers[b], (first.outputs or [], second.outputs or []), second.values)
        before, after = present[self.main, ORIGINAL], present[self.main, CONVERTED]
        self.whole.add(
            index,
            (answers[self.main, ORIGINAL], answers[self.main, CONVERTED]),
            (before.outputs or [], after.outputs or []),
            after.values,
        )

    def _pairs(self, present: dict[Key, Contender]) -> list[tuple[Key, Key]]:
        """The pairs that are compared: in each engine, with the judge of kernels, and along the headline."""
        wanted = [((engine, ORIGINAL), (engine, CONVERTED)) for engine, model in present if model == ORIGINAL]
        if self.judge is not None:
            wanted += [((self.judge, model), (engine, model)) for engine, model in present if engine != self.judge]
        wanted.append(((LITERT, ORIGINAL), (COMPILED, CONVERTED)))
        return [pair for pair in dict.fromkeys(wanted) if pair[0] in present and pair[1] in present]

    def accuracy(self) -> Accuracy:
        """The original and the converted model in one engine: compiled, or the reference where that cannot run."""
        return replace(self.whole.result(), engine=LABELS[self.main])

    def rows(self) -> tuple[EngineRun, ...]:
        """The table of engines."""
        return tuple(self._row(contender) for contender in self.contenders)

    def _row(self, contender: Contender) -> EngineRun:
        key = (contender.engine, contender.model)
        samples = self.counts.get(key, 0)
        scheme = self.alike.get(((contender.engine, ORIGINAL), key)) if contender.model == CONVERTED else None
        kernels = self.alike.get(((self.judge, contender.model), key)) if self.judge is not None else None
        grade = self.grades.get(key)
        return EngineRun(
            engine=contender.engine,
            label=contender.label,
            model=contender.model,
            samples=samples,
            score=None if grade is None else grade.scores()[0].value,
            agreement=None if scheme is None else scheme.agreement,
            max_step_error=None if scheme is None else scheme.numbers.worst_steps,
            kernel_agreement=None if kernels is None else kernels.agreement,
            kernel_step_error=None if kernels is None else kernels.numbers.worst_steps,
            timing=contender.timing,
            failed=contender.failed,
            instructions=contender.run.instructions,
        )

    def headline(self) -> Headline:
        """The original in LiteRT, the converted model in LiteRT, and compiled; without LiteRT, both compiled."""
        held = list(self.contenders)
        wanted = [(LITERT, ORIGINAL), (LITERT, CONVERTED), (self.main, CONVERTED)]
        first = of(held, LITERT, ORIGINAL)
        if first is None or (first.timing is None and not self.counts.get((LITERT, ORIGINAL))):
            wanted = [(self.main, ORIGINAL), (self.main, CONVERTED)]
        found = [c for c in (of(held, *key) for key in wanted) if c is not None]
        stages = tuple(self._stage(contender, found[0]) for contender in found)
        measure = self.task.measure
        if self.truth is not None and (grade := self._complete(found[0])) is not None:
            measure = grade.scores()[0].label
        return Headline(measure, stages)

    def _complete(self, contender: Contender) -> Grade[Any] | None:
        """The grade over all samples."""
        key = (contender.engine, contender.model)
        return self.grades.get(key) if self.counts.get(key) == len(self.samples) else None

    def _stage(self, contender: Contender, first: Contender) -> Stage:
        grade, base = self._complete(contender), self._complete(first)
        key, start = (contender.engine, contender.model), (first.engine, first.model)
        difference: Difference | None = None
        if self.truth is not None and grade is not None and base is not None and contender is not first:
            difference = first_difference(self.truth, base, grade)
        alike = self.alike.get((start, key))
        times = first.timing, contender.timing
        gain = times[0].median_ms / times[1].median_ms if times[0] and times[1] and contender is not first else None
        return Stage(
            label=f"{contender.model} in {contender.label}" if contender.engine == LITERT else
            f"{contender.model}, {contender.label.partition(', ')[2]}",
            engine=contender.engine,
            model=contender.model,
            score=None if grade is None else grade.scores()[0].value,
            agreement=None if alike is None or self.counts.get(key) != len(self.samples) else alike.agreement,
            difference=difference,
            median_ms=None if contender.timing is None else contender.timing.median_ms,
            gain=gain,
        )  # fmt: skip
