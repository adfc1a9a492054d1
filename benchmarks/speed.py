"""Speed against LiteRT: both on the original and on our int8 conversion of it, runs interleaved, medians."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tflite2q
from benchmarks import contenders, environment
from benchmarks.contenders import Built, Job
from benchmarks.models import Model
from tflite2q.errors import Unchanged
from tflite2q.lower.targets import MATRIX_FEATURES

SCHEME = "int8"
FRONTEND_RUNS = 3  # TVM's frontend computes in float32 and takes up to a hundred times as long


@dataclass(frozen=True)
class Row:
    """One model with one number of threads, in milliseconds; for int8 models `int8` and `original` are one file.

    `vnni_ms` is the int8 model compiled for this processor without its matrix unit, None where it has none.
    `frontend_ms` is None where TVM's own frontend refuses the model, or was not asked; `peak` is the VNNI peak of as
    many cores as threads, in G MAC/s.
    """

    model: str
    dtype: str
    threads: int
    macs: int
    litert_original_ms: float
    litert_int8_ms: float
    ours_original_ms: float
    ours_int8_ms: float
    vnni_ms: float | None
    frontend_ms: float | None
    peak: float | None


@dataclass(frozen=True)
class Files:
    """A model's files: the original, its conversion (the original itself where nothing is to convert), libraries."""

    model: Model
    macs: int
    original: Path
    int8: Path
    library_original: Path
    library_int8: Path
    library_vnni: Path | None
    library_frontend: Path | None


Report = Callable[[str], None]


def measure(models: Sequence[Model], folder: Path, quick: bool, with_frontend: bool, report: Report) -> dict[str, Any]:
    """Everything there is to know, ready for JSON."""
    where = environment.here()
    peaks = {threads: _peak(threads) for threads in (1, 2)}
    rounds, round_ms = (4, 30.0) if quick else (15, 50.0)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tflite2q-bench-") as temporary:
        prepared = _prepare(models, folder, Path(temporary), with_frontend, report)
        for threads in (1, 2):
            for files in prepared:
                row = _row(files, threads, rounds, round_ms, peaks[threads])
                report(f"{row.model}, {threads} thread{'s' * (threads > 1)}: {row.ours_int8_ms:.3f} ms")
                rows.append(row)
    return {"schema_version": 1, "environment": asdict(where), "rows": [asdict(row) for row in rows]}


def _prepare(
    models: Sequence[Model], folder: Path, temporary: Path, with_frontend: bool, report: Report
) -> list[Files]:
    """Convert and compile all models."""
    vnni = _without_matrix_unit()
    found, jobs = [], []
    for model in models:
        original, int8 = model.path(folder), temporary / f"{model.name}.{SCHEME}.tflite"
        graph = tflite2q.load(original)
        try:
            tflite2q.convert(graph, SCHEME).save(int8)
        except Unchanged:
            int8 = original
        first = temporary / f"{model.name}.so"
        second = first if int8 == original else temporary / f"{model.name}.{SCHEME}.so"
        third = temporary / f"{model.name}.frontend.so" if with_frontend else None
        fourth = temporary / f"{model.name}.vnni.so" if vnni else None
        found.append(Files(model, graph.macs(), original, int8, first, second, fourth, third))
        jobs += [Job(original, first)] + ([Job(int8, second)] if second != first else [])
        jobs += [Job(int8, fourth, target=vnni)] if fourth and vnni else []
        jobs += [Job(original, third, by_frontend=True)] if third else []
    built = {built.path: built for built in contenders.build(jobs, report)}
    failed = [b for job, b in zip(jobs, built.values(), strict=True) if b.problem and not job.by_frontend]
    if failed:
        raise SystemExit("\n".join(f"{b.path.name}: {b.problem}" for b in failed))
    return [_without_failed(files, built) for files in found]


def _without_failed(files: Files, built: dict[Path, Built]) -> Files:
    third = files.library_frontend
    if third is None or built[third].problem is None:
        return files
    return Files(**{**vars(files), "library_frontend": None})


def _row(files: Files, threads: int, rounds: int, round_ms: float, peak: float | None) -> Row:
    timed = {
        "litert original": contenders.litert(files.original, threads),
        "ours original": contenders.ours(files.library_original, threads),
    }
    if files.int8 != files.original:
        timed["litert int8"] = contenders.litert(files.int8, threads)
        timed["ours int8"] = contenders.ours(files.library_int8, threads)
    if files.library_vnni is not None:
        timed["ours vnni"] = contenders.ours(files.library_vnni, threads)
    ms = contenders.medians(timed, rounds, round_ms)
    frontend = None
    if files.library_frontend is not None:
        times = contenders.frontend(files.library_frontend, files.original, threads)
        times(1)
        frontend = statistics.median(times(FRONTEND_RUNS))
    return Row(
        model=files.model.name,
        dtype=files.model.dtype,
        threads=threads,
        macs=files.macs,
        litert_original_ms=ms["litert original"],
        litert_int8_ms=ms.get("litert int8", ms["litert original"]),
        ours_original_ms=ms["ours original"],
        ours_int8_ms=ms.get("ours int8", ms["ours original"]),
        vnni_ms=ms.get("ours vnni"),
        frontend_ms=frontend,
        peak=peak,
    )


def _peak(threads: int) -> float | None:
    """The processor's int8 peak on so many cores, in G MAC/s; None where it has no VNNI."""
    from benchmarks import peak  # imports TVM

    return peak.gmacs(threads)


def _without_matrix_unit() -> str | None:
    """This processor without its matrix unit, as a target in TVM's terms; None if it has none."""
    from tflite2q.kernels.x86 import amx
    from tflite2q.lower.target import resolve, tvm_target  # imports TVM

    native = resolve("native")
    if amx.lacks(tvm_target(native)) is not None:
        return None
    kept = [switch for switch in native.mattr if switch[1:] not in MATRIX_FEATURES]
    return json.dumps({**native.spec, "mattr": [*kept, *(f"-{name}" for name in sorted(MATRIX_FEATURES))]})
