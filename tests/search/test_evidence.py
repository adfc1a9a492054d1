"""What samples say about a loss, against simulated populations whose true loss is known."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from tflite2q.evaluation.statistics import paired_proportions
from tflite2q.mixing.evidence import Answers, Loss, loss, smoothed

Floats = npt.NDArray[np.float64]
CLASSES, NOISE, SHRINK = 20, 0.7, 0.9


def population(samples: int, seed: int) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Scores of a classifier that is right four times of five, those of a noisy one, and the classes."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, CLASSES, samples)
    before = random.normal(size=(samples, CLASSES))
    before[np.arange(samples), classes] += random.normal(3.0, 1.2, samples)
    after = SHRINK * before + NOISE * random.normal(size=before.shape)
    return before, after, classes


def lost(before: Floats, after: Floats, classes: npt.NDArray[np.int64]) -> float:
    return float(100 * np.mean((before.argmax(1) == classes) * 1.0 - (after.argmax(1) == classes)))


def test_the_smoothed_loss_is_the_true_one_with_less_noise_than_counting() -> None:
    truth = lost(*population(200_000, 0))
    trials = [population(80, seed) for seed in range(1, 201)]
    guesses = [smoothed(*trial) for trial in trials]
    points = np.array([-100 * mean for mean, _ in guesses])
    counted = np.array([lost(*trial) for trial in trials])
    assert truth > 3
    assert abs(points.mean() - truth) < 0.5
    assert points.std() < 0.75 * counted.std()
    # Its 95 % interval holds the truth about as often as it says.
    held = [abs(p - truth) <= 1.96 * 100 * error for p, (_, error) in zip(points, guesses, strict=True)]
    assert 0.88 <= np.mean(held) <= 0.99


def test_without_labels_the_original_is_right() -> None:
    before, after, _ = population(400, 3)
    mean, _ = smoothed(before, after)
    again, _ = smoothed(before, after, before.argmax(1))
    assert mean == again < 0
    assert smoothed(before, before) == (0.0, 0.0)


def test_a_gain_is_less_than_nothing_lost() -> None:
    before, after, classes = population(400, 4)
    right = [Answers((scores.argmax(1) == classes) * 1.0, scores) for scores in (before, after)]
    there, back = loss(right[0], right[1], classes), loss(right[1], right[0], classes)
    assert there.counted == -back.counted > 0
    assert (there.lost, there.gained) == (back.gained, back.lost)
    assert there.method == "smoothed" and there.low < there.points < there.high


def test_counts_are_those_of_the_paired_interval() -> None:
    before, after = np.array([1, 1, 1, 0, 1, 0.0]), np.array([1, 0, 1, 1, 0, 0.0])
    found, known = loss(Answers(before), Answers(after)), paired_proportions(before > 0, after > 0)
    assert found.method == "counted" and found.points == found.counted == pytest.approx(100 / 6)
    assert (found.low, found.high) == (-100 * known.high, -100 * known.low)
    assert (found.lost, found.gained) == (2, 1)


def test_shares_of_pixels_have_an_interval_too() -> None:
    random = np.random.default_rng(0)
    after = np.clip(0.95 + 0.02 * random.normal(size=400), 0, 1)
    found = loss(Answers(np.ones(400), None, False), Answers(after, None, False))
    assert found.points == pytest.approx(100 * (1 - after.mean()))
    assert found.low < found.points < found.high and found.high - found.low < 1.5
    assert found.lost is None


def made(points: float, low: float, high: float, samples: int = 100) -> Loss:
    return Loss(samples, points, low, high, "counted", points, low, high)


def test_the_verdict_is_that_of_the_interval() -> None:
    assert made(0.2, -0.4, 0.5).verdict(0.5) == "within"
    assert made(2.0, 0.6, 3.4).verdict(0.5) == "over"
    assert made(0.2, -2.0, 2.4).verdict(0.5) == "undecided"


def test_as_many_samples_as_are_needed_would_decide() -> None:
    before = made(1.0, -3.0, 5.0)
    needed = before.samples_needed(2.0)
    assert needed is not None and needed > 100
    half = 4.0 * math.sqrt(100 / needed)  # an interval shrinks with the root
    # Seen at 95 % in four of five repetitions: the limit is 1.96 + 0.84 standard errors away.
    assert abs(2.0 - 1.0) == pytest.approx((1.96 + 0.84) * half / 1.96, rel=0.01)
    assert before.samples_needed(1.0) is None


def test_no_loss_has_no_sign() -> None:
    before, _, _ = population(8, 0)
    same = Answers(np.ones(8), before)
    found = loss(same, same)
    assert [f"{value:.1f}" for value in (found.points, found.low, found.high, found.counted)] == ["0.0"] * 4


def test_a_single_sample_decides_nothing() -> None:
    one = Answers(np.ones(1), np.eye(1, 5))
    found = loss(one, one)
    assert found.points == 0 and found.verdict(0.5) == "undecided"
