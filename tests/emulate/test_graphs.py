"""Whole random graphs: every kernel keeps to its own memory, on every level, and computes what the reference does.

Levels that this machine lacks are emulated (`emulate.instructions`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cases
import pytest
from emulate import levels
from emulate.campaign import level_of
from emulate.graphs import graph

from tflite2q.kernels import loops

QUICK = 3  # graphs for each level
BOUNDS = 6  # graphs whose accesses are followed on all levels
SLOW, CHUNK = 3000, 50

can_run = pytest.mark.skipif(not levels.can_emulate(), reason="needs an x86 with AVX2 and FMA")


@can_run
@pytest.mark.parametrize("seed", range(QUICK * len(levels.X86)))
def test_graphs_are_right_on_every_level_of_x86(seed: int) -> None:
    case, level = graph(seed), level_of(seed, list(levels.X86))
    levels.check_bounds(case.graph, level)
    levels.check(case, level)


@pytest.mark.parametrize("seed", range(100, 100 + BOUNDS))
def test_kernels_of_every_processor_stay_within_their_buffers(seed: int) -> None:
    case = graph(seed)
    for level in levels.LEVELS:
        levels.check_bounds(case.graph, level)


@pytest.mark.parametrize("seed", range(200, 200 + 4 * BOUNDS))
def test_kernels_that_threads_share_stay_within_their_buffers(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "PARALLEL_WORK_OF_PARTS", 1)
    case = graph(seed)
    for level in levels.LEVELS:
        levels.check_bounds(case.graph, level, parts=True)


@pytest.mark.parametrize("count", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_kernels_of_single_layers_stay_within_their_buffers(count: int) -> None:
    for family in cases.FAMILIES:
        for case in cases.cases(family, count, seed=7):
            for level in ("x86-64", "avx2", "sapphirerapids", "neon", "i8mm"):
                levels.check_bounds(case.graph, level)


@can_run
def test_emulation_agrees_with_what_this_machine_has() -> None:
    names = [name for name in levels.X86 if levels.native(name)]
    case = graph(8)
    levels.check(case, names[-1], native_too=True)


@can_run
@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SLOW, CHUNK))
def test_thousands_of_graphs(first: int) -> None:
    """In a child: what runs into a guard page ends its process."""
    command = [sys.executable, "-m", "emulate.campaign", str(first), str(CHUNK)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, "\n".join([line for line in lines if "are right" not in line] + [done.stderr[-500:]])
    assert len(lines) == CHUNK
