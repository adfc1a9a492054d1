"""Where time goes: the time of each op of a compiled model."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from tflite2q.lower.build import build, op_index
from tflite2q.lower.codegen import Compiler
from tflite2q.lower.machine import machine, tensor


@dataclass(frozen=True)
class _Recorded:
    """A call that a run made: which op it is of, the compiled function and the very tensors it got."""

    op: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def profile(module: Any, target: Any, inputs: Sequence[Any], repeat: int) -> dict[int, float]:
    """Median milliseconds of each op of a lowered module, by its index, over `repeat` runs on `inputs` (arrays).

    A first run is watched, which would disturb a measurement, and its calls are recorded; then they are made again
    without the virtual machine, in the same order on the same tensors, each timed.  What a call of an empty function
    takes is subtracted.
    """
    calls = _record(module, target, inputs)
    overhead = _overheads(target, {len(call.arguments) for call in calls})
    runs: dict[int, list[float]] = defaultdict(list)
    for _ in range(repeat):
        times: dict[int, float] = defaultdict(float)
        for call in calls:
            seconds = _timed(call.function, call.arguments)
            times[call.op] += max(0.0, seconds - overhead[len(call.arguments)]) * 1e3
        for op, ms in times.items():
            runs[op].append(ms)
    return {op: statistics.median(found) for op, found in runs.items()}


def _record(module: Any, target: Any, inputs: Sequence[Any]) -> list[_Recorded]:
    built = build(module, target, "bytecode")  # only the interpreter can be watched
    vm = machine(built.executable)
    parts = {name.name_hint for name, function in module.functions.items() if isinstance(function, relax.Function)}
    expected = iter(built.calls)
    seen: list[_Recorded] = []
    running: list[str] = []  # functions of graphs that ops run, outermost first

    def watch(function: Any, symbol: str, before: bool, _result: Any, *arguments: Any) -> int:
        if symbol in parts and before:
            running.append(symbol)
        elif symbol in parts:
            running.pop()
        elif before and symbol in built.functions:
            op = op_index(running[0]) if running else next(expected).op
            seen.append(_Recorded(op, function, arguments))
        return 0

    vm.set_instrument(watch)
    vm["main"](*(tensor(array) for array in inputs))
    return seen


def _timed(function: Callable[..., Any], arguments: Sequence[Any]) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def _overheads(target: Any, counts: set[int]) -> dict[int, float]:
    """Seconds that a call of a function of so many tensors takes if it does nothing."""
    compiled = Compiler(target).module({f"empty{count}": _empty(count) for count in counts})
    one = tensor([0])
    found = {}
    for count in counts:
        function = compiled[f"empty{count}"]
        found[count] = statistics.median(_timed(function, [one] * count) for _ in range(200))
    return found


def _empty(count: int) -> Any:
    """A function of `count` tensors that writes one element."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(f"empty{count}")
        T.func_attr({"global_symbol": f"empty{count}"})
        buffers = [T.arg(f"x{index}", T.buffer((1,), "int64")) for index in range(count)]
        T.buffer_store(buffers[-1], T.IntImm("int64", 0), [0])
    return builder.get()
