"""The results of a search as plain values for JSON, as text, and as a picture."""

from __future__ import annotations

import os
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tflite2q import files
from tflite2q.errors import UsageError
from tflite2q.mixing.costs import GOALS
from tflite2q.mixing.evidence import Loss
from tflite2q.mixing.records import Found, Point
from tflite2q.report.json import SCHEMA_VERSION

if TYPE_CHECKING:
    from rich.console import Console


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def values(found: Found, goal: str, model: str) -> dict[str, Any]:
    """Keys: schema_version, model, goal, unit, limit, judges, complete, seconds, calibration, refuted, mix, base,
    chosen, largest_first, front[], judged[].

    Each point has layers, mix, cost, estimated_error, measured_error, measured_cost, points_lost, loss and confirmed
    (the last five null where not measured).  A loss has samples, points, low, high, method, counted, counted_low,
    counted_high, lost, gained, verdict and samples_needed.
    """

    def point(one: Point | None) -> dict[str, Any] | None:
        if one is None:
            return None
        losses = {"loss": _loss(one.loss, found.limit), "confirmed": _loss(one.confirmed, found.limit)}
        return {**asdict(one), "points_lost": one.points_lost, **losses}

    return {
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "goal": goal,
        "unit": GOALS[goal].unit,
        "limit": found.limit,
        "judges": found.judges,
        "complete": found.complete,
        "seconds": found.seconds,
        "calibration": found.calibration,
        "refuted": found.refuted,
        "mix": dict(found.mix),
        "base": point(found.base),
        "chosen": point(found.chosen),
        "largest_first": point(found.largest_first),
        "front": [point(one) for one in found.points],
        "judged": [point(one) for one in found.judged],
    }


def _loss(loss: Loss | None, limit: float) -> dict[str, Any] | None:
    if loss is None:
        return None
    return {**asdict(loss), "verdict": loss.verdict(limit), "samples_needed": loss.samples_needed(limit)}


def points(value: float) -> str:
    """Points lost or gained, in words."""
    rounded = round(value, 1)
    return "none lost" if rounded == 0 else f"{rounded:.1f} lost" if rounded > 0 else f"{-rounded:.1f} gained"


def _loss_in_words(value: float) -> str:
    """Points lost or gained, as part of a sentence."""
    rounded = round(value, 1)
    return "no points lost" if rounded == 0 else f"{abs(rounded):.1f} points {'lost' if rounded > 0 else 'gained'}"


def _limit(found: Found) -> str:
    return f"the limit of {found.limit:g} point{'' if found.limit == 1 else 's'}"


def picture(found: Found, goal: str, model: str, path: str | os.PathLike[str], force: bool = False) -> None:
    """Draw error against cost, one point per mix, to a .png or .svg.

    Raises UsageError if matplotlib is not installed or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("a picture needs matplotlib: pip install 'tflite2q[report]'") from error
    scale = 1000.0 if GOALS[goal].unit == "bytes" else 1.0
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    line = [(_true(p) / scale, _error(p)) for p in found.points]
    axes.plot([x for x, _ in line], [y for _, y in line], ".-", label="mixes that none beats")
    judged = [p for p in found.judged if p.layers]
    axes.plot(
        [_true(p) / scale for p in judged], [_error(p) for p in judged], "o", mfc="none", label="judged on all samples"
    )
    marks = [(found.base, "s", "first scheme"), (found.chosen, "*", "chosen"),
             (found.largest_first, "x", "largest layers first")]  # fmt: skip
    for one, marker, label in marks:
        if one is not None and one.loss is not None:
            text = f"{label} (points: {points(one.loss.points)})"
            axes.plot([_true(one) / scale], [_error(one)], marker, markersize=10, label=text)
    axes.set_xlabel(GOALS[goal].label + (", kB" if scale > 1 else ", ms"))
    axes.set_ylabel("output error, share of the signal's energy")
    if all(_error(p) > 0 for p in found.points):
        axes.set_yscale("log")
    axes.set_title(f"{model}: mixes of schemes")
    axes.grid(alpha=0.3)
    axes.legend()
    where = Path(path)
    with files.replacing(where, force) as temporary:
        figure.savefig(temporary, format=where.suffix.lstrip(".") or "png")


def text(console: Console, found: Found, goal: str) -> None:
    """The base, the chosen mix and the simple one; what the samples say about the limit, and what they cannot."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    unit = GOALS[goal].unit
    heads = ("mix", "layers changed", f"{unit} estimated", f"{unit} measured", "saved", "error", "points of "
             + found.judges, "95 % interval", "confirmed", "95 % interval")  # fmt: skip
    for head in heads:
        table.add_column(head, justify="left" if head == "mix" else "right")
    named = (("first scheme", found.base), ("chosen", found.chosen), ("largest layers first", found.largest_first))
    for name, point in named:
        if point is not None:
            table.add_row(*map(Text, (name, *_row(point, found.base, unit))))
    console.print(table)
    for sentence in sentences(found):
        console.print(Text(sentence), soft_wrap=True)


def sentences(found: Found) -> list[str]:
    """Sentences on what the figures prove, and what they do not."""
    said = [_evidence(found)]
    if found.refuted:
        said.append(
            f"{found.refuted} cheaper mixes looked good on the samples that choose, and lost too much on those that "
            "confirm"
        )
    if found.mix and _true(found.chosen) >= _true(found.base):
        said.append(
            "the chosen mix saves nothing: requantizations between layers of different types cost what they save; "
            "give schemes that differ more, or fewer"
        )
    if not found.mix:
        said.append(f"no mix saves anything within {found.limit:g} points; every layer stays with the first scheme")
    if not found.complete:
        said.append("the budget ended before everything was measured; run the same command again to continue")
    return said


def _evidence(found: Found) -> str:
    """Whether the samples that did not choose show that the limit is kept."""
    seen = found.chosen.confirmed
    if seen is None:
        return "nothing is confirmed: there were too few samples to keep some that do not choose, or too little time"
    counts = "" if seen.lost is None else f" (answers: {seen.lost} lost, {seen.gained} gained)"
    samples = "1 sample" if seen.samples == 1 else f"{seen.samples} samples"
    figures = f"{samples} that did not choose: {_loss_in_words(seen.counted)}{counts}"
    verdict = seen.verdict(found.limit)
    if verdict == "within":
        return f"{figures}; they show that {_limit(found)} is kept (95 %)"
    if verdict == "over":
        return f"{figures}; they show that {_limit(found)} is broken (95 %)"
    needed = seen.samples_needed(found.limit)
    truth = _loss_in_words(seen.points)
    more = "" if needed is None else f"; about {needed:,} samples would decide it if the truth is {truth}"
    return (
        f"{figures}; they cannot decide whether {_limit(found)} is kept: with 95 % the truth lies "
        f"between {_interval(seen.counted_low, seen.counted_high, ' and ')}{more}"
    )


def _interval(low: float, high: float, between: str = " to ") -> str:
    """Ends of an interval of points lost, each in words."""
    return f"{points(low)}{between}{points(high)}"


def _true(point: Point) -> float:
    """The measured cost, or the estimate if it was not measured."""
    return point.cost if point.measured_cost is None else point.measured_cost


def _error(point: Point) -> float:
    return point.estimated_error if point.measured_error is None else point.measured_error


def _row(point: Point, base: Point, unit: str) -> tuple[str, ...]:
    costs = [
        "" if c is None else f"{c:,.0f}" if unit == "bytes" else f"{c:.3f}" for c in (point.cost, point.measured_cost)
    ]
    saved = f"{100 * (1 - _true(point) / _true(base)):.1f} %"
    losses = []
    for loss in (point.loss, point.confirmed):
        losses += ["", ""] if loss is None else [points(loss.points), _interval(loss.low, loss.high)]
    return str(point.layers), *costs, saved, f"{_error(point):.4f}", *losses
