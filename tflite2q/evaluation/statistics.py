"""Whether a difference between two models is more than noise, from answers to the same samples.

Formulas: McNemar's exact test (a two-sided binomial test of the discordant pairs), the interval of Bonett and Price
(2012) for a difference of paired proportions, Connor (1987) for the number of samples, Wilson (1927) for one
proportion, and percentile bootstrap for means and ratios of sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.evaluation.figures import Difference

Z_95 = 1.959963984540054  # two-sided 95 % of the normal distribution
Z_80 = 0.8416212335729143  # one-sided 80 %: the power for which samples are counted
SIGNIFICANT = 0.05
BOOTSTRAPS = 2000


def mcnemar(lost: int, gained: int) -> float:
    """The two-sided exact p-value of `lost` and `gained` discordant pairs: 2 P(X <= min) for X ~ B(lost + gained, 1/2),
    at most 1."""
    count, least = lost + gained, min(lost, gained)
    return min(1.0, 2 * float(Fraction(sum(math.comb(count, k) for k in range(least + 1)), 2**count)))


def paired_proportions(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> Difference:
    """Two models' right (True) and wrong answers to the same samples."""
    samples = len(before)
    lost, gained = int(np.sum(before & ~after)), int(np.sum(after & ~before))
    # Bonett and Price: one pair of each discordant kind is added to what was seen.
    losing, gaining = (lost + 1) / (samples + 2), (gained + 1) / (samples + 2)
    centre = gaining - losing
    half = Z_95 * math.sqrt((losing + gaining - centre**2) / (samples + 2))
    value, p_value = (gained - lost) / samples, mcnemar(lost, gained)
    return Difference(
        value=value,
        low=max(-1.0, centre - half),
        high=min(1.0, centre + half),
        decided=p_value < SIGNIFICANT,
        lost=lost,
        gained=gained,
        p_value=p_value,
        samples_needed=samples_for(value, (lost + gained) / samples),
    )


def samples_for(difference: float, discordant: float) -> int | None:
    """About how many samples decide a `difference` of two proportions at 95 %, with a power of 80 %, if a share
    `discordant` of samples is answered correctly by one model only; None if there is no difference (Connor, 1987)."""
    if difference == 0:
        return None
    root = Z_95 * math.sqrt(discordant) + Z_80 * math.sqrt(max(discordant - difference**2, 0.0))
    return math.ceil((root / difference) ** 2)


def resampled(
    samples: int, value: Callable[[npt.NDArray[Any]], float], seed: int = 0, times: int = BOOTSTRAPS
) -> Difference:
    """The difference that `value` computes from sample numbers, with the bootstrap's percentile interval.

    It is decided if the interval leaves out 0; an interval shrinks with the root of the number of samples, which gives
    the number that would be needed.
    """
    seen = value(np.arange(samples))
    generator = np.random.default_rng(seed)
    draws = np.array([value(generator.integers(0, samples, samples)) for _ in range(times)])
    low, high = (float(bound) for bound in np.percentile(draws, (2.5, 97.5)))
    decided = samples > 1 and not low <= 0 <= high
    needed = None if seen == 0 else max(math.ceil(samples * ((high - low) / 2 / seen) ** 2), 2)
    return Difference(seen, low, high, decided, samples_needed=needed)


def wilson(right: float, samples: int) -> tuple[float, float]:
    """The 95 % interval of a share `right / samples`."""
    share, z2 = right / samples, Z_95**2
    centre = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = Z_95 / (1 + z2 / samples) * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples**2))
    return max(0.0, centre - half), min(1.0, centre + half)
