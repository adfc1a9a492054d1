"""The base of tasks: how outputs become answers, and how answers are compared with each other and with the truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Value
from tflite2q.errors import DataError
from tflite2q.evaluation import coding
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.figures import Change, ClassLine, Difference, Figure
from tflite2q.evaluation.geometry import Fit

Array = npt.NDArray[Any]
A = TypeVar("A")
G = TypeVar("G", bound="Grade[Any]")

MOST_CHANGES = 20  # samples whose changed answers are kept

# Ops whose results are numbers of elements or of classes.
INDEX_OPS = frozenset({"q.argmax", "q.argmin", "q.top_k", "q.shape", "q.rank"})
PASSING_OPS = frozenset({"q.reshape", "q.cast", "q.squeeze"})


@dataclass(frozen=True)
class Interface:
    """What is known of a model from outside: its inputs and outputs, its graph (None for a library), the names of its
    classes, and whether the user has class labels for the samples."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    graph: Graph | None = None
    names: tuple[str, ...] | None = None
    labelled: bool = False

    @cached_property
    def image(self) -> tuple[int, int] | None:
        """Height and width of the only input, if that can be an image."""
        if len(self.inputs) != 1:
            return None
        shape = self.inputs[0].type.shape
        fits = len(shape) == 4 and shape[3] in (1, 3, 4) and min(shape[1:3]) > 1
        return (shape[1], shape[2]) if fits else None

    def maker(self, output: Value) -> tuple[Op | None, Value]:
        """The op that computes an output, and its result, before conversions and reshapes."""
        if self.graph is None:
            return None, output
        name = output.name
        op = self.graph.producers.get(name)
        while op is not None and (op.converts or op.mnemonic in PASSING_OPS) and op.inputs[0] is not None:
            name, op = op.inputs[0], self.graph.producers.get(op.inputs[0])
        return op, self.graph.by_name.get(name, output)

    def is_index(self, output: Value) -> bool:
        """Whether an output holds indices, which are no numbers to subtract."""
        op, _ = self.maker(output)
        if output.type.quantized or output.type.dtype.startswith("float"):
            return False
        return op is not None and op.mnemonic in INDEX_OPS


@dataclass(frozen=True, eq=False)
class Graded:
    """One score of one model in one engine: its `value` over all samples, and what is needed to compare it with that of
    another model: per sample right or wrong (bool), or terms that `resampled` sums (see each task); None for a score of
    all samples at once."""

    name: str
    label: str
    value: float
    each: Array | None = None


@dataclass(frozen=True)
class Likeness:
    """How alike the answers of two models are; `agreement` is None where nothing could be compared."""

    agreement: float | None
    figures: tuple[Figure, ...] = ()
    classes: tuple[ClassLine, ...] = ()
    changed: tuple[Change, ...] = ()
    changed_count: int = 0


class Task(ABC, Generic[A]):
    """A kind of answer, for the outputs of one model.

    `guess` says why a model looks like this task, or None; `obstacle` why its outputs cannot be read so, or None.
    """

    name: ClassVar[str]
    fit: ClassVar[Fit] = "crop"
    measure: ClassVar[str]  # what `agreement` is a share of, in words

    def __init__(self, model: Interface) -> None:
        self.model = model
        self.names = model.names

    @classmethod
    @abstractmethod
    def guess(cls, model: Interface) -> str | None: ...

    @classmethod
    @abstractmethod
    def obstacle(cls, model: Interface) -> str | None: ...

    @abstractmethod
    def decode(self, arrays: Sequence[Array], values: Sequence[Value]) -> A:
        """The answer that a model's outputs give; `values` are that model's, whose parameters may differ."""

    @abstractmethod
    def agreement(self, before: A, after: A) -> tuple[float, float]:
        """How many answers of one sample are equal, and of how many (0: there is nothing to compare)."""

    @abstractmethod
    def tally(self) -> Tally[A]:
        """Something that collects how alike pairs of answers are."""

    def truth(self, samples: Dataset, labels: Any, label_offset: int | None) -> Truth[A, Any] | None:
        """The ground truth of the samples, or None if there is none.  Raises DataError if it does not fit."""
        if labels is not None or samples.labels is not None:
            raise DataError(
                f"labels need an output with one score per class, masks, boxes or keypoints; the task is {self.name}"
            )
        return None

    @abstractmethod
    def says(self, answer: A) -> str:
        """The answer in a few words."""

    @abstractmethod
    def document(self, answer: A) -> Mapping[str, Any]:
        """The answer as keys of JSON."""

    @property
    def numeric(self) -> tuple[int, ...]:
        """The outputs whose differences mean something as numbers."""
        return tuple(k for k, value in enumerate(self.model.outputs) if not self.model.is_index(value))

    @property
    def told(self) -> tuple[int, ...]:
        """The outputs that `says` puts into words."""
        return ()

    def class_name(self, number: int) -> str | None:
        """The name of a class, if it has one."""
        return self.names[number] if self.names is not None and 0 <= number < len(self.names) else None

    def called(self, number: int) -> str:
        """A class as people read it: the first of its names, or "class 3"."""
        return (self.class_name(number) or "").partition(",")[0] or f"class {number}"

    def real(self, arrays: Sequence[Array], values: Sequence[Value], index: int) -> Array:
        """One output in real numbers."""
        return coding.real(arrays[index], values[index])


class Tally(ABC, Generic[A]):
    """Sums over samples; `result` turns them into figures."""

    @abstractmethod
    def add(self, index: int, sample: str, before: A, after: A, truth: str | None = None) -> None: ...

    @abstractmethod
    def result(self) -> Likeness: ...


class Truth(ABC, Generic[A, G]):
    """The ground truth of all samples, which makes grades of one kind."""

    @abstractmethod
    def grade(self) -> G:
        """Something that collects how right the answers of one model are."""

    def difference(self, before: Graded, after: Graded) -> Difference | None:
        """The paired comparison of two models' score; None for scores of all samples at once."""
        if before.each is None or after.each is None:
            return None
        return self.paired(before.name, before.each, after.each)

    def paired(self, score: str, before: Array, after: Array) -> Difference | None:
        """The comparison of what two models' score of that name has of `each` sample."""
        return None

    def says(self, index: int) -> str | None:
        """The true answer of a sample in a few words."""
        return None

    def classes(self, before: G, after: G) -> tuple[ClassLine, ...]:
        """How right both models are by class."""
        return ()


class Grade(ABC, Generic[A]):
    """Scores of one model against the truth, collected sample by sample."""

    @abstractmethod
    def add(self, index: int, answer: A) -> None: ...

    @abstractmethod
    def scores(self) -> tuple[Graded, ...]:
        """The scores, the most telling one first."""


def mean_of(values: Sequence[float]) -> float | None:
    """The mean, None of nothing."""
    return float(np.mean(values)) if len(values) else None
