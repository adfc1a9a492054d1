"""Convolution, depthwise and dense kernels of every level, bit for bit against plain NumPy."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import integer
import levels
import made
import numpy as np
import pytest
from plans import assembly, built, refusal

from tflite2q.kernels import loops
from tflite2q.kernels.contracts import Conv2DContract, DenseContract, DepthwiseConv2DContract
from tflite2q.kernels.generic.conv import GenericConv, GenericDepthwise
from tflite2q.kernels.x86.conv import X86Conv
from tflite2q.kernels.x86.depthwise import X86Depthwise
from tflite2q.kernels.x86.isa import AVX2, AVX512VNNI, AVXVNNI, Level
from tflite2q.kernels.x86.matrix import X86Matrix
from tflite2q.kernels.x86.saturation import SplitWeights, in_eight_bits, unsaturated

# (target, convolution kernel, depthwise kernel)
LEVELS = {
    "generic": (made.NATIVE, GenericConv(), GenericDepthwise()),
    "amx": ("x86-64-amx", X86Matrix(slow_too=True), X86Depthwise(AVX512VNNI)),
    "avx512vnni": ("x86-64-vnni", X86Conv(AVX512VNNI), X86Depthwise(AVX512VNNI)),
    "avxvnni": ("x86-64-avxvnni", X86Conv(AVXVNNI), X86Depthwise(AVXVNNI)),
    "avx2": ("x86-64-v3", X86Conv(AVX2), X86Depthwise(AVX2)),
}

ARITHMETICS = ("fixed", "float64", "float32", "shift")

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "one tile and a bit": {"size": (5, 5, 20), "out_c": 68},
    "narrow, batch of two": {"size": (4, 3, 8), "out_c": 24, "batch": 2, "per_channel": False},
    "first layer": {
        "size": (13, 17, 3), "out_c": 12, "kernel": (3, 3), "strides": (2, 2), "padding": (0, 0, 1, 1), "relu": True,
    },
    "depth no multiple of four": {"size": (6, 7, 21), "out_c": 33, "kernel": (3, 3), "padding": (1, 1, 1, 1)},
    "runs of three bytes": {"size": (6, 6, 3), "out_c": 5},
    "one channel in": {"size": (12, 10, 1), "out_c": 16, "kernel": (5, 4), "strides": (2, 2), "padding": (2, 1, 2, 2)},
    "dilated, uneven strides": {
        "size": (11, 13, 8), "out_c": 129, "kernel": (3, 2), "dilation": (2, 3), "strides": (1, 2),
        "padding": (2, 0, 2, 3),
    },
    "legacy weights": {"size": (6, 6, 40), "out_c": 72, "dtype": "uint8", "weights": "uint8", "per_channel": False},
    "legacy weights, padded": {
        "size": (6, 6, 12), "out_c": 16, "kernel": (3, 3), "padding": (1, 1, 1, 1), "dtype": "uint8",
        "weights": "uint8", "per_channel": False, "batch": 2,
    },
    "deeper than a tile": {"size": (5, 9, 72), "out_c": 80, "kernel": (1, 3), "padding": (0, 1, 0, 1), "batch": 3},
    "no multiple of a tile's depth": {"size": (7, 7, 201), "out_c": 130, "dtype": "uint8"},
    "dilated, many taps": {"size": (9, 11, 6), "out_c": 20, "kernel": (4, 5), "dilation": (1, 2)},
    "dilated rows, 48 channels": {"size": (9, 8, 33), "out_c": 48, "kernel": (2, 2), "dilation": (3, 1)},
    "no bias, one pixel": {"size": (1, 1, 64), "out_c": 65, "bias": False, "dtype": "uint8"},
}  # fmt: skip

DEPTHWISE: dict[str, dict[str, Any]] = {
    "3x3, 8 channels": {"size": (9, 11, 8), "kernel": (3, 3), "padding": (1, 1, 1, 1)},
    "3x3, 130 channels": {"size": (6, 9, 130), "kernel": (3, 3), "padding": (1, 1, 1, 1), "dtype": "uint8"},
    "3x3 stride 2, 24 channels": {"size": (9, 17, 24), "kernel": (3, 3), "strides": (2, 2), "padding": (0, 0, 1, 1)},
    "3x3 stride 2, 96 channels": {"size": (8, 8, 96), "kernel": (3, 3), "strides": (2, 2), "padding": (1, 1, 1, 1)},
    "5x5, 80 channels": {"size": (9, 7, 80), "kernel": (5, 5), "padding": (2, 2, 2, 2), "relu": True},
    "5x5 stride 2": {"size": (9, 11, 64), "kernel": (5, 5), "strides": (2, 2), "padding": (1, 1, 2, 2)},
    "one output row, batch of two": {"size": (1, 9, 64), "kernel": (3, 3), "padding": (1, 1, 1, 1), "batch": 2},
    "dilated": {"size": (9, 10, 72), "kernel": (3, 3), "padding": (2, 4, 2, 4), "dilation": (2, 4)},
    "7x1 column": {"size": (9, 4, 64), "kernel": (7, 1), "padding": (3, 0, 3, 0)},
    "legacy weights": {
        "size": (5, 6, 64), "kernel": (3, 3), "padding": (1, 1, 1, 1), "dtype": "uint8", "weights": "uint8",
        "per_channel": False,
    },
}  # fmt: skip


def check(
    kernel: Any,
    contract: Conv2DContract | DepthwiseConv2DContract | DenseContract,
    target: str,
    x: Any = None,
    varied: bool = True,
    parts: bool = False,
) -> None:
    compiled_for = made.target(target)
    refused = refusal(kernel, contract, compiled_for)
    assert refused is None
    x = made.codes(np.random.default_rng(99), contract.inputs[0]) if x is None else x
    y = made.run(built(kernel, contract, compiled_for, parts), compiled_for, x)
    expected = integer.dense(contract, x) if isinstance(contract, DenseContract) else integer.conv(contract, x)
    np.testing.assert_array_equal(y, expected)
    assert len(np.unique(expected)) > 5 or not varied, "this case would not notice much"


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Any:
    found = LEVELS[request.param]
    if not made.runs_here(found[0]):
        levels.skip(request.param)
    return found


@pytest.mark.isa
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(level: Any, case: str) -> None:
    check(level[1], made.conv(len(case), **CONVOLUTIONS[case]), level[0])


@pytest.mark.isa
@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise(level: Any, case: str) -> None:
    facts = DEPTHWISE[case]
    check(level[2], made.conv(len(case), out_c=facts["size"][2], depthwise=True, **facts), level[0])


@pytest.fixture
def parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads share every layer, however small, whose inputs they made."""
    monkeypatch.setattr(loops, "PARALLEL_WORK_OF_PARTS", 1)


@pytest.mark.isa
@pytest.mark.usefixtures("parallel")
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_that_threads_share(level: Any, case: str) -> None:
    """Pieces of the pixels may be more than the tiles of the blocks left over, whose tiles are taller."""
    check(level[1], made.conv(len(case), **CONVOLUTIONS[case]), level[0], parts=True)


@pytest.mark.isa
@pytest.mark.usefixtures("parallel")
@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise_that_threads_share(level: Any, case: str) -> None:
    facts = DEPTHWISE[case]
    check(level[2], made.conv(len(case), out_c=facts["size"][2], depthwise=True, **facts), level[0], parts=True)


@pytest.mark.isa
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_arithmetics(level: Any, arithmetic: str, per_channel: bool) -> None:
    facts = {"arithmetic": arithmetic, "per_channel": per_channel, "dtype": "uint8"}
    check(level[1], made.conv(5, (5, 6, 20), 84, **facts), level[0])
    facts = {"kernel": (3, 3), "padding": (1, 1, 1, 1), "arithmetic": arithmetic, "per_channel": per_channel}
    check(level[2], made.conv(6, (4, 9, 64), 64, depthwise=True, **facts), level[0])


@pytest.mark.isa
@pytest.mark.parametrize("zero_point", [-128, 127])
def test_extreme_zero_points(level: Any, zero_point: int) -> None:
    check(level[1], made.conv(7, (4, 5, 16), 64, (3, 3), padding=(1, 1, 1, 1), zero_point=zero_point), level[0])


@pytest.mark.isa
@pytest.mark.parametrize("channels", [4, 8, 16, 33])
def test_symmetric_codes_behind_relu(level: Any, channels: int) -> None:
    """Zero point 0 and the clamp at 0: code generation for few channels once never ended."""
    contract = made.conv(4, (9, 9, 3), channels, (3, 3), strides=(2, 2), padding=(0, 0, 1, 1), zero_point=0)
    clamped = dataclasses.replace(contract.rescale, zero_point=0, low=0, high=127)
    check(level[1], dataclasses.replace(contract, rescale=clamped), level[0])


@pytest.mark.isa
@pytest.mark.parametrize("arithmetic", ["fixed", "shift"])
def test_multipliers_above_one(level: Any, arithmetic: str) -> None:
    """Left shifts, and right shifts by nothing, next to right shifts."""
    contract = made.conv(8, (4, 5, 4), 64, arithmetic=arithmetic)
    x = np.random.default_rng(1).integers(-3, 4, (1, 4, 5, 4)).astype("int8")
    real = tuple(float(2.0**n if arithmetic == "shift" else 0.7 * 2.0**n) for n in np.arange(64) % 5 - 2)
    small = dataclasses.replace(
        contract, weights=np.sign(contract.weights), x_zero_point=0, bias=np.zeros(64, "int32"),
        rescale=dataclasses.replace(contract.rescale, real=real),
    )  # fmt: skip
    check(level[1], small, level[0], x)


@pytest.mark.isa
def test_accumulators_near_the_end_of_int32(level: Any) -> None:
    """Where 32-bit steps of the epilogue would overflow, and where the accumulator itself wraps."""
    contract = made.conv(9, (3, 5, 8), 64, per_channel=False)
    rng = np.random.default_rng(3)
    for real, low in ((2.0**-31 * 50, 2**31 - 300000), (2.0**-1, -(2**31))):
        bias = rng.integers(low, low + 300000, 64).astype("int32")
        extreme = dataclasses.replace(contract.rescale, real=(real,), zero_point=0)
        check(level[1], dataclasses.replace(contract, bias=bias, rescale=extreme), level[0], varied=False)


@pytest.mark.isa
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(("rows", "depth", "units"), [(1, 40, 130), (5, 7, 3), (1, 64, 10)])
def test_dense(level: Any, dtype: str, rows: int, depth: int, units: int) -> None:
    check(level[1], made.dense(10, rows, depth, units, dtype), level[0])


def test_generic_depth_multipliers_and_groups() -> None:
    facts = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
    for channels, out_c in ((3, 24), (2, 32), (5, 10)):
        check(GenericDepthwise(), made.conv(11, (5, 6, channels), out_c, depthwise=True, **facts), made.NATIVE)
    check(GenericConv(), made.conv(12, (5, 6, 12), 20, groups=4, **facts), made.NATIVE)


@pytest.mark.isa
def test_parallel_regions(level: Any) -> None:
    """Large enough to run on several threads: pixels shared, channels shared (few pixels), and rows shared."""
    pixels, channels = made.conv(13, (30, 30, 64), 80), made.conv(14, (1, 2, 2080), 2064)
    check(level[1], pixels, level[0])
    check(level[1], channels, level[0])
    rows = made.conv(15, (56, 57, 96), 96, (3, 3), padding=(1, 1, 1, 1), depthwise=True, batch=2)
    check(level[2], rows, level[0])
    for kernel, contract in ((level[1], pixels), (level[1], channels), (level[2], rows)):
        assert "T.parallel" in built(kernel, contract, made.target(level[0])).func.script()


@pytest.mark.isa
@pytest.mark.parametrize("channels", [16, 40, 100])
@pytest.mark.parametrize(
    "width, kernel, strides, padding, dilation",
    [
        (33, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
        (70, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
        (71, (3, 5), (1, 1), (0, 0, 1, 4), (1, 1)),
        (131, (3, 3), (2, 2), (0, 0, 1, 1), (1, 1)),
        (97, (5, 5), (2, 2), (2, 2, 2, 2), (1, 1)),
        (100, (2, 3), (1, 3), (0, 1, 0, 1), (1, 1)),
        (80, (3, 3), (1, 1), (9, 9, 9, 9), (9, 9)),
        (36, (3, 3), (1, 1), (20, 20, 20, 20), (20, 20)),
        (40, (1, 9), (1, 2), (0, 8, 0, 8), (1, 1)),
    ],
)
def test_depthwise_rows_in_strips(
    level: Any, channels: int, width: int, kernel: Any, strides: Any, padding: Any, dilation: Any
) -> None:
    """Rows longer than the interleaved ones that stay in the first cache, with and without columns outside."""
    facts = {"strides": strides, "padding": padding, "dilation": dilation, "depthwise": True}
    check(level[2], made.conv(width, (4, width, channels), channels, kernel, **facts), level[0])


@pytest.mark.isa
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("outliers", [0, 1, 6])
def test_products_of_bytes_that_could_saturate(dtype: str, outliers: int) -> None:
    """Few weights, of eight bits or nine, that vpmaddubsw would saturate, on inputs at the ends of their range."""
    target, kernel, _ = LEVELS["avx2"]
    if not made.runs_here(target):
        levels.skip("avx2")
    facts = {"kernel": (3, 2), "padding": (1, 1, 1, 0), "dtype": dtype, "weights": dtype, "per_channel": False}
    contract = made.conv(17, (5, 6, 20), 88, **facts)
    zero, rng = contract.weight_zero_points[0], np.random.default_rng(outliers)
    weights = np.clip(contract.weights.astype(int), max(zero - 60, -127), zero + 60)
    places = rng.choice(weights.size // 2, outliers, replace=False)
    weights.reshape(-1, 2)[places] = -127 if zero > 0 else 127
    if dtype == "uint8":
        weights.reshape(-1, 2)[places] = 255 if zero < 128 else 0
    contract = dataclasses.replace(contract, weights=weights.astype(dtype))
    found = built(kernel, contract, made.target(target))
    assert "8s8_" in found.name
    ends = rng.choice(np.iinfo(dtype).min + np.array([0, 255]), contract.inputs[0].shape).astype(dtype)
    for x in (made.codes(rng, contract.inputs[0]), ends, np.full_like(ends, np.iinfo(dtype).max)):
        check(kernel, contract, target, x, varied=False)


@pytest.mark.isa
@pytest.mark.parametrize("outliers", [0, 1, 6, 200])
@pytest.mark.parametrize("channels, out_c, kernel", [(20, 88, (3, 2)), (70, 24, (1, 1)), (9, 130, (2, 2))])
def test_few_weights_of_nine_bits(
    level: Any, outliers: int, channels: int, out_c: int, kernel: tuple[int, int]
) -> None:
    """Weights far from their zero point, on inputs at the ends of their range."""
    facts = {"kernel": kernel, "padding": (1, 1, 1, 0), "dtype": "uint8", "weights": "uint8", "per_channel": False}
    contract = made.conv(18, (5, 6, channels), out_c, **facts)
    rng, low = np.random.default_rng([outliers, channels]), contract.weight_zero_points[0] < 128
    zero = 30 if low else 220
    weights = rng.integers(max(zero - 100, 0), min(zero + 100, 255), contract.weights.shape, endpoint=True)
    weights.reshape(-1)[rng.choice(weights.size, outliers, replace=False)] = 255 if low else 0
    contract = dataclasses.replace(contract, weights=weights.astype(np.uint8), weight_zero_points=(zero,))
    x = rng.choice(np.array([0, 1, 254, 255], np.uint8), contract.inputs[0].shape)
    check(level[1], contract, level[0], x, varied=False)


@pytest.mark.isa
@pytest.mark.parametrize("far", [(), (70,), (3, 190), tuple(range(192))])
def test_depthwise_blocks_with_and_without_weights_of_nine_bits(level: Any, far: tuple[int, ...]) -> None:
    facts = {"padding": (1, 1, 1, 1), "dtype": "uint8", "weights": "uint8", "per_channel": False, "depthwise": True}
    contract = made.conv(19, (9, 10, 192), 192, (3, 3), **facts)
    weights = np.random.default_rng(len(far)).integers(0, 140, contract.weights.shape)
    weights[..., list(far)] = np.maximum(weights[..., list(far)] + 115, 180)
    contract = dataclasses.replace(contract, weights=weights.astype(np.uint8), weight_zero_points=(30,))
    check(level[2], contract, level[0], varied=False)


@pytest.mark.parametrize("level", [AVX512VNNI, AVXVNNI, AVX2], ids=lambda level: level.name)
def test_weights_that_do_not_fit_are_not_packed(level: Level) -> None:
    weights = np.zeros((level.lanes, 4), np.int64)
    weights[1, 2] = 1 << (level.bytes.bits - 1)
    with pytest.raises(ValueError, match="do not fit"):
        level.bytes.arrange(weights)
    np.testing.assert_array_equal(np.sort(level.bytes.arrange(-weights)), np.sort(-weights.reshape(-1)))


def together(split: SplitWeights) -> Any:
    """The weights that were split."""
    total = split.weights.copy()
    for block, (begin, end) in enumerate(itertools.pairwise(split.starts)):
        np.add.at(total[block], split.steps[begin:end], split.extra[begin:end])
    return total


def test_split_weights_sum_up_and_fit() -> None:
    weights = np.random.default_rng(3).integers(-140, 141, (3, 5, 2, 8, 4))
    weights[1] //= 2
    pairs = SplitWeights.of(weights, in_eight_bits)
    np.testing.assert_array_equal(together(pairs), weights)
    assert pairs.starts[1] == pairs.starts[2] > 0 and pairs.extra.any()
    for part in (pairs.weights, pairs.extra):
        assert part.min() >= -128 and part.max() <= 127


def test_split_weights_sum_up_and_cannot_saturate() -> None:
    weights = np.random.default_rng(2).integers(-255, 256, (3, 5, 2, 8, 4))
    weights[:, 1:4] //= 4
    weights[0] //= 8
    pairs = SplitWeights.of(weights, unsaturated)
    np.testing.assert_array_equal(together(pairs), weights)
    assert pairs.starts[1] == 0 and len(pairs.steps) >= pairs.starts[-1] > 0
    for part in (pairs.weights, pairs.extra):
        two = part.reshape(-1, 2)
        for inputs in itertools.product((0, 255), repeat=2):
            assert (two @ inputs).min() >= -(2**15) and (two @ inputs).max() < 2**15
        assert part.min() >= -128 and part.max() <= 127


def test_assembly_keeps_to_its_level() -> None:
    """No level uses wider registers or newer instructions than its name says."""
    contract = made.conv(16, (8, 8, 64), 64)
    for name, present, absent in (
        ("amx", ("tdpbssd", "tileloadd", "tilerelease"), ("vpdpbusd",)),
        ("avx512vnni", ("vpdpbusd", "zmm"), ("tmm",)),
        ("avxvnni", ("vpdpbusd", "ymm"), ("zmm", "%k1")),
        ("avx2", ("vpmaddwd", "ymm"), ("zmm", "vpdpbusd", "%k1", "vpmaddubsw")),
    ):
        target, kernel, _ = LEVELS[name]
        text = assembly(built(kernel, contract, made.target(target)), made.target(target))
        assert all(word in text for word in present) and not any(word in text for word in absent), name
