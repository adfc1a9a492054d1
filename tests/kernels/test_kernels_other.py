"""Pools, look-ups, element-wise functions, resizing and argmax, bit for bit against plain NumPy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import integer
import levels
import made
import numpy as np
import pytest
from plans import assembly, built, refusal

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.arithmetic.rescale import Rescale, multiply_fixed
from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels import storage
from tflite2q.kernels.contracts import (
    ArgMaxContract,
    ConcatContract,
    Contract,
    EltwiseContract,
    LookupContract,
    PoolContract,
    ResizeBilinearContract,
    Tensor,
)
from tflite2q.kernels.registry import KERNELS, select

NATIVE = made.target()


def run(contract: Contract, *inputs: Any) -> Any:
    return made.run(select(contract, NATIVE).plan.build(), NATIVE, *inputs)


def random_inputs(contract: Contract, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [made.codes(rng, tensor) for tensor in contract.inputs]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("kind", ["average", "max"])
@pytest.mark.parametrize("shape", ["global", "padded", "narrow"])
def test_pool(kind: str, dtype: str, shape: str) -> None:
    low, high = code_range(dtype)
    common: dict[str, Any] = {"kind": kind, "dtype": dtype, "low": low + 3, "high": high - 9}
    contract = {
        "global": PoolContract(batch=2, in_h=7, in_w=7, channels=130, out_h=1, out_w=1, window=(7, 7), strides=(1, 1),
                       padding=(0, 0, 0, 0), **common),
        "padded": PoolContract(batch=1, in_h=9, in_w=8, channels=21, out_h=5, out_w=4, window=(3, 2), strides=(2, 2),
                       padding=(1, 0, 1, 0), **common),
        "narrow": PoolContract(batch=1, in_h=5, in_w=5, channels=3, out_h=5, out_w=5, window=(3, 3), strides=(1, 1),
                       padding=(1, 1, 1, 1), **common),
    }[shape]  # fmt: skip
    (x,) = random_inputs(contract, 1)
    np.testing.assert_array_equal(run(contract, x), integer.pool(contract, x))


@pytest.mark.parametrize("x_dtype", ["int8", "uint8"])
@pytest.mark.parametrize("y_dtype", ["int8", "uint8", "int16", "int32", "float32"])
def test_lookup(x_dtype: str, y_dtype: str) -> None:
    table = np.random.default_rng(2).integers(0, 100, 256).astype(y_dtype)
    contract = LookupContract((3, 7, 5), x_dtype, table)
    (x,) = random_inputs(contract, 3)
    np.testing.assert_array_equal(run(contract, x), table[x.astype(int) - code_range(x_dtype)[0]])


@pytest.mark.parametrize("size", [63, 64, 65, 4095, 9001, 600_001])
def test_lookup_of_every_code(size: int) -> None:
    """Whole vectors, the overlapping end of a row of them, and pieces for threads."""
    rng = np.random.default_rng(size)
    for x_dtype, y_dtype in (("int8", "uint8"), ("uint8", "int8"), ("uint8", "int16"), ("int8", "int16")):
        low, high = code_range(y_dtype)
        contract = LookupContract((size,), x_dtype, rng.integers(low, high + 1, 256).astype(y_dtype))
        x = np.resize(rng.permutation(256) + code_range(x_dtype)[0], size).astype(x_dtype)
        np.testing.assert_array_equal(run(contract, x), contract.table[x.astype(int) - code_range(x_dtype)[0]])


@pytest.mark.isa
def test_lookups_in_registers() -> None:
    contract = LookupContract((1, 33, 33, 256), "uint8", np.zeros(256, np.int8))
    target = made.target('{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "icelake-server"}')
    kernel = select(contract, target).kernel
    assert kernel.name == "lookup__avx512vbmi"
    text = assembly(built(kernel, contract, target), target)
    # As the one or the other of two instructions, LLVM chooses which operand the result overwrites.
    assert text.count("vpermi2b") + text.count("vpermt2b") >= 4
    assert refusal(kernel, LookupContract((63,), "int8", contract.table), target) == "63 codes are fewer than 64"
    assert (
        refusal(kernel, LookupContract((64,), "int8", contract.table.astype(np.int32)), target) == "entries are int32"
    )
    assert refusal(kernel, contract, made.target("x86-64-vnni")) == "the target has no avx512vbmi"


def add(core: Any, a: Any, b: Any) -> Any:
    """What ADD does, with arbitrary multipliers."""
    shift = core.const(np.array([20], np.int64))
    parts = []
    for x, zero, m, n in ((a, 3, 1 << 30, 0), (b, -7, 1500000000, -1)):
        centered = core.subtract(core.astype(x, "int64"), core.const(np.array([zero], np.int64)))
        parts.append(multiply_fixed(core, core.left_shift(centered, shift), m, n))
    return Rescale((0.7 * 2.0**-20,), 5, -128, 127, "int8").meaning(core, core.add(*parts))


def by_channel(core: Any, x: Any) -> Any:
    """Constants along the last axis."""
    real = tuple(float(r) for r in np.linspace(0.01, 1.7, 21))
    return Rescale(real, -3, -128, 127, "int8").meaning(core, core.astype(x, "int32"))


def in_floats(core: Any, x: Any) -> Any:
    """A product and a sum that must be rounded apart, and every kind of comparison."""
    t = core.divide(core.astype(x, "float32"), core.const(np.array([3.3], np.float32)))
    t = core.add(core.multiply(t, core.const(np.float32([0.1]))), core.const(np.float32([0.7])))
    return core.where(core.less(t, core.const(np.float32([1.0]))), core.abs(core.negative(t)), core.floor(t))


ELTWISE = {
    "same shapes": (add, [(1, 7, 5, 21), (1, 7, 5, 21)], "int8"),
    "a vector": (add, [(1, 7, 5, 21), (21,)], "int8"),
    "a scalar": (add, [(1, 7, 5, 21), (1, 1, 1, 1)], "int8"),
    "both broadcast": (add, [(1, 7, 5, 1), (1, 7, 1, 21)], "int8"),
    "one element": (add, [(1,), (1,)], "int8"),
    "threads": (add, [(1, 80, 80, 24), (1, 80, 80, 24)], "int8"),
    "by channel": (by_channel, [(1, 11, 3, 21)], "int8"),
    "floats": (in_floats, [(1, 11, 3, 21)], "float32"),
}


@pytest.mark.parametrize("case", ELTWISE)
def test_eltwise(case: str) -> None:
    meaning, shapes, dtype = ELTWISE[case]
    output = Tensor(np.broadcast_shapes(*shapes), dtype)
    contract = EltwiseContract(case.replace(" ", "_"), case, meaning, tuple(Tensor(s, "int8") for s in shapes), output)
    inputs = random_inputs(contract, 4)
    np.testing.assert_array_equal(run(contract, *inputs), meaning(NumpyCore(), *inputs))


def positions(extent: int, out: int, dtype: str) -> tuple[Any, Any, Any]:
    at = np.arange(out) * (extent / out) + 0.3
    first = np.minimum(np.floor(at).astype(np.int64), extent - 1)
    second = np.minimum(first + 1, extent - 1)
    beyond = at - first
    return first, second, (beyond * 1024).astype(np.int64) if dtype == "int8" else beyond.astype(np.float32)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("channels", [3, 16, 21])
def test_resize_bilinear(dtype: str, channels: int) -> None:
    rows, columns = positions(5, 13, dtype), positions(7, 11, dtype)
    contract = ResizeBilinearContract(2, 5, 7, channels, rows, columns, dtype)
    (x,) = random_inputs(contract, 5)
    corners = [x[:, rows[i]][:, :, columns[j]].astype(rows[2].dtype) for j in (0, 1) for i in (0, 1)]
    one = rows[2].dtype.type(1024 if dtype == "int8" else 1)
    down, right = rows[2][None, :, None, None], columns[2][None, None, :, None]
    weights = [(a, b) for b in (one - right, right) for a in (one - down, down)]
    total = sum(corner * a * b for corner, (a, b) in zip(corners, weights, strict=True))
    half = np.where(total > 0, 2**19, -(2**19)) if dtype == "int8" else np.float32(0.5)
    expected = np.trunc((total + half) / (2**20 if dtype == "int8" else 1)).astype(dtype)
    np.testing.assert_array_equal(run(contract, x), expected)


@pytest.mark.parametrize("smallest", [False, True])
@pytest.mark.parametrize("classes", [1, 5, 21, 1001])
def test_argmax_takes_the_first_of_equals(classes: int, smallest: bool) -> None:
    contract = ArgMaxContract(33, classes, "int8", "int64", smallest)
    x = np.random.default_rng(6).integers(-3, 4, (33, classes)).astype("int8")
    expected = x.argmin(axis=1) if smallest else x.argmax(axis=1)
    np.testing.assert_array_equal(run(contract, x), expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.parametrize(
    "rows, lengths", [(1, (5, 300)), (129, (64, 1, 21)), (70, (3, 3)), (200, (256, 256, 7, 65)), (1000, (400, 130))]
)
def test_concat(rows: int, lengths: tuple[int, ...], dtype: str) -> None:
    contract = ConcatContract(rows, lengths, dtype)
    inputs = random_inputs(contract, 9)
    np.testing.assert_array_equal(run(contract, *inputs), np.concatenate(inputs, axis=1))


class TestStorage:
    """The same numbers, whichever way int8 is stored."""

    def check(self, contract: Any, output: bool = True) -> None:
        inputs = random_inputs(contract, 7)
        stored = contract.stored([True] * len(inputs), output)
        y = run(stored, *[storage.shifted(x) for x in inputs])
        expected = run(contract, *inputs)
        np.testing.assert_array_equal(y, storage.shifted(expected) if output else expected)

    def test_products(self) -> None:
        self.check(made.conv(20, (5, 6, 16), 36, (3, 3), padding=(1, 1, 1, 1)))
        self.check(made.conv(21, (5, 6, 64), 64, (3, 3), padding=(1, 1, 1, 1), depthwise=True), output=False)
        self.check(made.dense(22, 2, 30, 20))

    @pytest.mark.parametrize("kind", ["average", "max"])
    def test_pools(self, kind: str) -> None:
        self.check(PoolContract(kind, 1, 6, 6, 24, 3, 3, (2, 2), (2, 2), (0, 0, 0, 0), "int8", -100, 90))

    def test_others(self) -> None:
        table = np.random.default_rng(8).integers(-128, 128, 256).astype("int8")
        self.check(LookupContract((40,), "int8", table))
        self.check(EltwiseContract("add", "add", add, (Tensor((4, 33), "int8"),) * 2, Tensor((4, 33), "int8")))
        rows, columns = positions(5, 13, "int8"), positions(7, 11, "int8")
        self.check(ResizeBilinearContract(1, 5, 7, 21, rows, columns, "int8"))
        self.check(ConcatContract(6, (3, 40), "int8"))

    def test_a_shift_of_codes_is_no_work(self) -> None:
        requantize = LookupContract((9,), "uint8", (np.arange(256) - 128).astype("int8"))
        assert requantize.stored([False], True).copies
        assert not requantize.copies
        other = replace(requantize, table=requantize.table[::-1].copy())
        assert not other.stored([False], True).copies


def test_every_contract_ends_with_a_kernel_that_takes_it() -> None:
    targets = [made.target(name) for name in ("native", "x86-64", "aarch64", "riscv64")]
    contract = made.conv(30, (4, 4, 6), 6, groups=3)
    for target in targets:
        selection = select(contract, target)
        refused = selection.refusals
        assert selection.kernel.name == "generic_conv2d"
        assert len(refused) == len(KERNELS[type(contract)]) - 1 and all(answer.reason for _, answer in refused)


@pytest.mark.isa
@pytest.mark.parametrize("name", ["x86-64-vnni", "x86-64-avxvnni", "x86-64-v3"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_sum_by_fused_multiply_adds(name: str, dtype: str) -> None:
    """ADD on every pair of codes by two fused multiply-adds; and a meaning that they do not compute."""
    if not made.runs_here(name):
        levels.skip(name)
    target = made.target(name)
    low, high = code_range(dtype)
    pairs = Tensor((256, 257), dtype)
    # real = 2 * a / 3 - b / 2 + 0.3, halves rounded away by float64
    factors = (2 / 3, -0.5, 0.3)

    def meaning(core: Any, a: Any, b: Any) -> Any:
        total = core.add(
            core.multiply(core.astype(a, "float64"), core.const(np.array([factors[0]]))),
            core.multiply(core.astype(b, "float64"), core.const(np.array([factors[1]]))),
        )
        total = core.floor(core.add(total, core.const(np.array([factors[2] + 0.5]))))
        return core.astype(core.clip(total, low, high), dtype)

    contract = EltwiseContract("add", "pairs", meaning, (pairs, pairs), pairs, factors)
    kernel = next(
        k for k in KERNELS[EltwiseContract] if k.name.startswith("fma_add__") and refusal(k, contract, target) is None
    )
    a = np.repeat(np.arange(low, high + 1), 257).reshape(256, 257).astype(dtype)
    b = np.resize(np.arange(low, high + 1), (256, 257)).astype(dtype)
    y = made.run(built(kernel, contract, target), target, a, b)
    np.testing.assert_array_equal(y, meaning(NumpyCore(), a, b))
    wrong = replace(contract, linear=(0.6, -0.5, 0.3))
    assert refusal(kernel, wrong, target) == "no two fused multiply-adds round as the definition does"
