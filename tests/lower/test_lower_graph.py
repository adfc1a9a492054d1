"""Graphs lowered by core operations and by kernels compute what the reference computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Net

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Values
from tflite2q.dialect.ops.conv import Conv2D, DepthwiseConv2D
from tflite2q.dialect.ops.eltwise import Add, Requantize
from tflite2q.dialect.ops.shape import Pad, Reshape
from tflite2q.dialect.ops.softmax import Softmax
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.execution import reference, runtime
from tflite2q.flatbuffer import reader
from tflite2q.kernels.contracts import Conv2DContract
from tflite2q.lower.build import build
from tflite2q.lower.contracts import contract_of, lookup_table
from tflite2q.lower.graph import CORE_OPERATIONS, NOTHING, lower
from tflite2q.lower.target import resolve, tvm_target

QUICK = ("ad01_int8", "kws_ref_model")
SLOW = (
    "vww_96_int8",
    "pretrainedResnet_quant",
    "mobilenet_v1_0.25_128_quant",
    "mobilenet_v1_1.0_224_quant_embedding_extractor",
    "mobilenet_v2_1.0_224_quant",
    "tf2_mobilenet_v2_1.0_224_ptq",
    "mobilenet_edgetpu_0.75_224_post_training_quant",
    "deeplabv3_mnv2_dm05_pascal_quant",
)
SLOW_BY_CORE = ("kws_ref_model", "pretrainedResnet_quant", "mobilenet_v1_0.25_128_quant", "mobilenet_v2_1.0_224_quant")
MODELS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def target(name: str = "native") -> Any:
    return tvm_target(resolve(name))


def random_inputs(graph: Graph, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    kinds = [graph[name].type for name in graph.inputs]
    return [generator.integers(*kind.range, kind.shape, kind.dtype, endpoint=True) for kind in kinds]


def assert_exact(graph: Graph, use_kernels: bool, seeds: int = 2, **options: Any) -> None:
    executable = runtime.compile(graph, use_kernels=use_kernels, **options)
    for seed in range(seeds):
        inputs = random_inputs(graph, seed)
        expected = reference.run(graph, *inputs)
        for got, want in zip(executable.run(*inputs), expected, strict=True):
            assert (got.dtype, got.shape) == (want.dtype, want.shape)
            np.testing.assert_array_equal(got, want)


def value(name: str, shape: tuple[int, ...], dtype: str = "int8", scale: float = 0.1, zero_point: int = 3) -> Value:
    return Value(name, TensorType(shape, dtype, Quantization.per_tensor(scale, zero_point)))


def constant(name: str, array: np.ndarray[Any, Any], quantization: Quantization) -> Value:
    return Value(name, TensorType(array.shape, str(array.dtype), quantization), Constant(array))


@pytest.mark.parametrize("use_kernels", [pytest.param(False, marks=pytest.mark.slow), True], ids=["core", "kernels"])
def test_own_model(digits: Path, use_kernels: bool) -> None:
    assert_exact(reader.load(digits), use_kernels, seeds=5)


@pytest.mark.parametrize("name", MODELS)
def test_shared_model_by_kernels(shared: Path, name: str) -> None:
    assert_exact(reader.load(shared / "models" / f"{name}.tflite"), True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ad01_int8", *SLOW_BY_CORE])
def test_shared_model_by_core_operations(shared: Path, name: str) -> None:
    assert_exact(reader.load(shared / "models" / f"{name}.tflite"), False)


@pytest.mark.parametrize("exec_mode", ["compiled", "bytecode"])
def test_execution_modes(digits: Path, exec_mode: str) -> None:
    assert_exact(reader.load(digits), True, exec_mode=exec_mode)


def test_two_threads(digits: Path) -> None:
    assert_exact(reader.load(digits), True, threads=2)


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v3"])
def test_lesser_processors_run_here(digits: Path, name: str) -> None:
    graph = reader.load(digits)
    executable = runtime.compile(graph, target=name)
    try:
        executable.require_runnable()
    except Exception as error:
        pytest.skip(str(error))
    assert_exact(graph, True, target=name)


def test_kernels_of_equal_shape_are_built_once(shared: Path) -> None:
    # In int8, for the original's weights of nine bits decide about kernels as well.
    graph = tflite2q.convert(shared / "models" / "mobilenet_v1_0.25_128_quant.tflite", "int8").graph
    lowered = lower(graph, target())
    calls = [choice.kernel for choice in lowered.choices if choice.kernel != CORE_OPERATIONS]
    kernels = [
        v for v in lowered.module.functions if v.name_hint.rsplit("__", 1)[0] in {k.rsplit("__", 1)[0] for k in calls}
    ]
    # Five blocks of 14x14 (here 8x8) pixels and 128 channels have equal shapes.
    assert len(kernels) <= len(calls) - 8


def test_every_op_has_a_choice(digits: Path) -> None:
    graph = reader.load(digits)
    choices = lower(graph, target()).choices
    assert [choice.op for choice in choices] == [op.name for op in graph.ops]
    assert any("__" in choice.kernel for choice in choices)
    assert sum(choice.macs for choice in choices) == graph.macs()
    assert all(refusal.reason.strip() for choice in choices for _, refusal in choice.refusals)


def test_calls_belong_to_ops(digits: Path) -> None:
    graph = reader.load(digits)
    everything = set(range(len(graph.ops)))
    views = {index for index, op in enumerate(graph.ops) if isinstance(op, Reshape)}
    indices = [call.op for call in build(lower(graph, target()).module, target()).calls]
    assert indices == sorted(indices)
    assert set(indices) == everything - views, "a reshape is a view, anything else is computed"


@pytest.mark.slow
def test_fused_calls_belong_to_ops(digits: Path) -> None:
    graph = reader.load(digits)
    fused = [call.op for call in build(lower(graph, target(), False).module, target()).calls]
    assert fused == sorted(fused)
    assert set(fused) <= set(range(len(graph.ops))), "fusion may hide an op in the next one"


def test_outputs_that_nothing_computes() -> None:
    """An input, a constant and a view of an input may be outputs."""
    fixed = constant("k", np.arange(6, dtype=np.int8), Quantization.per_tensor(0.5, 0))
    values = (value("x", (2, 3)), value("y", (6,)), fixed)
    graph = Graph(("x",), ("x", "y", "k", "y"), values, (Reshape(inputs=("x",), outputs=("y",)),))
    for use_kernels in (False, True):
        assert_exact(graph, use_kernels)


def convolution(
    cls: type[Any], in_c: int, out_c: int, x_dtype: str, w_dtype: str, per_channel: bool, **options: Any
) -> Graph:
    """A single convolution of 3x2 taps with random weights."""
    generator = np.random.default_rng(in_c * 100 + out_c)
    shape = (out_c, 3, 2, in_c) if cls is Conv2D else (1, 3, 2, out_c)
    info = np.iinfo(w_dtype)
    weights = generator.integers(info.min + (w_dtype == "int8"), info.max, shape, w_dtype, endpoint=True)
    bias = generator.integers(-5000, 5000, (out_c,), "int32")
    q = Quantization.per_tensor(0.02, 0 if w_dtype == "int8" else 131)
    if per_channel:
        q = Quantization.per_channel(generator.uniform(0.005, 0.03, out_c), 0 if cls is Conv2D else 3)
    x = value("x", (2, 9, 8, in_c), x_dtype, 0.05, 7)
    op = cls(inputs=("x", "w", "b"), outputs=("y",), **options)
    w, b = constant("w", weights, q), constant("b", bias, Quantization.per_tensor(0.001, 0))
    y = value("y", op.infer(Values(op, (x, w, b)), [])[0], x_dtype, 0.9, 11)
    return Graph(("x",), ("y",), (x, w, b, y), (op,))


CONVOLUTIONS = [
    (Conv2D, 3, 5, {"stride_h": 2, "stride_w": 1}),
    (Conv2D, 16, 20, {"padding": "VALID", "dilation_h": 2, "activation": "RELU"}),
    (DepthwiseConv2D, 1, 7, {"depth_multiplier": 7}),
    (DepthwiseConv2D, 12, 12, {"stride_h": 2, "stride_w": 2, "activation": "RELU6"}),
    (DepthwiseConv2D, 5, 10, {"padding": "VALID", "dilation_w": 3}),
]


@pytest.mark.parametrize("use_kernels", [False, True], ids=["core", "kernels"])
@pytest.mark.parametrize(("x_dtype", "w_dtype", "per_channel"), [("uint8", "uint8", False), ("int8", "int8", True)])
@pytest.mark.parametrize(("cls", "in_c", "out_c", "options"), CONVOLUTIONS)
def test_convolutions(
    cls: type[Any], in_c: int, out_c: int, options: dict[str, Any], x_dtype: str, w_dtype: str, per_channel: bool,
    use_kernels: bool,
) -> None:  # fmt: skip
    assert_exact(convolution(cls, in_c, out_c, x_dtype, w_dtype, per_channel, **options), use_kernels)


def test_depthwise_of_one_channel_is_a_convolution() -> None:
    graph = convolution(DepthwiseConv2D, 1, 7, "int8", "int8", True)
    contract = contract_of(graph.ops[0], graph.ins(graph.ops[0]), graph.outs(graph.ops[0]))
    assert isinstance(contract, Conv2DContract)
    assert contract.macs == graph.macs()


def test_contracts_leave_other_types_to_core_operations() -> None:
    graph = convolution(Conv2D, 3, 5, "int8", "int8", True)
    op = graph.ops[0]
    assert contract_of(op, graph.ins(op), graph.outs(op)) is not None
    real = [replace(v, type=v.type.with_(dtype="float32")) if v and v.name == "x" else v for v in graph.ins(op)]
    assert contract_of(op, Values(op, real), graph.outs(op)) is None
    variable = [v.with_(constant=None) if v and v.name == "w" else v for v in graph.ins(op)]
    assert contract_of(op, Values(op, variable), graph.outs(op)) is None


@pytest.mark.parametrize(("source", "result"), [("uint8", "int8"), ("int8", "uint8"), ("int8", "int8")])
def test_unary_ops_become_tables(source: str, result: str) -> None:
    op = Requantize(inputs=("x",), outputs=("y",))
    x, y = value("x", (4, 5), source, 0.1, 3), value("y", (4, 5), result, 0.07, -3 if result == "int8" else 9)
    table = lookup_table(op, x, y)
    codes = np.arange(x.type.range[0], x.type.range[1] + 1)
    graph = Graph(
        ("x",), ("y",), (x.with_(type=x.type.with_(shape=(256,))), y.with_(type=y.type.with_(shape=(256,)))), (op,)
    )
    np.testing.assert_array_equal(table, reference.run(graph, codes.astype(source))[0])
    assert_exact(graph, True)


@pytest.mark.parametrize("use_kernels", [False, True], ids=["core", "kernels"])
@pytest.mark.parametrize("shapes", [((2, 3, 5), (2, 3, 5)), ((2, 3, 5), (5,)), ((2, 3, 5), (3, 1)), ((4, 1), (1, 7))])
def test_broadcast_addition(shapes: tuple[tuple[int, ...], tuple[int, ...]], use_kernels: bool) -> None:
    a, b = value("a", shapes[0], "uint8", 0.1, 120), value("b", shapes[1], "uint8", 0.13, 7)
    y = value("y", np.broadcast_shapes(*shapes), "uint8", 0.2, 99)
    assert_exact(Graph(("a", "b"), ("y",), (a, b, y), (Add(inputs=("a", "b"), outputs=("y",)),)), use_kernels)


def test_constant_operand_of_an_addition() -> None:
    a, y = value("a", (3, 16), "int8", 0.1, 1), value("y", (3, 16), "int8", 0.2, 5)
    fixed = constant("k", np.arange(16, dtype=np.int8), Quantization.per_tensor(0.05, -4))
    graph = Graph(("a",), ("y",), (a, fixed, y), (Add(inputs=("a", "k"), outputs=("y",)),))
    assert_exact(graph, True)
    assert_exact(graph, False)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shape", [(1, 1001), (3, 7), (2, 4, 64), (5, 2), (1, 70)])
def test_softmax(shape: tuple[int, ...], dtype: str) -> None:
    lowest = 0 if dtype == "uint8" else -128
    x, y = value("x", shape, dtype, 0.07, lowest + 31), value("y", shape, dtype, 1 / 256, lowest)
    assert_exact(Graph(("x",), ("y",), (x, y), (Softmax(inputs=("x",), outputs=("y",), beta=1.0),)), True, seeds=4)


@pytest.mark.parametrize("classes", [1, 3, 600])
def test_softmax_of_equal_logits(classes: int) -> None:
    """Also more of them than the reference kernel's sum can hold."""
    x, y = value("x", (2, classes), "int8", 0.1, 0), value("y", (2, classes), "int8", 1 / 256, -128)
    graph = Graph(("x",), ("y",), (x, y), (Softmax(inputs=("x",), outputs=("y",)),))
    codes = np.full((2, classes), 5, np.int8)
    np.testing.assert_array_equal(runtime.compile(graph).run(codes)[0], reference.run(graph, codes)[0])


class TestPads:
    """PAD before convolutions is left to them, where they pad with the same code."""

    def graph(self, dtype: str, kind: str = "pad", fill: int | None = None, outputs: tuple[str, ...] = ()) -> Graph:
        net = Net(dtype=dtype, seed=3)
        x = net.conv(net.input("x", (1, 9, 7, 3), (0.02, 5)), "c", 16, (0.03, 7), size=3)
        inputs = (x, net.constant("amounts", np.array([[0, 0], [1, 0], [2, 1], [0, 0]], np.int32)))
        if fill is not None:
            inputs = (*inputs, net.constant("fill", np.array([fill], dtype), Quantization.per_tensor(0.03, 7)))
        net.same(x, "padded", (1, 10, 10, 16))
        net.op(Pad(inputs=inputs, outputs=("padded",), kind=kind))
        first = self.valid(net, "conv", Conv2D, (8, 3, 3, 16), (1, 8, 8, 8))
        second = self.valid(net, "depthwise", DepthwiseConv2D, (1, 3, 3, 16), (1, 8, 8, 16))
        return net.graph(first, second, *outputs)

    def valid(self, net: Net, name: str, kind: Any, weights: tuple[int, ...], shape: tuple[int, ...]) -> str:
        w = net.weights(f"{name}/w", weights)
        net.value(name, shape, (0.4, 9))
        inputs = ("padded", w, net.bias(f"{name}/b", shape[-1], "padded", w))
        return net.op(kind(inputs=inputs, outputs=(name,), padding="VALID"))

    def choice(self, graph: Graph) -> str:
        return next(c.kernel for c in lower(graph, target()).choices if c.mnemonic == "q.pad")

    @pytest.mark.parametrize("dtype", ["int8", "uint8"])
    def test_left_to_convolutions(self, dtype: str) -> None:
        graph = self.graph(dtype)
        assert self.choice(graph) == NOTHING
        assert_exact(graph, True)

    def test_given_code(self) -> None:
        graph = self.graph("int8", "padv2", 7)
        assert self.choice(graph) == NOTHING
        assert_exact(graph, True)

    @pytest.mark.parametrize("facts", [{"kind": "padv2", "fill": 8}, {"outputs": ("padded",)}])
    def test_done_where_it_is_seen(self, facts: dict[str, Any]) -> None:
        graph = self.graph("int8", **facts)
        assert self.choice(graph) == CORE_OPERATIONS
        assert_exact(graph, True)
