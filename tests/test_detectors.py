"""SSD detectors from end to end: what was detected before a conversion and after it, by every way of running it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from detectors import SIZE, ssd
from judge import judge
from litert import run_litert
from surroundings import SHARED

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.evaluation import data
from tflite2q.execution import reference, runtime
from tflite2q.flatbuffer.writer import write

Array = npt.NDArray[Any]

# Several classes a detection rank scores that may be equal, whose order LiteRT leaves to its sorting routine.
MODES = {
    "fast": {},
    "no background": {"background": 0, "classes": 3},
    "many": {"max_detections": 25, "score_threshold": 0.05, "iou_threshold": 0.9},
    "few": {"score_threshold": 0.97, "iou_threshold": 0.2},
}

# A process of its own, as in test_tflm: the interpreter ends its process on some models it refuses.
CHILD = """
import sys
import numpy as np
from tflite_micro import runtime

model, given, taken = sys.argv[1:]
interpreter = runtime.Interpreter.from_file(model, arena_size=8 << 20)
interpreter.set_input(np.load(given), 0)
interpreter.invoke()
np.savez(taken, *[interpreter.get_output(index) for index in range(4)])
"""


def pictures() -> list[Array]:
    """Photos where there are some, and blurred noise."""
    graph = ssd()
    found = [codes for (codes,) in data.load(SHARED / "images", [graph["image"]], limit=3)] if SHARED.exists() else []
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (3, 1, SIZE // 4, SIZE // 4, 3)).astype(np.uint8)
    return [*found, *(part.repeat(4, axis=1).repeat(4, axis=2) for part in coarse)]


def detections(results: list[Array]) -> list[Array]:
    """Boxes, classes, scores and count, without the rows behind the count."""
    *parts, count = results
    return [*(part[:, : int(count[0])] for part in parts), count]


def assert_equal(got: list[Array], want: list[Array] | str) -> None:
    assert not isinstance(want, str), want
    assert int(want[3][0]) > 0
    for a, b in zip(detections(got), detections(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def run_micro(path: Path, codes: Array, folder: Path) -> list[Array]:
    given, taken = folder / "in.npy", folder / "out.npz"
    np.save(given, codes)
    command = [sys.executable, "-c", CHILD, str(path), str(given), str(taken)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(taken) as arrays:
        return [arrays[name] for name in arrays.files]


@pytest.mark.parametrize("mode", MODES)
def test_boxes_outlive_the_conversion_to_int8(mode: str, tmp_path: Path) -> None:
    """TFLite Micro's post-processing takes real numbers alone, LiteRT's uint8 as well."""
    graph = ssd(**MODES[mode])
    conversion = tflite2q.convert(graph, "int8")
    assert {v.type.dtype for v in conversion.graph.ins(conversion.graph.ops[-1]) if v} == {"float32"}
    path = tmp_path / "after.tflite"
    conversion.save(path)
    cases = [(write(each), [picture]) for picture in pictures() for each in (graph, conversion.graph)]
    judged = iter(judge(cases))
    for picture in pictures():
        original, converted = reference.run(graph, picture), reference.run(conversion.graph, picture)
        assert_equal(original, next(judged))
        assert_equal(converted, next(judged))
        assert_close(converted, original)
    pytest.importorskip("tflite_micro")
    for picture in pictures()[::3]:
        assert_equal(reference.run(conversion.graph, picture), run_micro(path, picture, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"regular": True}, {"max_classes_per_detection": 2}])
def test_compiled_detectors_detect_the_same(options: dict[str, Any]) -> None:
    graph = tflite2q.convert(ssd(max_detections=6, **options), "int8").graph
    executable = runtime.compile(graph)
    for picture in pictures():
        assert_equal(executable.run(picture), reference.run(graph, picture))


def assert_close(got: list[Array], want: list[Array]) -> None:
    """The same detections: codes may have moved by a step, as int8 layers round unlike uint8 ones, and with them the
    order of scores that were equal; every box found before is found again."""
    (boxes, classes, scores, count), (old_boxes, old_classes, old_scores, old_count) = detections(got), detections(want)
    assert abs(count[0] - old_count[0]) <= 1
    rows = int(min(count[0], old_count[0]))
    np.testing.assert_allclose(scores[:, :rows], old_scores[:, :rows], atol=2 / 256)
    clear = old_scores[0] > old_scores[0].min() + 3 / 256  # the others may give way to equals
    for box, kind in zip(old_boxes[0][clear], old_classes[0][clear], strict=True):
        apart = np.abs(boxes[0] - box).max(axis=1) + 9.0 * (classes[0] != kind)
        assert apart.min() < 0.02


@pytest.mark.parametrize("scheme", ["symmetric-int8", "int16x8", "int8-w4", "power-of-two", "float32"])
def test_every_scheme_leaves_a_detector_that_runs(scheme: str, tmp_path: Path) -> None:
    conversion = tflite2q.convert(ssd(1), scheme)
    path = tmp_path / "converted.tflite"
    conversion.save(path)
    graph: Graph = tflite2q.load(path)
    picture = pictures()[-1]
    default = list(run_litert(path, [picture], "default").values())
    assert len(default) == 4
    if scheme != "float32":  # sums of real numbers depend on their order
        assert_equal(reference.run(graph, picture), list(run_litert(path, [picture]).values()))


@pytest.mark.parametrize("options", [{"regular": True}, {"max_classes_per_detection": 2}])
def test_equal_scores_come_in_order(options: dict[str, Any]) -> None:
    """With several classes a detection, LiteRT leaves the order of equal scores to its sorting routine; here, as in
    TFLite Micro, the first comes first."""
    graph = ssd(score_threshold=0.0, **options)
    boxes, classes, scores, count = reference.run(graph, pictures()[-1])
    assert count[0] > 0 and boxes.shape[1] == classes.shape[1] == scores.shape[1]
    assert (np.diff(scores[0, : int(count[0])]) <= 0).all() or "regular" not in options
