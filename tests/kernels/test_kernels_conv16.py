"""Kernels of 16-bit activations, bit for bit against plain NumPy: geometry, and all that stresses their proofs."""

from __future__ import annotations

import dataclasses
from typing import Any

import integer
import levels
import made
import numpy as np
import pytest
import test_kernels_conv
from exact import fixed16
from plans import assembly, built, refusal
from test_kernels_conv import CONVOLUTIONS, DEPTHWISE

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.kernels.contracts import Conv2DContract, DepthwiseConv2DContract
from tflite2q.kernels.generic.conv import GenericConv, GenericDepthwise
from tflite2q.kernels.registry import select
from tflite2q.kernels.split_rescale import LIMIT, prove
from tflite2q.kernels.sums import Sums
from tflite2q.kernels.x86.conv16 import X86Conv16
from tflite2q.kernels.x86.depthwise16 import X86Depthwise16
from tflite2q.kernels.x86.isa import AVX2, AVX512VNNI, AVXVNNI
from tflite2q.kernels.x86.matrix16 import X86Matrix16

# (target, convolution kernel, depthwise kernel; None where it is that of another level)
LEVELS = {
    "generic": (made.NATIVE, GenericConv(), GenericDepthwise()),
    "amx": ("x86-64-amx", X86Matrix16(slow_too=True), None),
    "avx512vnni": ("x86-64-vnni", X86Conv16(AVX512VNNI), X86Depthwise16(AVX512VNNI)),
    "avxvnni": ("x86-64-avxvnni", X86Conv16(AVXVNNI), X86Depthwise16(AVXVNNI)),
    "avx2": ("x86-64-v3", X86Conv16(AVX2), X86Depthwise16(AVX2)),
}

MORE: dict[str, dict[str, Any]] = {
    "few pixels, weights widened on the way": {"size": (7, 7, 40), "out_c": 70},
    "many weights": {"size": (1, 40, 300), "out_c": 130},
    "pieces of one pixel": {"size": (3, 4, 1), "out_c": 17, "per_channel": False},
    "one row of two": {"size": (2, 1, 33), "out_c": 16, "kernel": (2, 1)},
    "one padded row": {"size": (1, 9, 32), "out_c": 16, "padding": (0, 2, 0, 1)},
}

MORE_DEPTHWISE: dict[str, dict[str, Any]] = {
    "all columns padded": {"size": (5, 3, 32), "kernel": (3, 3), "padding": (1, 1, 1, 1)},
    "padded twice over": {"size": (6, 9, 48), "kernel": (5, 5), "padding": (2, 2, 2, 2), "dilation": (1, 1)},
    "narrow, stride 2": {"size": (8, 16, 8), "kernel": (3, 3), "strides": (2, 2), "padding": (0, 0, 1, 1)},
    "uneven strides": {"size": (9, 13, 16), "kernel": (2, 3), "strides": (3, 2), "padding": (1, 1, 0, 1)},
    "no padding": {"size": (6, 9, 32), "kernel": (3, 3)},
}


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Any:
    return here(request.param)


@pytest.fixture(params=[name for name, (_, _, depthwise) in LEVELS.items() if depthwise is not None])
def depthwise_level(request: pytest.FixtureRequest) -> Any:
    return here(request.param)


def here(name: str) -> Any:
    """A level that this machine can execute; skips the test on others."""
    if not made.runs_here(LEVELS[name][0]):
        levels.skip(name)
    return LEVELS[name]


def conv(seed: int, size: tuple[int, int, int], out_c: int, arithmetic: str = "fixed16", **facts: Any) -> Any:
    return made.conv(seed, size, out_c, **{**facts, "dtype": "int16", "arithmetic": arithmetic})


def check(kernel: Any, contract: Any, target: str, x: Any = None, varied: bool = True) -> None:
    """As for 8 bits, but the matrix unit leaves weights that do not fit bytes, also because they were doubled."""
    if kernel is None:  # the test's other kernels are what this level adds
        return
    refused = refusal(kernel, contract, made.target(target))
    if isinstance(kernel, X86Matrix16) and refused is not None:
        assert refused == "weights need nine bits"
        assert np.abs(Sums.of(contract).weights).max() > 127
        return
    test_kernels_conv.check(kernel, contract, target, x, varied)


def extreme_codes(contract: Conv2DContract | DepthwiseConv2DContract) -> np.ndarray[Any, Any]:
    """Only the largest magnitudes, in runs long enough to fill a whole window."""
    shape = contract.inputs[0].shape
    code = np.random.default_rng(5).choice([-32768, 32767], (shape[0], -(-shape[1] // 3), shape[2], 1))
    return np.broadcast_to(np.repeat(code, 3, axis=1)[:, : shape[1]], shape).astype("int16")


@pytest.mark.isa
@pytest.mark.parametrize("case", {**CONVOLUTIONS, **MORE})
def test_convolution(level: Any, case: str) -> None:
    target, kernel, _ = level
    contract = conv(len(case), **{**CONVOLUTIONS, **MORE}[case])
    assert Sums.of(contract).split is not None
    check(kernel, contract, target)
    check(kernel, contract, target, extreme_codes(contract), varied=False)


@pytest.mark.isa
@pytest.mark.parametrize("case", {**DEPTHWISE, **MORE_DEPTHWISE})
def test_depthwise(depthwise_level: Any, case: str) -> None:
    target, _, kernel = depthwise_level
    facts = {**DEPTHWISE, **MORE_DEPTHWISE}[case]
    contract = conv(len(case), out_c=facts["size"][2], depthwise=True, **facts)
    check(kernel, contract, target)
    check(kernel, contract, target, extreme_codes(contract), varied=False)


@pytest.mark.isa
@pytest.mark.parametrize("arithmetic", ["float64", "float32", "shift"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_arithmetics(level: Any, arithmetic: str, per_channel: bool) -> None:
    check(level[1], conv(5, (5, 6, 20), 84, arithmetic, per_channel=per_channel), level[0])
    facts = {"kernel": (3, 3), "padding": (1, 1, 1, 1), "per_channel": per_channel, "depthwise": True}
    check(level[2], conv(6, (4, 9, 64), 64, arithmetic, **facts), level[0])


@pytest.mark.isa
@pytest.mark.parametrize("arithmetic", ["fixed16", "float64", "float32", "shift"])
def test_sums_beyond_32_bits(level: Any, arithmetic: str) -> None:
    """Layers so deep that only pieces of their sums fit, and windows of taps that do."""
    for facts in ({"size": (2, 3, 2600)}, {"size": (5, 4, 300), "kernel": (3, 3), "padding": (1, 0, 1, 1)}):
        contract = conv(7, out_c=20, arithmetic=arithmetic, bias=arithmetic != "shift", **facts)
        heavy = dataclasses.replace(contract, weights=np.where(contract.weights < 0, -127, 127).astype("int8"))
        assert Sums.of(heavy).wide
        check(level[1], heavy, level[0])
        one_sided = dataclasses.replace(heavy, weights=np.full_like(heavy.weights, 127))
        check(level[1], one_sided, level[0], extreme_codes(one_sided), varied=False)


@pytest.mark.isa
@pytest.mark.parametrize(("depth", "exponent", "form"), [(515, -17, "split"), (516, -20, "int32"), (517, -17, "int64")])
def test_sums_next_to_the_limit(level: Any, depth: int, exponent: int, form: str) -> None:
    """Weights of 127 that sum as far as the proof allows, one too far for a split rescale, and for 32 bits."""
    contract = conv(8, (2, 3, depth), 16, bias=False)
    rescale = dataclasses.replace(contract.rescale, real=(1.2345 * 2.0**exponent,) * 16)
    full = dataclasses.replace(contract, weights=np.full((16, 1, 1, depth), 127, "int8"), rescale=rescale)
    sums = Sums.of(full)
    assert ("split" if sums.split is not None else sums.dtype) == form
    for code in (-32768, 32767):
        x = np.full(full.inputs[0].shape, code, "int16")
        check(level[1], full, level[0], x, varied=False)


@pytest.mark.isa
def test_multipliers_of_every_size(level: Any) -> None:
    """From those that lose every sum to those that need weights doubled, or no right shift at all."""
    contract = conv(9, (3, 5, 4), 64)
    exponents = np.linspace(-32.0, 4.0, 64)
    for choice in (exponents, exponents[exponents < -0.5].repeat(2)[:64], np.full(64, 0.9)):
        real = tuple(float(r) for r in np.resize(2.0**choice, 64)) if len(choice) > 1 else ()
        few = dataclasses.replace(contract, rescale=dataclasses.replace(contract.rescale, real=real))
        check(level[1], few, level[0])
    vanishing = dataclasses.replace(contract.rescale, real=(0.0, *contract.rescale.real[1:]))
    check(level[1], dataclasses.replace(contract, rescale=vanishing), level[0])


@pytest.mark.isa
@pytest.mark.parametrize("most", [2**33, 2**40, 2**46])
def test_biases_beyond_32_bits(level: Any, most: int) -> None:
    """As channels have whose weights are next to nothing: their multipliers are small, their biases large."""
    rng = np.random.default_rng(10)
    for kernel, contract in (
        (level[1], conv(10, (5, 6, 20), 70)),
        (level[2], conv(11, (5, 9, 70), 70, kernel=(3, 3), padding=(1, 1, 1, 1), depthwise=True)),
    ):
        real = np.array(contract.rescale.real)
        bias = contract.bias.copy()
        dead = rng.random(70) < 0.4
        bias[dead] = rng.integers(-most, most, dead.sum())
        real[dead] = rng.uniform(0.1, 40000, dead.sum()) / most
        if level[0] != made.NATIVE and isinstance(contract, DepthwiseConv2DContract):
            assert Sums.of(contract).split is not None
        rescale = dataclasses.replace(contract.rescale, real=tuple(float(r) for r in real))
        check(kernel, dataclasses.replace(contract, bias=bias, rescale=rescale), level[0])


@pytest.mark.isa
def test_32_bit_biases_wrap_around(level: Any) -> None:
    """With them the reference kernels sum in 32 bits, and rescale as for 8-bit activations."""
    target, *kernels = level
    for kernel, depthwise in zip(kernels, (False, True), strict=True):
        facts = {"kernel": (3, 3), "padding": (1, 1, 1, 1), "depthwise": depthwise}
        contract = conv(12, (4, 9, 64), 64, "fixed", **facts)
        bias = np.random.default_rng(1).integers(2**31 - 2**22, 2**31 - 1, 64).astype("int32")
        wrapping = dataclasses.replace(contract, bias=bias, accumulator="int32")
        x = made.codes(np.random.default_rng(99), wrapping.inputs[0])
        sums = integer.accumulators(wrapping, x)
        assert (sums < 0).any() and (sums > 0).any()
        check(kernel, wrapping, target, x, varied=False)
        ordinary = dataclasses.replace(contract, bias=contract.bias.astype("int32"), accumulator="int32")
        check(kernel, ordinary, target)


@pytest.mark.isa
@pytest.mark.parametrize(("rows", "depth", "units"), [(1, 40, 130), (5, 7, 3), (1, 64, 10), (1, 1, 1)])
def test_dense(level: Any, rows: int, depth: int, units: int) -> None:
    for arithmetic in ("float64", "fixed16"):
        contract = made.dense(10, rows, depth, units, "int16", arithmetic)
        narrow = dataclasses.replace(contract, weights=contract.weights.astype("int8"), weight_zero_points=(0,))
        check(level[1], narrow, level[0], varied=units > 1)


@pytest.mark.isa
def test_parallel_regions(level: Any) -> None:
    check(level[1], conv(13, (30, 30, 64), 80), level[0])
    check(level[1], conv(13, (30, 31, 24), 40, kernel=(3, 3), padding=(1, 1, 1, 1)), level[0])
    check(level[1], conv(14, (1, 1, 640), 1024), level[0])
    check(level[2], conv(15, (40, 41, 96), 96, kernel=(3, 3), padding=(1, 1, 1, 1), depthwise=True), level[0])


@pytest.mark.parametrize("seed", range(40))
def test_the_split_rescale_is_the_product(seed: int) -> None:
    """The proof's constants, in integers without a width, against eq. 20 at the ends of the range and inside."""
    rng = np.random.default_rng(seed)
    real = 2.0 ** rng.uniform(-34, 3, 50)
    sums = np.floor(2.0 ** rng.uniform(8, 31, 50))
    bias = (rng.normal(0, 1, 50) * 2.0 ** rng.uniform(0, 45, 50)).astype(np.int64)
    rescale = Rescale(tuple(float(r) for r in real), 0, -32768, 32767, "int16", "fixed16")
    proven = 0
    for channel in range(50):
        one = dataclasses.replace(rescale, real=(rescale.real[channel],))
        pick = slice(channel, channel + 1)
        split = prove(one, sums[pick], np.array([127.0]), bias[pick])
        if split is None:
            continue
        proven += 1
        double, start, m, rest, shift, lift = (
            int(a[0]) for a in (split.double, split.start, split.m, split.rest, split.shift, split.lift)
        )
        reach = int(sums[channel])
        for s in {-reach, reach, -1, 0, 1, *(int(v) for v in rng.integers(-reach, reach + 1, 20))}:
            v = (s << double) + start
            assert abs(v) < LIMIT
            high = (v + 2**15) >> 16
            low = v - (high << 16)
            parts = (high, low, low * m + rest, high * m + ((low * m + rest) >> 16))
            assert -(2**15) <= high < 2**15 and all(-(2**31) <= part < 2**31 for part in parts)
            code = (parts[3] >> shift) + lift
            exact = fixed16(s + int(bias[channel]), *(int(a[0]) for a in one.fixed_point()))
            assert min(max(code, -32768), 32767) == min(max(exact, -32768), 32767)
    assert proven > 10


def test_8_bit_kernels_leave_16_bits_alone() -> None:
    """Every refusal is a sentence that says why, on every target."""
    image, window = conv(1, (9, 9, 32), 32), conv(1, (9, 9, 32), 32, kernel=(3, 3), depthwise=True)
    for name in ("x86-64-amx", "x86-64-vnni", "x86-64-avxvnni", "x86-64-v3", "x86-64", "aarch64-i8mm", "wasm32"):
        for contract in (image, window):
            selection = select(contract, made.target(name))
            kernel = selection.kernel
            assert "16" in kernel.name or kernel.name.startswith("generic"), name
            for who, why in ((who, answer.reason) for who, answer in selection.refusals):
                assert "16" in who or "int16" in why or "needs" in why or "the target" in why or "only Linux" in why, (
                    why
                )
    for kernel in (X86Conv16(AVX2), X86Matrix16(slow_too=True)):
        assert refusal(kernel, made.conv(1, (9, 9, 32), 32), made.target("x86-64-amx")) == "int8 to int8"


def test_assembly_keeps_to_its_level() -> None:
    contract = conv(16, (8, 8, 64), 64)
    window = conv(16, (8, 8, 64), 64, kernel=(3, 3), padding=(1, 1, 1, 1), depthwise=True)
    for name, present, absent in (
        ("amx", ("tdpbusd", "tdpbssd"), ()),
        ("avx512vnni", ("vpdpwssds", "zmm"), ("vpmaddwd",)),
        ("avxvnni", ("vpdpwssds", "ymm"), ("zmm", "%k1", "vpmaddwd")),
        ("avx2", ("vpmaddwd", "ymm"), ("zmm", "vpdpwssd", "%k1")),
    ):
        target, *kernels = LEVELS[name]
        for kernel, each in zip(kernels[: 1 if name == "amx" else 2], (contract, window), strict=False):
            text = assembly(built(kernel, each, made.target(target)), made.target(target))
            assert all(word in text for word in present) and not any(word in text for word in absent), name
