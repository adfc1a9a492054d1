"""The Pareto front of a search, as plain values for JSON and as a picture."""

from __future__ import annotations

import os
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tflite2q import files
from tflite2q.errors import UsageError
from tflite2q.mixing.run import Found, Point
from tflite2q.report.json import SCHEMA_VERSION

if TYPE_CHECKING:
    from rich.console import Console

UNITS = {"size": "bytes", "speed": "ms"}


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def values(found: Found, goal: str, model: str) -> dict[str, Any]:
    """Keys: schema_version, model, goal, unit, complete, base, chosen, largest_first, front[]; each point has layers,
    cost, estimated_error, measured_error, points_lost, measured_cost (the last three null where not measured)."""
    rival = found.largest_first
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "goal": goal,
        "unit": UNITS[goal],
        "complete": found.complete,
        "mix": dict(found.mix),
        "base": asdict(found.base),
        "chosen": asdict(found.chosen),
        "largest_first": None if rival is None else asdict(rival),
        "front": [asdict(point) for point in found.points],
    }


def picture(found: Found, goal: str, model: str, path: str | os.PathLike[str], force: bool = False) -> None:
    """Draw loss against cost, one point per mix, to a .png or .svg.

    Raises UsageError if matplotlib is not installed or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("a picture needs matplotlib: pip install 'tflite2q[report]'") from error
    scale = 1000.0 if goal == "size" else 1.0
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        [p.cost / scale for p in found.points], [p.estimated_error for p in found.points], ".-", label="estimated"
    )
    checked = [p for p in (*found.points, found.chosen) if p.measured_error is not None]
    errors = [p.measured_error or 0.0 for p in checked]
    axes.plot([p.cost / scale for p in checked], errors, "o", mfc="none", label="measured")
    marks = [(found.chosen, "*", "chosen"), (found.largest_first, "x", "largest layers first")]
    for point, marker, label in marks:
        if point is not None and point.measured_error is not None:
            text = f"{label} ({point.points_lost:+.1f} points lost)"
            axes.plot([point.cost / scale], [point.measured_error], marker, markersize=12, label=text)
    axes.set_xlabel("size, kB" if goal == "size" else "time of all ops, ms")
    axes.set_ylabel("output error, share of the signal's energy")
    axes.set_yscale("log")
    axes.set_title(f"{model}: mixes of schemes")
    axes.grid(alpha=0.3)
    axes.legend()
    where = Path(path)
    with files.replacing(where, force) as temporary:
        figure.savefig(temporary, format=where.suffix.lstrip(".") or "png")


def text(console: Console, found: Found, goal: str) -> None:
    """The base, the chosen mix and the simple one, estimate and measurement side by side."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    unit = UNITS[goal]
    heads = ("mix", "layers changed", f"{unit} estimated", f"{unit} measured", "saved", "error estimated",
             "error measured", "points lost")  # fmt: skip
    for head in heads:
        table.add_column(head, justify="left" if head == "mix" else "right")
    named = (("first scheme", found.base), ("chosen", found.chosen), ("largest layers first", found.largest_first))
    for name, point in named:
        if point is not None:
            table.add_row(*map(Text, (name, *_row(point, found.base, goal))))
    console.print(table)
    if found.mix and _true(found.chosen) >= _true(found.base):
        console.print(
            "the chosen mix saves nothing: requantizations between layers of different types cost what they save; "
            "give --schemes that differ more, or fewer"
        )
    if not found.complete:
        console.print("the budget ended before every layer was measured; run the same command to continue")


def _true(point: Point) -> float:
    """The measured cost, or the estimate if it was not measured."""
    return point.cost if point.measured_cost is None else point.measured_cost


def _row(point: Point, base: Point, goal: str) -> tuple[str, ...]:
    costs = [
        "" if c is None else f"{c:,.0f}" if goal == "size" else f"{c:.3f}" for c in (point.cost, point.measured_cost)
    ]
    measured = "" if point.measured_error is None else f"{point.measured_error:.4f}"
    lost = "" if point.points_lost is None else f"{point.points_lost:+.1f}"
    saved = f"{100 * (1 - _true(point) / _true(base)):.1f} %"
    return str(point.layers), *costs, saved, f"{point.estimated_error:.4f}", measured, lost
