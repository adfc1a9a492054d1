"""Fingerprints of what every kernel builds, in tests/golden/kernels: they show what a change to kernels changed.

A line is a contract on one or more targets: the kernel, a hash of its function in TIR by structure (its text without
the names of variables, for a tenth of the time), and a hash of its packed constants.  Nothing is run, so every level of
instructions is covered on any machine.  A change that is meant to change a kernel is reviewed by the lines that
`--update-golden` changes.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contracts
import made
import numpy as np
import pytest
import tvm_ffi
from networks import Net

from tflite2q.kernels.frame import Built
from tflite2q.kernels.registry import KERNELS, select
from tflite2q.lower import stored

# Each has instructions that kernels tell apart; the last three have generic kernels only.
TARGETS = {
    "amx": "x86-64-amx",
    "vnni": "x86-64-vnni",
    "vbmi": '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "icelake-server"}',
    "avx512": "x86-64-v4",
    "avxvnni": "x86-64-avxvnni",
    "avx2": "x86-64-v3",
    "i8mm": "aarch64-i8mm",
    "dotprod": "aarch64-dotprod",
    "neon": "aarch64",
    "sse2": "x86-64",
    "riscv64": "riscv64",
    "wasm32": "wasm32",
}


@functools.cache
def made_target(name: str) -> Any:
    return made.target(TARGETS[name])


@functools.cache
def function_hash(func: Any) -> str:
    return f"{tvm_ffi.structural_hash(func):016x}"


def constants_hash(constants: Sequence[np.ndarray[Any, Any]]) -> str:
    found = hashlib.sha256()
    for array in constants:
        found.update(f"{array.dtype} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:12]


def fingerprint(built: Built) -> str:
    return f"{built.name}  {function_hash(built.func)}  {constants_hash(built.constants)}"


@dataclass(frozen=True)
class Row:
    """What one target chooses for a contract: the kernel, who refused before it and why, and what is built."""

    target: str
    kernel: str
    refusals: tuple[tuple[str, str], ...]
    fingerprint: str


@functools.cache
def rows(family: str) -> dict[str, list[Row]]:
    """By name of the contract."""
    found: dict[str, list[Row]] = {}
    for (name, contract), target in itertools.product(contracts.FAMILIES[family](), TARGETS):
        chosen = select(contract, made_target(target))
        built = chosen.plan.build()
        refusals = tuple((who, refusal.reason) for who, refusal in chosen.refusals)
        found.setdefault(name, []).append(Row(target, chosen.kernel.name, refusals, fingerprint(built)))
    return found


def lines(family: str) -> list[str]:
    """For each contract, the different things that targets build for it."""
    found: list[str] = []
    for name, each in rows(family).items():
        by_target: dict[str, list[str]] = {}
        for row in each:
            by_target.setdefault(row.fingerprint, []).append(row.target)
        found.append(name)
        found += [f"    {line}  {' '.join(targets)}" for line, targets in by_target.items()]
    return found


@pytest.mark.parametrize("family", contracts.FAMILIES)
def test_kernels(family: str, golden: Callable[[str, str], None]) -> None:
    golden(f"kernels/{family}.txt", "\n".join(lines(family)) + "\n")


def test_refusals(golden: Callable[[str, str], None]) -> None:
    """Every sentence by which a kernel refused, and that each kernel took some contract."""
    every = [row for family in contracts.FAMILIES for each in rows(family).values() for row in each]
    found = {f"{who}: {why}" for row in every for who, why in row.refusals}
    golden("kernels/refusals.txt", "\n".join(sorted(found)) + "\n")
    assert {kernel.name for kernels in KERNELS.values() for kernel in kernels} == {row.kernel for row in every}


def network(dtype: str) -> Any:
    """Layers of which some can hand each other codes stored as unsigned, and some cannot."""
    net = Net(dtype)
    zero = 128 if dtype == "uint8" else 0
    q = (0.05, zero + 3)
    x = net.input("image", (1, 8, 8, 4), q)
    x = net.conv(x, "first", 16, q, 3, activation="RELU6")
    y = net.depthwise(x, "depthwise", q)
    y = net.conv(y, "pointwise", 16, q)
    z = net.add(x, y, "sum", (0.07, zero - 5))
    z = net.concat([net.conv(z, "left", 8, q), net.conv(z, "right", 8, q)], "both", q)
    z = net.max_pool(z, "pooled")
    return net.graph(z)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_contracts_of_a_graph(dtype: str, golden: Callable[[str, str], None]) -> None:
    """Which kernels a graph gets, and how its values are stored between them."""
    graph, found = network(dtype), []
    for target in TARGETS:
        found.append(target)
        for index, contract in stored.contracts(graph, made_target(target)).items():
            built = select(contract, made_target(target)).plan.build()
            types = " ".join(t.dtype for t in (*built.inputs, built.output))
            found.append(f"    {graph.ops[index].name}  {types}  {built.name}  {function_hash(built.func)}")
    golden(f"kernels/graph_{dtype}.txt", "\n".join(found) + "\n")


def test_fingerprints_are_the_same_in_every_process() -> None:
    """Hashes see no addresses and follow no order of sets."""
    here = Path(__file__).parent
    code = "import test_kernels_fingerprints as t; print('\\n'.join(t.lines('others') + t.lines('pool')))"
    environment = {
        **os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=here.parents[1]
    )
    assert run.stdout.splitlines() == lines("others") + lines("pool")
