"""A small network that keeps state in variables, as wake-word models do: ring buffers, a running maximum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from networks import Net, Parameters

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.binary import Extremum
from tflite2q.dialect.ops.conv import Conv2D, DepthwiseConv2D
from tflite2q.dialect.ops.shape import Concat
from tflite2q.dialect.ops.slicing import StridedSlice
from tflite2q.dialect.ops.state import AssignVariable, ReadVariable
from tflite2q.dialect.types import Constant, Quantization, Resource, TensorType, Value

CHANNELS = 8
INPUT = (0.1, -20)
RELU = (0.05, -128)


class StreamNet(Net):
    """`Net` with variables."""

    def variable(self, name: str, shape: tuple[int, ...], q: Parameters, spread: int = 0) -> str:
        """A variable that starts at real 0, or at most `spread` codes from it."""
        codes = self.generator.integers(-spread, spread + 1, shape) + q[1]
        limits = np.iinfo(self.dtype)
        initial = Constant(np.clip(codes, limits.min, limits.max).astype(self.dtype))
        kind = TensorType(shape, self.dtype, Quantization.per_tensor(*q))
        self.values[name] = Value(name, kind, variable=True, resource=Resource("", f"{name}/shared", initial))
        return name

    def read(self, variable: str, name: str) -> str:
        self.same(variable, name)
        return self.op(ReadVariable(inputs=(variable,), outputs=(name,)))

    def assign(self, variable: str, x: str) -> None:
        self.op(AssignVariable(inputs=(variable, x), outputs=()))

    def window(self, x: str, name: str, steps: int, spread: int = 0) -> str:
        """The last `steps` of x, [1, 1, 1, c], along axis 1: what a ring buffer remembers, and x behind it."""
        kind = self.values[x].type
        c = kind.shape[3]
        variable = self.variable(f"{name}/ring", (1, steps - 1, 1, c), (kind.scale, kind.zero_point), spread)
        self.same(x, name, (1, steps, 1, c))
        self.op(Concat(inputs=(self.read(variable, f"{name}/before"), x), outputs=(name,), axis=1))
        begin, end, strides = (
            self.constant(f"{name}/{what}", np.array(numbers, np.int32))
            for what, numbers in (("begin", [0, 1, 0, 0]), ("end", [1, steps, 1, c]), ("strides", [1, 1, 1, 1]))
        )
        self.same(x, f"{name}/kept", (1, steps - 1, 1, c))
        self.op(StridedSlice(inputs=(name, begin, end, strides), outputs=(f"{name}/kept",)))
        self.assign(variable, f"{name}/kept")
        return name

    def maximum(self, a: str, b: str, name: str) -> str:
        self.same(a, name)
        return self.op(Extremum(inputs=(a, b), outputs=(name,), smallest=False))


def streaming(dtype: str = "int8", seed: int = 0) -> Graph:
    """Two convolutions over windows of time; a maximum that is assigned and read again in the same step."""
    shift = 128 if dtype == "uint8" else 0

    def q(parameters: Parameters) -> Parameters:
        return parameters[0], parameters[1] + shift

    net = StreamNet(dtype, seed)
    x = net.input("x", (1, 1, 1, CHANNELS), q(INPUT))
    wide = net.window(x, "first", 3, spread=30)
    weights = net.weights("conv/w", (16, 3, 1, CHANNELS), 60)
    bias = net.bias("conv/b", 16, x, weights)
    net.value("conv", (1, 1, 1, 16), q(RELU))
    options = {"padding": "VALID", "activation": "RELU"}
    net.op(Conv2D(inputs=(wide, weights, bias), outputs=("conv",), **options))
    deep = net.window("conv", "second", 6)
    weights = net.weights("deep/w", (1, 6, 1, 16), 60)
    bias = net.bias("deep/b", 16, "conv", weights)
    net.value("deep", (1, 1, 1, 16), q((0.5, 3)))
    net.op(DepthwiseConv2D(inputs=(deep, weights, bias), outputs=("deep",), padding="VALID"))
    peak = net.variable("peak", (1, 1, 1, 16), q((0.5, 3)), 20)
    before = net.read(peak, "peak/before")
    net.assign(peak, net.maximum(before, "deep", "peak/now"))
    after = net.read(peak, "peak/after")  # what was assigned just now
    joined = net.add("deep", after, "sum", q((0.7, -5)))
    joined = net.add(joined, before, "both", q((0.9, -9)))
    logits = net.dense(net.flatten(joined, "flat"), "logits", 6, q((3.0, 4)))
    return net.graph("logits", net.softmax(logits, "scores"))


def walk(graph: Graph, steps: int = 120, seed: int = 0) -> npt.NDArray[np.generic]:
    """Inputs of a stream, time first: codes that wander, and now and then jump."""
    random = np.random.default_rng(seed)
    kind = graph[graph.inputs[0]].type
    low, high = kind.range
    drift = np.cumsum(random.normal(0, 12, (steps, *kind.shape)), axis=0)
    jumps = random.integers(low, high + 1, (steps, *kind.shape)) * (random.random((steps, *(1,) * 4)) < 0.1)
    return (low + (drift + jumps - low) % (high - low + 1)).astype(kind.dtype)
