"""Activations quantized in every run: the scale and zero point of each image, and its codes (eq. 39, 40).

An image is read twice: for its range, and for its codes.  Codes are centred, without their zero point:

    clip(round(x / scale) + zero, -128, 127) - zero  =  round(clip(x / scale, -128 - zero, 127 - zero))

because the bounds are integers.  trunc(t + copysign(c, t)) with c the largest float32 below 0.5 rounds half away from
zero, for every |t| < 2^22.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tflite2q.kernels.contracts import DynamicConv2DContract
from tflite2q.kernels.gemm import four
from tflite2q.kernels.loops import chunks, region
from tflite2q.kernels.real import clamped
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, load, local, part, store, uncontracted, vector, view

FLOAT = "float32"
LANES = 32  # of a vector of images' elements: several registers, whose operations do not wait for each other
MOST, LOW, HIGH = 127, -128, 127  # of symmetric codes; of asymmetric ones
HALF = np.nextafter(np.float32(0.5), np.float32(0))


@dataclass(frozen=True)
class Scales:
    """What is known of each image after its range: buffers of so many images.

    real = scale * centred code; `inverse` is 1 / scale, in float32; centred codes are from `low` to `high`, in float32;
    the zero point of codes from -128 on is -128 - low.
    """

    scale: Buffer
    inverse: Buffer
    low: Buffer
    high: Buffer

    def zero(self, image: Expr) -> Expr:
        """How far 0 lies above the lowest code, int32."""
        return T.cast(T.float32(0.0) - self.low[image], "int32")

    def codes(self, x: Expr, image: Expr, lanes: int) -> Expr:
        """Centred codes of a vector of one image's elements, int32."""
        steps = x * broadcast(self.inverse[image], lanes)
        bounded = T.Bind(T.min(T.max(steps, broadcast(self.low[image], lanes)), broadcast(self.high[image], lanes)))
        return T.cast(bounded + _half_towards(bounded, lanes), vector("int32", lanes))


def _half_towards(x: Expr, lanes: int) -> Expr:
    """copysign(HALF, x)."""
    ints, floats = vector("int32", lanes), vector(FLOAT, lanes)
    sign = T.bitwise_and(T.reinterpret(ints, x), broadcast(T.int32(-(2**31)), lanes))
    return T.reinterpret(floats, T.bitwise_or(sign, broadcast(T.int32(int(HALF.view(np.int32))), lanes)))


@dataclass(frozen=True)
class Images:
    """Images [batch, h, w, c], of which each is quantized by its own range."""

    shape: tuple[int, int, int, int]
    padding: tuple[int, int, int, int]
    asymmetric: bool

    @staticmethod
    def of(contract: DynamicConv2DContract) -> Images:
        return Images(four(contract.x.shape), contract.padding, contract.asymmetric)

    @property
    def batch(self) -> int:
        return self.shape[0]

    @property
    def padded(self) -> tuple[int, int, int, int]:
        n, h, w, c = self.shape
        top, left, bottom, right = self.padding
        return n, h + top + bottom, w + left + right, c

    def scales(self, x: Buffer) -> Scales:
        """Reads x for the range of each image."""
        _, h, w, c = self.shape
        rows = view(x, (self.batch, h * w * c), FLOAT)
        found = Scales(*(T.decl_buffer((self.batch,), FLOAT) for _ in range(4)))
        with T.serial(self.batch) as n:
            least, most = _range(rows, n, h * w * c)
            values = _asymmetric(least, most) if self.asymmetric else _symmetric(least, most)
            for buffer, value in zip((found.scale, found.inverse, found.low, found.high), values, strict=True):
                store(buffer, value, n)
        return found

    def reals(self, x: Buffer, scales: Scales) -> Buffer:
        """Centred codes as float32, with a border of zeros, on one axis."""

        def border(_image: Expr) -> Expr:
            return T.float32(0.0)

        def code(values: Expr, number: Expr, lanes: int) -> Expr:
            return T.cast(scales.codes(values, number, lanes), vector(FLOAT, lanes))

        return self._written(x, FLOAT, border, code, 0)

    def bytes(self, x: Buffer, scales: Scales, slack: int) -> Buffer:
        """Codes as uint8 from the lowest on, with a border of 0's code and `slack` readable bytes, on one axis."""

        def border(number: Expr) -> Expr:
            return T.cast(scales.zero(number), "uint8")

        def code(values: Expr, number: Expr, lanes: int) -> Expr:
            shifted = scales.codes(values, number, lanes) + broadcast(scales.zero(number), lanes)
            return T.cast(shifted, vector("uint8", lanes))

        return self._written(x, "uint8", border, code, slack)

    def _written(
        self, x: Buffer, dtype: str, border: Callable[[Expr], Expr], code: Callable[[Expr, Expr, int], Expr], slack: int
    ) -> Buffer:
        """The padded image of `code` of each element; `border` of an image's number fills what is around it."""
        n, h, w, c = self.shape
        rows, width = self.padded[1], self.padded[2] * c
        top = self.padding[0]
        whole = T.decl_buffer((n * rows * width + slack,), dtype)
        image, source = view(whole, (n * rows, width)), view(x, (n * h, w * c), FLOAT)

        def fill(number: Expr, row: Expr, start: int, length: int) -> None:
            def emit(at: Expr, lanes: int) -> None:
                store(image, broadcast(border(number), lanes), row, start + at, lanes=lanes)

            chunks(length, LANES, emit)

        def copy(number: Expr, row: Expr, source_row: Expr) -> None:
            def emit(at: Expr, lanes: int) -> None:
                values = load(source, source_row, at, lanes=lanes)
                store(image, code(values, number, lanes), row, start + at, lanes=lanes)

            start, length = self.padding[1] * c, w * c
            fill(number, row, 0, start)
            chunks(length, LANES, emit)
            fill(number, row, start + length, self.padding[3] * c)

        with region(n * rows, n * rows * width * 8) as r:
            number = 0 if n == 1 else T.Bind(r // rows)
            if rows == h:
                copy(number, r, r)
            else:
                with T.If(T.And(r % rows >= top, r % rows < top + h)):
                    with T.Then():
                        copy(number, r, r // rows * h + r % rows - top)
                    with T.Else():
                        fill(number, r, 0, width)
        return view(whole, (n * rows * width + slack,))


def _range(rows: Buffer, n: Expr, size: int) -> tuple[Expr, Expr]:
    """The smallest and the largest element of a row, 0 being one of them."""
    lanes = min(LANES, 1 << (size.bit_length() - 1))
    ends = local(lanes, FLOAT), local(lanes, FLOAT)
    for end in ends:
        store(end, broadcast(T.float32(0.0), lanes), 0, lanes=lanes)

    def emit(at: Expr, lanes: int) -> None:
        x = T.Bind(load(rows, n, at, lanes=lanes))
        for end, chosen in zip(ends, (T.min, T.max), strict=True):
            store(end, chosen(load(end, 0, lanes=lanes), x), 0, lanes=lanes)

    chunks(size, lanes, emit)
    # In memory, because TVM would put the whole tree of a bound value wherever it is used, which takes it seconds.
    found = local(2, FLOAT)
    for index, (end, chosen) in enumerate(zip(ends, (T.min, T.max), strict=True)):
        value, width = T.Bind(load(end, 0, lanes=lanes)), lanes
        while width > 1:
            width //= 2
            value = T.Bind(chosen(part(value, 0, width), part(value, width, width)))
        store(found, value, index)
    return load(found, 0), load(found, 1)


def _symmetric(least: Expr, most: Expr) -> tuple[Expr, ...]:
    """eq. 39: scale, its inverse, lowest and highest code."""
    one, codes = T.float32(1.0), T.float32(float(MOST))
    reach = T.Bind(T.max(T.float32(0.0) - least, most))
    empty = reach == T.float32(0.0)
    reach = T.Bind(T.Select(empty, one, reach))
    return T.Select(empty, one, reach / codes), codes / reach, -codes, codes


def _asymmetric(least: Expr, most: Expr) -> tuple[Expr, ...]:
    """eq. 40, in float64."""
    wide = "float64"

    def number(value: float) -> Expr:
        return T.float64(float(value))

    empty = T.Bind(least == most)
    width = T.cast(most - least, wide)
    scale = T.Bind(T.Select(empty, number(1), width / number(HIGH - LOW)))
    below, above = (T.Bind(T.cast(end, wide) / scale) for end in (least, most))
    # `least` is not positive and `most` not negative, which gives the magnitudes.
    nearer = number(-LOW) - below < number(HIGH) + above
    point = T.Bind(T.Select(nearer, number(LOW) - below, number(HIGH) - above))
    point = T.Bind(T.Select(empty, number(0), T.min(T.max(point, number(LOW)), number(HIGH))))
    half = float(np.nextafter(0.5, 0.0))
    zero = T.Bind(T.cast(point + T.Select(point < number(0), number(-half), number(half)), "int32"))
    narrow = T.Bind(T.cast(scale, FLOAT))
    low, high = (T.cast(T.int32(end) - zero, FLOAT) for end in (LOW, HIGH))
    return narrow, T.float32(1.0) / narrow, low, high


@dataclass(frozen=True)
class RealSums:
    """From sums of codes to real numbers; see `DynamicConv2DContract`.  `pixels`: output pixels of an image."""

    biased: bool
    channels_first: bool
    low: float | None
    high: float | None
    batch: int
    pixels: int

    @staticmethod
    def of(contract: DynamicConv2DContract) -> RealSums:
        height, width = contract.out_size
        return RealSums(
            contract.bias is not None, contract.channels_first, contract.low, contract.high, contract.x.shape[0],
            height * width,
        )  # fmt: skip

    def image(self, pixel: Expr) -> Expr:
        """The image that an output pixel belongs to."""
        return 0 if self.batch == 1 else pixel // self.pixels

    def real(self, value: Expr, scale: Expr, channels: Expr, bias: Expr, lanes: int) -> Expr:
        """Real numbers for a vector of float32 sums; `scale` is the image's, `channels` and `bias` are vectors."""
        image = broadcast(scale, lanes)
        if self.channels_first:
            value = uncontracted(uncontracted(value * channels) * image)
        else:
            value = uncontracted(value * uncontracted(image * channels))
        return clamped(value + bias if self.biased else value, self.low, self.high, lanes)


@dataclass(frozen=True)
class DynamicSums:
    """Sums of codes that become real numbers; `channels` and `bias` [vectors, lanes] are theirs by output channel."""

    ending: RealSums
    scale: Buffer
    channels: Buffer
    bias: Buffer

    def start(self, index: Expr, lanes: int) -> Expr:
        return broadcast(T.float32(0.0), lanes)

    def result(self, value: Expr, index: Expr, pixel: Expr, lanes: int) -> Expr:
        channels, bias = (load(each, index, 0, lanes=lanes) for each in (self.channels, self.bias))
        return self.ending.real(value, self.scale[self.ending.image(pixel)], channels, bias, lanes)
