"""How near each layer comes to what the processor could do: its products at the peak rate, or its bytes at the speed of
the memory that they lie in, whichever takes longer.

The products' rate is that of a loop of nothing else (`benchmarks.peak`).  Bytes are those of a layer's operands and
results, each once; their speed is that of copying so many from one place to another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tflite2q
from benchmarks import environment, peak
from benchmarks.calls import converted
from benchmarks.models import Model
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import STORAGE
from tflite2q.kernels.x86.isa import LEVELS
from tflite2q.lower.target import resolve, tvm_target

Report = Callable[[str], None]

# Bytes that are read and written at a time to measure each memory: half of it at most on the processors of today.
MEMORIES: Mapping[str, int] = {"second cache": 1 << 17, "last cache": 1 << 22, "memory": 1 << 27}
PRODUCTS = "products"


@dataclass(frozen=True)
class Row:
    """Layers of one kind in one model: milliseconds measured and at the limit, and what sets most of the limit."""

    model: str
    kind: str
    layers: int
    ms: float
    limit_ms: float
    bound: str


@dataclass(frozen=True)
class Limits:
    """The limits of one core: 10^9 multiply-accumulates of 8 bits a second, and 10^9 bytes a second of each memory."""

    products: float
    bandwidth: Mapping[str, float]

    def of(self, macs: int, size: int) -> tuple[float, str]:
        """Milliseconds that so many products and bytes take at least, and which of the two."""
        memory = next((name for name, most in MEMORIES.items() if size <= 2 * most), "memory")
        by_bytes, by_products = size / self.bandwidth[memory] / 1e6, macs / self.products / 1e6
        return (by_products, PRODUCTS) if by_products >= by_bytes else (by_bytes, memory)


def measure(models: Sequence[Model], folder: Path, quick: bool, report: Report) -> dict[str, Any]:
    """All rows, ready for JSON."""
    limits = limits_here()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tflite2q-bench-") as temporary:
        for model in models:
            graph = tflite2q.load(converted(model.path(folder), Path(temporary)))
            rows += _rows(model.name, graph, limits, 20 if quick else 200)
            report(f"{model.name}: measured")
    return {
        "schema_version": 1,
        "environment": asdict(environment.here()),
        "products": limits.products,
        "bandwidth": dict(limits.bandwidth),
        "rows": [asdict(row) for row in rows],
    }


def limits_here() -> Limits:
    """Measured on this processor."""
    target = tvm_target(resolve("native"))
    level = next(isa for isa in LEVELS if isa.lacks(target) is None)
    return Limits(peak.peak(level, target), {name: _bandwidth(size) for name, size in MEMORIES.items()})


def _bandwidth(size: int) -> float:
    """10^9 bytes a second of a copy that reads `size` bytes and writes as many."""
    source, place = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    return 2 * size / peak.fastest(lambda: np.copyto(place, source), max(20, min(2000, (1 << 30) // size))) / 1e9


def _rows(name: str, graph: Graph, limits: Limits, repeat: int) -> list[Row]:
    executable = tflite2q.compile(graph)
    found: dict[str, list[tuple[float, float, str]]] = {}
    for time in executable.profile(repeat=repeat):
        op = next(op for op in graph.ops if op.name == time.op)
        if time.ms:
            limit = limits.of(op.macs(graph.ins(op), graph.outs(op)), traffic(graph, op))
            found.setdefault(kind(graph, op), []).append((time.ms, *limit))
    rows = []
    for each, parts in found.items():
        bounds = [bound for _, _, bound in parts]
        most = max(set(bounds), key=lambda bound: sum(limit for _, limit, b in parts if b == bound))
        rows.append(Row(name, each, len(parts), sum(p[0] for p in parts), sum(p[1] for p in parts), most))
    return sorted(rows, key=lambda row: -row.ms)


def traffic(graph: Graph, op: Op) -> int:
    """Bytes of an op's operands and results."""
    values = [*(value for value in graph.ins(op) if value is not None), *graph.outs(op)]
    return sum(value.type.size * np.dtype(STORAGE[value.type.dtype]).itemsize for value in values)


def kind(graph: Graph, op: Op) -> str:
    """Convolutions by their window, other ops by their name."""
    words = op.mnemonic.removeprefix("q.").replace("_", " ")
    if op.mnemonic not in ("q.conv2d", "q.depthwise_conv2d"):
        return words
    _, height, width, depth = graph[op.reads("weights")].type.shape
    shallow = ", few channels" if op.mnemonic == "q.conv2d" and height * width > 1 and depth <= 4 else ""
    return f"{words} {height}x{width}{shallow}"
