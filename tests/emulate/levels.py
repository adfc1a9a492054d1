"""Whole graphs on every level of x86: bounds of all accesses, each kernel on guarded memory, all of it together.

`check(case, level)` compiles for the level's target.  Where this machine has what the target needs, its own code runs;
elsewhere the kernels' instructions are replaced first (`emulate.instructions`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
import tvm_ffi
from draw import Case
from emulate.bounds import faults
from emulate.instructions import KERNEL, emulated_module, take_tile_fault, tiles
from emulate.pages import EDGES, PATTERNS, Guarded
from tvm import tirx

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import STORAGE
from tflite2q.execution import reference
from tflite2q.kernels import storage
from tflite2q.kernels.contracts import Contract
from tflite2q.kernels.frame import Built
from tflite2q.kernels.registry import select
from tflite2q.lower import machine, stored, targets
from tflite2q.lower.build import build
from tflite2q.lower.contracts import activations
from tflite2q.lower.graph import lower
from tflite2q.lower.target import features, resolve, tvm_target

Array = npt.NDArray[Any]

# By name; the last has the matrix unit, byte permutations and everything else that kernels of x86 use.
X86 = {
    "x86-64": "x86-64",
    "avx2": "x86-64-v3",
    "avxvnni": "x86-64-avxvnni",
    "avx512": "x86-64-v4",
    "avx512vnni": "x86-64-vnni",
    "amx": "x86-64-amx",
    "sapphirerapids": '{"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": "sapphirerapids"}',
}
ARM = {"neon": "cortex-a53", "dotprod": "cortex-a76", "i8mm": "aarch64-i8mm"}
LEVELS = {**X86, **ARM}


class Wrong(AssertionError):
    """What a check found."""


@functools.cache
def target(level: str) -> Any:
    return tvm_target(resolve(LEVELS[level]))


@functools.cache
def here() -> Any:
    return tvm_target(resolve("native"))


@functools.cache
def native(level: str) -> bool:
    """Whether this machine runs code for the level as it is."""
    needed = set(features(target(level))) & targets.instruction_features()
    if needed & targets.MATRIX_FEATURES and not machine.grants_matrix_unit():
        return False
    return not targets.missing_features(needed)


def can_emulate() -> bool:
    """Whether this machine has what the emulation is written in."""
    return {"avx2", "fma"} <= set(features(here()))


@dataclass(frozen=True)
class Step:
    """A kernel of a graph: its op's index, what it computes, and what was built for that."""

    index: int
    contract: Contract
    built: Built


def kernels(graph: Graph, made: Any, parts: bool = False) -> Iterator[Step]:
    """The kernels of a graph for a tvm.target.Target, in order, as `lower` chooses them; `parts`: as behind layers that
    threads shared."""
    for index, contract in sorted(stored.contracts(graph, made).items()):
        if not contract.copies:
            yield Step(index, contract, select(contract, made).plan.build(parts))


def check_bounds(graph: Graph, level: str, parts: bool = False) -> int:
    """Raise Wrong if a kernel of `graph` may access what is not its own; how many kernels there are."""
    steps = list(kernels(graph, target(level), parts))
    for step in steps:
        found = faults(step.built)
        if found:
            raise Wrong(f"{step.built.name} (op {step.index}): {len(found)} faults, such as {found[0]}")
    return len(steps)


def compiled(graph: Graph, level: str, native_too: bool = False) -> tuple[Any, list[str]]:
    """An executable for the level that this machine can run, and the names of its kernels in order of their calls.

    Each kernel is a function of its own, which can be called with memory between guards.
    `native_too`: emulate also what this machine has.
    """
    module = lower(graph, target(level)).module
    names = [name for name in _called(module) if KERNEL in module[name].attrs]
    if native(level) and not native_too:
        return build(module, target(level), "bytecode").executable, names
    return build(emulated_module(module), here(), "bytecode").executable, names


def _called(module: Any) -> Iterator[str]:
    """Names of the TIR functions that `main` calls, in order."""
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, tvm.ir.Call) and call.op == tvm.ir.Op.get("relax.call_tir"):
                assert isinstance(module[call.args[0]], tirx.PrimFunc)
                yield str(call.args[0].name_hint)


def check(case: Case, level: str, native_too: bool = False) -> None:
    """Raise Wrong unless `case` is computed as the reference does, each kernel keeping to its own memory."""
    tiles()
    expected = reference.run_every(case.graph, *case.inputs)
    executable, names = compiled(case.graph, level, native_too)
    run_guarded(case.graph, level, executable, names, expected)
    outputs = machine.machine(executable)["main"](*[machine.tensor(x) for x in case.inputs])
    for name, output in zip(case.graph.outputs, outputs, strict=True):
        _require_equal(f"output {name!r}", output.numpy(), expected[name])
    fault = take_tile_fault()
    if fault:
        raise Wrong(fault)


def run_guarded(graph: Graph, level: str, executable: Any, names: list[str], expected: dict[str, Array]) -> None:
    """Run the kernels one by one, each on what came out of those before it."""
    held: dict[str, Array] = {}  # values as they are stored
    steps = {step.index: step for step in kernels(graph, target(level))}
    contracts = stored.contracts(graph, target(level))
    library = executable.jit()
    functions = iter(names)
    for index, op in enumerate(graph.ops):
        if index in steps:
            step = steps[index]
            taken = activations(op, step.contract)
            inputs = [_held(held, expected, n, t) for n, t in zip(taken, step.built.inputs, strict=True)]
            y = call_guarded(library.get_function(next(functions), query_imports=True), step.built, inputs)
            held[op.outputs[0]] = y
            value = graph[op.outputs[0]].type
            want = expected[op.outputs[0]].astype(STORAGE[value.dtype], copy=False)
            if str(y.dtype) == "uint8" and value.dtype == "int8":
                want = storage.shifted(want)
            _require_equal(f"{step.built.name} (op {index})", y.reshape(want.shape), want)
        elif index in contracts:  # the same bytes: a PAD left to convolutions, a change of storage
            source = activations(op, contracts[index])[0]
            held[op.outputs[0]] = _held(held, expected, source, contracts[index].inputs[0])
        elif op.mnemonic == "q.reshape" and op.inputs[0] in held:
            held[op.outputs[0]] = held[op.inputs[0]]


def _held(held: dict[str, Array], expected: dict[str, Array], name: str, tensor: Any) -> Array:
    """A value as a kernel takes it."""
    array = held.get(name)
    if array is None:
        array = expected[name]
        array = storage.shifted(array) if tensor.dtype == "uint8" and array.dtype == np.int8 else array
    return np.ascontiguousarray(array).reshape(tensor.shape).astype(tensor.dtype, copy=False)


def call_guarded(function: Any, built: Built, inputs: list[Array]) -> Array:
    """A kernel's result, the same at both edges of pages; Raises Wrong if it wrote or depended on anything else."""
    results = []
    for edge in EDGES:
        given = [Guarded(np.asarray(a), edge) for a in (*inputs, *built.constants)]
        blank = np.full(built.output.shape, PATTERNS[edge], np.uint8)
        room = np.empty(built.output.shape, built.output.dtype)
        room.view(np.uint8)[...] = PATTERNS[edge] if room.dtype.itemsize > 1 else blank
        output = Guarded(room, edge, writable=True)
        function(*[_tensor(g.array) for g in given], _tensor(output.array))
        results.append(output.array.copy())
        touched = output.touched()
        for each in (*given, output):
            each.close()
        if touched:
            raise Wrong(f"{built.name}: {touched} bytes written around the result")
    _require_equal(f"{built.name}: one run after the other", results[1], results[0])
    return results[0]


def _tensor(array: Array) -> Any:
    """The same memory as a tensor."""
    array.flags.writeable = True
    return tvm_ffi.from_dlpack(array)


def _require_equal(what: str, found: Array, expected: Array) -> None:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise Wrong(f"{what}: {found.dtype}{list(found.shape)}, not {expected.dtype}{list(expected.shape)}")
    wrong = found != expected
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        which = f"{int(wrong.sum())} of {wrong.size} differ, first at {first}"
        raise Wrong(f"{what}: {which}: {found[first]}, not {expected[first]}")
