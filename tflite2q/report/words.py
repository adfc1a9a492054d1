"""Figures in words, the same in every report."""

from __future__ import annotations

import math

from tflite2q.errors import hint
from tflite2q.evaluation.figures import Difference, Figure
from tflite2q.evaluation.results import Accuracy, Comparison, Gate, Stage

OFTEN = 1000  # digits of a p-value


def percent(share: float) -> str:
    """A share as percent, with as many digits as tell it from 0 and 100 %."""
    text = f"{share * 100:.1f} %"
    if (text == "100.0 %" and share < 1) or (text == "0.0 %" and share > 0):
        return f"{share * 100:.3g} %" if share < 0.5 else f"{math.floor(share * 100_000) / 1000:.3f} %"
    return text


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{difference * 100:+.1f} points"


def milliseconds(value: float | None) -> str:
    """A time: three digits behind the point, more below 0.1 ms."""
    if value is None:
        return ""
    return f"{value:.3f} ms" if value >= 0.1 else f"{value:.4f} ms"


def relative(before: float, after: float) -> str:
    return f"{(after / before - 1) * 100:+.1f} %" if before else ""


def size_in_bytes(count: int) -> str:
    return f"{count:,} bytes" if count < 10_000 else f"{count / 1000:,.0f} kB"


def amount(value: float, unit: str) -> str:
    """A figure with its unit, as `Figure` and `Gate` name them."""
    if unit == "share":
        return percent(value)
    if math.isinf(value):
        return "no noise" if unit == "dB" else "unbounded"
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "points":
        return f"{value:.1f} points" if abs(value) >= 0.1 or value == 0 else f"{value:.3g} points"
    if unit == "times":
        return f"{value:.2f} times"
    if unit == "dB":
        return f"{value:.1f} dB"
    if unit == "ratio":
        return f"{value:.3f}"
    text = f"{value:.4g}"
    if unit == "steps":
        return f"{text} step" + ("" if value == 1 else "s")
    return f"{text} {unit}".rstrip()


def figure(found: Figure) -> str:
    """A figure's number, with its interval if it has one."""
    text = amount(found.value, found.unit)
    if found.low is None or found.high is None:
        return text
    return f"{text} (95 % interval {percent(found.low)} to {percent(found.high)})"


def noise(difference: Difference) -> str:
    """Whether a difference is more than noise, in a few words."""
    if difference.value == 0 and not difference.lost:
        return "no difference"
    return "more than noise" if difference.decided else "within noise"


def evidence(label: str, difference: Difference) -> str:
    """A paired difference with its interval, its test, and what follows."""
    text = f"{label}: {points(difference.value)}, 95 % interval {difference.low * 100:+.1f} to "
    text += f"{difference.high * 100:+.1f}"
    if difference.p_value is not None:
        text += f", {difference.lost} lost and {difference.gained} gained, McNemar's exact p = {_p(difference.p_value)}"
    if difference.decided:
        return f"{text}: more than noise"
    if difference.samples_needed is None:
        return f"{text}: no difference was seen"
    return f"{text}: within noise; about {difference.samples_needed:,} samples would decide a difference this large"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 1 / OFTEN else f"{value:.1g}"


def samples(accuracy: Accuracy) -> str:
    """What was measured on."""
    text = f"{accuracy.samples} sample" + ("" if accuracy.samples == 1 else "s") + f" of {accuracy.source}"
    return f"{text}: agreement on synthetic inputs, not accuracy" if accuracy.synthetic else text


def task(accuracy: Accuracy) -> str:
    """What the models are taken to do, and why."""
    if accuracy.task is None:
        return ""
    found = accuracy.task
    return f"task: {found.name}" + (f" ({found.why}; {hint('--task')} chooses another)" if found.guessed else "")


def gate(found: Gate) -> str:
    """A gate with its verdict, its figure and its bound."""
    return f"{'passed' if found.passed else 'FAILED'} {gate_figures(found)}"


def gate_figures(found: Gate) -> str:
    """A gate with its figure and its bound."""
    bound = f"{'at least' if found.at_least else 'at most'} {amount(found.bound, found.unit)}"
    return f"{found.name}: {found.label} is {amount(found.figure, found.unit)}, the bound is {bound}"


def gain(stage: Stage) -> str:
    """How many times as fast as the first stage."""
    return "" if stage.gain is None else f"{stage.gain:.2f} times as fast"


def machine(result: Comparison) -> str:
    """Where the figures were measured, with the number of threads."""
    found = result.environment
    if found is None:
        return ""
    threads = "" if result.speed is None else f", {result.speed.threads} thread" + "s" * (result.speed.threads > 1)
    versions = ", ".join(f"{name} {version}" for name, version in found.versions)
    return f"{found.processor}, {found.cores} cores{threads}, {found.system}, Python {found.python}; {versions}"
