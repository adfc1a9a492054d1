"""Speed of every shipped scheme on the labelled models, under TVM and LiteRT, one thread, in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tflite2q
from benchmarks import contenders, environment
from benchmarks.contenders import Job, Times
from benchmarks.models import Labelled
from benchmarks.speed import Report
from benchmarks.tables import ORIGINAL, UNCHANGED
from tflite2q.errors import Tflite2qError, Unchanged


@dataclass(frozen=True)
class Row:
    """Medians in milliseconds of one model under one scheme (`ORIGINAL`: none); `litert_ms` is None where a .tflite
    cannot say what the scheme computes.  `problem`: why there are none."""

    model: str
    scheme: str
    ours_ms: float | None = None
    litert_ms: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class _Files:
    """A model's library, the conversion it is to be compiled from, and a .tflite if one computes the same."""

    scheme: str | None
    library: Path
    tflite: Path | None


def measure(models: Sequence[Labelled], schemes: Sequence[str], quick: bool, report: Report) -> dict[str, Any]:
    """Everything there is to know, ready for JSON."""
    where = environment.here()
    rounds, round_ms = (3, 10.0) if quick else (9, 25.0)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tflite2q-bench-") as folder:
        prepared = [(model, prepare(model, schemes, Path(folder), rows)) for model in models]
        jobs = [
            Job(model.path, files.library, scheme=files.scheme) for model, found in prepared for files in found.values()
        ]
        failed = [built for built in contenders.build(jobs, report) if built.problem]
        if failed:
            raise SystemExit("\n".join(f"{built.path.name}: {built.problem}" for built in failed))
        for model, found in prepared:
            rows += times(model, found, rounds, round_ms)
            report(f"timed {model.name}")
    return {"schema_version": 1, "environment": asdict(where), "rows": [asdict(row) for row in rows]}


def prepare(model: Labelled, schemes: Sequence[str], folder: Path, rows: list[Row]) -> dict[str, _Files]:
    """The model and its conversions as files; schemes that do not apply become rows that say why."""
    graph = tflite2q.load(model.path)
    found = {ORIGINAL: _Files(None, folder / f"{model.name}.so", model.path)}
    for name in schemes:
        stem = f"{model.name}.{name}"
        try:
            conversion = tflite2q.convert(graph, name)
        except Unchanged:
            rows.append(Row(model.name, name, problem=UNCHANGED))
        except Tflite2qError as error:
            rows.append(Row(model.name, name, problem=str(error)))
        else:
            tflite = folder / f"{stem}.tflite"
            conversion.save(tflite)
            same = all(getattr(op, "rescale", "tflite") == "tflite" for op in conversion.graph.ops)
            found[name] = _Files(name, folder / f"{stem}.so", tflite if same else None)
    return found


def times(model: Labelled, found: dict[str, _Files], rounds: int, round_ms: float) -> list[Row]:
    """The medians of all conversions of one model."""
    timed: dict[str, Times] = {}
    for name, files in found.items():
        timed[f"ours {name}"] = contenders.ours(files.library, 1)
        if files.tflite is not None:
            timed[f"litert {name}"] = contenders.litert(files.tflite, 1)
    ms = contenders.medians(timed, rounds, round_ms)
    return [Row(model.name, name, ms[f"ours {name}"], ms.get(f"litert {name}")) for name in found]
