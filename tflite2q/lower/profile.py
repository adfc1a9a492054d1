"""Where time goes: the time of each op while a model runs."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tflite2q.lower.build import build
from tflite2q.lower.machine import machine, tensor


def profile(module: Any, target: Any, inputs: Sequence[Any], repeat: int) -> dict[int, float]:
    """Median milliseconds of each op of a lowered module, by its index, over `repeat` runs on `inputs` (arrays).

    Interpreted, because only the interpreter can be watched; a call costs about a microsecond more than unwatched.
    """
    built = build(module, target, "bytecode")
    vm = machine(built.executable)
    functions = {call.function for call in built.calls}
    marks: list[tuple[str, float]] = []

    def watch(_function: Any, symbol: str, before: bool, _result: Any, *_arguments: Any) -> int:
        if symbol in functions:
            marks.append(("begin" if before else "end", time.perf_counter()))
        return 0

    arguments = [tensor(array) for array in inputs]
    vm["main"](*arguments)
    vm.set_instrument(watch)
    runs: dict[int, list[float]] = defaultdict(list)
    for _ in range(repeat):
        marks.clear()
        vm["main"](*arguments)
        durations = [end - begin for (_, begin), (_, end) in zip(marks[::2], marks[1::2], strict=True)]
        sums: dict[int, float] = defaultdict(float)
        for call, seconds in zip(built.calls, durations, strict=True):
            sums[call.op] += seconds * 1e3
        for op, ms in sums.items():
            runs[op].append(ms)
    return {op: statistics.median(found) for op, found in runs.items()}
