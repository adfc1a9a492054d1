"""What the commands do with the project's own model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tflite2q as package

Cli = Callable[..., Any]

LAYER_KEYS = {"name", "op", "loss", "channels", "channels_rescaled", "sqnr_db", "max_step_error"}


def test_inspect(cli: Cli, digits: Path) -> None:
    code, out, err = cli("inspect", digits)
    assert (code, err) == (0, "")
    assert "digits_uint8.tflite" in out
    assert "q.depthwise_conv2d" in out
    for scheme in ("asymmetric-uint8", "int8", "symmetric-int8"):
        assert scheme in out


def test_inspect_json(cli: Cli, digits: Path) -> None:
    found = json.loads(cli("inspect", digits, "--json", "-").out)
    assert found["schema_version"] == 1
    assert found["model"] == "digits_uint8.tflite"
    assert found["size"] == digits.stat().st_size
    assert found["inputs"] == [
        {
            "name": "input",
            "dtype": "uint8",
            "shape": [1, 8, 8, 1],
            "scale": [pytest.approx(1 / 120)],
            "zero_point": [120],
            "axis": None,
        }
    ]
    assert found["macs"] == 132_096  # as models/README.md counts them
    assert found["macs"] == sum(layer["macs"] for layer in found["layers"])
    effects = {effect["scheme"]: effect for effect in found["schemes"]}
    assert effects["asymmetric-uint8"]["refused"]
    assert effects["int8"]["channels"] >= effects["int8"]["channels_rescaled"] > 0


def test_convert_names_its_output_after_the_model_and_the_scheme(cli: Cli, digits: Path, tmp_path: Path) -> None:
    model = tmp_path / "a.b.tflite"
    model.write_bytes(digits.read_bytes())
    code, out, err = cli("convert", model, "--scheme", "int8")
    assert (code, err) == (0, "")
    written = tmp_path / "a.b.int8.tflite"
    assert written.stat().st_size > 0
    assert str(written) in out
    assert f"{len(digits.read_bytes()) / 1000:,.0f} kB -> {written.stat().st_size / 1000:,.0f} kB" in out
    assert sorted(tmp_path.iterdir()) == [written, model]


def test_convert_reports_every_layer(cli: Cli, digits: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert cli("convert", digits, "--scheme", "symmetric-int8", "-o", tmp_path / "x.tflite", "--json", report).code == 0
    found = json.loads(report.read_text())
    assert found["scheme"] == "symmetric-int8"
    assert found["target"] is None
    assert len(found["layers"]) == len(package.load(digits).ops)
    assert all(set(layer) >= LAYER_KEYS for layer in found["layers"])
    assert found["size"] == {"original": digits.stat().st_size, "converted": (tmp_path / "x.tflite").stat().st_size}
    assert found["written"] == [str(tmp_path / "x.tflite")]


def test_the_same_command_gives_the_same_bytes(cli: Cli, digits: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert cli("convert", digits, "--scheme", "int8", "-o", tmp_path / name).code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_convert_takes_a_scheme_file(cli: Cli, digits: Path, root: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text((root / "schemes" / "int8.toml").read_text())
    assert cli("convert", digits, "--scheme", mine, "-o", tmp_path / "a.tflite").code == 0
    assert cli("convert", digits, "--scheme", "int8", "-o", tmp_path / "b.tflite").code == 0
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()


@pytest.mark.parametrize(("interface", "dtype"), [("keep", "uint8"), ("scheme", "int8")])
def test_interface(cli: Cli, digits: Path, tmp_path: Path, interface: str, dtype: str) -> None:
    output = tmp_path / "x.tflite"
    assert cli("convert", digits, "--scheme", "int8", "--interface", interface, "-o", output).code == 0
    graph = package.load(output)
    assert {graph[name].type.dtype for name in (*graph.inputs, *graph.outputs)} == {dtype}


@pytest.mark.parametrize(
    ("stage", "expected"), [("load", "q.conv2d"), ("convert", "q.requantize"), ("lower", "R.call_tir")]
)
def test_until(cli: Cli, digits: Path, tmp_path: Path, stage: str, expected: str) -> None:
    code, out, _ = cli("convert", digits, "--scheme", "int8", "-o", tmp_path / "x.tflite", "--until", stage)
    assert code == 0
    assert expected in out
    assert list(tmp_path.iterdir()) == []


def test_run_writes_what_the_reference_computes(
    cli: Cli, digits: Path, digits_data: tuple[Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / "y.npz"
    code, out, err = cli("run", digits, "--input", digits_data[0], "--limit", 3, "--output", output)
    assert (code, err) == (0, "")
    assert "class" in out
    with np.load(output) as arrays, np.load(digits_data[0]) as given:
        assert arrays.files == ["softmax"]
        expected = [package.reference(digits, image[None])[0] for image in given["input"][:3]]
        assert np.array_equal(arrays["softmax"], np.stack(expected))


def test_run_a_library(cli: Cli, digits: Path, digits_data: tuple[Path, Path], tmp_path: Path) -> None:
    library = tmp_path / "x.so"
    assert cli("convert", digits, "--scheme", "int8", "-o", tmp_path / "x.tflite", "--lib", library).code == 0
    from_library = cli("run", library, "--input", digits_data[0], "--limit", 5, "--json", "-")
    from_model = cli("run", tmp_path / "x.tflite", "--input", digits_data[0], "--limit", 5, "--json", "-")
    assert from_library.code == from_model.code == 0
    assert json.loads(from_library.out)["predictions"] == json.loads(from_model.out)["predictions"]
    labels = [int(line.split(",")[1]) for line in digits_data[1].read_text().splitlines()[1:6]]
    predicted = [p["outputs"][0]["classes"][0]["class"] for p in json.loads(from_model.out)["predictions"]]
    assert sum(a == b for a, b in zip(predicted, labels, strict=True)) >= 4


def test_compare_json(cli: Cli, digits: Path, digits_data: tuple[Path, Path], tmp_path: Path) -> None:
    data, labels = digits_data
    outcome = cli(
        "compare", digits, "--scheme", "int8", "--data", data, "--labels", labels, "--limit", 100, "--json", "-"
    )
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["schema_version"] == 1
    assert (found["model"], found["scheme"], found["target"]) == ("digits_uint8.tflite", "int8", "native")
    accuracy = found["accuracy"]
    assert accuracy["samples"] == 100
    assert accuracy["top1"]["original"] > 0.9
    assert abs(accuracy["top1"]["original"] - accuracy["top1"]["converted"]) <= 0.02
    assert accuracy["top5"]["original"] >= accuracy["top1"]["original"]
    assert accuracy["agreement_top1"] >= 0.98
    assert accuracy["max_step_error"] >= 0
    speed = found["speed"]
    assert speed["threads"] == 1
    assert speed["speedup"] == pytest.approx(speed["original_ms"] / speed["converted_ms"])
    assert all(set(layer) >= LAYER_KEYS for layer in found["layers"])
    assert {layer["loss"] for layer in found["layers"]} >= {"exact", "rescaled"}


def test_compare_with_a_file(cli: Cli, digits: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.tflite"
    assert cli("convert", digits, "--scheme", "symmetric-int8", "-o", other).code == 0
    outcome = cli("compare", digits, other, "--no-speed", "--limit", 4, "--json", tmp_path / "c.json", "--every-layer")
    assert outcome.code == 0, outcome.err
    assert "4 samples of synthetic" in outcome.out
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["speed"] is None
    assert found["scheme"] is None
    assert found["size"]["converted"] == other.stat().st_size
    for layer in found["layers"]:
        assert layer["name"] in outcome.out


def test_a_model_equals_itself(cli: Cli, digits: Path) -> None:
    found = json.loads(cli("compare", digits, digits, "--no-speed", "--json", "-").out)
    assert found["accuracy"]["agreement_top1"] == 1.0
    assert found["accuracy"]["max_step_error"] == 0.0
    assert found["accuracy"]["mean_abs_error"] == 0.0
    assert all(layer["sqnr_db"] is None and layer["max_step_error"] == 0.0 for layer in found["layers"])


def test_compare_for_a_processor_that_is_not_here(cli: Cli, digits: Path) -> None:
    outcome = cli("compare", digits, "--scheme", "int8", "--target", "aarch64", "--limit", 2, "--json", "-")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    if found["speed"] is not None:
        pytest.skip("this machine is an aarch64")
    assert found["accuracy"]["samples"] == 2
    assert any("aarch64" in note for note in found["notes"])


def test_lists(cli: Cli) -> None:
    names = [scheme["name"] for scheme in json.loads(cli("schemes", "--json", "-").out)["schemes"]]
    assert {"asymmetric-uint8", "int8", "symmetric-int8"} <= set(names)
    assert all(name in cli("schemes").out for name in names)
    assert "native" in cli("targets").out
