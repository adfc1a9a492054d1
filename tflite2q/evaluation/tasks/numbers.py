"""Tasks whose answers are numbers: regression, and embeddings that are compared by their direction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tflite2q.dialect.types import Value
from tflite2q.evaluation.figures import Figure
from tflite2q.evaluation.tasks.base import Array, Interface, Likeness, Tally, Task
from tflite2q.evaluation.tasks.classification import POOLING_OPS

Numbers = list[Array]  # each output that holds numbers, in real numbers


class Regression(Task[Numbers]):
    """Any model: its outputs are compared as numbers."""

    name: ClassVar[str] = "regression"
    measure: ClassVar[str] = "cosine of the outputs"

    @classmethod
    def guess(cls, model: Interface) -> str | None:
        return "its outputs look like no other task's"

    @classmethod
    def obstacle(cls, model: Interface) -> str | None:
        return None

    def decode(self, arrays: Sequence[Array], values: Sequence[Value]) -> Numbers:
        return [self.real(arrays, values, index) for index in self.numeric]

    def agreement(self, before: Numbers, after: Numbers) -> tuple[float, float]:
        cosine = _cosine(before, after)
        return (0.0, 0) if cosine is None else (cosine, 1)

    def tally(self) -> Tally[Numbers]:
        return _Tally()

    def says(self, answer: Numbers) -> str:
        return "; ".join(f"{x.min():.6g} to {x.max():.6g}" if x.size else "nothing" for x in answer) or "no numbers"

    def document(self, answer: Numbers) -> Mapping[str, Any]:
        return {}


class Embedding(Regression):
    """A vector that stands for the input: pooled or normalized features."""

    name: ClassVar[str] = "embedding"
    measure: ClassVar[str] = "cosine of the embeddings"

    @classmethod
    def guess(cls, model: Interface) -> str | None:
        if len(model.outputs) != 1:
            return None
        value = model.outputs[0]
        shape = value.type.shape
        op, _ = model.maker(value)
        if not shape or shape[-1] < 2 or value.type.size != shape[-1] or op is None:
            return None
        if op.mnemonic in POOLING_OPS:
            return f"output {value.name!r} is a vector of {shape[-1]} pooled or normalized features"
        return None

    @classmethod
    def obstacle(cls, model: Interface) -> str | None:
        return None


class _Tally(Tally[Numbers]):
    def __init__(self) -> None:
        self.cosines: list[float] = []

    def add(self, index: int, sample: str, before: Numbers, after: Numbers, truth: str | None = None) -> None:
        cosine = _cosine(before, after)
        if cosine is not None:
            self.cosines.append(cosine)

    def result(self) -> Likeness:
        if not self.cosines:
            return Likeness(None)
        mean, least = float(np.mean(self.cosines)), float(np.min(self.cosines))
        figures = (
            Figure("cosine", "cosine of the outputs, mean", mean, ""),
            Figure("least_cosine", "cosine of the outputs, least", least, ""),
        )
        return Likeness(None, figures)


def _cosine(before: Numbers, after: Numbers) -> float | None:
    """The cosine of the angle between all outputs as one vector; None if one of them is zero and the other is not."""
    if not before:
        return None
    a, b = (np.concatenate([x.reshape(-1) for x in side]).astype(np.float64) for side in (before, after))
    if np.array_equal(a, b):
        return 1.0
    lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    if lengths == 0:
        return None
    return max(-1.0, min(1.0, float(a @ b) / lengths))
