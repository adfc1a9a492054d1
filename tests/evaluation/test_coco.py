"""Mean average precision against pycocotools called by hand, and against a case worked out on paper."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectors import ssd
from PIL import Image

from tflite2q.errors import DataError
from tflite2q.evaluation import data, tasks
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.tasks.coco import BoxTruth, PointTruth
from tflite2q.evaluation.tasks.detection import Boxes, Detection
from tflite2q.evaluation.tasks.keypoints import Points

pytest.importorskip("pycocotools")

WIDTH, HEIGHT = 200, 100


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for k in range(4):
        Image.new("RGB", (WIDTH, HEIGHT), (k, k, k)).save(tmp_path / f"{k}.png")
    return tmp_path


def detector(photos: Path) -> tuple[Detection, Dataset]:
    graph = ssd()
    task, _ = tasks.choose([graph["image"]], [graph[n] for n in graph.outputs], graph)
    assert isinstance(task, Detection)
    return task, data.load(photos, [graph["image"]], fit=task.fit)


def document(notes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images": [{"id": 10 + k, "file_name": f"{k}.png", "width": WIDTH, "height": HEIGHT} for k in range(4)],
        "annotations": notes,
        "categories": [{"id": k + 1, "name": f"c{k}"} for k in range(5)],
    }


def drawn(generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    low = generator.uniform(0, 0.6, (count, 2))
    return np.concatenate([low, low + generator.uniform(0.1, 0.4, (count, 2))], 1), generator.integers(0, 5, count)


def by_hand(held: dict[str, Any], rows: list[dict[str, Any]]) -> list[float]:
    """COCOeval's statistics for detections that the test itself brought into COCO's form."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = held
        truth.createIndex()
        found = COCOeval(truth, truth.loadRes(rows), "bbox")
        found.evaluate()
        found.accumulate()
        found.summarize()
    return [float(value) for value in found.stats]


def test_average_precision_is_that_of_pycocotools(photos: Path) -> None:
    task, samples = detector(photos)
    generator = np.random.default_rng(0)
    notes: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    answers = []
    for k in range(4):
        corners, classes = drawn(generator, 6)
        for (top, left, bottom, right), number in zip(corners, classes, strict=True):
            box = [left * WIDTH, top * HEIGHT, (right - left) * WIDTH, (bottom - top) * HEIGHT]
            notes.append({"id": len(notes) + 1, "image_id": 10 + k, "category_id": int(number) + 1, "bbox": box,
                          "area": box[2] * box[3], "iscrowd": 0})  # fmt: skip
        # Some boxes moved, some of another class, some invented.
        moved = corners + generator.normal(0, 0.02, corners.shape)
        found_classes = np.where(generator.random(6) < 0.2, (classes + 1) % 5, classes)
        more, more_classes = drawn(generator, 3)
        places, kinds = np.concatenate([moved, more]), np.concatenate([found_classes, more_classes])
        scores = np.sort(generator.uniform(0.1, 1, 9))[::-1].copy()
        answers.append(Boxes(places, kinds, scores))
        for (top, left, bottom, right), number, score in zip(places, kinds, scores, strict=True):
            box = [left * WIDTH, top * HEIGHT, (right - left) * WIDTH, (bottom - top) * HEIGHT]
            rows.append({"image_id": 10 + k, "category_id": int(number) + 1, "bbox": box, "score": float(score)})
    truth = BoxTruth(task, samples, document(notes), None)
    grade = truth.grade()
    for k, answer in enumerate(answers):
        grade.add(k, answer)
    whole, half = grade.scores()
    expected = by_hand(document(notes), rows)
    assert 0.1 < expected[0] < expected[1] < 1
    assert (whole.value, half.value) == pytest.approx(expected[:2])
    lines = truth.classes(grade, grade)
    assert np.mean([line.original for line in lines if line.original is not None]) == pytest.approx(expected[0])
    assert sum(line.count for line in lines) == 24


def test_one_of_two_boxes_found_by_hand(photos: Path) -> None:
    task, samples = detector(photos)
    notes = [
        {"id": k, "image_id": 10, "category_id": 3, "bbox": [20 + 80 * k, 10, 40, 40]} for k in range(2)
    ]  # an id of 0, no area: both are mended
    grade = BoxTruth(task, samples, document(notes), None).grade()
    grade.add(0, Boxes(np.array([[0.1, 0.1, 0.5, 0.3]]), np.array([2]), np.array([0.9])))
    # Precision is 1 up to a recall of 0.5: 51 of the 101 points of COCO's curve.
    assert [score.value for score in grade.scores()] == pytest.approx([51 / 101, 51 / 101])


def test_nothing_found_is_a_precision_of_nothing(photos: Path) -> None:
    task, samples = detector(photos)
    notes = [{"id": 1, "image_id": 10, "category_id": 3, "bbox": [0, 0, 9, 9]}]
    grade = BoxTruth(task, samples, document(notes), None).grade()
    grade.add(0, Boxes(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)))
    assert [score.value for score in grade.scores()] == [0.0, 0.0]


def test_categories_by_name_or_by_number(photos: Path) -> None:
    task, samples = detector(photos)
    assert BoxTruth(task, samples, document([]), None).category == {k: k + 1 for k in range(5)}
    assert BoxTruth(task, samples, document([]), 0).category == {k + 1: k + 1 for k in range(5)}
    task.names = ("c4", "c3", "c2", "c1", "c0")
    assert BoxTruth(task, samples, document([]), None).category == {0: 5, 1: 4, 2: 3, 3: 2, 4: 1}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": []}, "no image called 0.png"),
        ({"annotations": None}, "has the lists images, annotations and categories"),
        ({"annotations": [{"id": 1}]}, "an image, annotation or category lacks 'image_id'"),
    ],
)
def test_documents_that_do_not_fit(photos: Path, changed: dict[str, Any], message: str) -> None:
    task, samples = detector(photos)
    with pytest.raises(DataError, match=message):
        BoxTruth(task, samples, {**document([]), **changed}, None)


def test_keypoints_against_the_truth_by_hand(photos: Path) -> None:
    from evaluation.test_tasks import pose

    graph = pose()
    task, _ = tasks.choose([graph["image"]], [graph["points"]], graph)
    samples = data.load(photos, [graph["image"]], fit="pad")
    # 200 x 100 becomes 8 x 4 in the middle of 8 x 8: picture (100, 50) is the input's centre.
    points = [100, 50, 2] * 5 + [0, 0, 2] + [0, 0, 0]
    notes = [{"id": 1, "image_id": 10, "category_id": 1, "keypoints": points, "bbox": [0, 0, 9, 9]}]
    truth = PointTruth(task, samples, document(notes))  # type: ignore[arg-type]
    grade = truth.grade()
    places = np.full((7, 2), 0.5)
    places[0] += (0.0, 0.06)  # 0.48 pixels of 8: beyond 5 %
    places[5] = (0.25, 0.0)  # where the padded picture begins
    grade.add(0, Points(places, np.ones(7)))
    for k in range(1, 4):
        grade.add(k, Points(places, np.ones(7)))  # pictures without people count for nothing
    assert grade.scores()[0].value == pytest.approx(5 / 6)
