"""Functions whose calls are one call: what they return, what they write to, and what they leave to others."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import FAMILIES, cases
from networks import Net, everything

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops import Add, Div, Reshape
from tflite2q.dialect.types import Constant, TensorType, Value
from tflite2q.errors import DataError
from tflite2q.evaluation.models import load
from tflite2q.execution import reference, runtime
from tflite2q.lower import entry
from tflite2q.lower.codegen import Compiler
from tflite2q.lower.machine import Worker, machine

Array = np.ndarray[Any, Any]


def _worker(executable: runtime.Executable, capacity: int) -> Worker:
    executable.times(1)
    results = [(value.type.shape, np.dtype(value.type.dtype)) for value in executable.outputs]
    arguments = [np.zeros(value.type.shape, value.type.dtype) for value in executable.inputs]
    return Worker(executable._code, arguments, results, 1, capacity)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_written_beside_the_results_of_so_many_samples(seed: int) -> None:
    graph = everything(seed)
    executable = runtime.compile(graph)
    worker = _worker(executable, 5)
    generator = np.random.default_rng(seed)
    samples = [[generator.integers(0, 256, v.type.shape, np.uint8) for v in executable.inputs] for _ in range(3)]
    memory = [np.from_dlpack(slots.tensor) for slots in (*worker.many.taken, *worker.many.given)]
    for each in memory:
        each[...] = 0xA5
    found = worker.run_all(samples)
    for sample, results in zip(samples, found, strict=True):
        for result, wanted in zip(results, reference.run(graph, *sample), strict=True):
            np.testing.assert_array_equal(result, wanted)
    for each, slots in zip(memory, (*worker.many.taken, *worker.many.given), strict=True):
        assert (each[3:] == 0xA5).all()
        assert (each[:, slots.rows.shape[1] :] == 0xA5).all()


def _int32(name: str, *shape: int) -> Value:
    return Value(name, TensorType(shape, "int32"))


def test_results_may_be_inputs_and_stand_twice_and_in_other_shapes() -> None:
    """Such results are written by no call."""
    values = (_int32("x", 2, 3), _int32("y", 2, 3), _int32("sum", 2, 3), _int32("flat", 6), _int32("input", 3, 2))
    ops = (
        Add(inputs=("x", "y"), outputs=("sum",)),
        Reshape(inputs=("sum",), outputs=("flat",), new_shape=(6,)),
        Reshape(inputs=("y",), outputs=("input",), new_shape=(3, 2)),
    )
    graph = Graph(("x", "y"), ("flat", "x", "sum", "sum", "input"), values, ops)
    executable = runtime.compile(graph)
    x, y = (np.arange(6, dtype=np.int32).reshape(2, 3) * k for k in (1, 10))
    found = executable.run(x, y)
    assert [array.tolist() for array in found] == [
        (x + y).reshape(-1).tolist(), x.tolist(), (x + y).tolist(), (x + y).tolist(), y.reshape(3, 2).tolist(),
    ]  # fmt: skip
    assert not any(np.shares_memory(a, b) for i, a in enumerate(found) for b in (x, y, *found[:i]))


@pytest.mark.parametrize("others", [0, 3], ids=["alone", "with others"])
@pytest.mark.parametrize("size", [1, 8, 4096])
def test_results_may_be_constants_that_nothing_takes(size: int, others: int) -> None:
    """Small ones share an argument with others, large ones have their own."""
    numbers = [np.arange(7 * n, 7 * n + size, dtype=np.int32) for n in range(3)]
    kept = [Value(f"k{n}", TensorType((size,), "int32"), Constant(array)) for n, array in enumerate(numbers)]
    offsets = [Value(f"m{n}", TensorType((4,), "int32"), Constant(np.full(4, n, np.int32))) for n in range(others)]
    sums = [Add(inputs=("x", "x"), outputs=("y",))]
    sums += [Add(inputs=(sums[0].name, value.name), outputs=(f"y{n}",)) for n, value in enumerate(offsets)]
    values = (_int32("x", 4), *kept, *offsets, *(_int32(op.name, 4) for op in sums))
    adds = tuple(sums)
    graph = Graph(("x",), ("k0", adds[-1].name, "k1", "k2"), values, adds)
    x = np.arange(4, dtype=np.int32)
    executable = runtime.compile(graph)
    want = [array.tolist() for array in reference.run(graph, x)]
    for results in (executable.run(x), *executable.map([x, x])):
        assert [array.tolist() for array in results] == want


@pytest.mark.parametrize(("family", "whole"), [("SOFTMAX", True), ("SVDF", True), ("IF", False), ("WHILE", False)])
def test_models_without_branches_are_one_function(family: str, whole: bool) -> None:
    name = next(name for name in FAMILIES if name.startswith(f"{family}-"))
    executable = runtime.compile(next(cases(name, 1)).graph)
    executable.times(1)
    assert machine(executable._code).module.implements_function(entry.MANY, True) == whole


def test_a_run_asks_for_the_matrix_unit_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system call for each layer takes longer than the epilogue of a small one."""
    texts: list[str] = []
    lowered = Compiler._lowered

    def recorded(compiler: Compiler, functions: Mapping[str, Any]) -> Any:
        texts.append(str(made := lowered(compiler, functions)))
        return made

    monkeypatch.setattr(Compiler, "_lowered", recorded)
    net = Net("int8")
    first = net.conv(net.input("x", (1, 8, 8, 64), (0.05, 3)), "first", 64, (0.1, 3), size=3)
    graph = net.graph(net.conv(first, "second", 128, (0.1, 3)))
    runtime.compile(graph, "x86-64-amx").save(tmp_path / "small.tar")
    assert sum(text.count("ldtilecfg") for text in texts) == len(graph.ops)
    assert sum(text.count('"syscall"') for text in texts) == 1


def test_a_manifest_that_does_not_describe_the_code_is_refused(digits: Path) -> None:
    """Its sizes decide how much memory the code writes to."""
    executable = runtime.compile(load(digits))
    executable.times(1)
    fewer = [((1, 9), np.dtype("uint8"))]
    with pytest.raises(DataError, match="does not describe its code"):
        Worker(executable._code, [np.zeros((1, 8, 8, 1), np.uint8)], fewer, 1, 1)


def test_refusals_of_one_sample_among_many_are_those_of_its_run() -> None:
    values = tuple(_int32(name, 4) for name in "xyz")
    executable = runtime.compile(Graph(("x", "y"), ("z",), values, (Div(inputs=("x", "y"), outputs=("z",)),)))
    good = (np.full(4, 7, np.int32), np.full(4, 2, np.int32))
    bad = (good[0], np.array([1, 1, 0, 1], np.int32))
    results = executable.map([good, good, bad, good], 1)
    assert [next(results)[0].tolist() for _ in range(2)] == [[3] * 4] * 2
    with pytest.raises(DataError, match="a divisor is 0"):
        next(results)
    batch = executable.batch(2, 1)
    with pytest.raises(DataError, match="a divisor is 0"):
        batch.run(*(np.concatenate(pair) for pair in zip(good, bad, strict=True)))
    assert executable.run(*good)[0].tolist() == [3] * 4


def test_a_run_leaves_no_memory_behind() -> None:
    """Kernels that need scratch memory get it from an allocator."""
    net = Net("int8", 0)
    x = net.input("x", (1, 60, 60, 3), (0.05, 3))
    executable = runtime.compile(net.graph(net.conv(x, "y", 8, (0.1, -5), size=3)))
    executable.times(100)
    before = _resident()
    executable.times(1500)
    assert _resident() - before < 1 << 21


def _resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
