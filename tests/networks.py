"""Small quantized networks built from the dialect's classes, for tests of rewrites."""

from __future__ import annotations

from typing import Any

import numpy as np

from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.conv import Conv2D, DepthwiseConv2D
from tflite2q.dialect.ops.dense import Dense
from tflite2q.dialect.ops.eltwise import Add
from tflite2q.dialect.ops.pool import AveragePool2D, MaxPool2D
from tflite2q.dialect.ops.shape import Concat, Pad, Reshape
from tflite2q.dialect.ops.softmax import Softmax
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value

Parameters = tuple[float, int]  # scale, zero point


class Net:
    """A graph under construction; each method adds a layer and returns the name of its result."""

    def __init__(self, dtype: str = "uint8", seed: int = 0) -> None:
        self.dtype = dtype
        self.generator = np.random.default_rng(seed)
        self.values: dict[str, Value] = {}
        self.ops: list[Op] = []
        self.inputs: list[str] = []

    def graph(self, *outputs: str, **more: Any) -> Graph:
        return verify(
            Graph(tuple(self.inputs), outputs, tuple(self.values.values()), tuple(self.ops), name="small", **more)
        )

    def input(self, name: str, shape: tuple[int, ...], q: Parameters) -> str:
        self.inputs.append(name)
        return self.value(name, shape, q)

    def value(self, name: str, shape: tuple[int, ...], q: Parameters) -> str:
        self.values[name] = Value(name, TensorType(shape, self.dtype, Quantization.per_tensor(*q)))
        return name

    def constant(self, name: str, array: np.ndarray, quantization: Quantization | None = None) -> str:
        kind = TensorType(array.shape, array.dtype.name, quantization)
        self.values[name] = Value(name, kind, Constant(array))
        return name

    def op(self, op: Op) -> str:
        self.ops.append(op)
        return op.name

    def shape(self, name: str) -> tuple[int, ...]:
        return self.values[name].type.shape

    def weights(self, name: str, shape: tuple[int, ...], spread: int = 127, q: Parameters = (0.02, 128)) -> str:
        """Weights whose codes are at most `spread` from the zero point, and reach it."""
        if self.dtype == "int8":
            q = (q[0], 0)
        codes = self.generator.integers(-spread, spread + 1, shape) + q[1]
        codes.reshape(-1)[0] = q[1] + spread if q[1] + spread <= 255 else q[1] - spread
        limits = np.iinfo(self.dtype)
        array = np.clip(codes, limits.min, limits.max).astype(self.dtype)
        return self.constant(name, array, Quantization.per_tensor(*q))

    def bias(self, name: str, count: int, x: str, weights: str) -> str:
        scale = np.float32(self.values[x].type.scale) * np.float32(self.values[weights].type.scale)
        array = self.generator.integers(-3000, 3000, count).astype(np.int32)
        return self.constant(name, array, Quantization.per_tensor(float(scale), 0))

    def conv(
        self, x: str, name: str, filters: int, q: Parameters, size: int = 1, spread: int = 127, **more: Any
    ) -> str:
        n, h, w, c = self.shape(x)
        weights = self.weights(f"{name}/w", (filters, size, size, c), spread)
        bias = self.bias(f"{name}/b", filters, x, weights)
        self.value(name, (n, *_strided(h, w, more), filters), q)
        return self.op(Conv2D(inputs=(x, weights, bias), outputs=(name,), padding="SAME", **more))

    def depthwise(self, x: str, name: str, q: Parameters, spread: int = 127, **more: Any) -> str:
        n, h, w, c = self.shape(x)
        weights = self.weights(f"{name}/w", (1, 3, 3, c), spread)
        bias = self.bias(f"{name}/b", c, x, weights)
        self.value(name, (n, *_strided(h, w, more), c), q)
        return self.op(DepthwiseConv2D(inputs=(x, weights, bias), outputs=(name,), padding="SAME", **more))

    def dense(self, x: str, name: str, units: int, q: Parameters, spread: int = 127, **more: Any) -> str:
        rows, k = self.shape(x)
        weights = self.weights(f"{name}/w", (units, k), spread)
        bias = self.bias(f"{name}/b", units, x, weights)
        self.value(name, (rows, units), q)
        return self.op(Dense(inputs=(x, weights, bias), outputs=(name,), **more))

    def add(self, a: str, b: str, name: str, q: Parameters, **more: Any) -> str:
        self.value(name, self.shape(a), q)
        return self.op(Add(inputs=(a, b), outputs=(name,), **more))

    def concat(self, parts: list[str], name: str, q: Parameters) -> str:
        channels = sum(self.shape(part)[-1] for part in parts)
        self.value(name, (*self.shape(parts[0])[:-1], channels), q)
        return self.op(Concat(inputs=tuple(parts), outputs=(name,), axis=len(self.shape(name)) - 1))

    def same(self, x: str, name: str, shape: tuple[int, ...] | None = None) -> str:
        """A value with the parameters of x."""
        self.values[name] = Value(name, self.values[x].type.with_(shape=shape or self.shape(x)))
        return name

    def max_pool(self, x: str, name: str) -> str:
        n, h, w, c = self.shape(x)
        self.same(x, name, (n, h // 2, w // 2, c))
        return self.op(
            MaxPool2D(inputs=(x,), outputs=(name,), filter_h=2, filter_w=2, stride_h=2, stride_w=2, padding="VALID")
        )

    def average_pool(self, x: str, name: str) -> str:
        n, h, w, c = self.shape(x)
        self.same(x, name, (n, 1, 1, c))
        return self.op(AveragePool2D(inputs=(x,), outputs=(name,), filter_h=h, filter_w=w, padding="VALID"))

    def pad(self, x: str, name: str) -> str:
        n, h, w, c = self.shape(x)
        amounts = self.constant(f"{name}/amounts", np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
        self.same(x, name, (n, h + 2, w + 2, c))
        return self.op(Pad(inputs=(x, amounts), outputs=(name,)))

    def flatten(self, x: str, name: str) -> str:
        self.same(x, name, (1, self.values[x].type.size))
        return self.op(Reshape(inputs=(x,), outputs=(name,), new_shape=(1, self.values[x].type.size)))

    def softmax(self, x: str, name: str) -> str:
        self.value(name, self.shape(x), (1 / 256, -128 if self.dtype == "int8" else 0))
        return self.op(Softmax(inputs=(x,), outputs=(name,)))


def _strided(h: int, w: int, options: dict[str, Any]) -> tuple[int, int]:
    """Height and width behind a layer with padding SAME."""
    return -(-h // options.get("stride_h", 1)), -(-w // options.get("stride_w", 1))


def everything(seed: int, spread: int = 140) -> Graph:
    """A legacy uint8 network in which every kind of layer occurs; parameters follow from `seed`."""
    net = Net(seed=seed)
    pick = net.generator

    def q(low: float, high: float) -> Parameters:
        return float(np.float32(pick.uniform(low, high))), int(pick.integers(0, 256))

    x = net.input("x", (1, 8, 8, 3), q(0.01, 0.05))
    relu = float(np.float32(pick.uniform(0.02, 0.2))), 0
    y = net.conv(x, "first", 8, relu, size=3, spread=spread, activation="RELU")
    y = net.depthwise(y, "deep", (6 / 255, 0), spread=spread, activation="RELU6")
    left = net.conv(y, "left", 8, q(0.1, 0.4), spread=spread)
    right = net.conv(y, "right", 8, q(0.1, 0.4), spread=100)
    y = net.add(left, right, "sum", q(0.2, 0.6))
    y = net.concat([y, left, right], "joined", q(0.1, 0.6))
    y = net.max_pool(net.pad(y, "padded"), "pooled")
    y = net.flatten(net.average_pool(y, "mean"), "flat")
    y = net.dense(y, "logits", 10, q(0.05, 0.3), spread=spread)
    return net.graph(net.softmax(y, "scores"))
