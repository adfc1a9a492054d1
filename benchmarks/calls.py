"""What a call costs: beside the code it runs, and beside LiteRT's three calls; blocks interleaved, medians.

Also how many samples a second `Executable.map` and `Executable.batch` get out of one worker and of two.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tflite2q
from benchmarks import environment
from benchmarks.contenders import Times, medians, timed
from benchmarks.models import Model
from tflite2q.errors import Unchanged
from tflite2q.execution.runtime import Executable

Report = Callable[[str], None]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Row:
    """One model on one thread, in microseconds; `litert_us` is set_tensor, invoke and get_tensor of the same file.

    The others are samples a second, of `map` and of a batch, with one worker and with two.
    """

    model: str
    bytes: int
    code_us: float
    run_us: float
    out_us: float
    bound_us: float
    litert_us: float
    map_one: float
    map_two: float
    batch_one: float
    batch_two: float


def measure(models: Sequence[Model], folder: Path, quick: bool, report: Report) -> dict[str, Any]:
    """All rows, ready for JSON."""
    rounds, round_ms = (4, 30.0) if quick else (15, 50.0)
    rows = []
    with tempfile.TemporaryDirectory(prefix="tflite2q-bench-") as temporary:
        for model in models:
            rows.append(_row(model.name, converted(model.path(folder), Path(temporary)), rounds, round_ms))
            report(f"{model.name}: code {rows[-1].code_us:.1f} us, run {rows[-1].run_us:.1f} us")
    return {"schema_version": 1, "environment": asdict(environment.here()), "rows": [asdict(row) for row in rows]}


def converted(path: Path, folder: Path) -> Path:
    """The model converted to int8, or as it is where it is int8 already."""
    try:
        conversion = tflite2q.convert(path, "int8")
    except Unchanged:
        return path
    conversion.save(folder / path.name)
    return folder / path.name


def _row(name: str, path: Path, rounds: int, round_ms: float) -> Row:
    executable = tflite2q.compile(path)
    generator = np.random.default_rng(0)
    inputs = [
        generator.integers(0, 256, value.type.shape, np.uint8).view(np.dtype(value.type.dtype))
        for value in executable.inputs
    ]
    out = executable.run(*inputs)
    bound = executable.bind()
    for place, array in zip(bound.inputs, inputs, strict=True):
        place[...] = array
    found = medians(
        {
            "code": executable.times,
            "run": lambda runs: timed(lambda: executable.run(*inputs), runs),
            "out": lambda runs: timed(lambda: executable.run(*inputs, out=out), runs),
            "bound": lambda runs: timed(bound.run, runs),
            "litert": _three_calls(path, inputs),
        },
        rounds,
        round_ms,
    )
    us = {name: ms * 1e3 for name, ms in found.items()}
    moved = sum(array.nbytes for array in [*inputs, *out])
    rates = _samples_a_second(executable, inputs, found["run"], rounds)
    return Row(name, moved, us["code"], us["run"], us["out"], us["bound"], us["litert"], *rates)


def _three_calls(path: Path, inputs: Sequence[Array]) -> Times:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    ins = [detail["index"] for detail in interpreter.get_input_details()]
    outs = [detail["index"] for detail in interpreter.get_output_details()]

    def call() -> None:
        for index, array in zip(ins, inputs, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        for index in outs:
            interpreter.get_tensor(index)

    return lambda runs: timed(call, runs)


def _samples_a_second(executable: Executable, inputs: Sequence[Array], run_ms: float, rounds: int) -> list[float]:
    """The best of some rounds, in turns: `map` with one worker and with two, a batch with one and with two."""
    count = max(24, int(100 / run_ms))
    samples = [tuple(inputs)] * count
    whole = [np.concatenate([array] * count) for array in inputs]
    batches = [executable.batch(count, workers) for workers in (1, 2)]
    ways: list[Callable[[], object]] = [
        *(lambda workers=workers: deque(executable.map(samples, workers), maxlen=0) for workers in (1, 2)),
        *(lambda batch=batch: batch.run(*whole) for batch in batches),
    ]
    best = [float("inf")] * len(ways)
    for _ in range(rounds):
        for index, way in enumerate(ways):
            best[index] = min(best[index], *timed(way, 1))
    return [count / ms * 1e3 for ms in best]
