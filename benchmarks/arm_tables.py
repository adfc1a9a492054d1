"""Tables of counted instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.layout import MISSING, markdown, ratio
from benchmarks.tables import geometric_mean, measured_on

HEAD = (
    "model",
    "LiteRT, original",
    "LiteRT, int8",
    "tflite2q, int8",
    "LiteRT original / tflite2q",
    "LiteRT int8 / tflite2q",
    "products, LiteRT int8",
    "products, tflite2q",
)
KINDS = ("matrix", "dot", "widening")


def arm(result: Mapping[str, Any]) -> str:
    """Millions of instructions of one inference, a table for each processor."""
    parts = [measured_on(result)]
    for processor in dict.fromkeys(row["processor"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["processor"] == processor]
        cells = [_cells(row) for row in rows]
        for dtype, key in (("uint8", "litert_original"), ("", "litert_int8")):
            chosen = [row for row in rows if row["dtype"] == dtype or not dtype]
            if chosen:
                cells.append(_mean(chosen, key))
        parts.append(f"{processor}, millions of instructions:\n\n{markdown(HEAD, cells)}")
    return "\n".join(parts)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    ours = row["ours"]
    return (
        f"`{row['model']}` ({row['dtype']})",
        millions(row["litert_original"]) if row["dtype"] == "uint8" else MISSING,
        millions(row["litert_int8"]),
        millions(ours),
        ratio(row["litert_original"], ours) if row["dtype"] == "uint8" else MISSING,
        ratio(row["litert_int8"], ours),
        _products(row["litert_products"]),
        _products(row["products"]),
    )


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[str, ...]:
    mean = geometric_mean([row[key] / row["ours"] for row in rows])
    original = key == "litert_original"
    name = f"geometric mean of {len(rows)}" + (", uint8" if original else "")
    return name, "", "", "", mean if original else "", "" if original else mean, "", ""


def _products(counts: Sequence[int]) -> str:
    """Millions of each kind of product that is there."""
    found = [f"{millions(count)} {kind}" for kind, count in zip(KINDS, counts, strict=True) if count]
    return ", ".join(found) or "none"


def millions(count: int) -> str:
    """Three digits or more."""
    value = count / 1e6
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"
