"""Known answers: values worked out by hand or published for the reference kernels, and properties that must hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from draw import Draw

from tflite2q.arithmetic import tables
from tflite2q.arithmetic.fixedpoint import inverse_square_root
from tflite2q.arithmetic.gemmlowp16 import logistic_table, tanh_table
from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.dialect import ops
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Quantization, TensorType
from tflite2q.errors import InvalidGraph, UnsupportedError
from tflite2q.execution import reference

Codes = list[int]


def kind(shape: tuple[int, ...], dtype: str, scale: float, zero_point: int) -> TensorType:
    return TensorType(shape, dtype, Quantization.per_tensor(scale, zero_point))


def run(cls: type[Op], inputs: list[tuple[TensorType, Any]], y: TensorType, **attributes: Any) -> np.ndarray:
    draw = Draw(np.random.default_rng(0))
    arrays = [np.array(data, t.dtype).reshape(t.shape) for t, data in inputs]
    names = [draw.input(t, array) for (t, _), array in zip(inputs, arrays, strict=True)]
    return reference.run(draw.case(cls, names, y, **attributes).graph, *arrays)[0]


def test_add() -> None:
    a, b = [10, -20, 127, 0], [1, 2, -128, 100]
    inputs = [(kind((4,), "int8", 0.1, 3), a), (kind((4,), "int8", 0.05, -7), b)]
    assert run(ops.Add, inputs, kind((), "int8", 0.2, 5)).tolist() == [11, -4, 37, 30]


def test_requantize_rounds_twice() -> None:
    x = list(range(-4, 5))
    got = run(ops.Requantize, [(kind((9,), "int8", 0.4, 0), x)], kind((), "int8", 1.0, 0))
    assert got.tolist() == [-2, -1, -1, -1, 0, 1, 1, 1, 2]


def test_hard_swish() -> None:
    x = [-128, -60, -40, -10, 0, 10, 40, 60, 127]
    got = run(ops.Lookup, [(kind((9,), "int8", 0.05, 0), x)], kind((), "int8", 0.04, -60), function="HARD_SWISH")
    assert got.tolist() == [-60, -60, -68, -65, -60, -53, -18, 15, 99]


def test_softmax() -> None:
    x = [200, 190, 180, 150, 100, 0]
    got = run(ops.Softmax, [(kind((1, 6), "uint8", 0.1, 0), x)], kind((), "uint8", 1 / 256, 0))
    assert got.tolist() == [[170, 62, 23, 1, 0, 0]]


@pytest.mark.parametrize(
    ("v", "m", "shift"),
    [(1, 2**31 - 1, 0), (2, 1518498372, 0), (100, 214748363, 0), (65025, 269488147, 5), (10**6, 274877901, 7)],
)
def test_inverse_square_roots(v: int, m: int, shift: int) -> None:
    got = inverse_square_root(NumpyCore(), np.array([v], np.int64))
    assert [int(part[0]) for part in got] == [m, shift]


def test_division_by_a_negative_code_and_of_zero() -> None:
    a, b = kind((3,), "int8", 0.5, 0), kind((3,), "int8", 0.25, 10)
    got = run(ops.Div, [(a, [100, -100, 64]), (b, [-10, 30, 42])], kind((), "int8", 0.5, -3))
    # 50 / -5 = -10 -> -20 - 3; -50 / 5 = -10 -> -23; 32 / 8 = 4 -> 8 - 3
    assert got.tolist() == [-23, -23, 5]


def test_maximum_needs_no_scale_and_prelu_multiplies_negative_numbers_only() -> None:
    t = kind((4,), "int8", 0.1, 1)
    assert run(ops.Extremum, [(t, [1, -5, 7, 0]), (t, [0, 3, 7, -9])], t.with_(shape=())).tolist() == [1, 3, 7, 0]
    alpha = kind((4,), "int8", 0.5, 0)
    got = run(ops.Prelu, [(t, [11, -9, 1, -19]), (alpha, [2, 2, 2, -2])], t.with_(shape=()))
    assert got.tolist() == [11, -9, 1, 21]  # alpha is 1 or -1


def test_argmax_takes_the_first_of_equals() -> None:
    draw = Draw(np.random.default_rng(0))
    x = np.array([[3, 9, 9], [5, 5, 1]], np.uint8)
    names = (draw.input(kind((2, 3), "uint8", 1.0, 0), x), draw.constant(np.array(-1, np.int32)))
    case = draw.case(ops.ArgExtremum, names, TensorType((), "int64"))
    assert reference.run(case.graph, x)[0].tolist() == [1, 0]
    case = draw.case(ops.ArgExtremum, names, TensorType((), "int64"), smallest=True)
    assert reference.run(case.graph, x)[0].tolist() == [0, 2]


def test_top_k_of_equals_keeps_their_order() -> None:
    draw = Draw(np.random.default_rng(0))
    x = np.array([[3, 9, 9, 7], [5, 5, 5, 1]], np.uint8)
    t = kind((2, 4), "uint8", 1.0, 0)
    names = (draw.input(t, x), draw.constant(np.array(3, np.int32)))
    values, indices = reference.run(draw.case(ops.TopK, names, t.with_(shape=()), TensorType((), "int32")).graph, x)
    assert values.tolist() == [[9, 9, 7], [5, 5, 5]]
    assert indices.tolist() == [[1, 2, 3], [0, 1, 2]]


def test_transposed_convolution_is_the_adjoint_of_convolution() -> None:
    """<conv(a), b> = <a, transpose_conv(b)> for the same weights, in plain float32 numbers that are whole."""
    rng = np.random.default_rng(3)
    a = rng.integers(-4, 5, (1, 7, 6, 2)).astype(np.float32)
    weights = rng.integers(-3, 4, (3, 3, 2, 2)).astype(np.float32)  # OHWI of the convolution
    draw = Draw(rng)
    attributes = {"padding": "SAME", "stride_h": 2, "stride_w": 3}
    w = draw.constant(weights)
    names = (draw.input(TensorType(a.shape, "float32"), a), w)
    forward = draw.case(ops.Conv2D, names, TensorType((), "float32"), **attributes)
    (y,) = reference.run(forward.graph, a)
    b = rng.integers(-4, 5, y.shape).astype(np.float32)
    draw = Draw(rng)
    flipped = draw.constant(weights.transpose(3, 1, 2, 0))
    names = (draw.ints(*a.shape), flipped, draw.input(TensorType(b.shape, "float32"), b))
    back = draw.case(ops.TransposeConv, names, TensorType((), "float32"), **attributes)
    (adjoint,) = reference.run(back.graph, b)
    assert float((y * b).sum()) == float((a * adjoint).sum())


@pytest.mark.parametrize("function", ["LOGISTIC", "TANH", "GELU", "EXP", "HARD_SWISH", "RELU6", "ELU"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_tables_approximate_their_functions(function: str, dtype: str) -> None:
    exact = {
        "LOGISTIC": lambda v: 1 / (1 + np.exp(-v)),
        "TANH": np.tanh,
        "GELU": lambda v: v / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))),
        "EXP": np.exp,
        "HARD_SWISH": lambda v: v * np.clip(v + 3, 0, 6) / 6,
        "RELU6": lambda v: np.clip(v, 0, 6),
        "ELU": lambda v: np.where(v < 0, np.expm1(v), v),
    }[function]
    low = np.iinfo(dtype).min
    x, y = tables.Codes(1 / 32, low + 128, dtype), tables.Codes(1 / 16, low + 100, dtype)
    got = tables.tabulate(function, x, y, tables.Options(approximate=True)).astype(np.int64)
    ideal = np.clip(exact((x.every() - x.zero_point) * x.scale) / y.scale + y.zero_point, low, low + 255)
    assert np.abs(got - ideal).max() <= 1.01


def test_16_bit_tables_approximate_their_functions() -> None:
    x = np.arange(-32768, 32768) / 4096
    assert np.abs(logistic_table(3) / 32768 - 1 / (1 + np.exp(-x))).max() < 1e-3
    assert np.abs(tanh_table(3) / 32768 - np.tanh(x)).max() < 1e-3
    codes, unit = tables.Codes(1 / 4096, 0, "int16"), tables.Codes(1 / 32768, 0, "int16")
    for function, exact in (("LOGISTIC", 1 / (1 + np.exp(-x))), ("TANH", np.tanh(x))):
        assert np.abs(tables.tabulate(function, codes, unit, tables.Options()) / 32768 - exact).max() < 2e-4


def test_detection_suppresses_overlaps_and_orders_by_score() -> None:
    """Anchors are the boxes themselves (no offsets): 0 and 1 overlap, 2 stands apart, 3 is below the threshold."""
    draw = Draw(np.random.default_rng(0))
    centres = [[0.5, 0.5], [0.5, 0.52], [0.1, 0.1], [0.8, 0.8]]
    sizes = [[0.4, 0.4], [0.4, 0.4], [0.2, 0.2], [0.1, 0.1]]
    anchors = np.concatenate([centres, sizes], axis=1).astype(np.float32)
    scores = np.array([[[0, 0.6, 0.1], [0, 0.2, 0.7], [0, 0.1, 0.65], [0, 0.05, 0.02]]], np.float32)
    boxes = np.zeros((1, 4, 4), np.float32)
    names = [draw.input(TensorType(a.shape, "float32"), a) for a in (boxes, scores)]
    case = draw.case(
        ops.DetectionPostprocess,
        (*names, draw.constant(anchors)),
        *[TensorType((), "float32")] * 4,
        max_detections=3,
        num_classes=2,
        score_threshold=0.1,
        iou_threshold=0.5,
    )
    found, classes, best, count = reference.run(case.graph, boxes, scores)
    assert count.tolist() == [2.0]
    assert classes[0].tolist() == [1.0, 1.0, 0.0]
    np.testing.assert_allclose(best[0], [0.7, 0.65, 0.0])
    np.testing.assert_allclose(found[0], [[0.3, 0.32, 0.7, 0.72], [0.0, 0.0, 0.2, 0.2], [0, 0, 0, 0]], atol=1e-6)


def test_float_islands() -> None:
    real = TensorType((4,), "float32")
    x = [-1.5, 0.5, 2.5, 7.0]
    for function, expected in {
        "ROUND": [-2, 0, 2, 7],
        "CEIL": [-1, 1, 3, 7],
        "FLOOR": [-2, 0, 2, 7],
        "RELU6": [0, 0.5, 2.5, 6],
        "SQUARE": [2.25, 0.25, 6.25, 49],
        "ELU": [np.expm1(-1.5), 0.5, 2.5, 7],
    }.items():
        got = run(ops.Lookup, [(real, x)], real.with_(shape=()), function=function)
        np.testing.assert_allclose(got, np.array(expected, np.float32), rtol=1e-6, err_msg=function)
    whole = TensorType((4,), "int32")
    operands = [(whole, [-7, 7, -6, 5]), (whole, [2, -2, 3, 7])]
    assert run(ops.FloorDiv, operands, whole.with_(shape=())).tolist() == [-4, -4, -2, 0]
    assert run(ops.Div, operands, whole.with_(shape=())).tolist() == [-3, -3, -2, 0]


@pytest.mark.parametrize(
    ("cls", "y", "attributes", "why"),
    [
        (ops.Lookup, TensorType((), "float32"), {"function": "TANH"}, "input is int8 but result float32"),
        (ops.Lookup, kind((), "int8", 1, 0), {"function": "FLOOR"}, "takes real numbers"),
        (ops.Softmax, kind((), "uint8", 1, 0), {}, "not"),
        (ops.Requantize, TensorType((), "int8"), {}, "no quantization parameters"),
    ],
)
def test_types_that_do_not_fit_are_refused(cls: type[Op], y: TensorType, attributes: dict[str, Any], why: str) -> None:
    with pytest.raises((InvalidGraph, UnsupportedError), match=why):
        run(cls, [(kind((2,), "int8", 0.5, 0), [1, 2])], y, **attributes)
