"""Node data for Model Explorer: its own reader takes it, and finds every layer by the name of its tensor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tflite2q.cli import run
from tflite2q.flatbuffer import reader


def test_values_are_those_of_the_report_by_tensor_name(digits: Path, tmp_path: Path) -> None:
    shown, report, converted = tmp_path / "nodes.json", tmp_path / "report.json", tmp_path / "int8.tflite"
    assert run(["convert", str(digits), "--scheme", "int8", "-o", str(converted), "-q"]) == 0
    arguments = ["compare", str(digits), "--scheme", "int8", "--no-speed", "-q", "--json", str(report)]
    assert run([*arguments, "--model-explorer", str(shown)]) == 0
    data = json.loads(shown.read_text())
    assert set(data) == {"name", "results", "gradient"}
    assert {stop["stop"] for stop in data["gradient"]} == {0, 0.5, 1}
    layers = json.loads(report.read_text())["layers"]
    noisy = {layer["name"]: layer["sqnr_db"] for layer in layers if layer["sqnr_db"] is not None}
    assert noisy
    assert {name: result["value"] for name, result in data["results"].items()} == pytest.approx(noisy, abs=0.01)
    names = {value.name for value in reader.load(converted).values}
    assert set(data["results"]) <= names


def test_several_comparisons_are_refused(digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", str(digits), "--scheme", "int8", "--scheme", "symmetric-int8"]
    assert run([*arguments, "--model-explorer", str(tmp_path / "nodes.json")]) == 2
    assert "--model-explorer shows one comparison" in capfd.readouterr().err


def test_model_explorer_takes_it(digits: Path, tmp_path: Path) -> None:
    builder = pytest.importorskip("model_explorer.node_data_builder")
    shown = tmp_path / "nodes.json"
    run(["compare", str(digits), "--scheme", "int8", "--no-speed", "-q", "--model-explorer", str(shown)])
    data = json.loads(shown.read_text())
    results = {name: builder.NodeDataResult(**result) for name, result in data["results"].items()}
    gradient = [builder.GradientItem(**item) for item in data["gradient"]]
    written = json.loads(builder.GraphNodeData(results, data["name"], gradient=gradient).to_json_string())
    assert {key: written[key] for key in data} == data
