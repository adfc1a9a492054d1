"""Floors follow the noise that a scheme makes, and figures tell what is alike from what is not."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Net, everything
from PIL import Image

import tflite2q
from compatibility import conversions, exact, likeness
from compatibility.conversions import inconsistent
from compatibility.likeness import Likeness, floor_db, precisions, ratio_db
from compatibility.original import Subject
from compatibility.stages import Log
from tflite2q.rewrites import scheme


def floor(name: str) -> float:
    return floor_db(precisions(everything(0), scheme.find(name)))


def test_floors_are_in_the_order_of_the_schemes_precision() -> None:
    assert floor("int8") == floor("int16x8")  # whose dense layers get one scale
    order = ("float32", "int8", "symmetric-int8", "power-of-two", "mixed-depthwise", "int8-w4")
    found = [floor(name) for name in order]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == len(found)


def test_the_noise_of_layers_adds_up() -> None:
    assert floor_db([8.0]) == pytest.approx(6.02 * 8 - 7.3 - likeness.MARGIN_DB)
    assert floor_db([8.0] * 10) == pytest.approx(floor_db([8.0]) - 10)
    assert floor_db([8.0, 4.0]) == pytest.approx(floor_db([4.0]), abs=0.1)
    assert floor_db([4.0] * 1000) == likeness.LOWEST_DB_4_BITS
    assert floor_db([6.0] * 1000) == likeness.LOWEST_DB


def test_a_measured_rounding_is_what_the_formula_says() -> None:
    """Rounding normal numbers to b bits over 8 standard deviations."""
    numbers = np.random.default_rng(0).normal(size=100_000)
    for bits in (6, 8):
        step = 8 / 2**bits
        rounded = np.round(numbers / step) * step
        assert ratio_db(numbers, rounded, 0.0) == pytest.approx(6.02 * bits - 7.3, abs=0.3)


def test_unrelated_and_constant_outputs_are_below_every_floor() -> None:
    a, b = np.random.default_rng(1).normal(3.0, 1.0, (2, 8, 100))
    assert ratio_db(a, b, 0.0) < likeness.LOWEST_DB_4_BITS - 1
    assert ratio_db(a, np.zeros_like(a), 0.0) < likeness.LOWEST_DB
    assert ratio_db(a, np.full_like(a, np.nan), 0.0) == -99


def test_a_step_is_no_difference_and_two_are() -> None:
    a = np.zeros(10)
    assert ratio_db(a, a + 0.5, 0.5) == 99
    assert ratio_db(a, a + 1.0, 0.5) < -50


def test_classes_save_a_classifier_whose_scores_moved() -> None:
    net = Net(seed=1)
    graph = net.graph(net.dense(net.input("x", (1, 4), (0.1, 3)), "scores", 12, (0.1, 100)))
    rng = np.random.default_rng(0)
    before = [[rng.permutation(12).reshape(1, 12).astype(np.uint8) * 9] for _ in range(8)]
    rough = [[(array // 16 * 16 + 8).astype(np.uint8)] for (array,) in before]
    swapped = [[np.where(a >= 90, 189 - a, a).astype(np.uint8)] for (a,) in before]  # the best two change places
    wrong = [[np.roll(array, 1)] for (array,) in before]
    chosen = scheme.find("int8")
    (good,) = likeness.judge(graph, graph, before, rough, chosen)
    (bad,) = likeness.judge(graph, graph, before, swapped, chosen)
    (far,) = likeness.judge(graph, graph, before, wrong, chosen)
    assert (good.kind, bad.kind, far.kind) == ("top-1", "top-1", "dB")  # far beyond the floor, classes have no say
    assert good.good and good.figure == 1.0
    assert not bad.good and bad.figure == 0.0
    assert not far.good


def test_boxes_match_by_class_and_place() -> None:
    places = (0, 1, 2, 3)
    boxes = np.array([[[0, 0, 1, 1], [2, 2, 3, 3], [0, 0, 0, 0]]], np.float32)
    classes = np.array([[1, 2, 0]], np.float32)
    scores, count = np.zeros((1, 3), np.float32), np.array([2], np.float32)
    before = [boxes, classes, scores, count]
    assert likeness._matched(before, before, places) == 1.0
    assert likeness._matched(before, [boxes, classes[:, [1, 0, 2]], scores, count], places) == 0.0
    assert likeness._matched(before, [boxes + 0.1, classes, scores, count], places) == 1.0
    assert likeness._matched(before, [boxes + 0.6, classes, scores, count], places) == 0.0
    none = [boxes, classes, scores, np.array([0], np.float32)]
    assert likeness._matched(before, none, places) == 0.0
    assert likeness._matched(none, none, places) == 1.0


def test_exact_is_exact_for_integers_and_close_for_real_numbers() -> None:
    a = np.array([1, 2, 3], np.int8)
    assert exact.difference(a, a) == ""
    assert exact.difference(a, a + np.int8(1)) == "3 of 3 elements differ, by up to 1"
    assert exact.difference(a, a + np.int8(1), steps=1) == ""
    assert exact.difference(a, a.astype(np.int16)) == "int8[3] instead of int16[3]"
    real = np.array([1.0, np.nan, np.inf, 1e-9], np.float32)
    assert exact.difference(real, real * np.float32(1 + 5e-6)) == ""
    assert exact.difference(real, real * np.float32(1 + 1e-4)) == "1 of 4 elements differ"
    assert exact.difference(real, np.nan_to_num(real)) != ""


def test_a_kernel_that_lacks_a_type_is_told_from_a_file_at_odds() -> None:
    assert inconsistent("fully_connected.cc:592 bias->type == params->quantized_bias_type was not true.")
    assert not inconsistent("Didn't find op for builtin opcode 'ADD' version '5'.")
    assert not inconsistent("Type INT16 (7) not supported.")


def test_few_samples_leave_a_share_open() -> None:
    assert Likeness("top-1", 0.625, 0.75, 8).undecided
    assert not Likeness("top-1", 0.625, 0.75, 200).undecided
    assert not Likeness("top-1", 0.1, 0.75, 8).undecided
    assert not Likeness("dB", 5.0, 6.0, 8).undecided


def test_more_photos_are_taken_until_a_share_is_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(seed=3)
    graph = net.graph(net.conv(net.input("x", (1, 8, 8, 3), (0.02, 120)), "c", 4, (0.3, 128)))
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(50):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{index}.png")
    subject = Subject(tmp_path / "model.tflite", Log(io.StringIO(), [], time.monotonic() + 600.0), photos)
    subject._graph = graph
    counts: list[int] = []

    def judge(*arguments: Any) -> list[Likeness]:
        counts.append(len(arguments[3]))
        return [Likeness("top-1", 0.76 if counts[-1] == 50 else 0.7, 0.75, counts[-1])]

    monkeypatch.setattr(likeness, "judge", judge)
    outcome = conversions._likeness(subject, tflite2q.convert(graph, "int8"))
    assert counts == [8, 16, 32, 50]
    assert (outcome.state, outcome.detail) == ("ok", "top-1 76% (floor 75%) on 50 photos")


def test_weights_of_few_levels_have_the_bits_of_their_levels() -> None:
    assert min(precisions(everything(0), scheme.find("int8-16-levels"))) == 4
    assert min(precisions(everything(0), scheme.find("int8-w2"))) == 2
    assert floor("int8-w3") == likeness.UNJUDGED_DB
