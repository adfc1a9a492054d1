"""Pictures of a comparison as inline SVG; each has a text that says what it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tflite2q.evaluation.figures import Pair
from tflite2q.evaluation.results import Comparison, Histogram, Layer
from tflite2q.micro.memory import Layout
from tflite2q.report import words
from tflite2q.report.html.markup import Node, node

QUIET_DB = 60.0  # signal to noise of which a bar has no height left
WIDTH, HEIGHT = 480.0, 150.0
MARGIN_LEFT, MARGIN_BOTTOM, MARGIN_TOP, MARGIN_RIGHT = 64.0, 44.0, 14.0, 28.0
SCATTER = 300.0  # height of a scatter plot
TICKS = 6


def layers(lines: Sequence[Layer], worst: Sequence[str]) -> Node:
    """A bar for each layer in graph order: the more noise, the higher; within it, what the layer makes itself."""
    total = 10.0 * len(lines)
    loud = [line for line in lines if line.sqnr_db is not None]
    says = f"Noise of {len(lines)} layers in graph order; {len(lines) - len(loud)} have none. "
    says += "The table of all layers below holds the figures."
    drawn = node("svg", viewBox=f"0 0 {total:g} 100", preserveAspectRatio="none", class_="bars", role="img",
                 aria_label=says, focusable="false")  # fmt: skip
    for decibel in (20, 40):
        y = 100 - _height(decibel)
        drawn.append(node("line", x1=0, x2=total, y1=y, y2=y, class_="rule", vector_effect="non-scaling-stroke"))
    for place, line in enumerate(lines):
        if line.sqnr_db is None:
            continue
        title = node("title", f"{place + 1}. {line.name}: {words.amount(line.sqnr_db, 'dB')}")
        height = _height(line.sqnr_db)
        kind = "bar worst" if line.name in worst else "bar"
        drawn.append(node("rect", title, x=10 * place + 1, width=8, y=100 - height, height=height, class_=kind))
        own = None if line.diagnosis is None else line.diagnosis.own_sqnr_db
        if own is not None:
            height = _height(own)
            drawn.append(node("rect", x=10 * place + 3.5, width=3, y=100 - height, height=height, class_="own"))
    return drawn


def memory(found: Layout) -> Node:
    """What lies in the arena: layers from left to right, bytes from the foot up."""
    foot, left, right = SCATTER - MARGIN_BOTTOM, MARGIN_LEFT, WIDTH - MARGIN_RIGHT
    across, up = (right - left) / max(len(found.layers), 1), (foot - MARGIN_TOP) / max(found.bytes, 1)
    says = f"The arena of {found.bytes} bytes on {found.target}: {len(found.blocks)} tensors over {len(found.layers)} "
    drawn = node("svg", viewBox=f"0 0 {WIDTH:g} {SCATTER:g}", role="img", aria_label=f"{says}layers", focusable="false",
                 class_="memory")  # fmt: skip
    for share in (0.0, 0.5, 1.0):
        y = foot - share * found.bytes * up
        drawn.append(node("line", x1=left, x2=right, y1=y, y2=y, class_="rule"))
        drawn.append(node("text", f"{share * found.bytes:,.0f}", x=left - 6, y=y + 4, text_anchor="end"))
    for block in found.blocks:
        last = found.layers[block.last]
        title = node("title", f"{block.name}: {block.bytes} bytes from {block.offset}, until {last}")
        width, height = (block.last - block.first + 1) * across, block.bytes * up
        place = {"x": left + block.first * across, "y": foot - (block.offset + block.bytes) * up}
        drawn.append(node("rect", title, **place, width=width, height=height, class_="block"))
    drawn.append(node("text", "layers", x=(left + right) / 2, y=SCATTER - 6, text_anchor="middle"))
    drawn.append(
        node("text", "bytes", x=14, y=foot / 2, text_anchor="middle", transform=f"rotate(-90 14 {foot / 2:g})")
    )
    return drawn


def times(lines: Sequence[tuple[str, Pair]]) -> Node:
    """A bar for each layer in graph order, as high as its time in the original; in it that in the converted model."""
    most = max(max(ms.original, ms.converted) for _, ms in lines) or 1.0
    says = f"Times of {len(lines)} layers in graph order, at most {words.milliseconds(most)}. "
    says += "The table of all layers below holds the figures."
    drawn = node("svg", viewBox=f"0 0 {10 * len(lines):g} 100", preserveAspectRatio="none", class_="bars", role="img",
                 aria_label=says, focusable="false")  # fmt: skip
    for place, (name, ms) in enumerate(lines):
        before, after = (words.milliseconds(time) for time in (ms.original, ms.converted))
        title = node("title", f"{place + 1}. {name}: {before} → {after}")
        for time, x, width, kind in ((ms.original, 1.0, 8.0, "bar"), (ms.converted, 3.0, 4.0, "bar new")):
            height = 100 * time / most
            rect = node("rect", x=10 * place + x, width=width, y=100 - height, height=height, class_=kind)
            if kind == "bar":
                rect.append(title)
            drawn.append(rect)
    return drawn


def _height(sqnr_db: float) -> float:
    """Percent of the chart: nothing from QUIET_DB, all of it at 0 dB; what makes any noise is seen."""
    return min(max(100 * (1 - sqnr_db / QUIET_DB), 1.0), 100.0)


def histogram(found: Histogram, says: str) -> Node:
    """Both models' results: the original's as filled bars, the converted model's as a line, the ends of the new range
    as dashed lines.  Heights are square roots, so that rare values are seen beside many zeros."""
    most = math.sqrt(max(*found.original, *found.converted, 1))
    width = WIDTH / len(found.original)
    drawn = node("svg", viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", aria_label=says, focusable="false")
    for place, count in enumerate(found.original):
        height = (HEIGHT - 4) * math.sqrt(count) / most
        drawn.append(node("rect", x=place * width, width=width, y=HEIGHT - height, height=height, class_="before"))
    path = f"M0 {HEIGHT:g}"
    for place, count in enumerate(found.converted):
        y = HEIGHT - (HEIGHT - 4) * math.sqrt(count) / most
        path += f"L{place * width:.6g} {y:.6g}L{(place + 1) * width:.6g} {y:.6g}"
    drawn.append(node("path", d=f"{path}L{WIDTH:g} {HEIGHT:g}", class_="after"))
    for end in found.converted_range:
        x = WIDTH * (end - found.low) / (found.high - found.low)
        if 0 <= x <= WIDTH:
            drawn.append(node("line", x1=x, x2=x, y1=0, y2=HEIGHT, class_="limit"))
    return drawn


@dataclass(frozen=True)
class Spot:
    """A model in a scatter plot; `mark` is what stands beside its point."""

    mark: str
    x: float
    y: float


def spots(results: Sequence[Comparison], by: str) -> list[Spot]:
    """The original (0) and each converted model that was measured, of the share of right answers, else of answers as
    the original's, against `by`: "gain" (times as fast) or "size" (kB)."""
    found: list[Spot] = []
    for number, result in enumerate(results, start=1):
        stages = () if result.headline is None else result.headline.stages
        if len(stages) < 2:
            continue
        first, last = stages[0], stages[-1]
        across = _across(result, by)
        before, after = (first.score, last.score) if last.score is not None else (1.0, last.agreement)
        if across is None or before is None or after is None:
            continue
        if not found:
            found.append(Spot("0", across[0], 100 * before))
        found.append(Spot(str(number), across[1], 100 * after))
    return found


def _across(result: Comparison, by: str) -> tuple[float, float] | None:
    if by == "gain":
        gain = result.headline.stages[-1].gain if result.headline is not None else None
        return None if gain is None else (1.0, gain)
    size = result.size
    if size is None or size.original is None or size.converted is None:
        return None
    return size.original / 1000, size.converted / 1000


def front(points: Sequence[Spot], more: bool) -> list[Spot]:
    """The points that no other one beats in both directions, from left to right; `more`: a greater x is better."""

    def beaten(spot: Spot) -> bool:
        sign = 1 if more else -1
        return any(
            other.y >= spot.y and sign * other.x >= sign * spot.x and (other.x, other.y) != (spot.x, spot.y)
            for other in points
        )

    return sorted((spot for spot in points if not beaten(spot)), key=lambda spot: (spot.x, spot.y))


def scatter(points: Sequence[Spot], more: bool, x_label: str, y_label: str) -> Node:
    """The models as numbered points, those on the Pareto front joined by a line."""
    best = front(points, more)
    says = f"{y_label} against {x_label} of {len(points)} models; on the front: {', '.join(p.mark for p in best)}. "
    says += "The table above holds the figures."
    x_ends, x_ticks = _scale([spot.x for spot in points])
    y_ends, y_ticks = _scale([spot.y for spot in points])

    def across(value: float) -> float:
        return MARGIN_LEFT + (WIDTH - MARGIN_LEFT - MARGIN_RIGHT) * (value - x_ends[0]) / (x_ends[1] - x_ends[0])

    def down(value: float) -> float:
        share = (value - y_ends[0]) / (y_ends[1] - y_ends[0])
        return SCATTER - MARGIN_BOTTOM - (SCATTER - MARGIN_BOTTOM - MARGIN_TOP) * share

    drawn = node("svg", viewBox=f"0 0 {WIDTH:g} {SCATTER:g}", role="img", aria_label=says, focusable="false",
                 class_="scatter")  # fmt: skip
    left, right, foot = MARGIN_LEFT, WIDTH - MARGIN_RIGHT, SCATTER - MARGIN_BOTTOM
    for tick in y_ticks:
        drawn.append(node("line", x1=left, x2=right, y1=down(tick), y2=down(tick), class_="rule"))
        drawn.append(node("text", f"{tick:.6g}", x=left - 6, y=down(tick) + 4, text_anchor="end"))
    for tick in x_ticks:
        drawn.append(node("line", x1=across(tick), x2=across(tick), y1=foot, y2=foot + 5, class_="rule"))
        drawn.append(node("text", f"{tick:.6g}", x=across(tick), y=foot + 18, text_anchor="middle"))
    drawn.append(node("text", x_label, x=(left + right) / 2, y=SCATTER - 6, text_anchor="middle"))
    middle = (MARGIN_TOP + foot) / 2
    drawn.append(node("text", y_label, x=14, y=middle, text_anchor="middle", transform=f"rotate(-90 14 {middle:g})"))
    line = "L".join(f"{across(spot.x):.6g} {down(spot.y):.6g}" for spot in best)
    drawn.append(node("path", d=f"M{line}", class_="front"))
    for spot in points:
        kind = "point original" if spot.mark == "0" else "point"
        drawn.append(node("circle", cx=across(spot.x), cy=down(spot.y), r=6, class_=kind))
        drawn.append(node("text", spot.mark, x=across(spot.x) + 9, y=down(spot.y) - 7, class_="mark"))
    return drawn


def _scale(values: Sequence[float]) -> tuple[tuple[float, float], list[float]]:
    """Ends a little beyond the values, and round numbers between them."""
    low, high = min(values), max(values)
    spare = 0.12 * (high - low) or max(abs(high) * 0.1, 0.5)
    low, high = low - spare, high + spare
    rough = (high - low) / TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= rough)
    first = math.ceil(low / step)
    return (low, high), [k * step for k in range(first, math.floor(high / step) + 1)]
