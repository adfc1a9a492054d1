"""Every core operation through Relax equals NumPy bit for bit."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, runtime
from tvm.target import Target

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.arithmetic.rescale import Rescale
from tflite2q.lower.build import EXEC_MODES, build
from tflite2q.lower.relax_core import RelaxCore

Array = np.ndarray[Any, Any]
Program = Callable[..., Any]  # (core, *operands) -> value


def compiled(
    program: Program, *arrays: Array, target: str | dict[str, Any] = "llvm", exec_mode: str = "compiled"
) -> Array:
    """`program` over RelaxCore, compiled and run on `arrays`."""
    builder = relax.BlockBuilder()
    core = RelaxCore(builder)
    names = [relax.Var(f"x{i}", relax.TensorType(a.shape, str(a.dtype))) for i, a in enumerate(arrays)]
    with builder.function("main", names):
        with builder.dataflow():
            result = builder.emit_output(core.expr(program(core, *names)))
        builder.emit_func_output(result)
    executable = build(builder.get(), Target(target), exec_mode).executable
    machine = relax.VirtualMachine(executable, runtime.device("cpu", 0))
    output: Array = machine["main"](*(runtime.tensor(a) for a in arrays)).numpy()
    return output


def assert_same(program: Program, *arrays: Array, **options: Any) -> None:
    expected = np.asarray(program(NumpyCore(), *arrays))
    got = compiled(program, *arrays, **options)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(got, expected)


def integers(
    shape: tuple[int, ...], dtype: str, low: int | None = None, high: int | None = None, seed: int = 0
) -> Array:
    info = np.iinfo(dtype)
    low, high = info.min if low is None else low, info.max if high is None else high
    return np.random.default_rng(seed).integers(low, high, shape, dtype, endpoint=True)


def reals(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    return (np.random.default_rng(seed).normal(size=shape) * 3).astype(dtype)


@dataclass(frozen=True)
class Case:
    name: str
    program: Program
    arrays: tuple[Array, ...]


def binary(name: str) -> Program:
    return lambda core, a, b: getattr(core, name)(a, b)


def unary(name: str) -> Program:
    return lambda core, x: getattr(core, name)(x)


def arithmetic_cases() -> list[Case]:
    cases = []
    for dtype in ("int8", "uint8", "int16", "int32"):
        a, b = integers((3, 40), dtype, seed=1), integers((1, 40), dtype, seed=2)
        for name in ("add", "subtract", "multiply", "minimum", "maximum", "bitwise_and", "equal", "less", "less_equal"):
            cases.append(Case(f"{name}-{dtype}", binary(name), (a, b)))
        cases += [Case(f"{name}-{dtype}", unary(name), (a,)) for name in ("abs", "negative") if dtype != "uint8"]
    for dtype in ("int32", "int64"):
        a, by = integers((200,), dtype, -1000, 1000), integers((200,), dtype, 1, 30, seed=3)
        sign = integers((200,), dtype, 0, 1, seed=4) * 2 - 1
        cases += [
            Case(f"floor_divide-{dtype}", binary("floor_divide"), (a, (by * sign).astype(dtype))),
            Case(f"floor_divide-by-constant-{dtype}", lambda c, x, d=dtype: c.floor_divide(x, np.array([-7], d)), (a,)),
            Case(f"right_shift-{dtype}", binary("right_shift"), (integers((200,), dtype), by)),
            Case(f"left_shift-{dtype}", binary("left_shift"), (a, (by % 20).astype(dtype))),
        ]
    return cases


def float_cases() -> list[Case]:
    cases = []
    for dtype in ("float32", "float64"):
        a, b = reals((3000,), dtype), reals((3000,), dtype, seed=1)
        cases += [Case(f"{name}-{dtype}", unary(name), (a,)) for name in ("floor", "trunc", "abs", "negative")]
        cases.append(Case(f"sqrt-{dtype}", unary("sqrt"), (np.abs(a),)))
        for name in ("add", "subtract", "multiply", "divide", "floor_divide", "minimum", "maximum", "less"):
            cases.append(Case(f"{name}-{dtype}", binary(name), (a, b)))
    a = reals((3000,), "float32")
    cases += [Case(f"{name}-float32", unary(name), (a,)) for name in ("exp", "tanh")]
    cases.append(Case("tanh-small", unary("tanh"), (a * np.float32(1e-6),)))
    cases.append(Case("log-float32", unary("log"), (np.abs(a) + np.float32(1e-3),)))
    cases += [Case(f"{name}-libm", lambda c, x, n=name: c.libm(n, x), (a,)) for name in ("sin", "cos", "cbrt")]
    cases += [
        Case(f"{name}-libm", lambda c, x, y, n=name: c.libm(n, x, y), (np.abs(a[:60]).reshape(6, 10), a[:10]))
        for name in ("pow", "atan2")
    ]
    cases.append(Case("where", lambda c, x, y: c.where(c.less(x, y), x, y), (a, a[::-1].copy())))
    return cases


def cast_cases() -> list[Case]:
    integer = ("int8", "uint8", "int16", "int32", "int64")
    pairs = [(a, b) for a in integer for b in (*integer, "float32", "float64", "bool") if a != b]
    cases = [Case(f"{a}-{b}", lambda c, x, to=b: c.astype(x, to), (integers((300,), a),)) for a, b in pairs]
    truth = integers((300,), "int8", 0, 1).astype(bool)
    cases.append(Case("bool-int32", lambda c, x: c.astype(x, "int32"), (truth,)))
    cases.append(Case("float32-int32", lambda c, x: c.astype(x, "int32"), (reals((300,), "float32") * 100,)))
    cases.append(Case("float64-int64", lambda c, x: c.astype(x, "int64"), (reals((300,), "float64") * 1e15,)))
    clips = [("int64", -(2**31), 2**31 - 1, integers((200,), "int64", -(2**40), 2**40)), ("uint8", 3, 250, None)]
    clips += [("int8", -128, 5, None), ("float32", -1.5, 2.25, reals((200,), "float32"))]
    for dtype, low, high, given_array in clips:
        array = integers((200,), dtype) if given_array is None else given_array
        cases.append(Case(f"clip-{dtype}", lambda c, x, lo=low, hi=high: c.clip(x, lo, hi), (array,)))
    return cases


def scattered(dtype: str) -> tuple[Array, ...]:
    """A table, places in it, some of them twice, and updates."""
    places = np.array([2, 0, 2, 4, 2], np.int32)
    if dtype.startswith("float"):
        return reals((5, 3), dtype), places, reals((5, 3), dtype, seed=1)
    return integers((5, 3), dtype), places, integers((5, 3), dtype, seed=1)


def movement_cases() -> list[Case]:
    x = integers((2, 7, 6), "int8")
    table = integers((256,), "int8", seed=9)
    return [
        Case("take-table", lambda c, i: c.take(c.const(table), c.astype(i, "int32")), (integers((2, 3, 4), "uint8"),)),
        Case("take-axis", lambda c, t, i: c.take(t, i, axis=1), (x, integers((2, 3), "int32", 0, 6))),
        Case("take-last-axis", lambda c, t, i: c.take(t, i, axis=-1), (x, integers((5,), "int32", 0, 5))),
        Case("take-scalar", lambda c, t, i: c.take(t, i, axis=0), (x, np.array(1, "int32"))),
        Case("reshape", lambda c, t: c.reshape(t, [6, 14]), (x,)),
        Case("reshape-then-add", lambda c, t: c.add(c.reshape(t, [84]), c.const(np.array([3], "int8"))), (x,)),
        Case("scalar", lambda c, t: c.add(c.reshape(t, []), c.const(np.array(3, "int8"))), (x[:1, :1, :1],)),
        Case("permute_dims", lambda c, t: c.permute_dims(t, [2, 0, 1]), (x,)),
        Case("broadcast_to", lambda c, t: c.broadcast_to(t, [3, 2, 7, 6]), (x,)),
        Case("concat", lambda c, t: c.concat([t, c.const(np.ones((2, 7, 1), "int8")), t], -1), (x,)),
        Case("reinterpret", lambda c, t: c.reinterpret(t, "uint8"), (x,)),
        Case("reinterpret-float", lambda c, t: c.reinterpret(t, "int32"), (reals((3, 40), "float32"),)),
        *(
            Case(f"scatter-{how}", lambda c, t, i, u, how=how: c.scatter(t, i, u, how), scattered(dtype))
            for how, dtype in (
                ("update", "int8"),
                ("add", "int8"),
                ("multiply", "int32"),
                ("minimum", "float32"),
                ("maximum", "int64"),
                ("add", "float32"),
            )
        ),
        Case("pad", lambda c, t: c.pad(t, [0, 1, 2], [1, 0, 3], -128), (x,)),
        Case("pad-uint8", lambda c, t: c.pad(t, [0, 1], [1, 0], 255), (integers((3, 4), "uint8"),)),
        Case("slice", lambda c, t: c.strided_slice(t, [1], [1], [6], [2]), (x,)),
        Case("slice-back", lambda c, t: c.strided_slice(t, [1, 2], [6, 5], [0, -1], [-3, -1]), (x,)),
        Case("slice-negative-axis", lambda c, t: c.strided_slice(t, [0, -1], [1, 5], [2, -1], [1, -2]), (x,)),
    ]


def reduction_cases() -> list[Case]:
    x, few = integers((2, 7, 6), "int8"), integers((5, 40, 7), "uint8", 0, 3)
    return [
        Case("sum-int8", lambda c, t: c.sum(t, [1, 2]), (x,)),
        Case("sum-int32", lambda c, t: c.sum(t, [-1], True), (integers((2, 7, 6), "int32", -10000, 10000),)),
        Case("max", lambda c, t: c.max(t, [1, 2]), (x,)),
        Case("min", lambda c, t: c.min(t, [0], True), (x,)),
        Case("argmax-ties", lambda c, t: c.argmax(t, 1), (few,)),
        Case("argmax-last-axis", lambda c, t: c.argmax(t, -1), (few.astype("int8"),)),
        Case("argsort-ties", lambda c, t: c.argsort(t, 1), (few,)),
        Case("argsort-last-axis", lambda c, t: c.argsort(t, 2), (x,)),
        Case("argsort-float", lambda c, t: c.argsort(t, 0), (few.astype("float32"),)),
        Case("argmax-of-the-least", lambda c, t: c.argmax(t, 0), (np.full((3, 2), np.finfo(np.float32).min),)),
        Case("argmax-float", lambda c, t: c.argmax(t, 0), (few.astype("float32"),)),
    ]


def product_cases() -> list[Case]:
    x = integers((2, 11, 12, 8), "uint8")
    cases = [
        Case(
            "matmul",
            lambda c, a, b: c.matmul(a, b, "int32"),
            (integers((3, 5, 40), "int8"), integers((3, 40, 7), "int8")),
        ),
        Case(
            "matmul-2d",
            lambda c, a, b: c.matmul(a, b, "int32"),
            (integers((5, 40), "uint8"), integers((40, 7), "int8")),
        ),
        Case(
            "matmul-int64",
            lambda c, a, b: c.matmul(a, b, "int64"),
            (integers((5, 4), "int16"), integers((4, 7), "int16")),
        ),
        Case("max_pool2d", lambda c, t: c.max_pool2d(t, (3, 2), (2, 1)), (x,)),
        Case("max_pool2d-int8", lambda c, t: c.max_pool2d(t, (3, 3), (2, 2)), (integers(x.shape, "int8", -128, -100),)),
    ]
    geometries = [(1, (1, 1), (2, 2), (3, 3)), (1, (2, 3), (1, 1), (3, 2)), (8, (1, 1), (1, 2), (3, 3))]
    geometries += [(4, (1, 1), (1, 1), (1, 1)), (8, (2, 2), (1, 1), (3, 3))]
    for groups, dilation, strides, kernel in geometries:
        weights = integers((*kernel, 8 // groups, 16), "int8", seed=5)
        cases.append(
            Case(
                f"conv2d-{groups}-{dilation}-{strides}",
                lambda c, t, w=weights, s=strides, d=dilation, g=groups: c.conv2d(t, c.const(w), s, d, g),
                (x,),
            )
        )
    return cases


CASES = [*arithmetic_cases(), *float_cases(), *cast_cases(), *movement_cases(), *reduction_cases(), *product_cases()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operation_equals_numpy(case: Case) -> None:
    assert_same(case.program, *case.arrays)


@pytest.mark.parametrize("exec_mode", EXEC_MODES)
@pytest.mark.parametrize("case", [reduction_cases()[0], product_cases()[-1]], ids=lambda case: case.name)
def test_every_execution_mode(case: Case, exec_mode: str) -> None:
    assert_same(case.program, *case.arrays, exec_mode=exec_mode)


def test_constants_keep_their_dtype() -> None:
    big = np.array([2**40, -(2**40)], np.int64)
    assert_same(lambda core, x: core.add(x, core.const(big)), np.arange(2, dtype=np.int64))


def test_known_operands_are_computed_while_compiling() -> None:
    core = RelaxCore(relax.BlockBuilder())
    value = core.add(core.const(np.array([1], "int8")), core.const(np.array([127], "int8")))
    assert isinstance(value, np.ndarray) and value.tolist() == [-128]


def test_products_and_sums_are_not_contracted() -> None:
    """With FMA at hand, code generation must still round a product before it is added."""
    a, b, d = (reals((4000,), "float32", seed) for seed in (1, 2, 3))
    target = {"kind": "llvm", "mcpu": "x86-64-v3"}
    assert_same(lambda core, x, y, z: core.add(core.multiply(x, y), z), a, b, d, target=target)


@settings(max_examples=15, deadline=None)
@given(
    arithmetic=st.sampled_from(["fixed", "float64", "float32"]),
    reals_=st.lists(st.floats(2**-20, 4.0), min_size=1, max_size=1)
    | st.lists(st.floats(2**-12, 0.9), min_size=5, max_size=5),
    zero_point=st.integers(-128, 127),
    seed=st.integers(0, 2**16),
)
def test_rescaling_equals_numpy(arithmetic: str, reals_: list[float], zero_point: int, seed: int) -> None:
    rescale = Rescale(tuple(reals_), zero_point, -128, 127, "int8", arithmetic)
    acc = integers((11, 5), "int32", -(2**20), 2**20, seed)
    assert_same(lambda core, x: rescale.meaning(core, x), acc)


@pytest.mark.parametrize("shift", [2.0**-7, 1.0, 2.0**3])
def test_shift_rescaling_equals_numpy(shift: float) -> None:
    rescale = Rescale((shift,), 3, 0, 255, "uint8", "shift")
    assert_same(lambda core, x: rescale.meaning(core, x), integers((11, 5), "int32", -(2**15), 2**15))


@pytest.mark.parametrize("target", ["llvm", {"kind": "llvm", "mcpu": "haswell"}])
def test_exp_of_all_kinds_of_numbers(target: str | dict[str, Any]) -> None:
    """Of every exponent and sign, at both ends of what float32 holds, infinite, and none."""
    if target != "llvm" and platform.machine() != "x86_64":
        pytest.skip("a processor of x86")
    random = np.random.default_rng(0)
    x = random.integers(0, 1 << 32, 1 << 16, dtype=np.uint32).view(np.float32)
    x[: 1 << 15] = random.normal(0, 30, 1 << 15)
    ends = [np.nan, np.inf, -np.inf, 0, -0.0, 88.72283, 88.72284, -87.33655, -103.97208, -103.97209, 1e-45]
    x[: len(ends)] = ends
    with np.errstate(all="ignore"):
        expected = np.exp(x.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(compiled(lambda core, x: core.exp(x), x, target=target), expected)
