"""Speed of float32 activations against LiteRT: float32, weight-only and dynamic range, blocks interleaved.

Both run the same file with one thread, LiteRT by its default delegate (XNNPACK).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tflite2q
from benchmarks import contenders, environment
from benchmarks.models import Model

SCHEMES = ("float32", "weight-only", "dynamic-range")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One conversion of a model, in milliseconds."""

    model: str
    scheme: str
    litert_ms: float
    ours_ms: float


def measure(
    models: Sequence[Model], schemes: Sequence[str], folder: Path, quick: bool, report: Report
) -> dict[str, Any]:
    """All rows, ready for JSON."""

    def files(temporary: Path) -> Iterator[tuple[str, str, Path]]:
        for model in models:
            for scheme in schemes:
                path = temporary / f"{model.name}.{scheme}.tflite"
                tflite2q.convert(model.path(folder), scheme).save(path)
                yield model.name, scheme, path

    return beside_litert(files, quick, report)


def beside_litert(
    files: Callable[[Path], Iterable[tuple[str, str, Path]]], quick: bool, report: Report
) -> dict[str, Any]:
    """Rows, ready for JSON, of the (model, scheme, file) that `files` makes in a folder."""
    rounds, round_ms = (4, 30.0) if quick else (15, 50.0)
    rows = []
    with tempfile.TemporaryDirectory(prefix="tflite2q-bench-") as temporary:
        for model, scheme, path in files(Path(temporary)):
            timed = {"litert": contenders.litert(path, 1), "ours": tflite2q.compile(path).times}
            found = contenders.medians(timed, rounds, round_ms)
            rows.append(Row(model, scheme, found["litert"], found["ours"]))
            report(f"{model}, {scheme}: {found['ours']:.3f} ms, LiteRT {found['litert']:.3f} ms")
    return {"schema_version": 1, "environment": asdict(environment.here()), "rows": [asdict(row) for row in rows]}
