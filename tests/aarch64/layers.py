"""Made-up layers for kernels to compute."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.kernels.contracts import Conv2DContract, DepthwiseConv2DContract

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """A convolution to make up: weights, bias and multipliers are random, and extreme where they can be."""

    in_c: int = 16
    out_c: int = 16
    size: int = 6
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    dilation: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    x: str = "int8"
    y: str = "int8"
    weights: str = "int8"
    weight_zero_point: int = 0
    arithmetic: str = "fixed"
    relu: bool = False
    scale: float = 2e-3
    large_bias: bool = False
    batch: int = 2
    narrow: bool = False  # int8 weights without -128, as converters write them

    def contract(self, seed: int) -> Conv2DContract:
        generator = np.random.default_rng(seed)
        kh, kw = self.kernel
        out_h = (self.size + self.padding[0] + self.padding[2] - self.dilation * (kh - 1) - 1) // self.stride + 1
        out_w = (self.size + self.padding[1] + self.padding[3] - self.dilation * (kw - 1) - 1) // self.stride + 1
        low, high = (0, 255) if self.y == "uint8" else (-128, 127)
        zero = (low + high) // 2 + 7
        weights = codes(generator, (self.out_c, kh, kw, self.in_c), self.weights)
        return Conv2DContract(
            batch=self.batch, in_h=self.size, in_w=self.size, in_c=self.in_c,
            out_h=out_h, out_w=out_w, out_c=self.out_c,
            strides=(self.stride, self.stride), dilation=(self.dilation, self.dilation), padding=self.padding, groups=1,
            x_dtype=self.x, x_zero_point=130 if self.x == "uint8" else -9,
            weights=np.maximum(weights, -127) if self.narrow else weights,
            weight_zero_points=(self.weight_zero_point,), bias=self.bias(generator),
            rescale=Rescale(
                self.multipliers(generator), zero, zero if self.relu else low, high, self.y, self.arithmetic
            ),
        )  # fmt: skip

    def depthwise(self, seed: int) -> DepthwiseConv2DContract:
        """The same, one channel by one."""
        conv = self.contract(seed)
        assert self.in_c == self.out_c
        values = {f.name: getattr(conv, f.name) for f in fields(conv) if f.name != "groups"}
        return DepthwiseConv2DContract(**{**values, "weights": conv.weights[:, :, :, :1].transpose(3, 1, 2, 0).copy()})

    def bias(self, generator: np.random.Generator) -> Array:
        reach = 2**31 - 1 if self.large_bias else 20000
        return generator.integers(-reach, reach, self.out_c, np.int64).astype(np.int32)

    def multipliers(self, generator: np.random.Generator) -> tuple[float, ...]:
        real = self.scale * 2.0 ** generator.uniform(-3, 3, self.out_c)
        if self.arithmetic == "shift":
            real = 2.0 ** np.round(np.log2(real))
        return tuple(float(r) for r in real)


def codes(generator: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Random codes, a tenth of them the extremes."""
    info = np.iinfo(dtype)
    values = generator.integers(info.min, info.max, shape, dtype, endpoint=True)
    return np.where(generator.random(shape) < 0.1, generator.choice([info.min, info.max], shape), values).astype(dtype)
