"""`compare` and `run` as people and build servers use them: gates, reports, tasks, pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from detectors import SIZE, ssd
from evaluation.test_tasks import pose, segmenter
from PIL import Image

from tflite2q.flatbuffer import writer

Cli = Callable[..., Any]
QUICK = ("--no-speed", "--layer-samples", 0)


@pytest.fixture
def bad_mix(tmp_path: Path) -> Path:
    """A scheme that ruins the digits model: every weight in 4 bits, one scale a tensor."""
    path = tmp_path / "bad.toml"
    path.write_text('[activations]\ndtype = "int8"\n[weights]\ndtype = "int4"\ngranularity = "per-tensor"\n', "utf-8")
    return path


def test_a_failed_gate_is_named_with_its_figure_and_its_bound(
    cli: Cli, digits: Path, digits_data: tuple[Path, Path], bad_mix: Path, tmp_path: Path
) -> None:
    data, labels = digits_data
    reports = {kind: tmp_path / f"report.{kind}" for kind in ("json", "markdown", "junit")}
    options = [part for kind, path in reports.items() for part in (f"--{kind}", path)]
    arguments = ("compare", digits, "--scheme", bad_mix, "--data", data, "--labels", labels, "--limit", 100, *QUICK)
    outcome = cli(*arguments, "--max-top1-drop", 0.5, "--max-size-ratio", 9, *options)
    found = json.loads(reports["json"].read_text())
    top1 = found["accuracy"]["top1"]
    drop = 100 * (top1["original"] - top1["converted"])
    assert drop > 0.5
    assert outcome.code == 1
    figure = f"drop of top-1 (tflite2q, compiled) is {drop:.1f} points"
    line = f"FAILED max_top1_drop: {figure}, the bound is at most 0.5 points"
    assert line in outcome.out
    assert outcome.err.splitlines() == [f"tflite2q: digits_uint8.tflite -> bad: {line}"]
    assert "passed max_size_ratio" in outcome.out
    assert [(gate["name"], gate["passed"]) for gate in found["gates"]] == [
        ("max_top1_drop", False), ("max_size_ratio", True)
    ]  # fmt: skip
    assert "**1 of 2 gates failed**" in reports["markdown"].read_text(encoding="utf-8")
    failures = ElementTree.parse(reports["junit"]).getroot().findall(".//failure")
    assert [failure.get("message") for failure in failures] == [line]


def test_gates_of_a_file_and_options_that_override_them(cli: Cli, digits: Path, tmp_path: Path) -> None:
    gates = tmp_path / "gates.toml"
    gates.write_text("min_agreement = 1.0\nmax_size_ratio = 0.5\n")
    arguments = ("compare", digits, digits, "--limit", 2, *QUICK, "--gates", gates)
    outcome = cli(*arguments)
    assert outcome.code == 1
    assert "max_size_ratio" in outcome.err
    assert "min_agreement" not in outcome.err
    assert cli(*arguments, "--max-size-ratio", 1).code == 0
    gates.write_text("min_agreement = 1\nmax_sise_ratio = 1\n")
    outcome = cli(*arguments)
    assert (outcome.code, outcome.err) == (
        2, f"tflite2q: {gates}: there is no gate 'max_sise_ratio'; did you mean 'max_size_ratio'?\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--max-top1-drop", 1), "--max-top1-drop was not measured: top-1 needs a classifier and --labels"),
        (("--min-miou", 0.5), "--min-miou was not measured: mean IoU needs a segmentation model"),
        (("--max-map-drop", 1), "--max-map-drop was not measured"),
        (("--min-speedup", 1), "--min-speedup: times are not measured with --no-speed"),
    ],
)
def test_a_gate_without_a_figure_is_an_error(cli: Cli, digits: Path, options: tuple[Any, ...], named: str) -> None:
    outcome = cli("compare", digits, digits, *QUICK, *options)
    assert outcome.code == 2
    assert named in outcome.err
    assert outcome.out == ""


def test_without_data_it_says_that_this_is_no_accuracy(cli: Cli, digits: Path) -> None:
    out = cli("compare", digits, "--scheme", "int8", "--limit", 2, *QUICK).out
    assert "agreement on synthetic inputs, not accuracy" in out
    assert "top-1" not in out


def test_several_schemes_and_one_report_on_stdout(cli: Cli, digits: Path) -> None:
    outcome = cli("compare", digits, "--scheme", "int8", "--scheme", "int8-w4", "--limit", 2, *QUICK, "--json", "-")
    found = json.loads(outcome.out)["comparisons"]
    assert [each["scheme"] for each in found] == ["int8", "int8-w4"]
    out = cli("compare", digits, digits, "--limit", 2, *QUICK, "--markdown", "-").out
    assert out.startswith("## digits\\_uint8.tflite → digits\\_uint8.tflite\n")
    assert cli("compare", digits, digits, "--markdown", "-", "--json", "-").code == 2


def test_names_of_classes_in_reports(cli: Cli, digits: Path, digits_data: tuple[Path, Path], tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")))
    out = cli("run", digits, "--input", digits_data[0], "--limit", 1, "--label-names", names).out
    labels = digits_data[1].read_text().splitlines()
    assert names.read_text().splitlines()[int(labels[1].split(",")[1])] in out
    names.write_text("zero\none\n")
    outcome = cli("run", digits, "--input", digits_data[0], "--label-names", names)
    assert (outcome.code, outcome.err) == (
        3, "tflite2q: 2 names for a model of 10 classes; give a line for each class\n"
    )  # fmt: skip


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_masks_are_files_and_drawings(cli: Cli, photo: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    writer.save(segmenter(), model)
    outputs = ("--output", tmp_path / "mask.png", "--draw", tmp_path / "drawn.png")
    outcome = cli("run", model, "--input", photo, *outputs, "--json", tmp_path / "j.json")
    assert outcome.code == 0, outcome.err
    assert cli("run", model, "--input", photo, "--output", tmp_path / "mask.npy").code == 0
    with Image.open(tmp_path / "mask.png") as found:
        assert found.mode == "P"
        assert np.array_equal(np.asarray(found), np.load(tmp_path / "mask.npy")[0, 0])
    with Image.open(tmp_path / "drawn.png") as found:
        assert found.size == (64, 48)
    shares = json.loads((tmp_path / "j.json").read_text())["predictions"][0]["mask"]["classes"]
    assert sum(row["share"] for row in shares) == pytest.approx(1)
    assert f"class {shares[0]['class']} " in outcome.out


@pytest.mark.parametrize(("make", "key"), [(pose, "keypoints"), (lambda: ssd(score_threshold=0.0), "boxes")])
def test_places_are_drawn_where_they_are(cli: Cli, photo: Path, tmp_path: Path, make: Any, key: str) -> None:
    model = tmp_path / "model.tflite"
    writer.save(make(), model)
    outcome = cli("run", model, "--input", photo, "--draw", tmp_path / "drawn.png", "--json", "-")
    assert outcome.code == 0, outcome.err
    (found,) = json.loads(outcome.out)["predictions"]
    assert found[key]
    with Image.open(photo) as before, Image.open(tmp_path / "drawn.png") as after:
        assert after.size == before.size
        assert not np.array_equal(np.asarray(before), np.asarray(after))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--output", "m.png"), "a .png is the mask of a segmentation, and the task is classification"),
        (("--draw", "m.png"), "shows one picture, and there are 360; give one, or --limit 1"),
        (("--draw", "m.png", "--limit", 1), "answers are drawn on a photo; give one as --input, not an array"),
        (("--task", "detection"), "the model cannot be read as detection"),
    ],
)
def test_pictures_that_cannot_be_made(
    cli: Cli, digits: Path, digits_data: tuple[Path, Path], arguments: tuple[Any, ...], message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    outcome = cli("run", digits, "--input", digits_data[0], *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_the_average_precision_of_a_detector(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    model = tmp_path / "model.tflite"
    writer.save(ssd(), model)
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{k}.png")
    outcome = cli("run", model, "--input", photos, "--json", "-")
    # The original's own boxes as ground truth, in pixels of the stretched pictures: its precision is 1.
    images, notes = [], []
    for k, found in enumerate(json.loads(outcome.out)["predictions"]):
        images.append({"id": k + 1, "file_name": found["sample"], "width": 60, "height": 40})
        for box in found["boxes"]:
            left, top = 60 * box["left"], 40 * box["top"]
            size = [60 * box["right"] - left, 40 * box["bottom"] - top]
            notes.append(
                {"id": len(notes), "image_id": k + 1, "category_id": box["class"] + 1, "bbox": [left, top, *size]}
            )
    assert notes
    categories = [{"id": k + 1, "name": f"c{k}"} for k in range(5)]
    truth = tmp_path / "coco.json"
    truth.write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    arguments = ("compare", model, model, "--data", photos, "--labels", truth, *QUICK, "--json", "-")
    scores = {score["name"]: score for score in json.loads(cli(*arguments).out)["accuracy"]["scores"]}
    assert scores["map"]["original"] == scores["map"]["converted"] == pytest.approx(1.0)
    assert cli(*arguments, "--max-map-drop", 0).code == 0
    assert SIZE == 32
