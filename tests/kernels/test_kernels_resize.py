"""Resizing, argmax, and argmax of resized images against LiteRT's reference kernels and the definitions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from judge import judge

from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.execution import reference, runtime
from tflite2q.flatbuffer.writer import write
from tflite2q.kernels import layout
from tflite2q.lower.graph import CORE_OPERATIONS, NOTHING

Array = npt.NDArray[Any]
CASES = [
    *(("float32", channels) for channels in (1, 3, 17, 21, 33, 130)),
    *(("int16", channels) for channels in (1, 21, 33)), *(("uint8", channels) for channels in (1, 21, 33)),
    *(("int8", channels) for channels in (3, 21, 300)),
]  # fmt: skip
STEPS = ("resize", "both", "argmax of resized", "argmax", "argmin")
SIZE = (9, 13)
OPTIONS: tuple[dict[str, bool], ...] = ({}, {"align_corners": True}, {"half_pixel_centers": True})


def network(
    shape: tuple[int, ...], dtype: str, steps: Sequence[str], size: tuple[int, int] = SIZE, **options: bool
) -> Graph:
    """Steps: "resize", "argmax" and "argmin" of x and of the resized map, and "both", which gives the map too."""
    q = None if dtype == "float32" else Quantization.per_tensor(0.1, 0 if dtype == "int16" else 3)
    big = (shape[0], *size, shape[3])
    values = [Value("x", TensorType(shape, dtype, q)), constant("size", np.array(size, np.int32))]
    values.append(constant("axis", np.array(3, np.int32)))
    made: list[Op] = []
    outputs: list[str] = []
    for step in steps:
        last = "x"
        if step in ("resize", "both") or step.endswith("of resized"):
            last = f"{step}: map"
            values.append(Value(last, TensorType(big, dtype, q)))
            made.append(ops.ResizeBilinear(inputs=("x", "size"), outputs=(last,), version=4, **options))
        if step in ("resize", "both"):
            outputs.append(last)
        if step != "resize":
            kind = TensorType((shape if last == "x" else big)[:3], "int64" if "argmin" in step else "int32")
            values.append(Value(step, kind))
            made.append(
                ops.ArgExtremum(
                    inputs=(last, "axis"), outputs=(step,), output_type=kind.dtype.upper(), smallest="argmin" in step,
                    version=2,
                )
            )  # fmt: skip
            outputs.append(step)
    return verify(Graph(("x",), tuple(outputs), tuple(values), tuple(made)))


def constant(name: str, array: Array) -> Value:
    return Value(name, TensorType(array.shape, str(array.dtype)), Constant(array))


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """With many ties; for float32 zeros of both signs and neighbours that differ in their last digits."""
    if dtype == "float32":
        x = (rng.integers(-3, 4, shape) * rng.choice([1.0, 1e-3, 1e6], shape)).astype(np.float32)
        return np.where(rng.random(shape) < 0.2, rng.normal(size=shape).astype(np.float32), -x)
    info = np.iinfo(dtype)
    span = rng.choice([3, int(info.max)])
    return rng.integers(max(info.min, -span), info.max if span > 3 else 4, shape, endpoint=span > 3).astype(dtype)


def case(dtype: str, channels: int, steps: Sequence[str]) -> tuple[Graph, Array]:
    rng = np.random.default_rng([CASES.index((dtype, channels)), 77])
    shape = (int(rng.integers(1, 4)), *(int(n) for n in rng.integers(1, 8, 2)), channels)
    return network(shape, dtype, steps, **OPTIONS[int(rng.integers(3))]), numbers(rng, shape, dtype)


@functools.cache
def judged() -> dict[tuple[str, int], list[Array] | str]:
    """What LiteRT gives for all, in one process; for int16 only the resized map, because it has no ARG_MAX of that."""
    made = [case(dtype, channels, STEPS[:1] if dtype == "int16" else STEPS) for dtype, channels in CASES]
    return dict(zip(CASES, judge([(write(graph), [x]) for graph, x in made]), strict=True))


def assert_same_bytes(got: Array, want: Array) -> None:
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))


@pytest.mark.parametrize(("dtype", "channels"), CASES)
def test_as_the_reference_does(dtype: str, channels: int) -> None:
    graph, x = case(dtype, channels, STEPS)
    executable = runtime.compile(graph)
    kernels = [choice.kernel for choice in executable.choices]
    assert CORE_OPERATIONS not in kernels
    assert kernels.count(NOTHING) == 1  # a map that only an argmax reads, beside two that are outputs
    got, answer = executable.run(x), judged()[dtype, channels]
    assert not isinstance(answer, str), answer
    for ours, meant in zip(got, reference.run(graph, x), strict=True):
        assert_same_bytes(ours, meant)
    for ours, theirs in zip(got, answer, strict=False):
        assert_same_bytes(ours, theirs)


ENLARGED = [
    ((1, 1, 1, 5), (7, 40), 0), ((2, 3, 4, 21), (5, 64), 1), ((1, 33, 9, 3), (40, 257), 1), ((1, 4, 3, 33), (9, 50), 2),
    ((1, 2, 5, 300), (3, 130), 0), ((3, 1, 2, 1), (2, 33), 2), ((1, 5, 2, 40), (4, 17), 1),
    ((1, 2, 6, 21), (4, 101), 2),
]  # fmt: skip


def enlarged(number: int, dtype: str) -> tuple[Graph, Array]:
    shape, size, options = ENLARGED[number]
    steps = ("argmax of resized", "argmin of resized")
    x = numbers(np.random.default_rng([number, 78]), shape, dtype)
    return network(shape, dtype, steps, size, **OPTIONS[options]), x


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_argmax_of_images_enlarged_many_times(dtype: str) -> None:
    """Whole vectors of pixels between the same two of the input, and rows that end within one.

    int8 is resized in integers, uint8 in float32.
    """
    made = [enlarged(number, dtype) for number in range(len(ENLARGED))]
    answers = judge([(write(graph), [x]) for graph, x in made])
    for (graph, x), answer in zip(made, answers, strict=True):
        executable = runtime.compile(graph)
        assert sum("enlarged_argmax" in choice.kernel for choice in executable.choices) == 2
        assert not isinstance(answer, str), answer
        for ours, meant, theirs in zip(executable.run(x), reference.run(graph, x), answer, strict=True):
            assert_same_bytes(ours, meant)
            assert_same_bytes(ours, theirs)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("smallest", [False, True])
def test_argmax_passes_nan_over(smallest: bool, axis: int) -> None:
    """On any axis, by kernels and by core operations."""
    nan, most = np.nan, np.inf if smallest else -np.inf
    rows = np.array(
        [[1, nan, 3, 2, 3], [nan, 5, 3, 3, 5], [nan] * 5, [most] * 5, [nan, nan, most, nan, most], [0, -0.0, 0, 0, 0.0],
         [-0.0, 0, -0.0, 0, 0], [nan, nan, 1, 2, 2]], np.float32,
    )  # fmt: skip
    expected = [0, 2, 0, 0, 0, 0, 0, 2] if smallest else [2, 1, 0, 0, 0, 0, 0, 3]
    x = np.ascontiguousarray(rows if axis else rows.T)
    values = (Value("x", TensorType(x.shape, "float32")), constant("axis", np.array(axis, np.int32)))
    op = ops.ArgExtremum(inputs=("x", "axis"), outputs=("y",), output_type="INT32", smallest=smallest)
    graph = verify(Graph(("x",), ("y",), (*values, Value("y", TensorType((8,), "int32"))), (op,)))
    assert reference.run(graph, x)[0].tolist() == expected
    for kernels in (True, False):
        assert runtime.compile(graph, use_kernels=kernels).run(x)[0].tolist() == expected


def test_a_resized_zero_has_no_sign() -> None:
    graph = network((1, 2, 2, 3), "float32", ("resize",))
    x = np.full((1, 2, 2, 3), -0.0, np.float32)
    for kernels in (True, False):
        assert not np.signbit(runtime.compile(graph, use_kernels=kernels).run(x)[0]).any()
    (theirs,) = judge([(write(graph), [x])])
    assert not np.signbit(theirs[0]).any()


@pytest.mark.parametrize(
    ("channels", "register", "lanes"),
    [(21, 8, 8), (21, 16, 16), (33, 8, 8), (32, 8, 16), (3, 8, 2), (1, 4, 1), (48, 8, 16)],
)
def test_blocks_of_even_lanes(channels: int, register: int, lanes: int) -> None:
    assert layout.even_lanes(channels, 16, register) == lanes
