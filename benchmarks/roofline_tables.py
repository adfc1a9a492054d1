"""The roofline's tables, made from benchmarks/results/roofline.json and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.kept import Result, Row
from benchmarks.layout import MISSING, markdown
from benchmarks.layout import ms as as_ms
from benchmarks.tables import measured_on

SHOWN_SHARE = 0.01  # of a model's time, for a row of its own
HEAD = ("layers", "number", "ms", "of the time", "limited by", "of the limit")
MEMORIES_HEAD = ("memory", "holds", "reads", "stores", "copies")


def roofline(result: Result) -> str:
    """How near each kind of layer comes to its own limit."""
    peaks = result["peaks"]
    matrix = "no matrix unit" if peaks["matrix"] is None else f"{peaks['matrix']:.0f} G MAC/s of its matrix unit"
    limits = f"Limits of one core: {peaks['vector']:.0f} G MAC/s of its vector unit, {matrix}, both of 8 bits, and:\n"
    parts = [f"{measured_on(result)}\n{limits}\n{markdown(MEMORIES_HEAD, map(_memory, result['memories']))}"]
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["model"] == model]
        total, limit = (sum(row[key] for row in rows) for key in ("ms", "limit_ms"))
        cells = [_cells(row, total) for row in rows if row["ms"] >= SHOWN_SHARE * total]
        layers = str(sum(row["layers"] for row in rows))
        cells.append(("all", layers, _ms(total), "100 %", "", f"{limit / total * 100:.0f} %"))
        parts.append(f"`{model}`, int8:\n\n{markdown(HEAD, cells)}")
    return "\n".join(parts)


def _memory(memory: Mapping[str, Any]) -> tuple[str, ...]:
    """A memory's row; results of before may lack some of it."""
    speeds = (memory[key] for key in ("read", "store", "copy"))
    return (memory["name"], _size(memory["size"]), *(MISSING if s is None else f"{s:.0f} GB/s" for s in speeds))


def _size(size: int | None) -> str:
    if size is None:
        return MISSING
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def _ms(value: float) -> str:
    return as_ms(value) if value >= 0.01 else f"{value:.4f}"  # small models' layers take a fraction of a microsecond


def _cells(row: Row, total: float) -> tuple[str, ...]:
    share, of_limit = row["ms"] / total, row["limit_ms"] / row["ms"]
    layers, bound = str(row["layers"]), row["bound"]
    return row["kind"], layers, _ms(row["ms"]), f"{share * 100:.0f} %", bound, f"{of_limit * 100:.0f} %"
