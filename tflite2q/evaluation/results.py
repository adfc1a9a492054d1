"""The results of a comparison, as frozen values.

Ratios lie between 0 and 1, times are milliseconds, sizes bytes; a *step* is the original tensor's scale, so that errors
in steps count codes of the original.  Reports show these values and compute nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tflite2q.evaluation.figures import Change, ClassLine, Difference, Figure, Pair, Score, TaskInfo
from tflite2q.micro.memory import Layout

# Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]

WORST_LAYERS = 5


@dataclass(frozen=True)
class Accuracy:
    """How the outputs of the two models compare over `samples` of `source`, both run by the same engine.

    `top1` and `top5` are the shares of correct answers, where labels are known; `agreement` is the share of equal
    answers as the task defines it, and `agreement_top1` the same for classes of samples (None for other tasks);
    `max_step_error` is None for outputs that have no steps; `mean_abs_error` is in real numbers.  Class numbers and
    counts are not numbers to subtract: a model of such outputs alone has neither.  `synthetic`: the samples were made
    up, so that all of this is agreement, not accuracy.  `engine` is the label of the one that ran both.
    """

    source: str
    samples: int
    top1: Pair | None
    top5: Pair | None
    agreement_top1: float | None
    max_step_error: float | None
    mean_abs_error: float | None
    agreement: float | None = None
    synthetic: bool = False
    task: TaskInfo | None = None
    scores: tuple[Score, ...] = ()
    figures: tuple[Figure, ...] = ()
    classes: tuple[ClassLine, ...] = ()
    changed: tuple[Change, ...] = ()
    changed_count: int = 0
    engine: str = "the same engine"

    def score(self, name: str) -> Score | None:
        """The score of that name, if it was measured."""
        return next((score for score in self.scores if score.name == name), None)

    def figure(self, name: str) -> Figure | None:
        """The figure of that name, if it was measured."""
        return next((figure for figure in self.figures if figure.name == name), None)


@dataclass(frozen=True)
class Timing:
    """Times of a model's runs: median, and the 10th and 90th percentiles."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


@dataclass(frozen=True)
class EngineRun:
    """One model in one engine.

    `engine` is "litert", "litert-reference", "reference", "compiled" or "emulated"; `model` "original" or "converted".
    `score` is the task's first score over these `samples`; `agreement` and `max_step_error` compare with the original
    in the same engine, which shows the scheme's effect; `kernel_agreement` and `kernel_step_error` compare with the
    same model in LiteRT's reference kernels, over the samples that these ran too, which shows the effect of the
    engine's kernels.
    `instructions` are those of the longest run on an emulated processor that counts them.
    `failed` is why there are no outputs."""

    engine: str
    label: str
    model: str
    samples: int
    score: float | None = None
    agreement: float | None = None
    max_step_error: float | None = None
    kernel_agreement: float | None = None
    kernel_step_error: float | None = None
    timing: Timing | None = None
    failed: str | None = None
    instructions: int | None = None


@dataclass(frozen=True)
class Stage:
    """One stage of the headline; figures compare with the first stage (None: not measured, or this is the first)."""

    label: str
    engine: str
    model: str
    score: float | None
    agreement: float | None
    difference: Difference | None
    median_ms: float | None
    gain: float | None


@dataclass(frozen=True)
class Headline:
    """What a user gains: the original in LiteRT, the converted model in LiteRT, and the converted one compiled.

    `measure` says what scores and agreements are of."""

    measure: str
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Speed:
    """Medians of interleaved runs, in milliseconds: compiled with TVM, and by LiteRT if it is installed and runs the
    model."""

    threads: int
    original_ms: float
    converted_ms: float
    speedup: float
    litert_original_ms: float | None = None
    litert_converted_ms: float | None = None


@dataclass(frozen=True)
class Size:
    """Bytes of the two .tflite files; None where a graph cannot be written as one."""

    original: int | None
    converted: int | None


@dataclass(frozen=True)
class Histogram:
    """How often the results of a layer lie in each of the equal parts of [low, high], in both models, over one sample.

    `original_range` and `converted_range` are the least and the greatest number that each model's type can hold."""

    low: float
    high: float
    original: tuple[int, ...]
    converted: tuple[int, ...]
    original_range: tuple[float, ...]
    converted_range: tuple[float, ...]


@dataclass(frozen=True)
class Diagnosis:
    """Where the error of a layer's result comes from; what is None could not be measured.

    `own_sqnr_db` is the layer's signal to noise if it gets the original's values, rounded to the types that they have
    now, over one sample (None: it makes no noise); `own_share` is that noise over all noise of its result, at most 1.
    `origin` is the earlier layer that makes most of the noise, if that is not this one.  `clipped` is the share of the
    original's results that the new type cannot hold.  `unused_bits` are those of the range of codes that no result
    uses.  `step_ratio` is the new step (scale) over the original's.  `histogram` is made for the worst layers only.
    """

    own_sqnr_db: float | None = None
    own_share: float | None = None
    origin: str | None = None
    clipped: float | None = None
    unused_bits: Pair | None = None
    step_ratio: float | None = None
    histogram: Histogram | None = None


@dataclass(frozen=True)
class LayerError:
    """Error of one layer's result inside the whole model: the layers before it have their errors too.

    `sqnr_db` is signal to quantization noise in dB, None where there is no noise at all."""

    name: str
    op: str
    sqnr_db: float | None
    max_step_error: float | None
    diagnosis: Diagnosis | None = None


@dataclass(frozen=True)
class Layer:
    """One line of a report: the effect of the conversion on a layer (None: unknown), and measurements (None: not made).

    `bound` is how far the result can be from the original's for equal real inputs, in steps of the new result (None
    with a loss: there is no bound within the range of its codes); `clamp` is the clamp added because only the range of
    the original's codes limited the result; `stays` is why the layer could not follow the scheme; `ms` is the time of
    its compiled functions.
    """

    name: str
    op: str
    loss: str | None = None
    channels: int | None = None
    channels_rescaled: int | None = None
    bound: float | None = None
    sqnr_db: float | None = None
    max_step_error: float | None = None
    clamp: str | None = None
    stays: str | None = None
    diagnosis: Diagnosis | None = None
    ms: Pair | None = None


L = TypeVar("L", Layer, LayerError)


def worst_layers(lines: Sequence[L]) -> list[L]:
    """The layers with the lowest signal-to-noise ratio, worst first, without those that have no noise."""
    noisy = [line for line in lines if line.sqnr_db is not None]
    return sorted(noisy, key=lambda line: line.sqnr_db or 0.0)[:WORST_LAYERS]


@dataclass(frozen=True)
class Gate:
    """A bound on one figure: `at_least` tells a lower bound from an upper one; `unit` as for `Figure`, or "points",
    "times" or "ratio"."""

    name: str
    label: str
    figure: float
    bound: float
    at_least: bool
    unit: str

    @property
    def passed(self) -> bool:
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound


@dataclass(frozen=True)
class Environment:
    """Where the figures were measured."""

    processor: str
    cores: int
    system: str
    python: str
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Source:
    """Something that the comparison read: what it was used as, its name, its size in bytes and their SHA-256.

    For a folder or list of pictures the SHA-256 is that of the lines "sha256  name" of those used, as `sha256sum`
    prints them.
    """

    role: str
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """What is needed to measure again: when (UTC; None: one of a batch, whose bytes do not depend on it), the command
    line (None: called from Python), the scheme's text, and what was read."""

    date: str | None
    command: str | None
    scheme: str | None
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Comparison:
    """The whole comparison; parts that were not requested or could not be measured are None, and `notes` says why.

    `other` is what `model` is compared with: a file, or the scheme it was converted to.  `memory` is the converted
    model's on the microcontroller that was emulated."""

    model: str
    other: str
    scheme: str | None
    target: str | None
    layers: tuple[Layer, ...]
    accuracy: Accuracy | None = None
    speed: Speed | None = None
    size: Size | None = None
    notes: tuple[str, ...] = ()
    headline: Headline | None = None
    engines: tuple[EngineRun, ...] = ()
    gates: tuple[Gate, ...] = ()
    environment: Environment | None = None
    provenance: Provenance | None = None
    memory: Layout | None = None

    @property
    def failed_gates(self) -> tuple[Gate, ...]:
        """The gates whose bound the figure breaks."""
        return tuple(gate for gate in self.gates if not gate.passed)


def quiet(what: str, done: int, total: int) -> None:
    """Show no progress."""
