"""Speed of recurrent layers and of attention against LiteRT: one thread, blocks interleaved.

An LSTM is a public file.  The two other models are made here, with random weights: an encoder of transformer layers,
and a GRU whose steps are written out, both of float32 and converted to int8 over random samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tflite2q
from benchmarks.real import Report, beside_litert
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.binary import SquaredDifference
from tflite2q.dialect.ops.dense import BatchMatmul, Dense
from tflite2q.dialect.ops.eltwise import Add, Mul
from tflite2q.dialect.ops.lookup import Lookup
from tflite2q.dialect.ops.movement import Transpose
from tflite2q.dialect.ops.reduce import Mean
from tflite2q.dialect.ops.shape import Concat, Reshape
from tflite2q.dialect.ops.slicing import Slice
from tflite2q.dialect.ops.softmax import Softmax
from tflite2q.dialect.types import Constant, TensorType, Value
from tflite2q.flatbuffer.writer import write

LSTM = "keras_lstm_mnist_ptq.tflite"
LENGTH, WIDTH, HEADS, WIDER, LAYERS = 64, 128, 4, 4, 2  # of the encoder
STEPS, INPUTS, UNITS = 28, 28, 64  # of the GRU
SAMPLES = 8
SCHEMES = ("float32", "int8")


class _Net:
    """A float32 graph under construction; each method adds ops and gives the name of their result."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.ops: list[Op] = []
        self.random = np.random.default_rng(0)

    def graph(self, output: str) -> Graph:
        return verify(Graph(("x",), (output,), tuple(self.values), tuple(self.ops), name="main"))

    def value(self, name: str, shape: tuple[int, ...]) -> str:
        self.values.append(Value(name, TensorType(shape, "float32")))
        self.shapes[name] = shape
        return name

    def constant(self, array: np.ndarray[Any, Any]) -> str:
        name = f"c{len(self.values)}"
        self.values.append(Value(name, TensorType(array.shape, array.dtype.name), Constant(array)))
        self.shapes[name] = array.shape
        return name

    def op(self, kind: type[Op], inputs: tuple[str, ...], shape: tuple[int, ...], **attributes: Any) -> str:
        name = self.value(f"v{len(self.values)}", shape)
        self.ops.append(kind(inputs=inputs, outputs=(name,), **attributes))
        return name

    def dense(self, x: str, units: int, **attributes: Any) -> str:
        *rows, depth = self.shapes[x]
        weights = self.random.normal(0, depth**-0.5, (units, depth)).astype(np.float32)
        bias = self.random.normal(0, 0.1, units).astype(np.float32)
        inputs = x, self.constant(weights), self.constant(bias)
        return self.op(Dense, inputs, (*rows, units), keep_num_dims=True, **attributes)

    def reshaped(self, x: str, shape: tuple[int, ...]) -> str:
        return self.op(Reshape, (x,), shape, new_shape=shape)

    def transposed(self, x: str, order: tuple[int, ...]) -> str:
        shape = tuple(self.shapes[x][axis] for axis in order)
        return self.op(Transpose, (x, self.constant(np.array(order, np.int32))), shape)

    def normalized(self, x: str) -> str:
        """Each row with mean 0 and variance 1, times a weight, plus another."""
        *rows, width = shape = self.shapes[x]
        last = self.constant(np.array([len(shape) - 1], np.int32))
        mean = self.op(Mean, (x, last), (*rows, 1), keep_dims=True)
        squares = self.op(SquaredDifference, (x, mean), shape)
        variance = self.op(Mean, (squares, last), (*rows, 1), keep_dims=True)
        steadied = self.op(Add, (variance, self.constant(np.array([1e-3], np.float32))), (*rows, 1))
        centred = self.op(Add, (x, mean), shape, subtract=True)
        inverse = self.op(Lookup, (steadied,), (*rows, 1), function="RSQRT")
        unit = self.op(Mul, (centred, inverse), shape)
        gain, shift = (self.constant(self.random.normal(m, 0.1, width).astype(np.float32)) for m in (1, 0))
        return self.op(Add, (self.op(Mul, (unit, gain), shape), shift), shape)

    def attention(self, x: str) -> str:
        rows, width = self.shapes[x]
        heads = (rows, HEADS, width // HEADS)
        q, k, v = (self.transposed(self.reshaped(self.dense(x, width), heads), (1, 0, 2)) for _ in range(3))
        square = (HEADS, rows, rows)
        scores = self.op(BatchMatmul, (q, k), square, transpose_b=True)
        scaled = self.op(Mul, (scores, self.constant(np.array([(width // HEADS) ** -0.5], np.float32))), square)
        mixed = self.op(BatchMatmul, (self.op(Softmax, (scaled,), square), v), (HEADS, rows, width // HEADS))
        return self.dense(self.reshaped(self.transposed(mixed, (1, 0, 2)), (rows, width)), width)


def encoder() -> Graph:
    """Transformer layers (self-attention and a dense network, each added to its input and normalized)."""
    net = _Net()
    x = net.value("x", (LENGTH, WIDTH))
    for _ in range(LAYERS):
        x = net.normalized(net.op(Add, (x, net.attention(x)), (LENGTH, WIDTH)))
        inner = net.dense(net.dense(x, WIDER * WIDTH, activation="RELU"), WIDTH)
        x = net.normalized(net.op(Add, (x, inner), (LENGTH, WIDTH)))
    return net.graph(x)


def gru() -> Graph:
    """A GRU with its steps written out: h' = z h + (1 - z) tanh(W x + r (U h))."""
    net = _Net()
    x = net.value("x", (STEPS, INPUTS))
    state = net.constant(np.zeros((1, UNITS), np.float32))
    for step in range(STEPS):
        begin, size = (net.constant(np.array(each, np.int32)) for each in ((step, 0), (1, INPUTS)))
        row = net.op(Slice, (x, begin, size), (1, INPUTS))
        both = net.op(Concat, (row, state), (1, INPUTS + UNITS), axis=1)
        z, r = (net.op(Lookup, (net.dense(both, UNITS),), (1, UNITS), function="LOGISTIC") for _ in range(2))
        reset = net.op(Mul, (r, net.dense(state, UNITS)), (1, UNITS))
        sums = net.op(Add, (net.dense(row, UNITS), reset), (1, UNITS))
        new = net.op(Lookup, (sums,), (1, UNITS), function="TANH")
        moved = net.op(Mul, (z, net.op(Add, (state, new), (1, UNITS), subtract=True)), (1, UNITS))
        state = net.op(Add, (new, moved), (1, UNITS))
    return net.graph(state)


MADE = {"encoder": encoder, "gru": gru}
NAMES = ("lstm", *MADE)


def measure(names: Sequence[str], folder: Path, quick: bool, report: Report) -> dict[str, Any]:
    """All rows, ready for JSON.  `folder` has the public models."""

    def files(temporary: Path) -> Iterator[tuple[str, str, Path]]:
        for name in names:
            for scheme, path in _files(name, folder, temporary).items():
                yield name, scheme, path

    return beside_litert(files, quick, report)


def _files(name: str, folder: Path, temporary: Path) -> dict[str, Path]:
    """A model's files by their schemes."""
    if name not in MADE:
        return {"int8": folder / LSTM} if (folder / LSTM).exists() else {}
    graph = MADE[name]()
    shape = graph["x"].type.shape
    samples = np.random.default_rng(1).normal(0, 1, (SAMPLES, *shape)).astype(np.float32)
    data = temporary / f"{name}.npz"
    np.savez(data, x=samples)
    paths = {scheme: temporary / f"{name}.{scheme}.tflite" for scheme in SCHEMES}
    paths["float32"].write_bytes(write(graph))
    tflite2q.convert(graph, "int8", data=data).save(paths["int8"])
    return paths
