"""Gates: which figure they bound, and that a figure that is missing is an error."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tflite2q.errors import UsageError
from tflite2q.evaluation import gates
from tflite2q.evaluation.figures import Figure, Pair, Score
from tflite2q.evaluation.results import Accuracy, Comparison, EngineRun, Size, Timing

ACCURACY = Accuracy(
    "photos", 200, Pair(0.85, 0.845), None, 0.98, 3.0, 0.01, agreement=0.98,
    scores=(Score("top1", "top-1", 0.85, 0.845), Score("map", "mAP", 0.3, 0.28), Score("mean_iou", "IoU", 0.7, 0.6)),
    figures=(Figure("sqnr_db", "", 31.5, "dB"), Figure("max_step_error", "", 3.0, "steps"),
             Figure("cosine", "", 0.999, "")),
)  # fmt: skip


def run(engine: str, model: str, ms: float) -> EngineRun:
    return EngineRun(engine, engine, model, 8, timing=Timing(ms, ms, ms, 10))


RESULT = Comparison(
    "a", "b", None, "native", (), ACCURACY, size=Size(100, 120),
    engines=(run("litert", "original", 8.0), run("litert", "converted", 4.0), run("compiled", "original", 3.0),
             run("compiled", "converted", 2.0)),
)  # fmt: skip

# name -> figure, computed by hand; one bound that it meets and one that it breaks.
FIGURES = {
    "max_top1_drop": (0.5, 0.6, 0.4),
    "min_agreement": (0.98, 0.98, 0.981),
    "min_sqnr": (31.5, 31, 32),
    "max_step_error": (3, 3, 2),
    "min_speedup": (4, 4, 4.1),
    "min_litert_speedup": (2, 1.9, 2.1),
    "min_compiled_speedup": (1.5, 1.5, 1.6),
    "max_size_ratio": (1.2, 1.2, 1.1),
    "min_miou": (0.6, 0.6, 0.7),
    "max_map_drop": (2, 2.1, 1.9),
    "min_cosine": (0.999, 0.9, 0.9999),
}


def test_every_gate_is_tried_here() -> None:
    assert set(FIGURES) == set(gates.KINDS)


@pytest.mark.parametrize("name", FIGURES)
def test_the_figure_of_a_gate(name: str) -> None:
    figure, met, broken = FIGURES[name]
    (passed,) = gates.evaluate(RESULT, {name: met})
    (failed,) = gates.evaluate(RESULT, {name: broken})
    assert passed.figure == failed.figure == pytest.approx(figure)
    assert passed.passed
    assert not failed.passed
    assert replace(RESULT, gates=(passed, failed)).failed_gates == (failed,)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_that_was_not_measured_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} was not measured"):
        gates.evaluate(Comparison("a", "b", None, None, ()), {name: 0.5})


def test_mean_iou_with_the_original_stands_in_for_the_truth() -> None:
    accuracy = replace(ACCURACY, scores=(), figures=(Figure("mean_iou_original", "", 0.9, "share"),))
    assert gates.evaluate(replace(RESULT, accuracy=accuracy), {"min_miou": 0.9})[0].passed


def test_outputs_without_noise_pass_any_bound_of_noise() -> None:
    accuracy = replace(ACCURACY, figures=(Figure("sqnr_db", "", math.inf, "dB"),))
    assert gates.evaluate(replace(RESULT, accuracy=accuracy), {"min_sqnr": 200})[0].passed


@pytest.mark.parametrize(
    "text", ["max_top1_drop = 0.5\nmin_agreement = 1", "[gates]\nmax-top1-drop = 0.5\nmin_agreement = 1.0"]
)
def test_gates_of_a_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gates.toml"
    path.write_text(text)
    assert gates.read(path) == {"max_top1_drop": 0.5, "min_agreement": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_top_drop = 1", "there is no gate 'max_top_drop'; did you mean 'max_top1_drop'"),
        ('min_sqnr = "high"', "the bound of min_sqnr is 'high', not a number"),
        ("min_sqnr = nan", "not a number"),
        ("min_sqnr = true", "not a number"),
        ("min_agreement = 99", "a share between 0 and 1, not 99"),
        ("min_sqnr = ", "is not TOML"),
        ("gates = 3", "gates is a table"),
        ("", r"gates\.toml: holds no gates; write lines like max_top1_drop = 0\.5"),
        ("[gates]\n# none yet\n", "holds no gates"),
        ("[gates]\nmax_top_drop = 1", r"gates\.toml: gates: there is no gate 'max_top_drop'"),
        ("min_sqnr = 20\n[gates]\nmin_sqnr = 30", r"gates\.toml: gates: min_sqnr is given above \[gates\], too"),
        ("min_sqnr = 20\nmin-sqnr = 30", "min_sqnr is given twice"),
        ("min_sqnr = 20\nmin_sqnr = 30\nmin_miou = 0.5", "at line 2, column 14"),
    ],
)
def test_files_that_are_no_gates(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gates.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        gates.read(path)


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read: No such file or directory; check the path"):
        gates.read(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("name", "task", "truth", "timed"),
    [
        ("max_top1_drop", "classification", False, True),
        ("max_top1_drop", "segmentation", True, True),
        ("max_map_drop", "detection", False, True),
        ("min_miou", "classification", True, True),
        ("min_agreement", "regression", False, True),
        ("min_speedup", "classification", True, False),
    ],
)
def test_gates_that_cannot_be_measured_are_refused_before_the_work(
    name: str, task: str, truth: bool, timed: bool
) -> None:
    with pytest.raises(UsageError, match="measured"):
        gates.foresee({name: 1.0}, task, truth, timed)


def test_gates_in_the_python_interface(digits: Path, digits_data: tuple[Path, Path]) -> None:
    import tflite2q

    options: dict[str, Any] = {"data": digits_data[0], "limit": 5, "speed": False, "layer_samples": 0}
    found = tflite2q.compare(digits, digits, gates={"min_agreement": 1.0, "max_size_ratio": 0.5}, **options)
    assert [gate.name for gate in found.failed_gates] == ["max_size_ratio"]
    with pytest.raises(UsageError, match="max_top1_drop was not measured: top-1 needs a classifier and labels"):
        tflite2q.compare(digits, digits, gates={"max_top1_drop": 1.0}, **options)
