"""Detection: boxes with a class and a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tflite2q.dialect.types import Value
from tflite2q.errors import DataError, hint
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.figures import Change, ClassLine, Figure
from tflite2q.evaluation.geometry import Fit
from tflite2q.evaluation.tasks.base import MOST_CHANGES, Array, Interface, Likeness, Tally, Task, Truth, mean_of
from tflite2q.evaluation.tasks.label_names import fitting

SAME_PLACE = 0.5  # IoU from which two boxes are of one place
SHOWN = 0.3  # the score from which a box counts as found
ROLES = ("boxes", "classes", "scores", "count")


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes [n, 4] as (top, left, bottom, right) in parts of the input, their classes and scores, best first."""

    corners: Array
    classes: Array
    scores: Array

    def from_score(self, least: float) -> Boxes:
        """The detections with at least this score."""
        kept = self.scores >= least
        return Boxes(self.corners[kept], self.classes[kept], self.scores[kept])


class Detection(Task[Boxes]):
    """The four outputs of SSD's post-processing: boxes, classes, scores and how many rows of them count."""

    name: ClassVar[str] = "detection"
    fit: ClassVar[Fit] = "stretch"
    measure: ClassVar[str] = "boxes matched"

    def __init__(self, model: Interface) -> None:
        super().__init__(model)
        found = _roles(model)
        if found is None:
            raise DataError(str(self.obstacle(model)))
        self.roles = found
        op, _ = model.maker(model.outputs[self.roles["boxes"]])
        classes = getattr(op, "num_classes", None)
        if self.names is not None and classes is not None:
            self.names = fitting(self.names, classes)

    @property
    def numeric(self) -> tuple[int, ...]:
        return ()  # rows change places with their scores, so that equal rows say nothing

    @classmethod
    def guess(cls, model: Interface) -> str | None:
        found = _roles(model)
        if found is None:
            return None
        rows = model.outputs[found["boxes"]].type.shape[1]
        return f"its four outputs are boxes, classes, scores and a count of up to {rows} detections"

    @classmethod
    def obstacle(cls, model: Interface) -> str | None:
        if _roles(model) is not None:
            return None
        shapes = ", ".join(str(list(v.type.shape)) for v in model.outputs)
        return (
            "a detector has outputs [1, n, 4] (boxes), [1, n] (classes), [1, n] (scores) and [1] (count), "
            f"this model's: {shapes}; heads without post-processing are compared as {hint('--task')} regression"
        )

    @property
    def told(self) -> tuple[int, ...]:
        return (self.roles["boxes"],)

    def decode(self, arrays: Sequence[Array], values: Sequence[Value]) -> Boxes:
        boxes, classes, scores, count = (self.real(arrays, values, self.roles[role]) for role in ROLES)
        rows = round(float(count.reshape(-1)[0]))
        scores = scores.reshape(-1)[:rows]
        order = np.argsort(-scores, kind="stable")
        return Boxes(
            boxes.reshape(-1, 4)[:rows][order].astype(np.float64),
            np.rint(classes.reshape(-1)[:rows][order]).astype(np.int64),
            scores[order].astype(np.float64),
        )

    def agreement(self, before: Boxes, after: Boxes) -> tuple[float, float]:
        pairs = _Pairs(before, after)
        return pairs.matched, pairs.all

    def tally(self) -> Tally[Boxes]:
        return _Tally(self)

    def truth(self, samples: Dataset, labels: Any, label_offset: int | None) -> Truth[Boxes, Any] | None:
        if labels is None:
            return None
        from tflite2q.evaluation.tasks.coco import BoxTruth

        return BoxTruth(self, samples, labels, label_offset)

    def says(self, answer: Boxes) -> str:
        shown = answer.from_score(SHOWN)
        if not len(shown.scores):
            return f"no box with a score of {SHOWN}"
        rows = zip(shown.classes, shown.scores, strict=True)
        text = ", ".join(f"{self.called(int(k))} {score:.2f}" for k, score in list(rows)[:6])
        return text + (f" and {len(shown.scores) - 6} more" if len(shown.scores) > 6 else "")

    def document(self, answer: Boxes) -> Mapping[str, Any]:
        rows = zip(answer.classes, answer.scores, answer.corners, strict=True)
        return {
            "boxes": [
                {
                    "class": int(k),
                    "name": self.class_name(int(k)),
                    "score": float(score),
                    **dict(zip(("top", "left", "bottom", "right"), map(float, corners), strict=True)),
                }
                for k, score, corners in rows
            ]
        }


def _roles(model: Interface) -> dict[str, int] | None:
    """Which output is what: by the op that makes them, else by their shapes in the order of TFLite's detectors."""
    outputs = model.outputs
    if model.graph is not None:
        places = {}
        for index, value in enumerate(outputs):
            op, made = model.maker(value)
            if op is not None and op.mnemonic == "q.detection_postprocess":
                places[ROLES[op.outputs.index(made.name)]] = index
        if len(places) == len(ROLES):
            return places
    if len(outputs) != len(ROLES):
        return None
    shapes = [value.type.shape for value in outputs]
    boxes = [k for k, shape in enumerate(shapes) if len(shape) == 3 and shape[0] == 1 and shape[2] == 4]
    counts = [k for k, value in enumerate(outputs) if value.type.size == 1 and len(value.type.shape) <= 1]
    if len(boxes) != 1 or len(counts) != 1:
        return None
    rows = [k for k, shape in enumerate(shapes) if shape == (1, shapes[boxes[0]][1])]
    if len(rows) != 2:
        return None
    first, second = rows
    if "score" in outputs[first].name.lower() or "class" in outputs[second].name.lower():
        first, second = second, first
    return {"boxes": boxes[0], "classes": first, "scores": second, "count": counts[0]}


def overlap(a: Array, b: Array) -> Array:
    """Intersection over union of boxes [n, 4] with boxes [m, 4]: [n, m]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(x[:, 2:] - x[:, :2], 0, None), axis=1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    found: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found


def matches(found: Boxes, among: Boxes, same_class: bool = True) -> list[tuple[int, int, float]]:
    """Pairs (row of `found`, row of `among`, IoU) of one place: each box of `found`, best score first, takes the free
    box of `among` that it overlaps most."""
    shares = overlap(found.corners, among.corners)
    if same_class:
        shares = np.where(found.classes[:, None] == among.classes[None, :], shares, 0.0)
    pairs = []
    for row in range(len(found.scores)):
        if not shares.shape[1]:
            break
        best = int(shares[row].argmax())
        if shares[row, best] >= SAME_PLACE:
            pairs.append((row, best, float(shares[row, best])))
            shares[:, best] = 0.0
    return pairs


class _Pairs:
    """Both ways: boxes that one model shows, among all boxes of the other.  A box that falls from 0.31 to 0.29 is found
    again that way; with a bound on both sides it would be lost."""

    def __init__(self, before: Boxes, after: Boxes) -> None:
        self.shown = before.from_score(SHOWN), after.from_score(SHOWN)
        self.forward = matches(self.shown[0], after)
        self.backward = matches(self.shown[1], before)
        self.matched = len(self.forward) + len(self.backward)
        self.all = sum(len(side.scores) for side in self.shown)


class _Tally(Tally[Boxes]):
    def __init__(self, task: Detection) -> None:
        self.task = task
        self.found = [0, 0]
        self.matched = self.all = self.placed = 0
        self.shares: list[float] = []
        self.score_errors: list[float] = []
        self.by_class: dict[int, list[float]] = {}
        self.changes: list[Change] = []

    def add(self, index: int, sample: str, before: Boxes, after: Boxes, truth: str | None = None) -> None:
        pairs = _Pairs(before, after)
        self.found = [a + len(b.scores) for a, b in zip(self.found, pairs.shown, strict=True)]
        self.matched, self.all = self.matched + pairs.matched, self.all + pairs.all
        self.placed += len(matches(pairs.shown[0], after, same_class=False))
        self.shares += [share for _, _, share in pairs.forward]
        self.score_errors += [abs(float(pairs.shown[0].scores[a] - after.scores[b])) for a, b, _ in pairs.forward]
        hit = {row for row, _, _ in pairs.forward}
        for row, number in enumerate(pairs.shown[0].classes):
            self.by_class.setdefault(int(number), []).append(float(row in hit))
        if pairs.matched < pairs.all:
            self.changes.append(Change(index, sample, self.task.says(before), self.task.says(after), truth))

    def result(self) -> Likeness:
        figures = [
            Figure("boxes_original", f"boxes of the original with a score of {SHOWN} or more", self.found[0], "count"),
            Figure("boxes_converted", f"boxes of the converted model with a score of {SHOWN} or more",
                   self.found[1], "count"),
        ]  # fmt: skip
        share = self.matched / self.all if self.all else None
        if share is not None:
            label = f"boxes matched (same class, IoU {SAME_PLACE} or more)"
            figures.insert(0, Figure("agreement", label, share, "share"))
        if self.found[0]:
            figures.append(Figure("same_place", "original's boxes found again in any class",
                                  self.placed / self.found[0], "share"))  # fmt: skip
        if self.shares:
            figures += [
                Figure("mean_box_iou", "mean IoU of matched boxes", float(np.mean(self.shares)), "share"),
                Figure("mean_score_error", "score difference of matched boxes, mean", mean_of(self.score_errors) or 0.0,
                       ""),
                Figure("max_score_error", "score difference of matched boxes, largest", max(self.score_errors), ""),
            ]  # fmt: skip
        lines = tuple(
            ClassLine(number, self.task.class_name(number), len(hits), None, float(np.mean(hits)))
            for number, hits in sorted(self.by_class.items())
        )
        return Likeness(share, tuple(figures), lines, tuple(self.changes[:MOST_CHANGES]), len(self.changes))
