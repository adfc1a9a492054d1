"""The Python interface as people use it in scripts and notebooks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.errors import DataError, UsageError
from tflite2q.evaluation import prediction
from tflite2q.evaluation.coding import Normalization
from tflite2q.execution.runtime import Executable
from tflite2q.report import json as documents


@pytest.fixture(scope="module")
def exe(digits: Path) -> Any:
    return tflite2q.compile(digits)


def test_reprs_are_one_short_line(digits: Path, exe: Any) -> None:
    graph = tflite2q.load(digits)
    converted = tflite2q.convert(graph, "int8")
    assert repr(graph) == f"<Graph {graph.name!r} of 13 ops: uint8[1, 8, 8, 1] -> uint8[1, 10]>"
    assert repr(converted).startswith("<Conversion to int8: ") and len(repr(converted)) < 200
    assert repr(exe) == f"<Executable {graph.name!r} uint8[1, 8, 8, 1] -> uint8[1, 10], for native, threads 1>"
    value = Value("x", TensorType((1,), "int8", Quantization.per_tensor(1.0, 0)))
    broken = Graph(("nowhere",), ("x",), (value,), ())
    assert repr(broken) == "<Graph of 0 ops: nowhere -> int8[1]>"


def test_a_photo_becomes_what_the_command_line_makes_of_it(exe: Any, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    Image.fromarray(pixels).save(photo)
    arrays = exe.preprocess(photo)
    expected = prediction.samples([str(photo)], exe.inputs, None, Normalization())
    np.testing.assert_array_equal(arrays[0], expected.make(0)[0])
    stretched = exe.preprocess(photo, fit="stretch")
    assert not np.array_equal(arrays[0], stretched[0])
    outputs = exe.run(*arrays)
    (real,) = exe.dequantize(outputs)
    q = exe.outputs[0].type
    np.testing.assert_allclose(real, (outputs[0].astype(np.float64) - q.zero_point) * q.scale, rtol=1e-6)
    assert real.dtype == np.float32


def test_real_numbers_are_quantized_and_wrong_shapes_are_refused(exe: Any) -> None:
    kind = exe.inputs[0].type
    codes = np.arange(64, dtype=np.uint8).reshape(kind.shape)
    real = ((codes.astype(np.float64) - kind.zero_point) * kind.scale).astype(np.float32)
    np.testing.assert_array_equal(exe.preprocess(real)[0], codes)
    with pytest.raises(UsageError, match="fit = 'Pad' is not one of crop, pad, stretch; did you mean 'pad'"):
        exe.preprocess(real, fit="Pad")
    with pytest.raises(DataError, match="holds 2 samples; preprocess one at a time"):
        exe.preprocess(np.concatenate([codes, codes]))
    with pytest.raises(DataError, match=r"outputs are \[\[1, 10\]\], got \[\[1, 11\]\]"):
        exe.dequantize([np.zeros((1, 11), np.uint8)])


def test_a_loaded_library_preprocesses_too(exe: Any, tmp_path: Path) -> None:
    path = tmp_path / "digits.so"
    exe.save(path)
    loaded = tflite2q.load_library(path)
    assert isinstance(loaded, Executable)
    x = loaded.preprocess(np.zeros((8, 8, 1), np.uint8))
    np.testing.assert_array_equal(loaded.run(*x)[0], exe.run(*x)[0])
    with pytest.raises(UsageError, match="exists already; force=True overwrites it"):
        exe.save(path)


def test_a_report_writes_itself_in_every_form(digits: Path, digits_data: tuple[Path, Path]) -> None:
    data, labels = digits_data
    report = tflite2q.compare(digits, tflite2q.convert(digits, "int8"), data=data, labels=labels, limit=8, speed=False,
                              layer_samples=0, gates={"min_agreement": 0.5})  # fmt: skip
    assert json.loads(report.to_json()) == documents.comparison(report)
    assert report.to_html().startswith("<!doctype html>")
    assert report.to_markdown().startswith("## digits")
    shown = report._repr_html_()
    assert shown.startswith("<div>") and "<style" not in shown and "What you gain" in shown
    assert repr(report).startswith("<Report digits_uint8.tflite -> int8, top-1 ")
    assert repr(report).endswith("0 of 1 gates failed>") and len(repr(report)) < 200
    assert type(dataclasses.replace(report, notes=())) is type(report)


@pytest.mark.slow  # a search of the command line is among the quick tests
def test_a_search_from_python_keeps_within_the_loss(
    digits: Path, digits_data: tuple[Path, Path], tmp_path: Path
) -> None:
    graph, data = tflite2q.load(digits), digits_data[0]
    found = tflite2q.search(graph, data, limit=20, max_drop=1.0, state=tmp_path / "state.json", jobs=1)
    assert found.chosen.points_lost is not None and found.chosen.points_lost <= 1.0
    mixed = tflite2q.convert(graph, found.scheme, data=data, limit=found.calibration)
    same = tflite2q.compare(graph, mixed, data=data, limit=20, speed=False, layer_samples=0)
    losses = found.chosen.loss, found.chosen.confirmed
    assert same.accuracy is not None and same.accuracy.agreement is not None
    lost = sum(loss.counted for loss in losses if loss is not None) / 2
    assert 100 * (1 - same.accuracy.agreement) == pytest.approx(lost)
    assert (tmp_path / "state.json").exists()


WRONG: dict[str, Any] = {
    "interface = 'Keep' is not one of keep, scheme; did you mean 'keep'": lambda m, d: tflite2q.convert(
        m, "int8", interface="Keep"
    ),
    "interface = 'foo' is not one of keep, scheme": lambda m, d: tflite2q.convert(m, "int8", interface="foo"),
    "interface = 'both' is not one of keep, scheme": lambda m, d: tflite2q.check(m, "xnnpack", interface="both"),
    "fit = 'foo' is not one of crop, pad, stretch": lambda m, d: tflite2q.compare(m, m, fit="foo"),
    "limit = 0 is not a whole number of at least 1": lambda m, d: tflite2q.compare(m, m, data=d, limit=0),
    "limit = -1 is not a whole number of at least 1": lambda m, d: tflite2q.convert(m, "int8", data=d, limit=-1),
    "limit = 2.5 is not a whole number of at least 1": lambda m, d: tflite2q.search(m, d, limit=2.5),
    "layer_samples = -1 is not a whole number": lambda m, d: tflite2q.compare(m, m, data=d, layer_samples=-1),
    "labels needs data": lambda m, d: tflite2q.compare(m, m, labels=[1, 2]),
    "max_drop = nan is not a finite number": lambda m, d: tflite2q.search(m, d, max_drop=float("nan")),
    "max_drop = '1' is not a finite number": lambda m, d: tflite2q.search(m, d, max_drop="1"),
    "not bytes; .* write bytes to a file": lambda m, d: tflite2q.load(m.read_bytes()),
    "a model is the path of a file, a graph or a conversion, not NoneType": lambda m, d: tflite2q.load(None),
    "a model is .*, not int": lambda m, d: tflite2q.convert(3, "int8"),
    "scheme = None is not a scheme": lambda m, d: tflite2q.convert(m, None),
    "scheme = 8 is not a scheme": lambda m, d: tflite2q.search(m, d, schemes=["int8", 8]),
    "threads must be 1 to [0-9]*, got '2'": lambda m, d: tflite2q.compile(m, threads="2"),
    "threads must be 1 to [0-9]*, got True": lambda m, d: tflite2q.compile(m, threads=True),
    "batch = '3' is not a whole number of at least 1": lambda m, d: tflite2q.compile(m, batch="3"),
    "schemes = ', ' names no scheme": lambda m, d: tflite2q.search(m, d, schemes=", "),
}


@pytest.mark.parametrize("message", WRONG)
def test_values_that_the_command_line_refuses_are_refused_in_python(
    message: str, digits: Path, digits_data: tuple[Path, Path]
) -> None:
    with pytest.raises(UsageError, match=message):
        WRONG[message](digits, digits_data[0])
