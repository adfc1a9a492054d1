"""Arm kernels on emulated processors compute what plain integer loops compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tvm
from aarch64.layers import Layer, codes
from kernels import integer
from plans import built as built_by
from plans import refusal

from benchmarks.emulator import Emulator
from tflite2q.arithmetic.rescale import Rescale
from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels.arm import isa
from tflite2q.kernels.arm.conv import ArmConv
from tflite2q.kernels.arm.depthwise import ArmDepthwise
from tflite2q.kernels.arm.fma_add import ArmFmaAdd
from tflite2q.kernels.arm.lookup import ArmLookup
from tflite2q.kernels.contracts import (
    Conv2DContract,
    DenseContract,
    DepthwiseConv2DContract,
    EltwiseContract,
    LookupContract,
    Tensor,
)
from tflite2q.kernels.frame import Built
from tflite2q.lower.link import link
from tflite2q.lower.target import resolve, tvm_target

pytestmark = pytest.mark.aarch64

Array = npt.NDArray[Any]
Contract = Conv2DContract | DenseContract | DepthwiseConv2DContract | LookupContract | EltwiseContract

# Each level of instructions, compiled for a target of that level, on the least processor that has them.
LEVELS = {
    "cortex-a53": ("cortex-a53", isa.NEON),
    "cortex-a76": ("cortex-a76", isa.DOTPROD),
    "max": ("aarch64-i8mm", isa.I8MM),
}


DRAWN = 60
SAME = (1, 1, 1, 1)
LAYERS: dict[str, Layer] = {
    "plain": Layer(in_c=64, out_c=32),
    "unsigned": Layer(in_c=64, out_c=32, x="uint8", y="uint8"),
    "mixed_types": Layer(in_c=32, x="uint8", y="int8"),
    "asymmetric": Layer(in_c=40, out_c=24, x="uint8", y="uint8", weights="uint8", weight_zero_point=77),
    "asymmetric_signed_input": Layer(in_c=40, out_c=24, weights="uint8", weight_zero_point=200),
    "asymmetric_3x3": Layer(
        in_c=5, out_c=9, kernel=(3, 3), padding=SAME, x="uint8", y="uint8", weights="uint8", weight_zero_point=3
    ),
    "first_layer": Layer(in_c=3, out_c=8, size=9, kernel=(3, 3), stride=2, padding=(0, 0, 1, 1), x="uint8", y="uint8"),
    "one_byte_runs": Layer(in_c=1, out_c=4, kernel=(3, 1), padding=(1, 0, 1, 0)),
    "odd_depth": Layer(in_c=23, out_c=13, kernel=(3, 3), padding=SAME),
    "few_channels": Layer(in_c=16, out_c=2),
    "three_channels": Layer(in_c=9, out_c=3, x="uint8", y="uint8"),
    "overlapping_blocks": Layer(in_c=17, out_c=31),
    "narrow_rest": Layer(in_c=8, out_c=34, kernel=(2, 3), padding=SAME),
    "dilated": Layer(in_c=12, out_c=16, size=9, kernel=(3, 3), dilation=2, padding=(2, 2, 2, 2)),
    "strided_1x1": Layer(in_c=20, out_c=16, size=7, stride=2),
    "one_pixel": Layer(in_c=96, out_c=20, size=1),
    "relu": Layer(in_c=24, out_c=16, relu=True),
    "large_multipliers": Layer(in_c=4, out_c=16, scale=1.5),
    "large_bias": Layer(in_c=16, out_c=16, large_bias=True, scale=1e-7),
    "large_bias_and_multipliers": Layer(in_c=16, out_c=16, large_bias=True, scale=1.5),
    "float32": Layer(in_c=24, out_c=20, arithmetic="float32"),
    "float64": Layer(in_c=24, out_c=20, arithmetic="float64", x="uint8", y="uint8"),
    "shift": Layer(in_c=24, out_c=20, arithmetic="shift"),
    "shift_relu_unsigned": Layer(in_c=24, out_c=16, arithmetic="shift", x="uint8", y="uint8", relu=True),
    "parallel": Layer(in_c=64, out_c=48, size=14),
    "odd_pixels": Layer(in_c=24, out_c=40, size=7, batch=1),
    "odd_pixels_whole_tiles": Layer(in_c=9, out_c=12, size=1, batch=23, x="uint8", y="uint8"),
    "three_pixels": Layer(in_c=5, out_c=20, size=1, batch=3),
    "strided_rows_of_odd_width": Layer(in_c=33, out_c=26, size=9, stride=2, batch=1),
    "padded_1x1": Layer(in_c=18, out_c=24, size=5, padding=SAME, x="uint8", y="uint8"),
    "asymmetric_odd_pixels": Layer(
        in_c=40, out_c=24, size=5, batch=1, x="uint8", y="uint8", weights="uint8", weight_zero_point=77
    ),
    "few_pixels_parallel": Layer(in_c=512, out_c=96, size=3, batch=1),
}
# Without -128 two products fit 16 bits, which NEON makes use of.
NARROW = {f"{name}_narrow": replace(layer, narrow=True) for name, layer in LAYERS.items() if layer.weights == "int8"}

THREE = (3, 3)
DEPTHWISE: dict[str, Layer] = {
    "plain": Layer(32, 32, 9, THREE, padding=SAME),
    "unsigned": Layer(32, 32, 9, THREE, padding=SAME, x="uint8", y="uint8"),
    "strided": Layer(24, 24, 9, THREE, stride=2, padding=SAME, x="uint8", y="uint8"),
    "overlapping_blocks": Layer(37, 37, 5, THREE, padding=SAME),
    "dilated": Layer(16, 16, 9, THREE, dilation=2, padding=(2, 2, 2, 2)),
    "tall": Layer(16, 16, 9, (5, 3), padding=(2, 1, 2, 1)),
    "five": Layer(24, 24, 9, (5, 5), stride=2, padding=(2, 2, 2, 2), x="uint8", y="uint8"),
    "wide_weights": Layer(24, 24, 9, THREE, padding=SAME, x="uint8", y="uint8", weights="uint8", weight_zero_point=30),
    "eight_channels": Layer(8, 8, 6, THREE, padding=SAME),
    "one_column": Layer(16, 16, 3, THREE),
    "relu": Layer(16, 16, 6, THREE, padding=SAME, relu=True),
    "float32": Layer(16, 16, 6, THREE, padding=SAME, arithmetic="float32"),
    "shift": Layer(16, 16, 6, THREE, padding=SAME, arithmetic="shift"),
    "parallel": Layer(64, 64, 24, THREE, padding=SAME),
    "seven": Layer(16, 16, 9, (7, 7), padding=(3, 3, 3, 3), x="uint8", y="uint8"),
    "wide_row": Layer(16, 16, 9, (1, 5), padding=(0, 2, 0, 2)),
    "two_rows": Layer(16, 16, 9, (2, 3), dilation=2, padding=SAME, x="uint8", y="uint8"),
}


# One of each kind of work: the quick test's.
FEW_CONVOLUTIONS = (
    "asymmetric_3x3", "odd_depth", "narrow_rest", "large_multipliers", "odd_pixels_whole_tiles",
    "first_layer_narrow", "narrow_rest_narrow",
)  # fmt: skip
FEW_DEPTHWISE = ("overlapping_blocks", "five", "wide_weights")


@dataclass(frozen=True)
class Asked:
    """A kernel's function, what it is given, and what it must answer."""

    built: Built
    inputs: tuple[Array, ...]
    want: Array

    @property
    def arguments(self) -> list[Array]:
        output = self.built.output
        return [*self.inputs, *self.built.constants, np.zeros(output.shape, output.dtype)]


def check(emulator: Emulator, folder: Path, asked: dict[str, Asked]) -> None:
    """All functions answer what they must, in one library run by one process."""
    target = target_of(emulator)
    module = tvm.IRModule({name: each.built.func.with_attr("global_symbol", name) for name, each in asked.items()})
    library, source, results = (str(folder / name) for name in ("kernels.so", "inputs.npz", "outputs.npz"))
    tvm.compile(module, target=target).export_library(
        library, fcompile=lambda output, objects, **_: link(output, objects, str(target.attrs["mtriple"]))
    )
    np.savez(source, **{f"{name}.{i}": a for name, each in asked.items() for i, a in enumerate(each.arguments)})
    emulator.run(Path(__file__).with_name("device.py"), "kernels", library, source, results)
    with np.load(results) as found:
        wrong = {
            name: int((found[name] != each.want).sum())
            for name, each in asked.items()
            if not np.array_equal(found[name], each.want)
        }
        same = [name for name in asked if len(np.unique(found[name])) == 1]
    assert not wrong, f"different elements: {wrong}"
    assert not same, f"outputs that never vary prove nothing: {same}"


def target_of(emulator: Emulator) -> Any:
    return tvm_target(resolve(LEVELS[emulator.cpu][0]))


def level_of(emulator: Emulator) -> isa.Level:
    return LEVELS[emulator.cpu][1]


def input_of(contract: Contract, seed: int) -> Array:
    return codes(np.random.default_rng(seed), contract.inputs[0].shape, contract.x_dtype)


def convolutions(emulator: Emulator, layers: Mapping[str, Layer]) -> dict[str, Asked]:
    kernel, target = ArmConv(level_of(emulator)), target_of(emulator)
    asked = {}
    for seed, (name, layer) in enumerate(layers.items()):
        contract = layer.contract(seed)
        x = input_of(contract, seed)
        asked[name] = Asked(built_by(kernel, contract, target), (x,), integer.conv(contract, x))
    return asked


def depthwise(emulator: Emulator, names: Iterable[str]) -> dict[str, Asked]:
    """Each layer by the best kernel that takes it: dot products refuse few channels and wide weights."""
    level, target = level_of(emulator), target_of(emulator)
    contracts = {name: DEPTHWISE[name].depthwise(seed) for seed, name in enumerate(names)}
    chosen = {
        name: next(k for k in map(ArmDepthwise, (level, isa.NEON)) if refusal(k, c, target) is None)
        for name, c in contracts.items()
    }
    assert chosen["five"].level == level and chosen["wide_weights"].level == isa.NEON
    asked = {}
    for seed, (name, contract) in enumerate(contracts.items()):
        x = input_of(contract, seed)
        asked[f"depthwise_{name}"] = Asked(built_by(chosen[name], contract, target), (x,), integer.conv(contract, x))
    return asked


def dense(emulator: Emulator) -> dict[str, Asked]:
    generator = np.random.default_rng(5)
    rescale = Rescale(tuple(generator.uniform(1e-4, 1e-3, 21)), 3, -128, 127, "int8", "fixed")
    base = DenseContract(
        rows=1, depth=75, units=21, x_dtype="int8", x_zero_point=4, weights=codes(generator, (21, 75), "int8"),
        weight_zero_points=(0,), bias=None, rescale=rescale,
    )  # fmt: skip
    contracts = {
        "one_row": base,
        "narrow_row": replace(base, weights=np.maximum(base.weights, -127)),
        "narrow_rows": replace(base, rows=7, weights=np.maximum(base.weights, -127)),
        "rows": replace(base, rows=7),
        "float64": replace(base, rescale=replace(rescale, arithmetic="float64")),
        "asymmetric_rows": replace(
            base, x_dtype="uint8", weights=codes(generator, (21, 75), "uint8"), weight_zero_points=(99,)
        ),
    }
    kernel, target = ArmConv(level_of(emulator)), target_of(emulator)
    asked = {}
    for seed, (name, contract) in enumerate(contracts.items()):
        x = input_of(contract, seed)
        asked[f"dense_{name}"] = Asked(built_by(kernel, contract, target), (x,), integer.dense(contract, x))
    return asked


def lookups(emulator: Emulator, x_dtype: str, sizes: Iterable[int]) -> dict[str, Asked]:
    """Every code, in tensors that fill vectors and threads, and in some that do not."""
    generator = np.random.default_rng(6)
    low = np.iinfo(x_dtype).min
    asked = {}
    for seed, (size, dtype) in enumerate((size, dtype) for size in sizes for dtype in ("int8", "uint8")):
        contract = LookupContract((1, size), x_dtype, codes(generator, (256,), dtype))
        x = np.arange(low, low + 256).astype(x_dtype)[None] if size == 256 else input_of(contract, seed)
        built = built_by(ArmLookup(), contract, target_of(emulator))
        asked[f"of_{size}_{x_dtype}_to_{dtype}"] = Asked(built, (x,), contract.table[x.astype(int) - low])
    return asked


def planes(emulator: Emulator, dtype: str) -> dict[str, Asked]:
    """A weighted sum of every pair of codes, and of tensors that fill no vector; clamped and not."""
    low, high = code_range(dtype)
    factors = (2 / 3, -0.5, 0.3)

    def contract(shape: tuple[int, ...], least: int) -> EltwiseContract:
        def meaning(core: Any, a: Any, b: Any) -> Any:
            # In float64, halves up; by NumPy's hand, with nothing of the kernels.
            total = np.floor(a.astype(float) * factors[0] + b.astype(float) * factors[1] + factors[2] + 0.5)
            return np.clip(total, least, high).astype(dtype)

        tensor = Tensor(shape, dtype)
        return EltwiseContract("sum", (shape, least), meaning, (tensor, tensor), tensor, factors)

    contracts = {
        "all_pairs": contract((256, 256), low), "relu": contract((256, 256), low + 100), "odd": contract((3, 11), low)
    }  # fmt: skip
    codes_ = np.arange(low, high + 1).astype(dtype)
    pairs = [np.repeat(codes_, 256).reshape(256, 256), np.resize(codes_, (256, 256))]
    asked = {}
    for name, c in contracts.items():
        spread = np.linspace(0, pairs[0].size - 1, c.output.size).astype(int)
        inputs = tuple(x.reshape(-1)[spread].reshape(c.output.shape) for x in pairs)
        built = built_by(ArmFmaAdd(), c, target_of(emulator))
        asked[f"planes_{name}_{dtype}"] = Asked(built, inputs, c.meaning(None, *inputs))
    return asked


@pytest.mark.aarch64_quick
def test_some_of_every_kernel(emulator: Emulator, tmp_path: Path) -> None:
    few = convolutions(emulator, {name: (LAYERS | NARROW)[name] for name in FEW_CONVOLUTIONS})
    few |= depthwise(emulator, FEW_DEPTHWISE) | lookups(emulator, "int8", (17, 256)) | planes(emulator, "uint8")
    few["dense_float64"] = dense(emulator)["dense_float64"]
    check(emulator, tmp_path, few)


def test_convolutions(emulator: Emulator, tmp_path: Path) -> None:
    check(emulator, tmp_path, convolutions(emulator, LAYERS))


def test_convolutions_of_narrow_weights(emulator: Emulator, tmp_path: Path) -> None:
    check(emulator, tmp_path, convolutions(emulator, NARROW))


def drawn(seed: int) -> Layer:
    """A convolution of random geometry, types and arithmetic."""
    generator = np.random.default_rng(seed)

    def one_of(*choices: Any) -> Any:
        return choices[generator.integers(len(choices))]

    kernel = one_of((1, 1), (1, 1), (1, 1), (3, 3), (2, 2), (1, 3), (5, 1))
    return Layer(
        in_c=one_of(1, 3, 4, 8, 15, 16, 24, 31, 40, 65), out_c=one_of(1, 4, 7, 8, 9, 13, 16, 24, 30, 48, 70),
        size=int(generator.integers(5, 12)), kernel=kernel, stride=one_of(1, 1, 2, 3),
        padding=one_of((0, 0, 0, 0), SAME, (0, 1, 2, 0)), x=one_of("int8", "uint8"), y=one_of("int8", "uint8"),
        arithmetic=one_of("fixed", "float32", "shift"), relu=one_of(False, True), batch=one_of(1, 2, 3),
        **one_of({}, {"narrow": True}, {"narrow": True}, {"weights": "uint8", "weight_zero_point": 120}),
    )  # fmt: skip


def test_random_convolutions(emulator: Emulator, tmp_path: Path) -> None:
    check(emulator, tmp_path, convolutions(emulator, {f"drawn_{seed}": drawn(seed) for seed in range(DRAWN)}))


def test_depthwise(emulator: Emulator, tmp_path: Path) -> None:
    check(emulator, tmp_path, depthwise(emulator, DEPTHWISE))


def test_dense(emulator: Emulator, tmp_path: Path) -> None:
    check(emulator, tmp_path, dense(emulator))


@pytest.mark.parametrize("x_dtype", ["int8", "uint8"])
def test_lookups(emulator: Emulator, tmp_path: Path, x_dtype: str) -> None:
    check(emulator, tmp_path, lookups(emulator, x_dtype, (16, 17, 63, 256, 4097, 50000)))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_planes(emulator: Emulator, tmp_path: Path, dtype: str) -> None:
    check(emulator, tmp_path, planes(emulator, dtype))
