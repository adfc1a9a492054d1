"""Contracts of every kind for fingerprints of kernels.

Their numbers are those of `hashed`, and floating point among them is exact, so that every machine makes the same ones.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
from hashed import Array, Facts, conv, dense, multipliers, numbers

from tflite2q.arithmetic.rescale import Rescale, multiply_fixed
from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels.contracts import (
    ArgMaxContract,
    ConcatContract,
    Contract,
    DynamicConv2DContract,
    EltwiseContract,
    FixedSum,
    FloatConv2DContract,
    LookupContract,
    MatmulContract,
    PoolContract,
    ResizeBilinearContract,
    ResizedArgMaxContract,
    SoftmaxContract,
    Tensor,
    TransposeConv2DContract,
)

Named = Iterator[tuple[str, Contract]]

SAME = (1, 1, 1, 1)

WINDOW: Facts = {"kernel": (3, 3), "padding": SAME}
STRIDED: Facts = {"kernel": (3, 3), "strides": (2, 2), "padding": (0, 0, 1, 1)}

# size, output channels, facts
SHAPES: dict[str, tuple[tuple[int, int, int], int, Facts]] = {
    "pointwise": ((5, 5, 20), 68, {}),
    "pointwise, even": ((4, 8, 64), 64, {}),
    "pointwise, odd": ((3, 7, 33), 17, {}),
    "pointwise, batch of two": ((4, 3, 8), 24, {"batch": 2}),
    "pointwise, few channels": ((6, 6, 3), 5, {}),
    "pointwise, strided": ((7, 9, 24), 40, {"strides": (2, 2)}),
    "first layer": ((13, 17, 3), 12, STRIDED),
    "first layer of one channel": ((12, 10, 1), 16, {"kernel": (5, 4), "strides": (2, 2), "padding": (2, 1, 2, 2)}),
    "window": ((6, 6, 16), 32, WINDOW),
    "window, odd": ((6, 7, 21), 33, WINDOW),
    "row window": ((5, 9, 72), 80, {"kernel": (1, 3), "padding": (0, 1, 0, 1), "batch": 3}),
    "dilated rows": ((9, 8, 33), 48, {"kernel": (2, 2), "dilation": (3, 1)}),
    "dilated, uneven": (
        (11, 13, 8), 129, {"kernel": (3, 2), "dilation": (2, 3), "strides": (1, 2), "padding": (2, 0, 2, 3)},
    ),
    "one pixel": ((1, 1, 64), 65, {"bias": "none"}),
    "deep": ((7, 7, 201), 130, {}),
    "threads by pixels": ((32, 32, 64), 80, {}),
    "threads by channels": ((1, 2, 1100), 2048, {}),
    "groups": ((6, 6, 12), 24, {**WINDOW, "groups": 3}),
}  # fmt: skip

DEPTHWISE: dict[str, tuple[tuple[int, int, int], int, Facts]] = {
    "3x3, 8 channels": ((9, 11, 8), 8, WINDOW),
    "3x3, 130 channels": ((6, 9, 130), 130, WINDOW),
    "3x3, 64 channels": ((8, 8, 64), 64, WINDOW),
    "3x3, 5 channels": ((8, 8, 5), 5, WINDOW),
    "3x3 stride 2, 24 channels": ((9, 17, 24), 24, STRIDED),
    "3x3 stride 2, 96 channels": ((8, 8, 96), 96, STRIDED),
    "5x5, 80 channels": ((9, 7, 80), 80, {"kernel": (5, 5), "padding": (2, 2, 2, 2)}),
    "5x5 stride 2": ((9, 11, 64), 64, {"kernel": (5, 5), "strides": (2, 2), "padding": (1, 1, 2, 2)}),
    "one row, batch of two": ((1, 9, 64), 64, {**WINDOW, "batch": 2}),
    "dilated": ((9, 12, 72), 72, {"kernel": (3, 3), "padding": (2, 4, 2, 4), "dilation": (2, 4)}),
    "7x1": ((9, 4, 64), 64, {"kernel": (7, 1), "padding": (3, 0, 3, 0)}),
    "7x7": ((9, 9, 16), 16, {"kernel": (7, 7), "padding": (3, 3, 3, 3)}),
    "multiplier 2": ((5, 6, 8), 16, WINDOW),
    "multiplier 16": ((5, 6, 3), 48, STRIDED),
    "narrow rows": ((5, 2, 24), 24, WINDOW),
    "no padding": ((6, 9, 32), 32, {"kernel": (3, 3)}),
    "threads": ((40, 41, 96), 96, WINDOW),
}

KINDS_OF_NUMBERS: dict[str, Facts] = {
    "uint8": {"types": ("uint8", "uint8")},
    "uint8 to int8": {"types": ("uint8", "int8")},
    "legacy": {"types": ("uint8", "uint8"), "weights": "legacy", "per_channel": False},
    "nine bits by channel": {"weights": "by channel"},
    "nine bits of int8": {"weights": "legacy", "per_channel": False},
    "exact pairs": {"weights": "exact"},
    "few that saturate": {"weights": "few"},
    "int4": {"weights": "int4", "exponent": -7},
    "per tensor": {"per_channel": False},
    "relu": {"relu": True},
    "relu at 0": {"relu": True, "y_zero_point": 0},
    "relu of uint8": {"types": ("uint8", "uint8"), "relu": True, "y_zero_point": 0, "per_channel": False},
    "no bias": {"bias": "none"},
    "large bias": {"bias": "large"},
    "multipliers above one": {"exponent": 1},
    "small multipliers": {"exponent": -26},
    "lowest zero point": {"zero_point": -128},
    "float64": {"arithmetic": "float64"},
    "float32": {"arithmetic": "float32"},
    "shift": {"arithmetic": "shift"},
    "shift above one": {"arithmetic": "shift", "exponent": 1},
    "float32 of uint8": {"types": ("uint8", "uint8"), "arithmetic": "float32", "per_channel": False},
}

KINDS_OF_16_BITS: dict[str, Facts] = {
    "per tensor": {"per_channel": False},
    "relu": {"relu": True},
    "small weights": {"weights": "int4"},
    "doubled": {"exponent": -1},
    "multipliers above one": {"exponent": 2},
    "wide bias": {"bias": "wide"},
    "32-bit bias": {"accumulator": "int32"},
    "legacy": {"weights": "legacy", "per_channel": False},
    "float64": {"arithmetic": "float64"},
    "float32": {"arithmetic": "float32"},
    "shift": {"arithmetic": "shift"},
}


def convolutions() -> Named:
    for name, (size, out_c, facts) in SHAPES.items():
        yield name, conv(name, size, out_c, **facts)
    for name, kind in KINDS_OF_NUMBERS.items():
        yield f"pointwise, {name}", conv(name, (3, 5, 20), 36, **kind)
    for name in ("uint8", "legacy", "nine bits by channel", "exact pairs", "few that saturate"):
        yield f"window, {name}", conv(name, (5, 5, 6), 16, **{**WINDOW, **KINDS_OF_NUMBERS[name]})


def depthwise_convolutions() -> Named:
    for name, (size, out_c, facts) in DEPTHWISE.items():
        yield name, conv(name, size, out_c, depthwise=True, **facts)
    for name in (
        "uint8", "legacy", "nine bits by channel", "int4", "per tensor", "relu", "relu at 0", "large bias",
        "multipliers above one", "lowest zero point", "float64", "float32", "shift", "shift above one",
    ):  # fmt: skip
        yield name, conv(name, (5, 8, 64), 64, depthwise=True, **{**WINDOW, **KINDS_OF_NUMBERS[name]})


def convolutions_of_16_bits() -> Named:
    wide: Facts = {"types": ("int16", "int16")}
    for name, (size, out_c, facts) in SHAPES.items():
        yield name, conv(name, size, out_c, **{**facts, **wide})
    for name, kind in KINDS_OF_16_BITS.items():
        yield f"pointwise, {name}", conv(name, (3, 5, 40), 36, **{**wide, **kind})
    for name, depth in (("32 bits next to the limit", 516), ("beyond 32 bits", 1600)):
        full = conv(name, (1, 3, depth), 16, bias="none", **wide)
        yield name, replace(full, weights=np.full(full.weights.shape, 127, np.int8))
    yield "beyond 32 bits, float64", conv("sums", (2, 2, 2100), 20, arithmetic="float64", **wide)


def depthwise_of_16_bits() -> Named:
    wide: Facts = {"types": ("int16", "int16"), "depthwise": True}
    for name, (size, out_c, facts) in DEPTHWISE.items():
        yield name, conv(name, size, out_c, **{**facts, **wide})
    for name, kind in KINDS_OF_16_BITS.items():
        yield name, conv(name, (5, 8, 48), 48, **{**WINDOW, **wide, **kind})
    yield "wide bias, float64", conv("wide", (5, 8, 48), 48, **WINDOW, **wide, bias="wide", arithmetic="float64")
    yield "a zero point", conv("zero", (5, 8, 48), 48, **WINDOW, **wide, zero_point=7)
    yield "padded far", conv("far", (4, 40, 64), 64, kernel=(1, 5), padding=(0, 40, 0, 40), **wide)


def dense_layers() -> Named:
    for name, shape in {"one row": (1, 64, 10), "rows": (5, 7, 33), "one": (1, 1, 1)}.items():
        for kind in ("int8", "legacy", "float64", "exact pairs"):
            yield f"{name}, {kind}", dense(name, *shape, **KINDS_OF_NUMBERS.get(kind, {}))
        for arithmetic in ("fixed16", "float64"):
            yield f"{name}, int16 {arithmetic}", dense(name, *shape, types=("int16", "int16"), arithmetic=arithmetic)
    yield "many weights", dense("many", 1, 1100, 2048)
    yield "many weights, int16", dense("many", 1, 640, 1024, types=("int16", "int16"))


def real_layers() -> Named:
    shapes: dict[str, tuple[tuple[int, int, int], int, tuple[int, int], tuple[int, int], int]] = {
        "pointwise": ((7, 7, 20), 40, (1, 1), (1, 1), 1),
        "window": ((6, 7, 3), 17, (3, 3), (1, 1), 1),
        "strided": ((9, 9, 8), 16, (3, 3), (2, 2), 1),
        "groups": ((6, 6, 12), 24, (3, 3), (1, 1), 3),
        "depthwise": ((8, 9, 33), 33, (3, 3), (1, 1), 33),
        "depthwise, strided": ((9, 9, 16), 16, (5, 5), (2, 2), 16),
        "depthwise, 7x7": ((9, 9, 64), 64, (7, 7), (1, 1), 64),
        "multiplier 2": ((5, 5, 6), 12, (3, 3), (1, 1), 6),
        "one row": ((1, 1, 100), 10, (1, 1), (1, 1), 1),
    }
    for name, ((h, w, c), out_c, kernel, strides, groups) in shapes.items():
        pads = tuple((k - 1) // 2 for k in (*kernel, *kernel))
        out = tuple((n + 2 * p - k) // s + 1 for n, p, k, s in zip((h, w), pads[:2], kernel, strides, strict=True))
        weights = (numbers(name, (*kernel, c // groups, out_c), -64, 64) / 64).astype(np.float32)
        bias = (numbers(name + "b", (out_c,), -64, 64) / 64).astype(np.float32)
        x = Tensor((1, h, w, c), "float32")
        plain = FloatConv2DContract(x, out, strides, (1, 1), pads, groups, weights, bias)
        yield name, plain
        yield f"{name}, relu6 without bias", replace(plain, bias=None, low=0.0, high=6.0)


def dynamic_layers() -> Named:
    """Of activations that are quantized in every run: those of `real_layers` with integer weights."""
    for index, (name, contract) in enumerate(real_layers()):
        assert isinstance(contract, FloatConv2DContract)
        facts = {field.name: getattr(contract, field.name) for field in fields(contract)}
        facts["weights"] = (contract.weights * 64).astype(np.int8)
        scales = np.array(multipliers(name, contract.output.shape[3], -8), np.float32)
        first = contract.groups == 1 and index % 4 < 2
        yield name, DynamicConv2DContract(**facts, scales=scales, asymmetric=index % 4 != 0, channels_first=first)
    x, weights = Tensor((2, 1, 1, 1200), "float32"), numbers("large", (1, 1, 1200, 24), -127, 127)
    shared = {"strides": (1, 1), "dilation": (1, 1), "padding": (0, 0, 0, 0), "groups": 1, "bias": None}
    yield "beyond 2^24, rows", DynamicConv2DContract(
        x=x, out_size=(1, 1), weights=weights.astype(np.int8), scales=np.full(24, 0.25, np.float32),
        asymmetric=True, channels_first=False, **shared,
    )  # fmt: skip


def transposed_layers() -> Named:
    """Convolutions whose channels become pixels."""
    for name, types in {"int8": "int8", "uint8": "uint8", "int16": "int16"}.items():
        made = conv(f"transposed {name}", (5, 6, 12), 32, **{**WINDOW, "types": (types, types)})
        yield f"of {name}", TransposeConv2DContract(made, (2, 2), (0, 1), (9, 11))  # type: ignore[arg-type]
    real = dict(real_layers())["window"]
    assert isinstance(real, FloatConv2DContract)
    yield "of float32", TransposeConv2DContract(real, (1, 17), (0, 0), (6, 119))


def matrix_products() -> Named:
    rescale = Rescale(multipliers("matmul", 1, -10), 3, -128, 127, "int8")
    for flips in itertools.product((False, True), repeat=2):
        a = Tensor((2, 40, 9) if flips[0] else (2, 9, 40), "float32")
        b = Tensor((2, 70, 40) if flips[1] else (2, 40, 70), "float32")
        name = f"transposed {flips}"
        yield f"{name}, float32", MatmulContract(a=a, b=b, transposed=flips)
        small = replace(b, dtype="int8"), replace(a, dtype="int8")
        yield (
            f"{name}, int8",
            MatmulContract(a=small[1], b=small[0], transposed=flips, zero_points=(-5, 7), rescale=rescale),
        )
        wide = Rescale(multipliers("matmul", 1 if flips[1] else 70, -16), 0, -32768, 32767, "int16", "fixed16")
        for dtype in ("int16", "int8"):
            second = replace(b, dtype=dtype)
            yield (
                f"{name}, int16 by {dtype}",
                MatmulContract(a=replace(a, dtype="int16"), b=second, transposed=flips, rescale=wide),
            )
        if not flips[0]:
            scales = np.array(multipliers("matmul", 70, -8), np.float32)
            yield (
                f"{name}, dynamic",
                MatmulContract(a=a, b=small[0], transposed=flips, scales=scales, asymmetric=flips[1]),
            )
    yield (
        "one for all",
        MatmulContract(a=Tensor((3, 5, 6), "float32"), b=Tensor((1, 6, 3), "float32"), transposed=(False, False)),
    )


def pools() -> Named:
    shapes: dict[str, Facts] = {
        "global": {"in_h": 7, "in_w": 7, "channels": 130, "out_h": 1, "out_w": 1, "window": (7, 7)},
        "padded": {"in_h": 9, "in_w": 8, "channels": 21, "out_h": 5, "out_w": 4, "window": (3, 2), "strides": (2, 2),
                   "padding": (1, 0, 1, 0)},
        "narrow": {"in_h": 5, "in_w": 5, "channels": 3, "out_h": 5, "out_w": 5, "window": (3, 3), "padding": SAME},
    }  # fmt: skip
    for (name, facts), kind, dtype in itertools.product(shapes.items(), ("average", "max"), ("int8", "uint8", "int16")):
        low, high = code_range(dtype)
        common: Facts = {"strides": (1, 1), "padding": (0, 0, 0, 0), **facts}
        yield f"{kind}, {name}, {dtype}", PoolContract(kind, 1, dtype=dtype, low=low + 3, high=high - 9, **common)


def lookups() -> Named:
    for x, y, size in itertools.product(("int8", "uint8"), ("int8", "uint8", "int16", "int32"), (5, 63, 600_001)):
        low, high = code_range(y)
        yield f"{x} to {y}, {size}", LookupContract((size,), x, numbers(y, (256,), low, high).astype(y))
    codes = np.arange(256)
    yield "a line", LookupContract((3, 7, 5), "uint8", np.clip(codes * 3 // 4 - 100, -90, 80).astype(np.int8))
    yield "a line of 16 bits", LookupContract((3, 7, 5), "int8", (codes * 100 - 12800).astype(np.int16))
    yield "floats", LookupContract((40,), "int8", (codes / 64).astype(np.float32))


def _add(factors: tuple[float, float, float], dtype: str, core: Any, a: Any, b: Any) -> Any:
    total = core.multiply(core.astype(a, "float64"), core.const(np.array([factors[0]])))
    total = core.add(total, core.multiply(core.astype(b, "float64"), core.const(np.array([factors[1]]))))
    total = core.floor(core.add(total, core.const(np.array([factors[2] + 0.5]))))
    return core.astype(core.clip(total, *code_range(dtype)), dtype)


def _add_fixed(core: Any, a: Any, b: Any) -> Any:
    shift = core.const(np.array([20], np.int64))
    parts = []
    for x, zero, m, n in ((a, 3, 1 << 30, 0), (b, -7, 1500000000, -1)):
        centered = core.subtract(core.astype(x, "int64"), core.const(np.array([zero], np.int64)))
        parts.append(multiply_fixed(core, core.left_shift(centered, shift), m, n))
    return Rescale((0.75 * 2.0**-20,), 5, -128, 127, "int8").meaning(core, core.add(*parts))


def _by_channel(core: Any, x: Any) -> Any:
    return Rescale(multipliers("channel", 21, -1), -3, -128, 127, "int8").meaning(core, core.astype(x, "int32"))


def _in_floats(core: Any, x: Any) -> Any:
    t = core.divide(core.astype(x, "float32"), core.const(np.array([3.5], np.float32)))
    t = core.add(core.multiply(t, core.const(np.float32([0.125]))), core.const(np.float32([0.75])))
    return core.where(core.less(t, core.const(np.float32([1.0]))), core.abs(core.negative(t)), core.floor(t))


def element_wise() -> Named:
    shape = (4, 9, 21)
    for dtype, factors in itertools.product(("int8", "uint8"), ((2 / 3, -0.5, 0.25), (0.5, 0.5, 0.0))):
        one = Tensor(shape, dtype)
        meaning = functools.partial(_add, factors, dtype)
        yield (
            f"sum of {dtype} by {factors}",
            EltwiseContract("add", (dtype, factors), meaning, (one, one), one, factors),
        )
    one = Tensor(shape, "int8")
    exact = functools.partial(_add, (0.5, 0.25, 0.0), "int8")
    yield (
        "a sum that no multiply-adds compute",
        EltwiseContract("add", "wrong", exact, (one, one), one, (0.6, 0.25, 0.0)),
    )
    yield (
        "small sum",
        EltwiseContract("add", "small", exact, (Tensor((3,), "int8"),) * 2, Tensor((3,), "int8"), (0.5, 0.25, 0.0)),
    )
    broadcasts: dict[str, list[tuple[int, ...]]] = {
        "same shapes": [shape, shape],
        "a vector": [shape, (21,)],
        "a scalar": [shape, (1, 1, 1)],
        "both broadcast": [(4, 9, 1), (4, 1, 21)],
        "one element": [(1,), (1,)],
    }
    for name, shapes in broadcasts.items():
        output = Tensor(np.broadcast_shapes(*shapes), "int8")
        yield name, EltwiseContract("sum", name, _add_fixed, tuple(Tensor(s, "int8") for s in shapes), output)
    yield "by channel", EltwiseContract("scale", "by channel", _by_channel, (one,), one)
    yield "floats", EltwiseContract("curve", "floats", _in_floats, (one,), Tensor(shape, "float32"))
    wide = Tensor(shape, "int16")
    sums: dict[str, tuple[tuple[tuple[int, int], tuple[int, int]], tuple[int, int]]] = {
        "halved": (((2**30, 0), (1518500250, -2)), (1717986918, -15)),
        "neither halved": (((1918500250, -1), (1518500250, -3)), (1717986918, -14)),
        "above a half": (((2**30, 0), (1518500250, 0)), (1717986918, -15)),
    }
    for (name, (terms, result)), subtract in itertools.product(sums.items(), (False, True)):
        total = FixedSum(terms, result, subtract, -32768, 32767)
        yield (
            f"16 bits, {name}, {subtract}",
            EltwiseContract("add", (name, subtract), _sum16, (wide, wide), wide, fixed_sum=total),
        )
    yield "16 bits, clamped", EltwiseContract(
        "add", "clamped", _sum16, (wide, wide), wide,
        fixed_sum=FixedSum(((2**30, 0), (1518500250, -2)), (1717986918, -15), False, 0, 20000),
    )  # fmt: skip


def _sum16(core: Any, a: Any, b: Any) -> Any:
    total = core.add(core.astype(a, "int32"), core.astype(b, "int32"))
    return core.astype(core.clip(total, -32768, 32767), "int16")


def positions(extent: int, out: int, dtype: str) -> tuple[Array, Array, Array]:
    """In steps of 1/1024."""
    at = np.arange(out) * extent * 1024 // out + 300
    first = np.minimum(at // 1024, extent - 1)
    beyond = at - first * 1024
    weights = beyond if dtype in ("int8", "int16") else (beyond / 1024).astype(np.float32)
    return first, np.minimum(first + 1, extent - 1), weights


def others() -> Named:
    for dtype, classes in itertools.product(("int8", "uint8"), (2, 21, 1001)):
        exponentials = np.sort(numbers(f"softmax{classes}", (256,), 0, 2**31 - 1))[::-1].copy()
        yield f"softmax of {classes}, {dtype}", SoftmaxContract(3, classes, dtype, exponentials)
    for dtype, channels in itertools.product(("int8", "uint8", "int16", "float32"), (3, 16, 21)):
        rows, columns = positions(5, 13, dtype), positions(7, 11, dtype)
        resize = ResizeBilinearContract(2, 5, 7, channels, rows, columns, dtype)
        yield f"resize {channels}, {dtype}", resize
        argmax = ArgMaxContract(2 * 13 * 11, channels, dtype, "int32", dtype == "uint8")
        yield f"argmax of resized {channels}, {dtype}", ResizedArgMaxContract(resize, argmax)
    for dtype, smallest, classes in itertools.product(
        ("int8", "uint8", "int16", "float32"), (False, True), (1, 5, 21, 1001)
    ):
        yield f"argmax of {classes}, {dtype}, {smallest}", ArgMaxContract(33, classes, dtype, "int64", smallest)
    for dtype, (rows, lengths) in itertools.product(
        ("int8", "uint8", "int16"), ((1, (5, 300)), (129, (64, 1, 21)), (1000, (400, 130)))
    ):
        yield f"concat {lengths}, {dtype}", ConcatContract(rows, lengths, dtype)


def stored_unsigned() -> Named:
    """Contracts of int8 as the lowering stores it where products take unsigned inputs."""
    one = Tensor((4, 9, 21), "int8")
    resized = ResizeBilinearContract(2, 5, 7, 21, positions(5, 13, "int8"), positions(7, 11, "int8"), "int8")
    add = EltwiseContract(
        "add", "add", functools.partial(_add, (0.5, 0.25, 1.0), "int8"), (one, one), one, (0.5, 0.25, 1.0)
    )
    table = numbers("table", (256,), -128, 127).astype(np.int8)
    both: dict[str, Contract] = {
        "window": conv("stored", (5, 5, 6), 16, **WINDOW),
        "depthwise": conv("stored", (5, 8, 64), 64, depthwise=True, **WINDOW),
        "dense": dense("stored", 3, 40, 20),
        "average": PoolContract("average", 1, 6, 6, 24, 3, 3, (2, 2), (2, 2), (0, 0, 0, 0), "int8", -100, 90),
        "lookup": LookupContract((40,), "int8", table),
        "resize": resized,
        "concat": ConcatContract(6, (3, 40), "int8"),
        "sum": add,
    }
    for name, contract in both.items():
        yield name, contract.stored([True] * len(contract.inputs), True)
    for name, marks, output in (("inputs only", [True, True], False), ("one input", [False, True], True)):
        yield f"sum, {name}", add.stored(marks, output)
    yield "window, output only", both["window"].stored([False], True)
    yield "lookup, input only", both["lookup"].stored([True], False)


FAMILIES: dict[str, Callable[[], Named]] = {
    "conv2d": convolutions,
    "conv2d_16_bits": convolutions_of_16_bits,
    "depthwise": depthwise_convolutions,
    "depthwise_16_bits": depthwise_of_16_bits,
    "dense": dense_layers,
    "float32": real_layers,
    "dynamic": dynamic_layers,
    "transposed": transposed_layers,
    "matmul": matrix_products,
    "pool": pools,
    "lookup": lookups,
    "element_wise": element_wise,
    "others": others,
    "stored_unsigned": stored_unsigned,
}
