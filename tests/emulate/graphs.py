"""Random whole graphs of a few layers, of every kind that kernels compute: `graph(seed)`.

Channels go from 1 to 200 and images are odd, narrower than a vector, of batches above one; parameters differ from layer
to layer and zero points lie at the extremes; branches meet again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from draw import ACTIVATIONS, Array, Case, Draw

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.arithmetic.rounding import RANGES
from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.op import Op, Operands, Tensor, Values
from tflite2q.dialect.types import Quantization, TensorType, Value

MOST_MACS = 600_000  # of a layer, or the reference would take long
WIDEST = 1e5  # of the scales whose int16 codes logistic and tanh tables take
FUNCTIONS = {
    "uint8": ("RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH", "LEAKY_RELU", "HARD_SWISH"),
    "int8": ("RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH", "LEAKY_RELU", "HARD_SWISH", "ELU", "ABS"),
    "int16": ("LOGISTIC", "TANH", "LEAKY_RELU"),
}


@dataclass
class Growth(Draw):
    """A graph that grows layer by layer; every layer gives the name of its result."""

    dtype: str = "int8"
    ops: list[Op] = field(default_factory=list)
    results: dict[str, Array] = field(default_factory=dict)

    def value(self, name: str) -> Value:
        return next(value for value in self.values if value.name == name)

    def layer(self, cls: type[Op], operands: tuple[str, ...], kind: TensorType, **attributes: Any) -> str:
        """One op, whose result has `kind` with the shape that is inferred."""
        name = f"y{len(self.values)}"
        op = cls(inputs=operands, outputs=(name,), **attributes)
        fixed = op.fixed_result(kind.dtype)
        kind = kind.with_(quantization=fixed) if fixed is not None else kind
        (shape,) = op.infer(Values(op, map(self.value, operands)), [Value(name, kind)])
        result = Value(name, kind.with_(shape=tuple(shape)))
        self.values.append(result)
        self.ops.append(op)
        ins = Operands(op, [Tensor(self.value(each), self.result(each)) for each in operands])
        (self.results[name],) = op.meaning(NumpyCore(), ins, [result])
        return name

    def result(self, name: str) -> Array:
        constant = self.value(name).constant
        return self.results[name] if constant is None else constant.array

    def spread(self, cls: type[Op], operands: tuple[str, ...], typical: float, **attributes: Any) -> TensorType:
        """Parameters under which results of a layer spread over many codes, and beyond some of them."""
        low, high = RANGES[self.dtype]
        middle = (low + high + 1) // 2
        trial = self.layer(cls, operands, self.kind((), self.dtype, typical, middle), **attributes)
        real = (self.results.pop(trial).astype(np.float64) - middle) * typical
        self.ops.pop()
        self.values.pop()
        width = max(real.std() / (high - low) * 6, typical / 100)
        if self.dtype != "int16":
            width = max(width, abs(real.mean()) / (high - low) * 1.2)
        scale = float(np.float32(width * np.exp(self.rng.uniform(-1, 1))))
        zero = int(np.clip(np.rint(middle - real.mean() / scale), low, high)) if self.chance(0.7) else None
        return self.kind((), self.dtype, scale, 0 if self.dtype == "int16" else zero)

    def source(self, shape: tuple[int, ...]) -> str:
        name = self.input(self.kind(shape, self.dtype, self.scale(5e-3, 0.1)))
        self.results[name] = self.arrays[-1]
        return name

    def channels(self) -> int:
        """1 to 200, often few, often near a multiple of 8, where vectors end."""
        near = 8 * self.number(1, 16) + self.number(-1, 1)
        return int(self.pick((self.number(1, 12), self.number(1, 64), self.number(1, 200), near)))

    # --- layers of images ---

    def weights(self, shape: tuple[int, ...], axis: int) -> tuple[str, tuple[float, ...]]:
        if self.dtype == "uint8":
            kind = self.kind(shape, "uint8", self.scale(1e-3, 0.1))
            data = self.data(kind)
            if self.chance(0.5):  # as training leaves them: near the zero point
                around = self.rng.normal(kind.zero_point, 25, shape)
                data = np.clip(np.rint(around), 0, 255).astype(np.uint8)
            return self.constant(data, kind), kind.parameters.scale
        count = shape[axis] if self.chance(0.7) else 1
        scales = tuple(self.scale(1e-3, 0.1) for _ in range(count))
        quantization = Quantization(scales, (0,) * count, axis if count > 1 else None)
        kind = TensorType(shape, "int8", quantization)
        data = self.data(kind) if self.chance(0.5) else np.rint(self.rng.normal(0, 25, shape))
        return self.constant(np.clip(data, -127, 127).astype(np.int8), kind), scales

    def product(
        self, cls: type[Op], x: str, shape: tuple[int, ...], axis: int, terms: int, **attributes: Any
    ) -> str:  # fmt: skip
        """A layer of weights of `shape`, whose result sums `terms` products."""
        source = self.value(x).type
        weights, scales = self.weights(shape, axis)
        wide = "int64" if self.dtype == "int16" else "int32"
        products = tuple(float(np.float32(source.scale * s)) for s in scales)
        kind = TensorType(
            (shape[axis],), wide, Quantization(products, (0,) * len(products), 0 if len(products) > 1 else None)
        )
        operands: tuple[str, ...] = (x, weights)
        if self.chance(0.9):
            operands += (self.constant(self.rng.integers(-5000, 5001, shape[axis]), kind),)
        typical = float(np.float32(source.scale * max(scales) * np.sqrt(terms) * (100 if wide == "int32" else 1000)))
        kind = self.spread(cls, operands, typical, **attributes)
        return self.layer(cls, operands, kind, activation=self.pick(ACTIVATIONS), **attributes)

    def window(self, x: str, most: int) -> tuple[tuple[int, int], dict[str, Any]]:
        """A window that fits the image, and how it moves."""
        _, h, w, _ = self.value(x).type.shape
        size = (self.number(1, min(most, h)), self.number(1, min(most, w)))
        if self.chance(0.4):
            size = (min(3, h), min(3, w))
        strides = self.pick(((1, 1), (1, 1), (2, 2), (self.number(1, 3), self.number(1, 3))))
        return size, {"padding": self.pick(("SAME", "VALID")), "stride_h": strides[0], "stride_w": strides[1]}

    def dilated(self, x: str, size: tuple[int, int], how: dict[str, Any]) -> dict[str, Any]:
        _, h, w, _ = self.value(x).type.shape
        dilation = (self.number(1, 3), self.number(1, 3))
        fits = all((k - 1) * d < n for k, d, n in zip(size, dilation, (h, w), strict=True))
        if self.chance(0.25) and fits:
            how |= {"dilation_h": dilation[0], "dilation_w": dilation[1]}
            if self.chance(0.7):
                how |= {"stride_h": 1, "stride_w": 1}
        return how

    def convolution(self, x: str) -> str:
        n, h, w, c = self.value(x).type.shape
        size, how = self.window(x, 4)
        if self.chance(0.4):
            size, how = (1, 1), how | {"stride_h": 1, "stride_w": 1}
        taps = size[0] * size[1] * c
        channels = max(1, min(self.channels(), MOST_MACS // (n * h * w * taps)))
        return self.product(ops.Conv2D, x, (channels, *size, c), 0, taps, **self.dilated(x, size, how))

    def depthwise(self, x: str) -> str:
        c = self.value(x).type.shape[3]
        size, how = self.window(x, 5)
        multiplier = self.number(2, 4) if self.chance(0.15) and c <= 64 else 1
        if self.chance(0.5):
            how["stride_w"] = how["stride_h"]
        how = self.dilated(x, size, how) | {"depth_multiplier": multiplier}
        return self.product(ops.DepthwiseConv2D, x, (1, *size, c * multiplier), 3, size[0] * size[1], **how)

    def pool(self, x: str) -> str:
        size, how = self.window(x, 5)
        cls = self.pick((ops.MaxPool2D, ops.AveragePool2D))
        kind = self.value(x).type.with_(shape=())
        return self.layer(cls, (x,), kind, filter_h=size[0], filter_w=size[1], activation=self.pick(ACTIVATIONS), **how)

    def pad(self, x: str) -> str:
        amounts = np.zeros((4, 2), np.int32)
        amounts[1:3] = self.rng.integers(0, 3, (2, 2))
        if self.chance(0.2):
            amounts[3] = self.rng.integers(0, 3, 2)
        return self.layer(ops.Pad, (x, self.constant(amounts)), self.value(x).type.with_(shape=()))

    def resize(self, x: str) -> str:
        size = self.ints(self.number(1, 9), self.number(1, 9))
        options = self.pick(({}, {"align_corners": True}, {"half_pixel_centers": True}))
        return self.layer(ops.ResizeBilinear, (x, size), self.value(x).type.with_(shape=()), **options)

    # --- layers of anything ---

    def function(self, x: str) -> str:
        kind = self.value(x).type
        wide = self.dtype == "int16" and kind.scale > WIDEST
        name = self.pick([name for name in FUNCTIONS[self.dtype] if not wide or name not in ("TANH", "LOGISTIC")])
        scale = float(np.float32(kind.scale * np.exp(self.rng.uniform(-0.5, 1))))
        alpha = {"alpha": 0.1} if name == "LEAKY_RELU" else {}
        return self.layer(ops.Lookup, (x,), self.kind((), self.dtype, scale), function=name, **alpha)

    def binary(self, x: str) -> str:
        """With a value of equal shape, with itself, or with a constant."""
        kind = self.value(x).type
        alike = [v.name for v in self.values if v.type.shape == kind.shape and v.constant is None]
        other = self.pick(alike)
        if self.chance(0.25):
            shape = self.pick((kind.shape, (kind.shape[-1],), (1,)))
            constant = self.kind(shape, self.dtype)
            other = self.constant(self.data(constant), constant)
        first, second = (x, other) if self.chance(0.7) else (other, x)
        scales = kind.scale, self.value(other).type.scale
        if self.chance(0.3):
            scale = scales[0] * scales[1] * RANGES[self.dtype][1] * float(np.exp(self.rng.uniform(-1.5, 0)))
            cls, more = ops.Mul, {}
        else:
            scale = max(scales) * float(np.exp(self.rng.uniform(-0.5, 1)))
            cls, more = ops.Add, {"subtract": self.chance(0.3)}
        y = self.kind((), self.dtype, float(np.float32(scale)))
        return self.layer(cls, (first, second), y, activation=self.pick(ACTIVATIONS), **more)

    def concat(self, x: str) -> str:
        """With values of the same extent on all axes but one, of the same parameters where there is one."""
        kind = self.value(x).type
        axis = self.pick((len(kind.shape) - 1, len(kind.shape) - 1, self.number(0, len(kind.shape) - 1)))

        def joins(value: Value) -> bool:
            rest = [s[:axis] + s[axis + 1 :] for s in (value.type.shape, kind.shape) if len(s) == len(kind.shape)]
            return len(rest) == 2 and rest[0] == rest[1] and value.constant is None

        others = [v.name for v in self.values if joins(v) and v.type.dtype == self.dtype]
        parts = tuple(self.pick(others) for _ in range(self.number(1, 3)))
        same = {self.value(part).type.quantization for part in (x, *parts)}
        if len(same) > 1 and self.dtype != "uint8":  # only that kernel rescales
            return self.layer(ops.Concat, (x, x), kind.with_(shape=()), axis=axis)
        return self.layer(ops.Concat, (x, *parts), kind.with_(shape=()), axis=axis)

    def flatten(self, x: str) -> str:
        kind = self.value(x).type
        shape = (kind.shape[0], kind.size // kind.shape[0])
        return self.layer(ops.Reshape, (x,), kind.with_(shape=shape), new_shape=shape)

    def dense(self, x: str) -> str:
        rows, depth = self.value(x).type.shape
        units = max(1, min(self.channels(), MOST_MACS // (rows * depth)))
        return self.product(ops.Dense, x, (units, depth), 0, depth)

    def softmax(self, x: str) -> str:
        return self.layer(ops.Softmax, (x,), self.kind((), self.dtype, 1.0), beta=self.pick((1.0, 1.0, 0.7)))

    def argmax(self, x: str) -> str:
        axis, smallest = self.constant(np.array(3, np.int32)), self.chance(0.3)
        return self.layer(
            ops.ArgExtremum, (x, axis), TensorType((), "int32"), output_type="INT32", smallest=smallest, version=2
        )


def graph(seed: int) -> Case:
    """The graph of a number, and inputs for it."""
    d = Growth(np.random.default_rng([seed, 20]))
    d.dtype = d.pick(("int8", "int8", "int8", "uint8", "uint8", "int16", "int16"))
    batch = d.pick((1, 1, 1, 2, 3))
    x = d.source((batch, d.number(1, 11), d.number(1, 11), d.channels()))
    layers = [d.convolution, d.convolution, d.convolution, d.depthwise, d.depthwise, d.pool, d.pad, d.function,
              d.binary, d.binary, d.concat, d.resize]  # fmt: skip
    images = [x]
    for _ in range(d.pick((1, 1, 2, 2, 3, 4))):
        source = images[-1] if d.chance(0.75) else d.pick(images)
        images.append(d.pick(layers)(source))
        if d.value(images[-1]).type.size > 40_000:
            break
    last = images[-1]
    if d.chance(0.3) and d.value(last).type.size <= 4000:
        last = d.dense(d.flatten(last))
        if d.chance(0.5) and d.value(last).type.shape[1] > 1:
            last = d.softmax(last)
    elif d.chance(0.2):
        d.argmax(last if d.chance(0.5) else d.resize(last))
    read = {name for op in d.ops for name in op.inputs}
    ends = tuple(v.name for v in d.values if v.name not in read and v.constant is None and v.name not in d.inputs)
    made = Graph(tuple(d.inputs), ends, tuple(d.values), tuple(d.ops), name=f"graph{seed}")
    return Case(verify(made), tuple(d.arrays), "")
