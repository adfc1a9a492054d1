"""Products of computed matrices, and transposed convolutions: right, and within their memory."""

from __future__ import annotations

import itertools
from typing import Any

import made
import numpy as np
import pytest
from emulate.bounds import faults

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.arithmetic.rescale import Rescale
from tflite2q.arithmetic.rounding import code_range
from tflite2q.dialect.ops.hybrid import quantized
from tflite2q.kernels.contracts import Array, FloatConv2DContract, MatmulContract, Tensor, TransposeConv2DContract
from tflite2q.kernels.registry import select

UNIT_ROUNDOFF = 2.0**-24
KINDS = ("float32", "int8", "dynamic", "int16", "int16 by int8")


def drawn(seed: int, kind: str) -> MatmulContract:
    """Factors of 1 to 100 rows and columns, some transposed, one or many."""
    rng = np.random.default_rng([seed, 6])
    rows, depth, columns = (int(rng.integers(1, most + 1)) for most in (40, 100, 100))
    depth = int(rng.integers(600, 1400)) if rng.random() < 0.1 else depth
    batches = [(1, 1), (3, 3), (1, 3), (3, 1)][int(rng.integers(4))]
    flips = (bool(rng.random() < 0.3) and kind != "dynamic", bool(rng.random() < 0.5))
    a = (batches[0], depth, rows) if flips[0] else (batches[0], rows, depth)
    b = (batches[1], columns, depth) if flips[1] else (batches[1], depth, columns)
    facts: dict[str, Any] = {
        "a": Tensor(a, {"float32": "float32", "int8": "int8", "dynamic": "float32"}.get(kind, "int16")),
        "b": Tensor(b, kind if kind in ("float32", "int16") else "int8"),
        "transposed": flips,
    }
    if kind == "int8":
        zeros = (int(rng.integers(-128, 128)), int(rng.integers(-128, 128)))
        real = float(np.exp(rng.uniform(-2, 2)) / (74 * 74 * np.sqrt(depth)) * 40)
        facts |= {"zero_points": zeros, "rescale": Rescale((real,), int(rng.integers(-50, 50)), -128, 127, "int8")}
    elif kind.startswith("int16"):
        spread = np.exp(rng.uniform(-2, 2, 1 if kind == "int16" or rng.random() < 0.5 else columns))
        real = spread * 2.0 ** (0 if kind == "int16" else 8) / (18900 * np.sqrt(depth))
        arithmetic = "float64" if rng.random() < 0.2 else "fixed16"
        facts["rescale"] = Rescale(tuple(real.tolist()), 0, -32768, 32767, "int16", arithmetic)
    elif kind == "dynamic":
        scales = rng.uniform(1e-3, 0.1, columns).astype(np.float32)
        facts |= {"scales": scales, "asymmetric": bool(rng.random() < 0.5)}
    return MatmulContract(**facts)


def factors(contract: MatmulContract, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    made_up = []
    for tensor in contract.inputs:
        low, high = code_range("int8" if tensor.dtype == "float32" else tensor.dtype)
        codes = rng.integers(low, high + 1, tensor.shape)
        made_up.append((rng.normal(size=tensor.shape) if tensor.dtype == "float32" else codes).astype(tensor.dtype))
    return made_up


def straight(contract: MatmulContract, a: Array, b: Array) -> tuple[Array, Array]:
    flipped = (x.swapaxes(1, 2) if flip else x for x, flip in zip((a, b), contract.transposed, strict=True))
    left, right = flipped
    return left, right


def check(contract: MatmulContract, target: Any, seed: int = 4) -> None:
    """Codes and dynamic products to the last bit; float32 ones within the bound of any order of summation."""
    built = select(contract, target).plan.build()
    assert faults(built) == []
    a, b = factors(contract, seed)
    left, right = straight(contract, a, b)
    got = made.run(built, target, a, b)
    if contract.rescale is not None:
        wide = [x.astype(np.int64) - zero for x, zero in zip((left, right), contract.zero_points, strict=True)]
        accumulator = np.int64 if contract.a.dtype == "int16" else np.int32
        want = contract.rescale.meaning(NumpyCore(), np.matmul(*wide).astype(accumulator))
        np.testing.assert_array_equal(got, want)
    elif contract.scales is not None:
        found = quantized(NumpyCore(), left.reshape(-1, left.shape[2]), contract.asymmetric)
        codes = found.centred(NumpyCore()).reshape(left.shape).astype(np.int64)
        scales = found.scale.reshape(*left.shape[:2], 1) * contract.scales
        np.testing.assert_array_equal(got, np.matmul(codes, right.astype(np.int64)).astype(np.float32) * scales)
    else:
        terms = left.shape[2]
        gamma = terms * UNIT_ROUNDOFF / (1 - terms * UNIT_ROUNDOFF)
        error = np.abs(got - np.matmul(left.astype(np.float64), right.astype(np.float64)))
        assert (error <= gamma * np.matmul(np.abs(left).astype(np.float64), np.abs(right))).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(i, marks=pytest.mark.slow) for i in range(8, 100))])
def test_any_factors(kind: str, seed: int) -> None:
    check(drawn(seed, kind), made.target())


@pytest.mark.parametrize("target", [t for t in ("x86-64", "x86-64-v3", "aarch64") if made.runs_here(t)])
@pytest.mark.parametrize("kind", KINDS)
def test_other_registers(kind: str, target: str) -> None:
    for seed in (100, 101):
        check(drawn(seed, kind), made.target(target))


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3", "x86-64-v4", "aarch64"])
def test_accesses_stay_within_buffers_on_every_kind_of_registers(target: str) -> None:
    for seed, kind in itertools.product(range(40, 43), KINDS):
        assert faults(select(drawn(seed, kind), made.target(target)).plan.build()) == []


@pytest.mark.parametrize("kind", ["int8", "dynamic"])
def test_sums_beyond_what_float32_holds(kind: str) -> None:
    facts = {**vars(drawn(0, kind)), "transposed": (False, True)}
    facts |= {"a": Tensor((1, 3, 2000), facts["a"].dtype), "b": Tensor((1, 20, 2000), "int8")}
    if kind == "int8":
        facts |= {"zero_points": (-128, -128), "rescale": Rescale((2.0**-24,), -128, -128, 127, "int8")}
    else:
        facts |= {"scales": np.full(20, 0.01, np.float32), "asymmetric": True}
    check(MatmulContract(**facts), made.target())


@pytest.mark.parametrize("b", ["int8", "int16"])
def test_sums_of_16_bits_beyond_32(b: str) -> None:
    """All codes the lowest: sums of 36 and 44 bits, the longest with digits that float64 must hold."""
    low = code_range(b)[0]
    facts: dict[str, Any] = {"a": Tensor((1, 3, 9001), "int16"), "b": Tensor((1, 9001, 20), b)}
    real = 30000.5 / (9001 * 32768 * -low)
    rescale = Rescale((real,), 0, -32768, 32767, "int16", "fixed16")
    contract = MatmulContract(**facts, transposed=(False, False), rescale=rescale)
    built = select(contract, made.target()).plan.build()
    inputs = [np.full(tensor.shape, code_range(tensor.dtype)[0], tensor.dtype) for tensor in contract.inputs]
    inputs[1][0, 5, 7] += 1
    want = rescale.meaning(NumpyCore(), np.matmul(*(x.astype(np.int64) for x in inputs)))
    np.testing.assert_array_equal(made.run(built, made.target(), *inputs), want)


def test_a_transposed_convolution_is_put_together() -> None:
    """Channels of a convolution, which copies its input, at the places of output pixels; the first ones are dropped."""
    c, strides, first, out = 3, (2, 3), (1, 2), (6, 10)
    x = Tensor((2, 4, 5, c * 6), "float32")
    weights = np.eye(c * 6, dtype=np.float32).reshape(1, 1, c * 6, c * 6)
    conv = FloatConv2DContract(x, (4, 5), (1, 1), (1, 1), (0, 0, 0, 0), 1, weights, None)
    built = select(TransposeConv2DContract(conv, strides, first, out), made.target()).plan.build()
    assert faults(built) == []
    data = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    spread = data.reshape(2, 4, 5, *strides, c).transpose(0, 1, 3, 2, 4, 5).reshape(2, 8, 15, c)
    np.testing.assert_array_equal(made.run(built, made.target(), data), spread[:, 1:7, 2:12])
