"""Ops of every family, on emulated Arm processors: look-ups, resizing, reductions, movement and all the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aarch64.emulator import CPUS, Emulator
from aarch64.targets import TARGETS
from cases import FAMILIES, cases

from tflite2q import oracle, runtime

pytestmark = pytest.mark.aarch64

PARTS = 4
TOLERANCE = 1e-5  # of sums of float32 products, whose order nobody prescribes


@pytest.mark.parametrize("part", range(PARTS))
def test_ops(emulator: Emulator, part: int, tmp_path: Path) -> None:
    """A part of the families on each processor, other ones on each: together, all of them."""
    step = PARTS * len(CPUS)
    mine = list(FAMILIES)[part * len(CPUS) + CPUS.index(emulator.cpu) :: step]
    jobs: list[Path] = []
    found = {family: next(iter(cases(family, 1, seed=3))) for family in mine}
    for index, case in enumerate(found.values()):
        files = [tmp_path / f"{index}.so", tmp_path / f"{index}-in.npz", tmp_path / f"{index}-out.npz"]
        runtime.compile(case.graph, TARGETS[emulator.cpu]).save(files[0])
        np.savez(files[1], **{f"x{i}": np.asarray(x)[None] for i, x in enumerate(case.inputs)})
        jobs += files
    emulator.run(Path(__file__).with_name("device.py"), "models", *jobs, timeout=3600)
    wrong = []
    for index, (family, case) in enumerate(found.items()):
        expected = oracle.run(case.graph, *case.inputs)
        with np.load(tmp_path / f"{index}-out.npz") as outputs:
            if not all(same(outputs[f"y{i}"][0], each) for i, each in enumerate(expected)):
                wrong.append(family)
    assert not wrong


def same(got: Any, want: Any) -> bool:
    if want.dtype.kind != "f":
        return np.array_equal(got, want)
    reach = float(np.abs(want).max(initial=0))
    return np.allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE * reach, equal_nan=True)
