"""The settings of a search, and its results."""

from __future__ import annotations

from dataclasses import dataclass, field

from tflite2q.errors import UsageError, either, require_number
from tflite2q.execution.remote import Device
from tflite2q.mixing.evidence import Loss
from tflite2q.mixing.fronts import Candidate
from tflite2q.mixing.mix import Mix
from tflite2q.rewrites.scheme import Scheme

MOST_JOBS = 1024  # processes, of a hundred MB each: more is a slip


@dataclass(frozen=True)
class Settings:
    """Settings of a search.

    `goal` is a name of `costs.GOALS` (speed: on `target` with `threads`, on this machine or on `device`); `max_drop` in
    points of top-1 (without labels: of agreement with the original); `budget` in minutes for the whole search;
    `sensitivity_samples` of the choosing half compare layers and candidates; `jobs` processes measure (None: one for
    each processor).  Raises UsageError for numbers that make no sense.
    """

    goal: str = "size"
    max_drop: float = 0.5
    target: str = "native"
    threads: int = 1
    seed: int = 0
    budget: float | None = None
    sensitivity_samples: int = 16
    label_offset: int | None = None
    jobs: int | None = None
    device: Device | None = None

    def __post_init__(self) -> None:
        require_number("max_drop", self.max_drop)
        if self.max_drop < 0:
            limit = either("--max-top1-drop", "max_drop")
            raise UsageError(f"{limit} is {self.max_drop:g}, but must be 0 points or more")
        if self.seed < 0:
            raise UsageError(f"a seed must be 0 or more, got {self.seed}")
        if self.jobs is not None and not 1 <= self.jobs <= MOST_JOBS:
            raise UsageError(f"jobs must be 1 to {MOST_JOBS}, got {self.jobs}")
        if self.budget is not None and not self.budget > 0:
            raise UsageError(f"a budget must be above 0 minutes, got {self.budget:g}")


DEFAULTS = Settings()


@dataclass(frozen=True)
class Point:
    """One mix: how many layers do not use the first scheme; its cost (bytes or ms) and the loss of output energy, both
    estimated to first order; and, where they were measured, that loss, the cost, and the points lost on the half of the
    samples that chooses and on the one that confirms.  `mix` names the layers, with their schemes' places in the list
    of schemes."""

    layers: int
    cost: float
    estimated_error: float
    measured_error: float | None = None
    measured_cost: float | None = None
    loss: Loss | None = None
    confirmed: Loss | None = None
    mix: Mix = field(default_factory=dict)

    @property
    def points_lost(self) -> float | None:
        """The best estimate of the choosing half."""
        return None if self.loss is None else self.loss.points


@dataclass(frozen=True)
class Found:
    """The chosen mix as a scheme, all measured mixes that no other one beats, the largest-first mix of no greater cost,
    and the first scheme's point.

    `judged` are all mixes whose loss was measured: none beats the chosen one in both cost and loss.  `calibration` is
    how many of the first samples converting needs to give the same model; `judges` says what is lost.
    """

    scheme: Scheme
    text: str
    mix: Mix
    chosen: Point
    base: Point
    largest_first: Point | None
    points: tuple[Point, ...]
    judged: tuple[Point, ...]
    limit: float
    judges: str
    calibration: int
    refuted: int
    complete: bool
    seconds: float


@dataclass(frozen=True)
class Judged:
    """A candidate with its loss on the choosing half and its measured cost."""

    candidate: Candidate
    loss: Loss
    cost: float

    @property
    def figures(self) -> tuple[float, float]:
        return self.cost, self.loss.points
