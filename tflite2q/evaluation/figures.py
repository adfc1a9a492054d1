"""The figures that a comparison consists of, as frozen values.

Ratios lie between 0 and 1, times are milliseconds, sizes bytes; a *step* is the original tensor's scale, so that errors
in steps count codes of the original.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# What reports draw and documents leave out.
NOT_IN_JSON = {"json": False}


@dataclass(frozen=True)
class Pair:
    """One figure of both models."""

    original: float
    converted: float


@dataclass(frozen=True)
class Difference:
    """A paired comparison of two models over the same samples: `value` is the second's score less the first's.

    `low` and `high` bound its 95 % confidence interval.  `lost` and `gained` count the samples that only the first, or
    only the second, answers correctly, and `p_value` is that of McNemar's exact test; all three are None for scores
    that are not right or wrong.  `decided`: the difference is more than noise at 95 %.  `samples_needed` is about how
    many samples would decide a difference of this size; None if none was seen."""

    value: float
    low: float
    high: float
    decided: bool
    lost: int | None = None
    gained: int | None = None
    p_value: float | None = None
    samples_needed: int | None = None


@dataclass(frozen=True)
class Score:
    """A measure of correctness of both models against the ground truth, between 0 and 1.

    `difference` is None where no paired test is made (mean average precision).
    """

    name: str
    label: str
    original: float
    converted: float
    difference: Difference | None = None


@dataclass(frozen=True)
class Figure:
    """One number about how much the answers of the two models are alike; `low` and `high` bound its 95 % interval.

    `value` is infinite for the signal-to-noise ratio of equal outputs.  `unit` is "share" (0 to 1), "dB", "steps",
    "pixels", "count" or "" (a real number).
    """

    name: str
    label: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ClassLine:
    """One class: how many samples (pixels, boxes) of it there are, and both models' share of right answers among them.

    Without ground truth the original's answers stand in for it: `original` is then None.
    """

    number: int
    name: str | None
    count: int
    original: float | None
    converted: float | None


@dataclass(frozen=True)
class Change:
    """A sample whose answer changed: both answers in words, and the truth where it is known.

    `picture` is a small PNG of what the models saw, if that is a picture; it is no part of the JSON.
    """

    index: int
    sample: str
    original: str
    converted: str
    truth: str | None = None
    picture: bytes | None = field(default=None, repr=False, metadata=NOT_IN_JSON)


@dataclass(frozen=True)
class TaskInfo:
    """What the models are taken to do, and `why`; `named` tells whether their classes have names."""

    name: str
    why: str
    guessed: bool = True
    named: bool = False
