"""Which layers threads share, and that layers behind those that they shared need less work for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import tvm
from networks import Net
from test_lower_graph import assert_exact, target

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.shape import Reshape
from tflite2q.kernels import frame, loops
from tflite2q.kernels.contracts import Tensor
from tflite2q.kernels.tir import Buffer, Buffers, T, function, load, store
from tflite2q.kernels.x86.isa import AVX2
from tflite2q.lower.codegen import KERNEL, Compiler
from tflite2q.lower.graph import lower
from tflite2q.lower.machine import use_threads

Q = (0.05, 3)
SIDE = 64  # of images


def shared(graph: Graph) -> dict[str, bool]:
    """By op: whether threads share its work."""
    lowered = lower(graph, target())
    calls: list[str] = []

    def visit(expression: Any) -> None:
        if isinstance(expression, tvm.relax.Call) and isinstance(expression.args[0], tvm.ir.GlobalVar):
            calls.append(expression.args[0].name_hint)

    tvm.relax.analysis.post_order_visit(lowered.module["main"], visit)
    computed = [choice.op for choice in lowered.choices if "__" in choice.kernel]
    assert len(calls) == len(computed)
    return {op: _parallel(lowered.module[name]) for op, name in zip(computed, calls, strict=True)}


def _parallel(function: Any) -> bool:
    return "in T.parallel(" in function.script()


def network(filters: int, reshaped: bool = False) -> Graph:
    """A layer of so many filters, then two of less work than a layer alone is shared for, and one of hardly any."""
    net = Net("int8")
    x = net.conv(net.input("x", (1, SIDE, SIDE, 16), Q), "first", filters, Q, 3)
    if reshaped:
        shape = (1, SIDE // 2, SIDE * 2, filters)
        net.same(x, "view", shape)
        x = net.op(Reshape(inputs=(x,), outputs=("view",), new_shape=shape))
    y = net.conv(x, "little", 40, Q)
    z = net.depthwise(y, "depthwise", Q)
    return net.graph(net.conv(z, "least", 1, Q, stride_h=2, stride_w=2))


@pytest.mark.parametrize("reshaped", [False, True])
def test_layers_behind_shared_ones(reshaped: bool) -> None:
    assert SIDE**2 * 8 * 40 < loops.PARALLEL_WORK and SIDE**2 // 4 * 40 < loops.PARALLEL_WORK_OF_PARTS
    graph = network(8, reshaped)
    assert shared(graph) == {"first": True, "little": True, "depthwise": True, "least": False}
    assert_exact(graph, True, threads=2)


def test_without_a_layer_worth_it_threads_share_none() -> None:
    net = Net("int8")
    x = net.conv(net.input("x", (1, SIDE, SIDE, 8), Q), "little", 40, Q)
    graph = net.graph(net.conv(x, "more", 24, Q))
    assert shared(graph) == {"little": False, "more": False}


@pytest.mark.parametrize("size", [(14, 14), (13, 15), (29, 27)])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_threads_share_the_pixels_of_each_block(size: tuple[int, int], dtype: str) -> None:
    """Weights that leave the first cache pass by each thread once; tiles are seldom a multiple of the threads."""
    net = Net(dtype)
    x = net.conv(
        net.input("x", (1, *size, 192), (0.05, 128 if dtype == "uint8" else 3)),
        "many",
        203,
        (40.0, 128 * (dtype == "uint8")),
    )
    graph = net.graph(x)
    kernels = [function.script() for function in lower(graph, target()).module.functions.values()]
    if _dot_products():
        assert any("parallel_launch_point" in text for text in kernels)
    for threads in (1, 2, 3):
        assert_exact(graph, True, seeds=5, threads=threads)


def _dot_products() -> bool:
    """Whether this machine has a kernel of x86 for convolutions; others share pieces of the pixels."""
    return AVX2.lacks(target()) is None


@pytest.mark.parametrize("size", [16, 4096])
def test_scratch_of_threads_at_once_is_their_own(size: int) -> None:
    """Each of two threads tells where its scratch lies, in the half of the loop that it takes."""

    def body(constant: Buffer, y: Buffer) -> None:
        with loops.threads_at_once():
            scratch = T.decl_buffer((size,), "int32")
            with T.serial(2), T.parallel(4) as i:
                store(scratch, load(constant, 0), i)
                store(y, T.reinterpret("int64", T.address_of(scratch[0])), i)

    with loops.threads(False) as found:
        made = function([], [Tensor((4,), "int32")], Tensor((4,), "int64"), body)
    assert found.attributes == {loops.AT_ONCE}
    attributes = {"global_symbol": "kernel", KERNEL: True, loops.AT_ONCE: True}
    module = Compiler(target()).module({"kernel": made.with_attrs(attributes)})
    y = tvm.runtime.tensor(np.zeros(4, np.int64))
    use_threads(2)
    module["kernel"](tvm.runtime.tensor(np.zeros(4, np.int32)), y)
    first, second, third, last = y.numpy().tolist()
    assert first == second != third == last


@dataclass(frozen=True)
class _Program:
    """Copies an element eight times, which it says is so much `work`."""

    work: int

    output: ClassVar[Tensor] = Tensor((8,), "int8")
    inputs: ClassVar[tuple[Tensor, ...]] = (output,)
    constants: ClassVar[dict[str, Tensor]] = {}

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        with loops.region(8, self.work) as i:
            store(y, load(inputs[0], i), i)


def test_equal_text_is_one_function() -> None:
    """Where it makes no difference who made the inputs, functions have one key; where it does, two."""
    keys = {}
    for work in (loops.PARALLEL_WORK_OF_PARTS - 1, loops.PARALLEL_WORK_OF_PARTS, loops.PARALLEL_WORK):
        program = _Program(work)
        plan = frame.Plan(frame.Name("s8", "nothing"), program, dict)
        built = [plan.build(parts) for parts in (False, True)]
        keys[work] = [each.key for each in built], [each.parts for each in built], [_parallel(b.func) for b in built]
    (a, b), few, text = keys[loops.PARALLEL_WORK_OF_PARTS - 1]
    assert a == b and few == text == [False, False]
    (a, b), some, text = keys[loops.PARALLEL_WORK_OF_PARTS]
    assert a != b and some == text == [False, True]
    (a, b), many, text = keys[loops.PARALLEL_WORK]
    assert a == b and many == text == [True, True]
