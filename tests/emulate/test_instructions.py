"""Emulated instructions against their definitions, written again in NumPy, on random and on extreme operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tvm
from emulate import levels
from emulate.instructions import VECTORS, emulated, take_tile_fault, tiles

from tflite2q.kernels.contracts import Tensor
from tflite2q.kernels.tir import T, function, load, store, vector

pytestmark = pytest.mark.skipif(not levels.can_emulate(), reason="needs an x86 with AVX2 and FMA")

Array = npt.NDArray[Any]
ROWS = 200


def run(func: Any, *arrays: Array, output: Tensor) -> Array:
    """What a PrimFunc gives, its instructions emulated."""
    tiles()
    module = tvm.IRModule({"kernel": emulated(func).with_attr("global_symbol", "kernel")})
    compiled = tvm.compile(module, target=levels.here())
    y = tvm.runtime.tensor(np.zeros(output.shape, output.dtype))
    compiled["kernel"](*[tvm.runtime.tensor(a) for a in arrays], y)
    return np.asarray(y.numpy())


def apply(name: str, result: str, lanes: int, *operands: Array, more: tuple[Any, ...] = ()) -> Array:
    """One instruction on each row of `operands`."""
    y = Tensor((ROWS, lanes), result)
    inputs = [Tensor(a.shape, a.dtype.name) for a in operands]

    def body(*buffers: Any) -> None:
        with T.serial(ROWS) as row:
            given = [load(b, row, 0, lanes=t.shape[1]) for b, t in zip(buffers, inputs, strict=False)]
            value = T.call_llvm_pure_intrin(vector(result, lanes), T.llvm_lookup_intrinsic_id(name), *given, *more)
            store(buffers[-1], value, row, 0, lanes=lanes)

    return run(function(inputs, [], y, body), *operands, output=y)


def codes(dtype: str, lanes: int, seed: int) -> Array:
    """Random rows, and rows of extremes."""
    info, rng = np.iinfo(dtype), np.random.default_rng(seed)
    x = rng.integers(info.min, info.max, (ROWS, lanes), dtype, endpoint=True)
    extremes = rng.choice(np.array([info.min, info.max, 0], dtype), (ROWS, lanes))
    return np.where(np.arange(ROWS)[:, None] % 3 == 0, extremes, x)


def wrapped(x: Array) -> Array:
    return x.astype(np.uint64).astype(np.uint32).view(np.int32)


def grouped(x: Array, size: int) -> Array:
    return x.astype(np.int64).reshape(ROWS, -1, size)


def bytes_summed(acc: Array, a: Array, b: Array) -> Array:
    return wrapped(acc.astype(np.int64) + (grouped(a.view(np.uint8), 4) * grouped(b, 4)).sum(axis=2))


def words_summed(acc: Array, a: Array, b: Array) -> Array:
    return wrapped(acc.astype(np.int64) + (grouped(a, 2) * grouped(b, 2)).sum(axis=2))


def words_saturated(acc: Array, a: Array, b: Array) -> Array:
    total = acc.astype(np.int64) + (grouped(a, 2) * grouped(b, 2)).sum(axis=2)
    return np.clip(total, -(2**31), 2**31 - 1).astype(np.int32)


DOTS: dict[str, tuple[str, Callable[..., Array]]] = {
    "vpdpbusd": ("int8", bytes_summed),
    "vpdpwssd": ("int16", words_summed),
    "vpdpwssds": ("int16", words_saturated),
}


@pytest.mark.parametrize("bits", [256, 512])
@pytest.mark.parametrize("name", DOTS)
def test_dot_products(name: str, bits: int) -> None:
    dtype, definition = DOTS[name]
    lanes = bits // 32
    width = bits // np.iinfo(dtype).bits
    operands = codes("int32", lanes, 1), codes(dtype, width, 2), codes(dtype, width, 3)
    found = apply(f"llvm.x86.avx512.{name}.{bits}", "int32", lanes, *operands)
    np.testing.assert_array_equal(found, definition(*operands))


@pytest.mark.parametrize("name", ["packssdw", "packsswb", "packuswb"])
def test_packs(name: str) -> None:
    wide, narrow = ("int32", "int16") if name == "packssdw" else ("int16", "int8")
    limits = np.iinfo("uint8" if name == "packuswb" else narrow)
    lanes = 512 // np.iinfo(wide).bits
    near = [np.random.default_rng(i).integers(2 * limits.min - 300, 2 * limits.max, (ROWS, lanes)) for i in (1, 2)]
    a, b = (np.where(np.arange(ROWS)[:, None] % 2, codes(wide, lanes, 3), n).astype(wide) for n in near)
    expected = np.stack([a.reshape(ROWS, 4, -1), b.reshape(ROWS, 4, -1)], axis=2).reshape(ROWS, -1)  # by 128 bits
    found = apply(f"llvm.x86.avx512.{name}.512", narrow, 2 * lanes, a, b)
    np.testing.assert_array_equal(found.view(limits.dtype), np.clip(expected, limits.min, limits.max))


def test_conversion_to_integers() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(ROWS, 16)) * 10.0 ** rng.uniform(-1, 12, (ROWS, 16))).astype(np.float32)
    x[::4] = np.round(x[::4]) + 0.5
    x[0, :6] = np.nan, np.inf, -np.inf, 2.0**31, -(2.0**31), 2.0**31 - 128
    more = (T.broadcast(T.int32(0), 16), T.int16(-1), T.int32(4))
    fits = (x >= -(2.0**31)) & (x < 2.0**31)
    expected = np.where(fits, np.rint(np.where(fits, x, 0)), -(2.0**31)).astype(np.int32)
    found = apply("llvm.x86.avx512.mask.cvtps2dq.512", "int32", 16, x, more=more)
    np.testing.assert_array_equal(found, expected)


def test_permutation_of_bytes() -> None:
    a, index, b = (codes("int8", 64, seed) for seed in (1, 2, 3))
    table = np.concatenate([a, b], axis=1)
    expected = np.take_along_axis(table, (index & 127).astype(np.int64), axis=1)
    found = apply("llvm.x86.avx512.vpermi2var.qi.512", "int8", 64, a, index, b)
    np.testing.assert_array_equal(found, expected)


def test_every_emulated_vector_instruction_is_tested() -> None:
    dots = {f"llvm.x86.avx512.{name}.{bits}" for name in DOTS for bits in (256, 512)}
    packs = {f"llvm.x86.avx512.{name}.512" for name in ("packssdw", "packsswb", "packuswb")}
    others = {"llvm.x86.avx512.mask.cvtps2dq.512", "llvm.x86.avx512.vpermi2var.qi.512"}
    assert set(VECTORS) == dots | packs | others


# --- the matrix unit ---


def configured(rows: dict[int, int], bytes_: dict[int, int]) -> Array:
    shapes = np.zeros(64, np.uint8)
    shapes[0] = 1
    for register, count in rows.items():
        shapes[48 + register], shapes[16 + 2 * register] = count, bytes_[register]
    return shapes


def tile(name: str, *operands: Any) -> None:
    T.evaluate(T.call_llvm_intrin("void", T.llvm_lookup_intrinsic_id(f"llvm.x86.{name}"), *operands))


def multiplied(name: str, shapes: Array, c: Array, a: Array, b: Array, strides: tuple[int, int, int]) -> Array:
    """c + a * b by the matrix unit, twice."""
    inputs = [Tensor(x.shape, x.dtype.name) for x in (shapes, c, a, b)]

    def body(shape: Any, *matrices: Any) -> None:
        *sources, y = matrices
        tile("ldtilecfg", T.address_of(shape[0]))
        for register, (source, stride) in enumerate(zip(sources, strides, strict=True)):
            tile("tileloadd64", T.int8(register), T.address_of(source[0, 0]), T.int64(stride))
        for _ in range(2):
            tile(name, T.int8(0), T.int8(1), T.int8(2))
        tile("tilestored64", T.int8(0), T.address_of(y[0, 0]), T.int64(strides[0]))
        tile("tilezero", T.int8(2))
        tile("tilerelease")

    return run(function(inputs, [], inputs[1], body), shapes, c, a, b, output=inputs[1])


@pytest.mark.parametrize("name", ["tdpbssd", "tdpbusd"])
@pytest.mark.parametrize(("m", "n", "k"), [(16, 16, 16), (5, 16, 3), (1, 2, 7)])
def test_matrix_products(name: str, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(m)
    c = rng.integers(-(2**31), 2**31, (m, n + 1)).astype(np.int32)
    a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((m, 4 * k + 9), (k, 4 * n)))
    left = (a.view(np.uint8) if name == "tdpbusd" else a)[:, : 4 * k].astype(np.int64)
    right = b.reshape(k, n, 4).transpose(0, 2, 1).reshape(4 * k, n).astype(np.int64)
    shapes = configured({0: m, 1: m, 2: k}, {0: 4 * n, 1: 4 * k, 2: 4 * n})
    found = multiplied(name, shapes, c, a, b, (4 * (n + 1), 4 * k + 9, 4 * n))
    np.testing.assert_array_equal(found[:, :n], wrapped(c[:, :n] + 2 * (left @ right)))
    assert (found[:, n] == 0).all(), "a tile's rows end where the configuration says"
    assert take_tile_fault() is None


def test_what_a_processor_refuses_is_a_fault() -> None:
    c, a, b = np.zeros((4, 4), np.int32), np.zeros((4, 16), np.int8), np.zeros((4, 16), np.int8)
    good = configured({0: 4, 1: 4, 2: 4}, {0: 16, 1: 16, 2: 16})
    bad = configured({0: 4, 1: 4, 2: 3}, {0: 16, 1: 16, 2: 16})
    none = np.where(np.arange(64) == 0, 0, good).astype(np.uint8)
    for shapes, fault in ((good, None), (bad, "tdp: shapes do not fit"), (none, "ldtilecfg: the palette is not 1")):
        multiplied("tdpbssd", shapes, c, a, b, (16, 16, 16))
        assert take_tile_fault() == fault
