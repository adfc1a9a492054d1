"""C for microcontrollers computes what the reference computes, here, under sanitizers, by every family of kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cases
import numpy as np
import pytest
from micro import host
from networks import Net

from tflite2q import convert, load
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.text import parse_graph
from tflite2q.dialect.types import Constant
from tflite2q.errors import DataError, Unchanged, UnsupportedError
from tflite2q.execution import reference
from tflite2q.micro import steps

pytestmark = pytest.mark.skipif(host.compiler() is None, reason="gcc is not installed")

CONSTANT = (
    "CONV_2D-int8", "CONV_2D-uint8", "TRANSPOSE_CONV-int8", "BATCH_MATMUL-int8", "AVERAGE_POOL_2D-uint8", "MEAN-int8",
    "LOGISTIC-int8", "LOGISTIC-uint8", "SOFTMAX-uint8", "RESIZE_BILINEAR-int8", "ARG_MAX-int8", "TANH-int16",
)  # fmt: skip
PARTS = 15  # of all families of cases
PLAIN = "%i : int32[1] %j : int32[1] %y : int32[1]"
DIGITS = Path(__file__).parent.parent.parent / "models" / "digits_uint8.tflite"
SCHEMES = ("int8", "symmetric-int8", "int16x8", "int8-w4", "power-of-two", "asymmetric-uint8")
QUICK = (
    "CONV_2D-int8", "DEPTHWISE_CONV_2D-int8", "FULLY_CONNECTED-int8", "TRANSPOSE_CONV-int8", "CONV_2D-uint8",
    "DEPTHWISE_CONV_2D-uint8", "BATCH_MATMUL-int8",
)  # fmt: skip
SLOW = (
    "CONV_2D-int16", "DEPTHWISE_CONV_2D-int16", "FULLY_CONNECTED-int16", "AVERAGE_POOL_2D-int8",
    "AVERAGE_POOL_2D-int16",
    "MAX_POOL_2D-int8", "MAX_POOL_2D-int16", "MEAN-int8", "MEAN-int16", "ARG_MAX-int8", "ADD-int8", "ADD-int16",
    "SUB-int8", "SUB-int16", "MUL-int8", "MUL-int16", "MAXIMUM-int8", "MINIMUM-int16", "PRELU-int8", "LOGISTIC-int8",
    "TANH-int8", "LEAKY_RELU-int8", "HARD_SWISH-int8", "QUANTIZE-uint8-int8", "QUANTIZE-int16-int8",
    "QUANTIZE-int8-uint8", "QUANTIZE-float32-int8", "DEQUANTIZE-int8", "SOFTMAX-int8", "SOFTMAX-uint8",
    "SOFTMAX-int16", "RESHAPE-int8", "TRANSPOSE-int8", "SLICE-int8", "STRIDED_SLICE-int8", "SPLIT-int8", "PACK-int8",
    "UNPACK-int8", "CONCATENATION-int8", "CONCATENATION-int16", "TILE-int8", "REVERSE_V2-int8",
    "SPACE_TO_DEPTH-int8", "DEPTH_TO_SPACE-int8", "LOGISTIC-int16",
    "TANH-int16", "GELU-int16", "EXP-int16", "RSQRT-int16", "SELECT-int8", "SELECT_V2-int16", "CAST-uint8-int32",
    "CAST-int32-uint8", "BITWISE_XOR-int8", "RIGHT_SHIFT-int16", "FULLY_CONNECTED-uint8",
    "TRANSPOSE_CONV-uint8", "TRANSPOSE_CONV-int16", "BATCH_MATMUL-int16", "DIV-int8",
    "DIV-int16", "DIV-uint8", "DIV-int32", "FLOOR_DIV-int32", "FLOOR_MOD-int32", "RELU-int16", "RELU6-int16",
    "LEAKY_RELU-int16", "ABS-int16", "NEG-int16", "SQRT-int16", "RESIZE_BILINEAR-int8", "RESIZE_BILINEAR-int16",
    "RESIZE_BILINEAR-uint8", "REDUCE_MAX-int8", "REDUCE_MIN-int16", "ARG_MAX-int32", "GATHER-int8", "GATHER_ND-int16",
    "ADD-uint8", "MEAN-uint8", "AVERAGE_POOL_2D-uint8", "MAX_POOL_2D-uint8",
)  # fmt: skip


def check(graph: Graph, inputs: tuple[np.ndarray, ...], family: str, folder: Path) -> None:
    """The C of `graph` gives the reference's bits."""
    for got, want in zip(host.run(graph, inputs, family, folder), reference.run(graph, *inputs), strict=True):
        np.testing.assert_array_equal(got, want)


def compare(name: str, count: int, folder: Path) -> None:
    """Random models of one op, by one family of kernels after the other."""
    compared = 0
    for number, case in enumerate(cases.cases(name, count, seed=5)):
        try:
            check(case.graph, case.inputs, host.FAMILIES[number % 3], folder)
        except UnsupportedError:
            continue
        compared += 1
    assert compared, f"all models of {name} were refused"


@pytest.mark.parametrize("name", QUICK)
def test_products(name: str, tmp_path: Path) -> None:
    compare(name, 3, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_many_products(name: str, tmp_path: Path) -> None:
    compare(name, 60, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_other_ops(name: str, tmp_path: Path) -> None:
    compare(name, 6, tmp_path)


def side_by_side(names: Sequence[str], count: int, family: str) -> tuple[Graph, tuple[np.ndarray, ...]]:
    """One graph of `count` models of each name, those that `family` has kernels for, and inputs for it."""
    parts = [
        case
        for name in names
        for case in cases.cases(name, count, seed=6)
        if not case.graph.states and not steps.refused(case.graph, family)
    ]
    assert parts
    values, ops, inputs, outputs = [], [], [], []
    for number, case in enumerate(parts):
        renamed = {value.name: f"{number}/{value.name}" for value in case.graph.values}
        values += [value.with_(name=renamed[value.name]) for value in case.graph.values]
        for op in case.graph.ops:
            reads = tuple(None if name is None else renamed[name] for name in op.inputs)
            ops.append(op.with_(inputs=reads, outputs=tuple(renamed[name] for name in op.outputs)))
        inputs += [renamed[name] for name in case.graph.inputs]
        outputs += [renamed[name] for name in case.graph.outputs]
    graph = verify(Graph(tuple(inputs), tuple(outputs), tuple(values), tuple(ops)))
    return graph, tuple(array for case in parts for array in case.inputs)


@pytest.mark.parametrize("family", host.FAMILIES)
def test_products_of_every_kind_in_one_program(family: str, tmp_path: Path) -> None:
    """Kernels of a family get along with each other: no two have the same name."""
    check(*side_by_side(QUICK, 4, family), family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_everything_that_is_not_refused(part: int, tmp_path: Path) -> None:
    """Models of every operator: what has no kernel is refused, and everything else is exact."""
    family = host.FAMILIES[part % 3]
    check(*side_by_side(sorted(cases.FAMILIES)[part::PARTS], 3, family), family, tmp_path)


def test_results_that_depend_on_no_operand(tmp_path: Path) -> None:
    """Compilers warn of parameters that a function has for nothing."""
    check(*side_by_side(("ZEROS_LIKE-int32",), 3, "plain"), "plain", tmp_path)


@pytest.mark.parametrize("family", host.FAMILIES)
def test_a_model_of_one_layer_compiles_without_a_warning_with_all_optimization(family: str, tmp_path: Path) -> None:
    """Where a compiler knows all of the only layer, it looks at how far its loops may go."""
    net = Net("int8")
    graph = net.graph(net.dense(net.input("x", (1, 1), (0.02, 3)), "y", 10, (0.1, -4)))
    x = np.array([[7]], np.int8)
    (got,) = host.run(graph, [x], family, tmp_path, ("-O2",))
    np.testing.assert_array_equal(got, reference.run(graph, x)[0])


def test_operands_that_are_constants(tmp_path: Path) -> None:
    """They are in flash, whichever kernel reads them."""
    graph, arrays = side_by_side(CONSTANT, 1, "plain")
    known = dict(zip(graph.inputs, arrays, strict=True))
    values = (v.with_(constant=Constant(known[v.name])) if v.name in known else v for v in graph.values)
    check(verify(graph.with_(inputs=(), values=tuple(values))), (), "plain", tmp_path)


def test_what_rescales_some_of_its_operands_is_refused() -> None:
    """Codes of the others alone are moved."""
    values = "%a : uint8[3] <0.5:3> %b : uint8[3] <0.25:7> %y : uint8[6] <0.5:3>"
    for operands in ("%a, %b", "%b, %a"):
        graph = parse_graph(
            f'graph "g" {{ inputs (%a, %b) outputs (%y) values {{ {values} }} ops {{ %y = q.concat({operands}) }} }}'
        )
        (found,) = steps.refused(verify(graph), "plain")
        assert found.why == "does more than move its uint8 operands"


PARTIAL = {
    "q.gather(%x, %i) version 2": ("int32", (3, 4, -1)),
    "q.div(%i, %j)": ("int32", (1, 0)),
}


@pytest.mark.parametrize("op", PARTIAL)
def test_a_run_without_a_result_says_so(op: str, tmp_path: Path) -> None:
    """An index out of range, a divisor of 0: the program that runs the C ends with an error."""
    dtype, seconds = PARTIAL[op]
    inputs = "%x, %i" if "%x" in op else "%i, %j"
    values = "%x : int8[4] <0.5:0> %i : int32[1] %y : int8[1] <0.5:0>"
    graph = parse_graph(
        f'graph "g" {{\n inputs ({inputs}) outputs (%y)\n values {{\n {values if "%x" in op else PLAIN}\n }}\n'
        f" ops {{\n %y = {op}\n }}\n}}\n"
    )
    verify(graph)
    first = np.arange(4, dtype=np.int8) if "%x" in op else np.array([7], np.int32)
    for second in seconds:
        arrays = (first, np.array([second], dtype))
        try:
            reference.run(graph, *arrays)
        except DataError:
            with pytest.raises(AssertionError):
                host.run(graph, arrays, "plain", tmp_path)
        else:
            check(graph, arrays, "plain", tmp_path)


@pytest.mark.parametrize(("scheme", "family"), [("int8", "dsp"), ("int8-w4", "mve")])
def test_models(scheme: str, family: str, tmp_path: Path) -> None:
    model(scheme, family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", host.FAMILIES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_models_by_all_kernels(scheme: str, family: str, tmp_path: Path) -> None:
    model(scheme, family, tmp_path)


def model(scheme: str, family: str, folder: Path) -> None:
    try:
        graph = convert(load(DIGITS), scheme).graph
    except Unchanged:
        graph = load(DIGITS)
    kind = graph[graph.inputs[0]].type
    codes = np.random.default_rng(3).integers(*kind.range, size=kind.shape, endpoint=True).astype(kind.dtype)
    check(graph, (codes,), family, folder)
