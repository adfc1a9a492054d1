"""Keypoints: places in the picture, each with a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tflite2q.dialect.types import Value
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.figures import Change, ClassLine, Figure
from tflite2q.evaluation.geometry import Fit
from tflite2q.evaluation.tasks.base import MOST_CHANGES, Array, Interface, Likeness, Tally, Task, Truth, mean_of

FEWEST = 5  # keypoints that an output of three or two columns must have to look like them
SHOWN = 0.3  # the score from which a keypoint counts as found, as in TensorFlow.js' demos of pose detection
NEAR = 0.05  # of the input's longer side: the distance within which a keypoint is the same
PIXELS = 2.0  # coordinates beyond this are pixels of the input, not parts of it

COCO_NAMES = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Points:
    """Places [n, 2] as (y, x) in parts of the input, and a score for each (1 where the model gives none)."""

    places: Array
    scores: Array


class Keypoints(Task[Points]):
    """An output [1, ..., n, 3] of (y, x, score), or [1, ..., n, 2] of (y, x), in parts of the input or its pixels."""

    name: ClassVar[str] = "keypoints"
    fit: ClassVar[Fit] = "pad"
    measure: ClassVar[str] = "keypoints in the same place"

    def __init__(self, model: Interface) -> None:
        super().__init__(model)
        self.index = next(k for k, v in enumerate(model.outputs) if _count(v))
        self.count = _count(model.outputs[self.index])
        self.size = model.image or (1, 1)
        if self.names is None and self.count == len(COCO_NAMES):
            self.names = COCO_NAMES

    @classmethod
    def guess(cls, model: Interface) -> str | None:
        if model.image is None or len(model.outputs) != 1:
            return None
        value = model.outputs[0]
        if _count(value) < FEWEST or value.type.shape[-1] != 3 or value.type.shape == model.inputs[0].type.shape:
            return None
        return f"output {value.name!r} has (y, x, score) of {_count(value)} keypoints"

    @classmethod
    def obstacle(cls, model: Interface) -> str | None:
        if model.image is None:
            return "keypoints need one input that is an image"
        if any(_count(value) for value in model.outputs):
            return None
        shapes = ", ".join(str(list(v.type.shape)) for v in model.outputs)
        return f"keypoints are an output of [1, n, 3] (y, x, score) or [1, n, 2] (y, x), this model's: {shapes}"

    @property
    def told(self) -> tuple[int, ...]:
        return (self.index,)

    def decode(self, arrays: Sequence[Array], values: Sequence[Value]) -> Points:
        real = self.real(arrays, values, self.index)
        rows = real.reshape(self.count, real.shape[-1]).astype(np.float64)
        scores = rows[:, 2] if rows.shape[1] == 3 else np.ones(len(rows))
        places = rows[:, :2]
        if np.abs(places).max(initial=0) > PIXELS:
            places = places / self.size
        return Points(places, scores)

    def distances(self, before: Points, after: Points) -> Array:
        """Distance of each keypoint in pixels of the input."""
        return np.asarray(np.hypot(*((before.places - after.places) * self.size).T))

    @property
    def near(self) -> float:
        """The distance in pixels within which a keypoint is the same."""
        return NEAR * max(self.size)

    def agreement(self, before: Points, after: Points) -> tuple[float, float]:
        found = before.scores >= SHOWN
        return float(np.sum(self.distances(before, after)[found] <= self.near)), int(found.sum())

    def tally(self) -> Tally[Points]:
        return _Tally(self)

    def truth(self, samples: Dataset, labels: Any, label_offset: int | None) -> Truth[Points, Any] | None:
        if labels is None:
            return None
        from tflite2q.evaluation.tasks.coco import PointTruth

        return PointTruth(self, samples, labels)

    def says(self, answer: Points) -> str:
        found = np.flatnonzero(answer.scores >= SHOWN)
        if not len(found):
            return f"no keypoint with a score of {SHOWN}"
        rows = [f"{self.called(k)} ({answer.places[k, 1]:.3f}, {answer.places[k, 0]:.3f})" for k in found[:3].tolist()]
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return f"{len(found)} of {self.count} keypoints, (x, y): {', '.join(rows)}{more}"

    def called(self, number: int) -> str:
        return self.class_name(number) or f"keypoint {number}"

    def document(self, answer: Points) -> Mapping[str, Any]:
        rows = zip(answer.places, answer.scores, strict=True)
        return {
            "keypoints": [
                {"keypoint": k, "name": self.class_name(k), "y": float(y), "x": float(x), "score": float(score)}
                for k, ((y, x), score) in enumerate(rows)
            ]
        }


def _count(value: Value) -> int:
    """How many keypoints an output can hold; 0 if none."""
    shape = value.type.shape
    if len(shape) < 3 or shape[0] != 1 or shape[-1] not in (2, 3):
        return 0
    return value.type.size // shape[-1] if max(shape[1:-2], default=1) == 1 else 0


class _Tally(Tally[Points]):
    def __init__(self, task: Keypoints) -> None:
        self.task = task
        self.every: list[float] = []
        self.found: list[float] = []
        self.score_errors: list[float] = []
        self.by_point: dict[int, list[float]] = {}
        self.changes: list[Change] = []

    def add(self, index: int, sample: str, before: Points, after: Points, truth: str | None = None) -> None:
        distances, shown = self.task.distances(before, after), before.scores >= SHOWN
        self.every += distances.tolist()
        self.found += distances[shown].tolist()
        self.score_errors += np.abs(before.scores - after.scores).tolist()
        for k in np.flatnonzero(shown).tolist():
            self.by_point.setdefault(k, []).append(float(distances[k] <= self.task.near))
        if (distances[shown] > self.task.near).any():
            self.changes.append(Change(index, sample, self.task.says(before), self.task.says(after), truth))

    def result(self) -> Likeness:
        task, share = self.task, None
        figures = [
            Figure("keypoints_found", f"keypoints of the original with a score of {SHOWN} or more", len(self.found),
                   "count"),
            Figure("distance_all", "distance of all keypoints, mean", mean_of(self.every) or 0.0, "pixels"),
            Figure("mean_score_error", "score difference of all keypoints, mean", mean_of(self.score_errors) or 0.0,
                   ""),
        ]  # fmt: skip
        if self.found:
            share = float(np.mean(np.array(self.found) <= task.near))
            figures = [
                Figure("agreement", f"keypoints in the same place (within {task.near:.1f} pixels of the input)", share,
                       "share"),
                Figure("distance", "distance of keypoints, mean", float(np.mean(self.found)), "pixels"),
                Figure("distance_max", "distance of keypoints, largest", max(self.found), "pixels"),
                *figures,
            ]  # fmt: skip
        lines = tuple(
            ClassLine(number, task.class_name(number), len(hits), None, float(np.mean(hits)))
            for number, hits in sorted(self.by_point.items())
        )
        return Likeness(share, tuple(figures), lines, tuple(self.changes[:MOST_CHANGES]), len(self.changes))
