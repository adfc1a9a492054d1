"""Sums of 16-bit tensors, bit for bit against their definition: the ends of the range, and many random pairs."""

from __future__ import annotations

from typing import Any

import levels
import made
import numpy as np
import pytest
from plans import built, refusal

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.dialect.ops.eltwise import Add
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.kernels.contracts import EltwiseContract
from tflite2q.kernels.x86.add16 import X86Add16
from tflite2q.kernels.x86.isa import AVX2, AVX512VNNI, AVXVNNI
from tflite2q.lower.contracts import contract_of

LEVELS = {"x86-64-vnni": AVX512VNNI, "x86-64-avxvnni": AVXVNNI, "x86-64-v3": AVX2}
EDGES = np.array([-32768, -32767, -16385, -1, 0, 1, 2, 16384, 32766, 32767])


def total(scales: tuple[float, float, float], size: int, subtract: bool = False, activation: str = "NONE") -> Any:
    """The contract of a sum of tensors with these scales."""
    a, b, y = (
        Value(name, TensorType((size,), "int16", Quantization.per_tensor(float(np.float32(scale)), 0)))
        for name, scale in zip("aby", scales, strict=True)
    )
    op = Add(
        inputs=("a", "b"), outputs=("y",), subtract=subtract, activation=activation, pot_scale_int16=False
    )  # fmt: skip
    contract = contract_of(op, [a, b], [y])
    assert isinstance(contract, EltwiseContract)
    return contract


def pairs(seed: int, size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    a, b = (grid.reshape(-1) for grid in np.meshgrid(EDGES, EDGES))
    drawn = [np.concatenate([edge, rng.integers(-32768, 32768, size)])[:size].astype("int16") for edge in (a, b)]
    return drawn[0], drawn[1]


@pytest.mark.isa
@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize("subtract", [False, True])
def test_sums(target: str, subtract: bool) -> None:
    if not made.runs_here(target):
        levels.skip(target)
    kernel, compiled_for, rng = X86Add16(LEVELS[target]), made.target(target), np.random.default_rng(1)
    cases = [(0.01, 0.01, 0.015), (0.01, 0.003, 0.012), (0.0031, 0.01, 0.0101), (1e-4, 0.5, 0.3), (0.02, 0.01, 0.3)]
    cases += [tuple(float(s) for s in 2.0 ** rng.uniform(-9, -4, 3)) for _ in range(6)]
    taken = 0
    for seed, scales in enumerate(cases):
        size = (40, 64, 9001, 40000)[seed % 4]
        contract = total(scales, size, subtract, "RELU" if seed % 3 == 2 else "NONE")
        if refusal(kernel, contract, compiled_for) is not None:
            continue
        taken += 1
        a, b = pairs(seed, size)
        y = made.run(built(kernel, contract, compiled_for), compiled_for, a, b)
        np.testing.assert_array_equal(y, contract.meaning(NumpyCore(), a, b))
    assert taken >= 8


def test_refusals() -> None:
    kernel, target = X86Add16(AVX2), made.target("x86-64-v3")
    assert refusal(kernel, total((0.01, 0.01, 0.01), 15), target) == "fewer than 16 elements"
    assert str(refusal(kernel, total((1.0, 1.0, 1e-6), 64), target)).startswith("multiplier")
    assert str(refusal(kernel, total((0.01, 1e-12, 0.01), 64), target)).startswith("multiplier")
    assert refusal(kernel, total((0.01, 0.02, 0.02), 64), made.target("x86-64")) is not None
