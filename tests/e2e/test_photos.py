"""The promises of the README on real models and photos, as a user would check them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tflite2q

MODELS = ("mobilenet_v1_0.25_128_quant", "mobilenet_v2_1.0_224_quant")

# Photos of 200 that may change between right and wrong: conversions to int8 are nearly lossless, symmetric ones lose a
# little range.
MOST_PHOTOS = {"int8": 1, "symmetric-int8": 3}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", MOST_PHOTOS)
@pytest.mark.parametrize("model", MODELS)
def test_top1_hardly_moves(shared: Path, model: str, scheme: str) -> None:
    images = shared / "images"
    original = shared / "models" / f"{model}.tflite"
    report = tflite2q.compare(
        original,
        tflite2q.convert(original, scheme),
        data=images,
        labels=images / "labels.csv",
        speed=False,
        layer_samples=0,
    )
    accuracy = report.accuracy
    assert accuracy is not None
    assert accuracy.samples == 200
    assert accuracy.top1 is not None
    moved = abs(accuracy.top1.original - accuracy.top1.converted) * accuracy.samples
    assert moved <= MOST_PHOTOS[scheme] + 1e-6
    assert accuracy.top1.original > 0.4  # far above chance: photos and labels are read as they are meant


@pytest.mark.slow
def test_a_gate_stops_a_scheme_that_loses_many_points(shared: Path) -> None:
    images = shared / "images"
    original = shared / "models" / "mobilenet_v1_0.25_128_quant.tflite"
    report = tflite2q.compare(
        original,
        tflite2q.convert(original, "int8-w2"),
        data=images,
        labels=images / "labels.csv",
        speed=False,
        layer_samples=0,
        gates={"max_top1_drop": 1.0},
    )
    (gate,) = report.failed_gates
    assert gate.figure > 20
    score = report.accuracy.score("top1") if report.accuracy is not None else None
    assert score is not None and score.difference is not None
    assert score.difference.decided
    assert (score.difference.p_value or 0.0) < 1e-6


@pytest.mark.slow
def test_the_reference_agrees_with_the_compiled_model_on_a_photo(shared: Path) -> None:
    from tflite2q.evaluation import data

    path = shared / "models" / "mobilenet_v2_1.0_224_quant.tflite"
    conversion = tflite2q.convert(path, "int8")
    graph = conversion.graph
    (sample, *_) = data.load(shared / "images", [graph[name] for name in graph.inputs], limit=1)
    (compiled,) = tflite2q.compile(conversion, threads=2).run(*sample)
    (expected,) = tflite2q.reference(conversion, *sample)
    assert (compiled == expected).all()


@pytest.mark.slow
def test_photos_make_4_bits_usable(shared: Path) -> None:
    """Calibrated on every other photo, measured on the others."""
    from tflite2q.evaluation import calibration, data
    from tflite2q.rewrites import scheme

    original = tflite2q.load(shared / "models" / "mobilenet_v2_1.0_224_quant.tflite")
    given = data.load(shared / "images", [original[name] for name in original.inputs], shared / "images" / "labels.csv")
    assert given.labels is not None
    samples, labels = [list(sample) for sample in given], list(given.labels)
    int8, w4 = (
        tflite2q.compile(calibration.convert(original, scheme.find(name), samples[::2])) for name in ("int8", "int8-w4")
    )
    right = {
        name: sum(int(np.argmax(exe.run(*sample)[0])) == label + 1 for sample, label in held_out)
        for name, exe in (("int8", int8), ("int8-w4", w4))
        for held_out in [list(zip(samples[1::2], labels[1::2], strict=True))]
    }
    assert right["int8"] > 80
    assert right["int8-w4"] >= right["int8"] - 6
