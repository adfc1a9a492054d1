"""Tests and intervals against SciPy and against simulated models whose difference is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tflite2q.evaluation import statistics


@pytest.mark.parametrize(
    ("lost", "gained"), [(0, 0), (1, 0), (3, 0), (5, 0), (6, 0), (4, 9), (9, 4), (40, 41), (300, 420), (2000, 2100)]
)
def test_mcnemar_is_a_binomial_test_of_the_discordant_pairs(lost: int, gained: int) -> None:
    found = statistics.mcnemar(lost, gained)
    if lost + gained == 0:
        assert found == 1.0
        return
    expected = stats.binomtest(lost, lost + gained, 0.5).pvalue
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("right", "samples"), [(0, 8), (8, 8), (7, 8), (355, 360), (1, 1000)])
def test_the_interval_of_a_share_is_wilsons(right: int, samples: int) -> None:
    expected = stats.binomtest(right, samples).proportion_ci(0.95, method="wilson")
    assert statistics.wilson(right, samples) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_paired_proportions_by_hand() -> None:
    before = np.array([True] * 7 + [False] * 3)
    after = np.array([True] * 4 + [False] * 3 + [True] * 1 + [False] * 2)
    found = statistics.paired_proportions(before, after)
    assert (found.lost, found.gained) == (3, 1)
    assert found.value == pytest.approx(-0.2)
    assert found.p_value == pytest.approx(2 * (1 + 4) / 16)  # P(X <= 1) of four fair coins, twice
    assert not found.decided
    assert found.low < -0.2 < found.high


def simulated(
    generator: np.random.Generator, samples: int, loses: float, gains: float
) -> tuple[np.ndarray, np.ndarray]:
    """Answers of two models of which one alone is right with these chances."""
    draw = generator.random(samples)
    before = draw < 0.7
    after = np.where(draw < loses, False, before) | ((draw > 1 - gains) & ~before)
    return before, after


def test_intervals_hold_the_true_difference_in_95_of_100_draws() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(600):
        found = statistics.paired_proportions(*simulated(generator, 150, 0.06, 0.02))
        held += found.low <= -0.04 <= found.high
    assert 0.93 <= held / 600 <= 0.985


def test_the_samples_asked_for_decide_in_about_80_of_100_draws() -> None:
    needed = statistics.samples_for(-0.04, 0.08)
    assert needed is not None
    generator = np.random.default_rng(2)
    decided = sum(statistics.paired_proportions(*simulated(generator, needed, 0.06, 0.02)).decided for _ in range(300))
    assert 0.70 <= decided / 300 <= 0.90
    assert statistics.samples_for(0.0, 0.1) is None


def test_bootstrap_of_a_mean_is_close_to_the_t_interval() -> None:
    values = np.random.default_rng(3).normal(0.1, 1.0, 200)
    found = statistics.resampled(len(values), lambda k: float(values[k].mean()))
    expected = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.02)
    assert found.value == pytest.approx(values.mean())
    assert found.decided == (not found.low <= 0 <= found.high)
