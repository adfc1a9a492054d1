"""Evidence of the points that a mix loses: a best estimate, its interval, and what samples cannot decide.

Counting changed answers is noisy: with 100 samples, each is a whole point.  If the scores of the classes are known,
there is an estimate with less noise (docs/search.md has the equations).  A sample's margins tell how easily its answer
changes, and the errors of all samples tell how large the changes are, so the errors of one sample are added
to the scores of every other one, rank by rank: the expected number of correct answers over all pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.evaluation.statistics import Z_80, Z_95, paired_proportions

RANKS = 32  # best classes of a sample that may become its answer
MOST_ERRORS = 256  # samples whose errors are laid on each sample's scores

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Loss:
    """Points that a mix loses against the original over `samples` (less than 0: it gains).

    `points` is the best estimate, with its 95 % interval: "smoothed" from the scores of classes, else "counted".  The
    counted figures suppose nothing; `lost` and `gained` are the samples that only the original, or only the mix,
    answers correctly (None where an answer can be partly right).
    """

    samples: int
    points: float
    low: float
    high: float
    method: str
    counted: float
    counted_low: float
    counted_high: float
    lost: int | None = None
    gained: int | None = None

    def verdict(self, limit: float) -> str:
        """Whether these samples show the loss to be "within" the limit, "over" it, or leave it "undecided" (95 %)."""
        if self.counted_high <= limit:
            return "within"
        return "over" if self.counted_low > limit else "undecided"

    def samples_needed(self, limit: float) -> int | None:
        """About how many samples would decide whether a loss of this size keeps the limit, at 95 % with a power of 80 %
        (the interval shrinks with the root of their number); None if the estimate is the limit itself."""
        distance = abs(limit - self.points)
        if distance == 0:
            return None
        spread = (self.counted_high - self.counted_low) / 2 / Z_95
        return max(2, math.ceil(self.samples * ((Z_95 + Z_80) * spread / distance) ** 2))


@dataclass(frozen=True, eq=False)
class Answers:
    """A model's answers: how right each is (0 to 1), and the scores of all classes where they are known."""

    right: Floats
    scores: npt.NDArray[Any] | None = None
    binary: bool = True  # an answer is right or wrong


def loss(before: Answers, after: Answers, classes: npt.NDArray[np.int64] | None = None) -> Loss:
    """The points that `after` loses against `before`, answers to the same samples.

    `classes` are the right ones, without which the original's answers stand for them.
    """
    samples = len(before.right)
    counted, low, high, lost, gained = _counted(before, after)
    points, smooth_low, smooth_high, method = counted, low, high, "counted"
    if before.scores is not None and after.scores is not None and samples > 1:
        mean, error = smoothed(before.scores, after.scores, classes)
        points, method = -100 * mean, "smoothed"
        smooth_low, smooth_high = points - Z_95 * 100 * error, points + Z_95 * 100 * error
    # Losses are gains with the other sign, and none has no sign: + 0.0 makes 0 of -0.
    figures = (figure + 0.0 for figure in (points, smooth_low, smooth_high, counted, low, high))
    points, smooth_low, smooth_high, counted, low, high = figures
    return Loss(samples, points, smooth_low, smooth_high, method, counted, low, high, lost, gained)


def _counted(before: Answers, after: Answers) -> tuple[float, float, float, int | None, int | None]:
    if before.binary:
        found = paired_proportions(before.right > 0.5, after.right > 0.5)
        return -100 * found.value, -100 * found.high, -100 * found.low, found.lost, found.gained
    change = before.right - after.right
    mean = 100 * float(change.mean())
    # As Bonett and Price do for proportions, one change in each direction is added to what was seen.
    padded = np.concatenate([change, [1.0, -1.0]])
    half = 100 * Z_95 * float(padded.std(ddof=1)) / math.sqrt(len(padded))
    return mean, mean - half, mean + half, None, None


def smoothed(
    before: npt.NDArray[Any], after: npt.NDArray[Any], classes: npt.NDArray[np.int64] | None = None
) -> tuple[float, float]:
    """The expected change of the share of right answers, and its standard error.

    Sample i has the scores Z[i] of its best classes, in order.  Those of the other model are b Z[i] + E[i], with the b
    of least squares over all samples; the answer to i under the errors of j is the best of b Z[i] + E[j].  Both samples
    are drawn, so the variance has a part for each (Hoeffding, 1948).
    """
    before, after = before.astype(np.float64), after.astype(np.float64)
    samples, ranks = len(before), min(RANKS, before.shape[1])
    order = np.argsort(-before, axis=1, kind="stable")[:, :ranks]
    scores = np.take_along_axis(before, order, 1)
    others = np.take_along_axis(after, order, 1)
    spread = scores - scores.mean(1, keepdims=True)
    slope = float((spread * others).sum()) / (float((spread**2).sum()) or 1.0)
    errors = others - slope * scores
    truth = order[:, 0] if classes is None else classes
    at = np.where((order == truth[:, None]).any(1), (order == truth[:, None]).argmax(1), -1)
    step = max(1, math.ceil(samples / MOST_ERRORS))
    errors = errors[::step]
    right = np.stack([(slope * row + errors).argmax(1) == rank for row, rank in zip(scores, at, strict=True)])
    change = right.mean(1) - (at == 0)
    variance = float(change.var(ddof=1)) / samples
    if len(errors) > 1:
        variance += float(right.mean(0).var(ddof=1)) / len(errors)
    return float(change.mean()), math.sqrt(variance)
