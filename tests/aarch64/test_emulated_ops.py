"""Ops of every family, on emulated Arm processors: look-ups, resizing, reductions, movement and all the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aarch64.targets import TARGETS
from cases import FAMILIES, cases

from benchmarks.emulator import CPUS, Emulator
from tflite2q.execution import reference, runtime

pytestmark = pytest.mark.aarch64

PARTS = 4
TOLERANCE = 1e-5
# Sums of many float32 numbers, whose order no definition gives.  All other results in float32 are the reference's, bit
# for bit: nothing in them may depend on products and sums being fused, nor on a library of mathematical functions.
SUMS = (
    "FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "BATCH_MATMUL", "AVERAGE_POOL_2D", "MEAN",
    "SUM", "SOFTMAX", "LOG_SOFTMAX", "L2_NORMALIZATION", "STABLEHLO_DOT_GENERAL",
)  # fmt: skip
SUMMED = {*(f"{op}-float32" for op in SUMS), "RFFT2D-REAL", "RFFT2D-IMAG", "COMPLEX_ABS"}


@pytest.mark.parametrize("part", range(PARTS))
def test_ops(emulator: Emulator, part: int, tmp_path: Path) -> None:
    """A part of the families on each processor, other ones on each: together, all of them."""
    step = PARTS * len(CPUS)
    mine = list(FAMILIES)[part * len(CPUS) + CPUS.index(emulator.cpu) :: step]
    jobs: list[Path] = []
    found = {family: next(iter(cases(family, 1, seed=3))) for family in mine}
    for index, case in enumerate(found.values()):
        files = [tmp_path / f"{index}.so", tmp_path / f"{index}-in.npz", tmp_path / f"{index}-out.npz"]
        executable = runtime.compile(case.graph, TARGETS[emulator.cpu])
        executable.save(files[0])
        given = [*case.inputs, *executable.initial_states]
        np.savez(files[1], **{f"x{i}": np.asarray(x)[None] for i, x in enumerate(given)})
        jobs += files
    emulator.run(Path(__file__).with_name("device.py"), "models", *jobs, timeout=3600)
    wrong = []
    for index, (family, case) in enumerate(found.items()):
        expected = reference.run(case.graph, *case.inputs)
        with np.load(tmp_path / f"{index}-out.npz") as outputs:
            if not all(same(family, outputs[f"y{i}"][0], each) for i, each in enumerate(expected)):
                wrong.append(family)
    assert not wrong


def same(family: str, got: Any, want: Any) -> bool:
    if family not in SUMMED:
        return np.array_equal(got, want, equal_nan=want.dtype.kind == "f")
    reach = float(np.abs(want).max(initial=0))
    return np.allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE * reach, equal_nan=True)
