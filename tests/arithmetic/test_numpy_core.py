"""The core vocabulary in NumPy against plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tflite2q.arithmetic import core, numpy_core
from tflite2q.arithmetic.numpy_core import NumpyCore

CORE = NumpyCore()


def naive_conv2d(x, weights, strides, dilation, groups):
    """Six loops over Python integers."""
    n, height, width, _ = x.shape
    kernel_h, kernel_w, group_in, out_channels = weights.shape
    out_h = (height - (kernel_h - 1) * dilation[0] - 1) // strides[0] + 1
    out_w = (width - (kernel_w - 1) * dilation[1] - 1) // strides[1] + 1
    y = np.zeros((n, out_h, out_w, out_channels), object)
    per_group = out_channels // groups
    for b, i, j, o in itertools.product(range(n), range(out_h), range(out_w), range(out_channels)):
        first = (o // per_group) * group_in
        y[b, i, j, o] = sum(
            int(x[b, i * strides[0] + r * dilation[0], j * strides[1] + s * dilation[1], first + c])
            * int(weights[r, s, c, o])
            for r, s, c in itertools.product(range(kernel_h), range(kernel_w), range(group_in))
        )
    return y


@st.composite
def convolutions(draw: st.DrawFn):
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    strides = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    extent = [draw(st.integers((k - 1) * d + 1, 7)) for k, d in zip(kernel, dilation, strict=True)]
    groups, group_in, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    largest = draw(st.sampled_from([1, 255, 2**12, 2**15]))  # float32, float64 and int64 carry the sums
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = numbers.integers(-largest, largest + 1, (draw(st.integers(1, 2)), *extent, groups * group_in), np.int32)
    weights = numbers.integers(-largest, largest + 1, (*kernel, group_in, groups * per_group), np.int32)
    return x, weights, strides, dilation, groups


@settings(max_examples=150, deadline=None)
@given(convolutions(), st.sampled_from([1, numpy_core.BLOCK]))
def test_conv2d(case, block: int) -> None:
    """Also in bands of a row each, as where no more fits into the cache."""
    x, weights, strides, dilation, groups = case
    expected = naive_conv2d(x, weights, strides, dilation, groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numpy_core, "BLOCK", block)
        y = CORE.conv2d(x, weights, strides, dilation, groups, "int64")
    assert y.dtype == np.int64
    assert y.tolist() == expected.tolist()


@pytest.mark.parametrize("dtypes", [("uint8", "int8"), ("int8", "int8"), ("uint8", "uint8"), ("int32", "int32")])
def test_conv2d_of_every_input_type(dtypes) -> None:
    numbers = np.random.default_rng(1)
    x = numbers.integers(0, 128, (1, 6, 5, 4)).astype(dtypes[0])
    weights = numbers.integers(0, 128, (3, 2, 2, 6)).astype(dtypes[1])
    assert CORE.conv2d(x, weights, (2, 1), groups=2).tolist() == naive_conv2d(x, weights, (2, 1), (1, 1), 2).tolist()


def test_rows_are_worked_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_core, "BLOCK", 10)
    x, factor = np.arange(42).reshape(2, 7, 3), np.array([1, 10, 100])
    sizes = []

    def function(one, other):
        sizes.append(len(one))
        return (one * factor - other).astype(np.int16)

    found = core.by_rows(NumpyCore(), function, x, x[::-1])
    np.testing.assert_array_equal(found, x * factor - x[::-1])
    assert (found.dtype, sizes) == (np.int16, [3, 3, 3, 3, 2])


def test_conv2d_of_extreme_codes_over_many_channels_is_exact() -> None:
    """255 * 255 * 2304 terms exceed what float32 counts: the carrier must be wider."""
    x = np.full((1, 3, 3, 256), 255, np.uint8)
    weights = np.full((3, 3, 256, 1), 255, np.uint8)
    weights[0, 0, 0, 0] = 254
    assert int(CORE.conv2d(x, weights, (1, 1))[0, 0, 0, 0]) == 255 * 255 * 2304 - 255


@given(st.integers(1, 4), st.integers(1, 300), st.integers(1, 4), st.integers(0, 2**32))
def test_matmul(rows: int, depth: int, columns: int, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    a = numbers.integers(-255, 256, (rows, depth), np.int32)
    b = numbers.integers(-255, 256, (depth, columns), np.int32)
    product = CORE.matmul(a, b, "int32")
    assert product.dtype == np.int32
    assert product.tolist() == [[sum(int(u) * int(v) for u, v in zip(r, c, strict=True)) for c in b.T] for r in a]


def test_batched_matmul() -> None:
    a = np.arange(12, dtype=np.int8).reshape(2, 2, 3)
    b = np.arange(24, dtype=np.int8).reshape(2, 3, 4)
    assert CORE.matmul(a, b, "int32").tolist() == [
        (x.astype(int) @ y.astype(int)).tolist() for x, y in zip(a, b, strict=True)
    ]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2**32))
def test_max_pool2d(kernel_h: int, kernel_w: int, stride: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-128, 128, (1, 5, 6, 2), np.int8)
    y = CORE.max_pool2d(x, (kernel_h, kernel_w), (stride, stride))
    for i, j in itertools.product(range(y.shape[1]), range(y.shape[2])):
        patch = x[:, i * stride : i * stride + kernel_h, j * stride : j * stride + kernel_w]
        assert y[:, i, j].tolist() == patch.max(axis=(1, 2)).tolist()
    assert y.shape == (1, (5 - kernel_h) // stride + 1, (6 - kernel_w) // stride + 1, 2)


def test_strided_slice() -> None:
    x = np.arange(24).reshape(4, 6)
    assert CORE.strided_slice(x, (0,), (1,), (4,), (2,)).tolist() == x[1:4:2].tolist()
    assert CORE.strided_slice(x, (1, 0), (5, 3), (-1, 1), (-2, -1)).tolist() == x[3:1:-1, ::-2].tolist()


def test_take_replaces_its_axis() -> None:
    table = np.arange(12).reshape(3, 4)
    indices = np.array([[2, 0]], np.int32)
    assert CORE.take(table, indices).tolist() == [[table[2].tolist(), table[0].tolist()]]
    assert CORE.take(table, indices, 1).shape == (3, 1, 2)


def test_integers_wrap_and_shifts_are_arithmetic() -> None:
    most = np.array([2**31 - 1], np.int32)
    assert CORE.add(most, np.array([1], np.int32)).tolist() == [-(2**31)]
    assert CORE.astype(np.array([2**31], np.int64), "int32").tolist() == [-(2**31)]
    assert CORE.right_shift(np.array([-5]), np.array([1])).tolist() == [-3]
    assert CORE.floor_divide(np.array([-5]), np.array([2])).tolist() == [-3]
    assert CORE.sum(np.full(2, 100, np.int8), (0,)).tolist() == -56


def test_casts_of_floats_truncate() -> None:
    assert CORE.astype(np.array([-1.9, 1.9]), "int32").tolist() == [-1, 1]


def test_elementary_functions_are_correctly_rounded_float32() -> None:
    x = np.linspace(-8, 8, 1001, dtype=np.float32)
    for function, exact in ((CORE.exp, np.exp), (CORE.tanh, np.tanh)):
        y = function(x)
        assert y.dtype == np.float32
        assert y.tolist() == exact(x.astype(np.float64)).astype(np.float32).tolist()


def test_argmax_takes_the_first_of_equals() -> None:
    y = CORE.argmax(np.array([[1, 3, 3], [2, 2, 1]]), 1)
    assert y.dtype == np.int64
    assert y.tolist() == [1, 0]
