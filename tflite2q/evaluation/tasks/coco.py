"""Ground truth in COCO's JSON: boxes for mean average precision, keypoints for their distance."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from tflite2q import limits
from tflite2q.errors import DataError, UsageError
from tflite2q.evaluation import statistics
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.figures import ClassLine, Difference
from tflite2q.evaluation.tasks.base import Array, Grade, Graded, Truth
from tflite2q.evaluation.tasks.detection import Boxes, Detection
from tflite2q.evaluation.tasks.keypoints import Keypoints, Points

Document = dict[str, Any]


def read(labels: Any, samples: Dataset) -> tuple[Document, list[int]]:
    """The document (a path, or what it holds) and the image id of each sample, by file name.  Raises DataError."""
    where = "the given annotations"
    if isinstance(labels, str | os.PathLike):
        where = os.fspath(labels)
        try:
            labels = json.loads(limits.text(labels))
        except OSError as error:
            raise limits.unreadable(where, error, DataError) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: ground truth of this task is a COCO JSON file") from error
    if not isinstance(labels, dict) or not all(
        isinstance(labels.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise DataError(f"{where}: a COCO JSON file has the lists images, annotations and categories")
    try:
        by_name = {Path(image["file_name"]).name: int(image["id"]) for image in labels["images"]}
        for note in labels["annotations"]:
            int(note["image_id"]), int(note["category_id"]), [float(x) for x in note.get("bbox", ())]
        for category in labels["categories"]:
            int(category["id"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: an image, annotation or category lacks {error}") from error
    if samples.pictures is None:
        if len(by_name) < len(samples):
            raise DataError(f"{where}: {len(by_name)} images for {len(samples)} samples")
        return labels, [int(image["id"]) for image in labels["images"][: len(samples)]]
    missing = [name for name in samples.names if Path(name).name not in by_name]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(f"{where}: no image called {missing[0]}{more}; images are found by file_name")
    return labels, [by_name[Path(name).name] for name in samples.names]


class BoxTruth(Truth[Boxes, "_BoxGrade"]):
    """Boxes; mean average precision is computed by pycocotools, over IoU 0.5 to 0.95."""

    def __init__(self, task: Detection, samples: Dataset, labels: Any, label_offset: int | None) -> None:
        try:
            import pycocotools.coco  # noqa: F401
        except ImportError as error:
            raise UsageError("mean average precision needs pycocotools: pip install 'tflite2q[detection]'") from error
        self.task, self.samples = task, samples
        self.document, self.images = read(labels, samples)
        self.category = self._categories(label_offset)

    def _categories(self, offset: int | None) -> dict[int, int]:
        """The model's class to COCO's category: by name where all categories are named as classes, else by number plus
        the offset; by default category 1 is class 0 if there is no category 0."""
        found = self.document["categories"]
        classes = {name.strip().lower(): k for k, name in enumerate(self.task.names or ())}
        if offset is None and found and all(str(c.get("name", "")).strip().lower() in classes for c in found):
            return {classes[str(c["name"]).strip().lower()]: int(c["id"]) for c in found}
        shift = offset if offset is not None else -1 if min((int(c["id"]) for c in found), default=0) >= 1 else 0
        return {int(c["id"]) + shift: int(c["id"]) for c in found}

    def grade(self) -> _BoxGrade:
        return _BoxGrade(self)

    def says(self, index: int) -> str | None:
        names = {int(c["id"]): str(c.get("name", c["id"])) for c in self.document["categories"]}
        held = [note for note in self.document["annotations"] if note["image_id"] == self.images[index]]
        return ", ".join(names.get(note["category_id"], "?") for note in held[:6]) or "nothing"

    def classes(self, before: _BoxGrade, after: _BoxGrade) -> tuple[ClassLine, ...]:
        first, second = before.by_category(), after.by_category()
        images = set(self.images)
        held = [note["category_id"] for note in self.document["annotations"] if note["image_id"] in images]
        return tuple(
            ClassLine(number, self.task.class_name(number), held.count(category), first[category], second[category])
            for number, category in sorted(self.category.items())
            if category in first and category in second
        )


class _BoxGrade(Grade[Boxes]):
    def __init__(self, truth: BoxTruth) -> None:
        self.truth = truth
        self.rows: list[Document] = []
        self.seen: list[int] = []
        self._evaluated: Any = None

    def add(self, index: int, answer: Boxes) -> None:
        truth = self.truth
        place = truth.samples.frame(index, truth.task.model.inputs[0].type.shape)
        corners = place.to_picture(answer.corners.reshape(-1, 2, 2))
        self.seen.append(truth.images[index])
        for (low, high), number, score in zip(corners, answer.classes, answer.scores, strict=True):
            category = truth.category.get(int(number))
            if category is None:
                continue
            box = [float(low[1]), float(low[0]), float(high[1] - low[1]), float(high[0] - low[0])]
            row = {"image_id": truth.images[index], "category_id": category, "bbox": box, "score": float(score)}
            self.rows.append(row)

    def evaluated(self) -> Any:
        """COCOeval after all samples; None if nothing was detected."""
        if self._evaluated is None and self.rows:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval

            with contextlib.redirect_stdout(io.StringIO()):
                held = COCO()
                held.dataset = _complete(self.truth.document)
                held.createIndex()
                found = COCOeval(held, held.loadRes(self.rows), "bbox")
                found.params.imgIds = sorted(set(self.seen))
                found.evaluate()
                found.accumulate()
                found.summarize()
            self._evaluated = found
        return self._evaluated

    def by_category(self) -> dict[int, float]:
        """Average precision of each category that the ground truth has."""
        found = self.evaluated()
        if found is None:
            return dict.fromkeys(self.truth.category.values(), 0.0)
        table = found.eval["precision"][:, :, :, 0, -1]  # IoU, recall, category; all areas, most detections
        held = {category: table[:, :, k] for k, category in enumerate(found.params.catIds)}
        return {category: float(part[part > -1].mean()) for category, part in held.items() if (part > -1).any()}

    def scores(self) -> tuple[Graded, ...]:
        found = self.evaluated()
        whole, half = (0.0, 0.0) if found is None else (max(float(found.stats[k]), 0.0) for k in (0, 1))
        return (Graded("map", "mAP (IoU 0.5 to 0.95)", whole), Graded("map50", "mAP (IoU 0.5)", half))


def _complete(document: Document) -> Document:
    """The document with what COCOeval asks of each annotation: an area, whether it is a crowd, and a number of its own
    (0 would count as no match)."""
    notes = []
    for number, note in enumerate(document["annotations"], start=1):
        box = note.get("bbox", (0, 0, 0, 0))
        notes.append({"area": box[2] * box[3], "iscrowd": 0, **note, "id": number})
    return {**document, "annotations": notes}


class PointTruth(Truth[Points, "_PointGrade"]):
    """Keypoints of the largest annotated person of each picture; a keypoint counts where it is labelled."""

    def __init__(self, task: Keypoints, samples: Dataset, labels: Any) -> None:
        self.task, self.samples = task, samples
        document, images = read(labels, samples)
        self.people: list[Array | None] = []
        for image in images:
            held = [n for n in document["annotations"] if n["image_id"] == image and any(n.get("keypoints", ())[2::3])]
            best = max(
                held, key=lambda n: float(n.get("area") or np.prod(n.get("bbox", (0, 0, 0, 0))[2:])), default=None
            )
            found = None if best is None else np.array(best["keypoints"], np.float64).reshape(-1, 3)
            if found is not None and len(found) != task.count:
                raise DataError(f"the ground truth has {len(found)} keypoints, the model {task.count}")
            self.people.append(found)
        if all(person is None for person in self.people):
            raise DataError("the ground truth has no keypoints for these samples")

    def grade(self) -> _PointGrade:
        return _PointGrade(self)

    def paired(self, score: str, before: Array, after: Array) -> Difference | None:
        return statistics.resampled(len(before), lambda k: _ratio(after[k]) - _ratio(before[k]))


class _PointGrade(Grade[Points]):
    def __init__(self, truth: PointTruth) -> None:
        self.truth = truth
        self.each: list[tuple[int, int]] = []  # right keypoints, labelled keypoints

    def add(self, index: int, answer: Points) -> None:
        task, person = self.truth.task, self.truth.people[index]
        if person is None:
            self.each.append((0, 0))
            return
        place = self.truth.samples.frame(index, task.model.inputs[0].type.shape)
        true = Points(place.to_input(person[:, 1::-1]), person[:, 2])
        near = task.distances(true, answer) <= task.near
        counted = person[:, 2] > 0
        self.each.append((int((near & counted).sum()), int(counted.sum())))

    def scores(self) -> tuple[Graded, ...]:
        each = np.array(self.each)
        label = f"PCK (within {self.truth.task.near:.1f} pixels of the input)"
        return (Graded("pck", label, _ratio(each), each),)


def _ratio(each: Array) -> float:
    right, counted = each.sum(0)
    return float(right / max(counted, 1))
