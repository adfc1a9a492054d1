"""Data that no processor divides, converts or looks up: an error or a value, the same compiled, and never a trap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from draw import Case, Draw
from judge import judge

from tflite2q.dialect import ops
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Quantization, TensorType
from tflite2q.errors import DataError
from tflite2q.execution import reference, runtime
from tflite2q.flatbuffer.writer import write

LEAST = -(2**31)
LEAST64 = -(2**63)
REALS = np.array(
    [np.nan, np.inf, -np.inf, 1e30, -1e30, 3e9, -3e9, 200.5, -200.7, 300, 1.5, -0.7, -128.5, 127.9, 2.0**31, 2.0**63],
    np.float32,
)


def _draw() -> Draw:
    return Draw(np.random.default_rng(0))


def _kind(shape: tuple[int, ...], dtype: str) -> TensorType:
    codes = dtype in ("uint8", "int8", "int16")
    return TensorType(shape, dtype, Quantization.per_tensor(0.5, 0) if codes else None)


def binary(cls: type[Op], dtype: str, a: list[float], b: list[float], **attributes: Any) -> Case:
    d = _draw()
    names = [d.input(_kind((len(x),), dtype), np.array(x, dtype)) for x in (a, b)]
    return d.case(cls, names, _kind((), dtype), **attributes)


def cast(dtype: str) -> Case:
    d = _draw()
    name = d.input(TensorType(REALS.shape, "float32"), REALS)
    return d.case(ops.Cast, (name,), TensorType((), dtype), in_type="FLOAT32", out_type=dtype.upper())


def gather(indices: Any, cls: type[Op] = ops.Gather, **attributes: Any) -> Case:
    d, index = _draw(), np.array(indices, np.int32)
    kind = _kind((2, 4), "int8")
    names = (d.input(kind), d.input(TensorType(index.shape, "int32"), index))
    return d.case(cls, names, kind.with_(shape=()), **attributes)


ENDS = ([1, -1, 0, 3, -3, np.inf, -np.inf, 5, 1e38, np.nan, 7, -7, 7, -7, 0, 1],
        [0, 0, 0, -0.0, -0.0, 1, 1, np.inf, 1e-5, 1, np.inf, np.inf, -np.inf, -np.inf, np.inf, np.nan])  # fmt: skip


def scatter(rows: Any) -> Case:
    d, index = _draw(), np.array(rows, np.int32)
    kind = TensorType((len(index), 2), "float32")
    names = (d.input(TensorType(index.shape, "int32"), index), d.input(kind), d.ints(3, 2))
    return d.case(ops.ScatterNd, names, TensorType((), "float32"))


def segments(ids: list[int]) -> Case:
    d, index = _draw(), np.array(ids, np.int32)
    names = (d.input(TensorType((len(ids), 2), "float32")), d.input(TensorType(index.shape, "int32"), index))
    return d.case(ops.Segment, (*names, d.constant(np.array(3, np.int32))), TensorType((), "float32"))


def lengths(numbers: list[int]) -> Case:
    d, index = _draw(), np.array(numbers, np.int32)
    names = (d.input(TensorType((len(numbers), 4), "float32")), d.input(TensorType(index.shape, "int32"), index))
    return d.case(ops.ReverseSequence, names, TensorType((), "float32"), sequence_axis=1, batch_axis=0)


def shapes(a: list[int], b: list[int]) -> Case:
    d = _draw()
    names = [d.input(TensorType((len(x),), "int32"), np.array(x, np.int32)) for x in (a, b)]
    return d.case(ops.BroadcastArgs, names, TensorType((), "int32"))


def one_hot() -> Case:
    d, index = _draw(), np.array([0, 5, -1, 2], np.int32)
    constants = (d.constant(np.array(3, np.int32)), *(d.constant(np.array(v, np.float32)) for v in (1, 0)))
    return d.case(ops.OneHot, (d.input(TensorType((4,), "int32"), index), *constants), TensorType((), "float32"))


# What LiteRT's reference kernels refuse, too.
REFUSED: dict[str, Callable[[], Case]] = {
    "int32 by zero": lambda: binary(ops.Div, "int32", [7, 5], [2, 0]),
    "uint8 by its zero point": lambda: binary(ops.Div, "uint8", [7, 5], [0, 2]),
    "int8 by its zero point": lambda: binary(ops.Div, "int8", [-7, 5], [0, 2]),
    "floor of int32 by zero": lambda: binary(ops.FloorDiv, "int32", [7, 5], [0, 2]),
    "floor of float32 by zero": lambda: binary(ops.FloorDiv, "float32", [7, 5], [0, 2]),
    "remainder of int32 by zero": lambda: binary(ops.FloorDiv, "int32", [7, 5], [0, 2], remainder=True),
    "remainder of int64 by zero": lambda: binary(ops.FloorDiv, "int64", [7, 5], [0, 2], remainder=True),
    "index beyond the end": lambda: gather([0, 4], axis=1),
    "index below zero": lambda: gather([0, -1], axis=1),
    "index beyond the end, in batches": lambda: gather([[0], [4]], axis=1, batch_axes=1),
    "position beyond the end": lambda: gather([[1, 4]], ops.GatherNd),
    "position below zero": lambda: gather([[-1, 0]], ops.GatherNd),
    "scattered beyond the end": lambda: scatter([[0], [3]]),
    "scattered below zero": lambda: scatter([[0], [-1]]),
    "segment beyond the last": lambda: segments([0, 3]),
    "negative exponent": lambda: binary(ops.RealFunction, "int32", [2, 3], [1, -1], function="POW"),
}
# LiteRT reads beyond the tensor, or its process ends.
UNCHECKED: dict[str, Callable[[], Case]] = {
    "sequence longer than its axis": lambda: lengths([2, 5]),
    "shapes that do not broadcast": lambda: shapes([2, 3], [2, 4]),
}
COMPUTED: dict[str, Callable[[], Case]] = {
    "least int32 by -1": lambda: binary(ops.Div, "int32", [LEAST, LEAST, LEAST, 7], [-1, 1, LEAST, LEAST]),
    "signs": lambda: binary(ops.Div, "int32", [7, -7, 7, -7, 6, -6], [2, 2, -2, -2, -3, 3]),
    "floor of the least int32 by -1": lambda: binary(ops.FloorDiv, "int32", [LEAST, 7, -7], [-1, -2, 2]),
    "remainders": lambda: binary(ops.FloorDiv, "int32", [LEAST, 7, -7], [3, -2, 2], remainder=True),
    **{
        f"float32 to {dtype}": lambda dtype=dtype: cast(dtype) for dtype in ("int8", "uint8", "int16", "int32", "int64")
    },
    "one-hot of indices outside": one_hot,
    "indices at both ends": lambda: gather([0, 3], axis=1),
    **{
        f"quotients of float32 at the ends, {name}": lambda name=name: binary(
            ops.Div, "float32", *ENDS, activation=name
        )
        for name in ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")
    },
    "products of float32 at the ends": lambda: binary(ops.Mul, "float32", *ENDS),
    "remainders of float32 at the ends": lambda: binary(ops.FloorDiv, "float32", *ENDS, remainder=True),
    "segments below zero": lambda: segments([0, -1]),
    "powers beyond int32": lambda: binary(
        ops.RealFunction, "int32", [10, -10, 2, -2], [10, 11, 31, 31], function="POW"
    ),
    "remainder of float32 by zero": lambda: binary(ops.FloorDiv, "float32", [7, -5], [0, 2], remainder=True),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_reference_kernels_refuse_is_an_error_of_the_data(name: str) -> None:
    case = REFUSED[name]()
    (judged,) = judge([(write(case.graph), case.inputs)])
    assert isinstance(judged, str)
    assert "failed to invoke" in judged
    compiled = runtime.compile(case.graph)
    with pytest.raises(
        DataError, match=r"'y0': (a divisor is 0|an index is out|a negative|a sequence|the shapes)"
    ) as expected:
        reference.run(case.graph, *case.inputs)
    with pytest.raises(DataError) as found:
        compiled.run(*case.inputs)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("name", UNCHECKED)
def test_what_litert_does_not_check_is_an_error_of_the_data(name: str) -> None:
    case = UNCHECKED[name]()
    compiled = runtime.compile(case.graph)
    for run in (lambda: reference.run(case.graph, *case.inputs), lambda: compiled.run(*case.inputs)):
        with pytest.raises(DataError, match=r"'y0': (a sequence|the shapes)"):
            run()


@pytest.mark.parametrize("name", COMPUTED)
def test_extremes_are_computed_as_the_reference_kernels_do(name: str) -> None:
    case = COMPUTED[name]()
    (judged,) = judge([(write(case.graph), case.inputs)])
    for outputs in (reference.run(case.graph, *case.inputs), runtime.compile(case.graph).run(*case.inputs)):
        np.testing.assert_array_equal(outputs[0], judged[0])


@pytest.mark.parametrize(
    ("dtype", "a", "b", "quotient", "remainder"),
    [("int64", [LEAST64, LEAST64, 7], [-1, 3, LEAST64], [LEAST64, LEAST64 // 3, -1], [0, LEAST64 % 3, 7 + LEAST64]),
     ("int32", [LEAST], [-1], [LEAST], [0])],
)  # fmt: skip
def test_what_would_end_the_reference_kernels_has_a_value(
    dtype: str, a: list[int], b: list[int], quotient: list[int], remainder: list[int]
) -> None:
    for expected, rest in ((quotient, False), (remainder, True)):
        case = binary(ops.FloorDiv, dtype, a, b, remainder=rest)
        for outputs in (reference.run(case.graph, *case.inputs), runtime.compile(case.graph).run(*case.inputs)):
            assert outputs[0].tolist() == expected


def test_int64_quotients_are_rounded_toward_zero() -> None:
    a = [LEAST64, 7, -7, 7, -6, 5]
    b = [3, -2, 2, LEAST64, 3, LEAST64]
    case = binary(ops.Div, "int64", a, b)
    expected = [(abs(x) // abs(y)) * (1 if (x < 0) == (y < 0) else -1) for x, y in zip(a, b, strict=True)]
    for outputs in (reference.run(case.graph, *case.inputs), runtime.compile(case.graph).run(*case.inputs)):
        assert outputs[0].tolist() == expected


def test_a_constant_divisor_of_zero_is_refused_as_early_as_it_is_seen() -> None:
    d = _draw()
    names = (d.input(TensorType((2,), "int32"), np.array([1, 2], np.int32)), d.constant(np.array([0, 1], np.int32)))
    case = d.case(ops.Div, names, TensorType((), "int32"))
    with pytest.raises(DataError, match="a divisor is 0"):
        runtime.compile(case.graph)
    with pytest.raises(DataError, match="a divisor is 0"):
        reference.run(case.graph, *case.inputs)


def test_a_model_goes_on_after_data_that_it_refused() -> None:
    case = REFUSED["int32 by zero"]()
    compiled = runtime.compile(case.graph)
    with pytest.raises(DataError):
        compiled.run(*case.inputs)
    assert compiled.run(case.inputs[0], np.array([2, 5], np.int32))[0].tolist() == [3, 1]
