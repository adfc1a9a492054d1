"""Single numbers and places that only the run knows: indices, divisors, and where slices begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from draw import Case, Draw
from judge import judge

from tflite2q.dialect import ops
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Quantization, TensorType
from tflite2q.errors import DataError, UnsupportedError
from tflite2q.execution import reference, runtime
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write

X = TensorType((4, 3, 5), "int8", Quantization.per_tensor(0.5, 3))


def _draw() -> Draw:
    return Draw(np.random.default_rng(0))


def _given(d: Draw, numbers: Any, dtype: str = "int32") -> str:
    array = np.array(numbers, dtype)
    return d.input(TensorType(array.shape, dtype), array)


def scalars(cls: type[Op], a: int, b: int, **attributes: Any) -> Case:
    d = _draw()
    return d.case(cls, (_given(d, a), _given(d, b)), TensorType((), "int32"), **attributes)


def gather(index: int) -> Case:
    d = _draw()
    return d.case(ops.Gather, (d.input(X), _given(d, index)), X.with_(shape=()))


def part(begin: list[int], size: list[int], dtype: str = "int32") -> Case:
    d = _draw()
    sizes = d.constant(np.array(size, dtype))
    return d.case(ops.Slice, (d.input(X), _given(d, begin, dtype), sizes), X.with_(shape=()))


def strided(begin: list[int], end: list[int] | None = None, strides: list[int] | None = None, **masks: int) -> Case:
    d = _draw()
    x, first = d.input(X), _given(d, begin)
    last = d.ints(*end) if end else _given(d, [n + 1 for n in begin])
    names = (x, first, last, d.ints(*(strides or [1] * len(begin))))
    return d.case(ops.StridedSlice, names, X.with_(shape=()), **masks)


COMPUTED = {
    "a scalar index": lambda: gather(2),
    "a scalar divisor": lambda: scalars(ops.Div, 7, -2),
    "a scalar divisor, floored": lambda: scalars(ops.FloorDiv, -7, 2),
    "the remainder of a scalar divisor": lambda: scalars(ops.FloorDiv, -7, 3, remainder=True),
    "a scalar exponent": lambda: scalars(ops.RealFunction, -3, 3, function="POW"),
    "a part": lambda: part([1, 0, 2], [2, 3, 3]),
    "a part at the end": lambda: part([3, 2, 4], [1, 1, 1], "int64"),
    "all": lambda: part([0, 0, 0], [4, 3, 5]),
    "nothing": lambda: part([4, 0, 1], [0, 3, 2]),
    "x[i]": lambda: strided([2], shrink_axis_mask=1),
    "x[-1]": lambda: strided([-1], shrink_axis_mask=1),
    "x[:, i]": lambda: strided([9, 1], begin_mask=1, end_mask=1, shrink_axis_mask=2),
    "x[i, :, j]": lambda: strided([3, 7, -5], begin_mask=2, end_mask=2, shrink_axis_mask=5),
    "x[..., i]": lambda: strided([9, 4], ellipsis_mask=1, shrink_axis_mask=2),
    "x[i, new, j]": lambda: strided([1, 9, 2], new_axis_mask=2, shrink_axis_mask=5),
    "x[::-2, i]": lambda: strided([9, 1], strides=[-2, 1], begin_mask=1, end_mask=1, shrink_axis_mask=2),
    "x[i] that ends somewhere": lambda: strided([2], end=[-7], shrink_axis_mask=1),
}
OUTSIDE = {
    "a scalar index": lambda: gather(4),
    "a scalar divisor": lambda: scalars(ops.Div, 7, 0),
    "a scalar exponent": lambda: scalars(ops.RealFunction, 7, -1, function="POW"),
    "a part": lambda: part([3, 0, 0], [2, 3, 5]),
    "all": lambda: part([1, 0, 0], [4, 3, 5]),
}
# Here LiteRT reads before the tensor, or leaves results as they were.
UNCHECKED = {
    "a part": lambda: part([-1, 0, 0], [2, 3, 5]),
    "x[i]": lambda: strided([4], shrink_axis_mask=1),
    "x[-i]": lambda: strided([-5], shrink_axis_mask=1),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_litert_computes_the_same(name: str) -> None:
    case = COMPUTED[name]()
    data = write(case.graph)
    assert read(data).ops == case.graph.ops
    (judged,) = judge([(data, case.inputs)])
    for outputs in (reference.run(case.graph, *case.inputs), runtime.compile(case.graph).run(*case.inputs)):
        np.testing.assert_array_equal(outputs[0], judged[0])


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_litert_refuses_is_an_error_of_the_data(name: str) -> None:
    case = OUTSIDE[name]()
    (judged,) = judge([(write(case.graph), case.inputs)])
    assert isinstance(judged, str)
    assert "failed to invoke" in judged
    _refused(case)


@pytest.mark.parametrize("name", UNCHECKED)
def test_what_lies_outside_is_an_error_of_the_data(name: str) -> None:
    _refused(UNCHECKED[name]())


def _refused(case: Case) -> None:
    compiled = runtime.compile(case.graph)
    for run in (lambda: reference.run(case.graph, *case.inputs), lambda: compiled.run(*case.inputs)):
        with pytest.raises(DataError, match=r"'y0': (an index is out of range|a divisor is 0|a negative exponent)"):
            run()


@pytest.mark.parametrize(
    "make",
    [
        lambda: part([0, 0, 0], [4, -1, 5]),  # whose size follows from where it begins
        lambda: strided([1]),
        lambda: strided([1, 1], shrink_axis_mask=1),
        lambda: strided([1, 1], begin_mask=1, end_mask=1),
    ],
)
def test_what_decides_shapes_must_be_constant(make: Any) -> None:
    with pytest.raises(UnsupportedError, match="is known only at run time"):
        make()
