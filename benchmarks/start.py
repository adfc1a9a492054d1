"""What a user waits for before the first result: each row from processes of its own, medians of some rounds."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import environment
from benchmarks.calls import converted
from benchmarks.models import Model

Report = Callable[[str], None]

# Each prints seconds.  Modules and the model are there before what is measured, but for the first.
IMPORT = """
import time
start = time.perf_counter()
import tflite2q
print(time.perf_counter() - start)
"""
COMPILE = """
import sys, time, numpy as np, tvm, tflite2q
graph = tflite2q.load(sys.argv[1])
inputs = [np.zeros(graph[name].type.shape, graph[name].type.dtype) for name in graph.inputs]
start = time.perf_counter()
executable = tflite2q.compile(graph)
executable.run(*inputs)
print(time.perf_counter() - start)
if len(sys.argv) > 2:
    executable.save(sys.argv[2])
"""
LOAD = """
import sys, time, numpy as np, tvm, tflite2q.pipeline
start = time.perf_counter()
executable = tflite2q.load_library(sys.argv[1])
print(time.perf_counter() - start)
"""


@dataclass(frozen=True)
class Row:
    """One model, converted to int8: seconds until the first output is there, of a model that was never compiled and of
    one that is in the cache, seconds until its library is loaded, and the library's bytes."""

    model: str
    cold_s: float
    cached_s: float
    load_s: float
    bytes: int


def measure(models: Sequence[Model], folder: Path, quick: bool, report: Report) -> dict[str, Any]:
    """All rows and the time of the import, ready for JSON."""
    rounds = 1 if quick else 3
    rows = []
    with tempfile.TemporaryDirectory(prefix="tflite2q-bench-") as temporary:
        imported = statistics.median(_seconds(IMPORT, [], Path(temporary)) for _ in range(2 * rounds + 1))
        for model in models:
            rows.append(_row(model, folder, Path(temporary) / model.name, rounds))
            report(f"{model.name}: {rows[-1].cold_s:.1f} s, from the cache {rows[-1].cached_s:.2f} s")
    found = {"import_s": imported, "rows": [asdict(row) for row in rows]}
    return {"schema_version": 1, "environment": asdict(environment.here()), **found}


def _row(model: Model, folder: Path, place: Path, rounds: int) -> Row:
    place.mkdir()
    path, library = str(converted(model.path(folder), place)), str(place / "model.so")
    cold, cached, load = [], [], []
    for index in range(rounds):
        cache = place / f"cache{index}"
        saved = [library] if index == 0 else []
        cold.append(_seconds(COMPILE, [path, *saved], cache))
        cached.append(_seconds(COMPILE, [path], cache))
        load.append(_seconds(LOAD, [library], cache))
    return Row(
        model.name,
        cold_s=statistics.median(cold),
        cached_s=statistics.median(cached),
        load_s=statistics.median(load),
        bytes=os.path.getsize(library),
    )


def _seconds(script: str, arguments: Sequence[str], cache: Path) -> float:
    """What `script` prints in a new process, whose compiled libraries are kept in `cache`."""
    where = {**os.environ, "TFLITE2Q_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=where, capture_output=True, check=True)
    return float(json.loads(done.stdout.split()[0]))
