"""What is timed: LiteRT, this project's code, and the code of TVM's own TFLite frontend."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

Times = Callable[[int], list[float]]  # run so many times, return the milliseconds of each run


@dataclass(frozen=True)
class Built:
    """A library, or why there is none."""

    path: Path
    problem: str | None = None


def litert(path: Path, threads: int) -> Times:
    """LiteRT's interpreter with its default delegate, on random input."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    generator = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        if np.issubdtype(detail["dtype"], np.floating):
            interpreter.set_tensor(detail["index"], generator.normal(0, 1, detail["shape"]).astype(detail["dtype"]))
            continue
        codes = generator.integers(0, 256, detail["shape"], dtype=np.uint8)
        interpreter.set_tensor(detail["index"], codes.view(detail["dtype"]) if codes.size else codes)
    return lambda runs: timed(interpreter.invoke, runs)


def ours(library: Path, threads: int) -> Times:
    """A library that `tflite2q` saved."""
    import tflite2q

    return tflite2q.load_library(library, threads).times


def frontend(library: Path, model: Path, threads: int) -> Times:
    """A library of TVM's own frontend, on random input."""
    import tflite2q
    from tflite2q.dialect.types import STORAGE
    from tflite2q.lower.loading import load
    from tflite2q.lower.machine import machine, tensor, use_threads

    main = machine(load(str(library)))["main"]
    graph = tflite2q.load(model)
    generator = np.random.default_rng(0)
    arguments = []
    for name in graph.inputs:
        kind = graph[name].type
        codes = generator.integers(0, 256, kind.shape, dtype=np.uint8)
        arguments.append(tensor(codes.view(STORAGE[kind.dtype])))

    def times(runs: int) -> list[float]:
        use_threads(threads)
        return timed(lambda: main(*arguments), runs)

    return times


def timed(run: Callable[[], Any], runs: int) -> list[float]:
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        found.append((time.perf_counter() - start) * 1e3)
    return found


def medians(contenders: Mapping[str, Times], rounds: int, round_ms: float) -> dict[str, float]:
    """Median milliseconds of each, measured in turns so that a change of the machine's clock meets all alike."""
    counts = {name: max(2, min(500, int(round_ms / min(times(3))))) for name, times in contenders.items()}
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, times in contenders.items():
            found[name] += times(counts[name])
    return {name: statistics.median(times) for name, times in found.items()}


# ------------------------------------------------------------------------------------------------------ compilation


@dataclass(frozen=True)
class Job:
    """Compile `model` to `library`, by this project (converted to `scheme` first) or by TVM's own frontend."""

    model: Path
    library: Path
    by_frontend: bool = False
    target: str = "native"
    scheme: str | None = None


def build(jobs: Sequence[Job], report: Callable[[str], None], processes: int = 2) -> list[Built]:
    """Compile every job, some at a time, each in a process of its own; failures are returned, not raised."""
    found: list[Built] = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for job, built in zip(jobs, pool.map(_build, jobs), strict=True):
            report(f"compiled {job.library.name}" + (f": {built.problem}" if built.problem else ""))
            found.append(built)
    return found


def _build(job: Job) -> Built:
    try:
        if job.by_frontend:
            _build_by_frontend(job)
        else:
            import tflite2q

            model = job.model if job.scheme is None else tflite2q.convert(job.model, job.scheme)
            tflite2q.compile(model, target=job.target).save(job.library)
    except Exception as error:  # TVM raises many kinds; a table says "refused" for all of them
        lines = str(error).strip().splitlines()
        return Built(job.library, f"{type(error).__name__}: {lines[-1] if lines else ''}"[:200])
    return Built(job.library)


def _build_by_frontend(job: Job) -> None:
    import tflite
    import tvm
    from tvm.relax.frontend.tflite import from_tflite

    from tflite2q.lower.target import resolve, tvm_target

    module = from_tflite(tflite.Model.GetRootAs(job.model.read_bytes(), 0))
    target = tvm_target(resolve(job.target))
    tvm.compile(module, target=target).export_library(str(job.library))
