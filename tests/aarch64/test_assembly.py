"""What LLVM makes of the Arm kernels, read from its assembly: no processor is needed for that."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import plans
import pytest
from aarch64.assembly import assembly, inner_loops, instructions, on_the_stack, products, vector_work
from aarch64.layers import Layer

from tflite2q.kernels.arm.conv import ArmConv
from tflite2q.kernels.arm.depthwise import ArmDepthwise
from tflite2q.kernels.arm.isa import DOTPROD, I8MM, NEON
from tflite2q.kernels.arm.lookup import ArmLookup
from tflite2q.kernels.contracts import LookupContract
from tflite2q.lower.target import resolve, tvm_target

LEVELS = {
    "aarch64": NEON,
    "cortex-a53": NEON,
    "aarch64-dotprod": DOTPROD,
    "cortex-a76": DOTPROD,
    "aarch64-i8mm": I8MM,
    "graviton3": I8MM,
}
MULTIPLY = {  # of signed and of unsigned inputs
    NEON: ("smlal", "smlal"),
    DOTPROD: ("sdot", "sdot"),
    I8MM: ("smmla", "usmmla"),
}
SAME = (1, 1, 1, 1)


@pytest.mark.parametrize("types", ["int8", "uint8"])
@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize(("in_c", "out_c", "size", "batch"), [(256, 64, 14, 2), (1024, 1024, 7, 1), (144, 24, 56, 1)])
def test_products_in_the_inner_loop_of_a_1x1_convolution(
    target: str, types: str, in_c: int, out_c: int, size: int, batch: int
) -> None:
    """At least 70 of 100 vector instructions are products, a pair of loads in one instruction counted as two."""
    level = LEVELS[target]
    layer = Layer(in_c, out_c, size, x=types, y=types, batch=batch)
    loops = inner_loops(assembly(ArmConv(level), layer.contract(0), target))
    widest = max(loops, key=lambda loop: len(products(loop)))
    assert set(products(widest)) == {MULTIPLY[level][types == "uint8"]}
    assert len(products(widest)) >= 0.7 * vector_work(widest), widest
    for loop in loops:
        assert not on_the_stack(loop), "accumulators must stay in registers"


@pytest.mark.parametrize("types", ["int8", "uint8"])
@pytest.mark.parametrize("target", [target for target, level in LEVELS.items() if level == NEON])
@pytest.mark.parametrize(
    "layer",
    [
        Layer(256, 64, 14),
        Layer(1024, 1024, 7, batch=1),
        Layer(144, 24, 56, batch=1),
        Layer(16, 32, 14),
        Layer(64, 4, 14),
        Layer(64, 8, 14),
        Layer(64, 64, 14, (3, 3), padding=SAME),
        Layer(3, 32, 33, (3, 3), stride=2, padding=(0, 0, 1, 1)),
    ],
    ids=["64", "1024", "24", "shallow", "4", "8", "3x3", "first"],
)
def test_two_products_are_added_in_16_bits(layer: Layer, target: str, types: str) -> None:
    """Weights without -128 take half the multiplications, eight products each; nothing leaves its register."""
    contract = replace(layer, x=types, y=types, narrow=True).contract(0)
    loops = inner_loops(assembly(ArmConv(NEON), contract, target))
    for loop in loops:
        names = products(loop)
        assert names.count("smull") == names.count("smlal") > 0
        assert sum(line.startswith("sadalp") for line in loop) == names.count("smull")
    widest = max(loops, key=lambda loop: len(products(loop)))  # LLVM may repeat the body, with a part for what is left
    assert not on_the_stack(widest)
    # A vector of four channels and four bytes takes three instructions; two more serve all vectors of its pixel.
    share = 0.6 if layer.out_c >= 16 else 0.45
    assert 3 * len(products(widest)) / 2 >= share * vector_work(widest), widest


def test_pairs_of_the_least_weight_are_widened() -> None:
    """-128 times -128, twice, is more than 16 bits hold; one of them is not."""
    base = Layer(16, 16, 14, narrow=True).contract(0)
    target = tvm_target(resolve("aarch64"))
    for channels, form in (((0,), "smlal8"), ((0, 1), "smlal8"), ((0, 2), "smlal")):
        weights = base.weights.copy()
        weights[3, 0, 0, list(channels)] = -128
        plan = ArmConv(NEON).plan(replace(base, weights=weights), target)
        assert str(plan.name).endswith(f"_{form}"), channels


def test_counting() -> None:
    """Pairs and lists count as what they move; addresses and scalars do not count."""
    loop = ["ldp\tq0, q1, [x24, #-32]", "ld1\t{ v0.16b, v1.16b }, [x1]", "ldr\tq2, [x1, x2]", "add\tx1, x1, #16"]
    assert vector_work(loop) == 5
    assert vector_work(["ld1\t{ v9.d }[1], [x27]", "smmla\tv1.4s, v2.16b, v3.16b", "str\tq0, [sp, #16]"]) == 3
    assert products(["smlal2\tv1.4s, v2.8h, v3.h[1]", "mul\tv1.4s, v2.4s, v3.4s"]) == ["smlal"]


@pytest.mark.parametrize("types", ["int8", pytest.param("uint8", marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize(
    "layer",
    [
        Layer(16, 32, 14),
        Layer(24, 64, 14),
        Layer(32, 64, 14),
        Layer(3, 32, 33, (3, 3), stride=2, padding=(0, 0, 1, 1)),
        Layer(64, 64, 14, (3, 3), padding=SAME),
    ],
    ids=["16_channels", "24_channels", "32_channels", "first", "3x3"],
)
def test_shallow_and_wide_convolutions_stay_in_registers(layer: Layer, target: str, types: str) -> None:
    """Where steps are few, LLVM likes to unroll them all, or to load weights ahead: more than registers hold."""
    contract = replace(layer, x=types, y=types).contract(0)
    for loop in inner_loops(assembly(ArmConv(LEVELS[target]), contract, target)):
        assert not on_the_stack(loop)


@pytest.mark.parametrize("types", ["int8", "uint8"])
@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), 1), ((3, 3), 2), ((5, 5), 1), ((5, 5), 2)])
def test_depthwise_stays_in_registers(kernel: tuple[int, int], stride: int, target: str, types: str) -> None:
    """From the loads of a tile's inputs to the store of its codes."""
    border = kernel[0] // 2
    layer = Layer(64, 64, 28, kernel, stride, padding=(border,) * 4, x=types, y=types)
    contract = layer.depthwise(0)
    for loop in inner_loops(assembly(ArmDepthwise(LEVELS[target]), contract, target)):
        assert not on_the_stack(loop)


def test_single_rows_take_dot_products() -> None:
    """A dense layer on one row has no pixels to pair for smmla."""
    layer = Layer(in_c=256, out_c=64, size=1, x="uint8", y="uint8", batch=1)
    loops = inner_loops(assembly(ArmConv(I8MM), layer.contract(0), "aarch64-i8mm"))
    found = {name for loop in loops for name in products(loop)}
    assert found and found <= {"usdot", "sudot"}


@pytest.mark.parametrize("arithmetic", ["fixed", "float32", "float64", "shift"])
def test_no_product_and_sum_are_contracted(arithmetic: str) -> None:
    """A fused multiply-add rounds once where the definition rounds twice."""
    text = assembly(ArmConv(NEON), Layer(arithmetic=arithmetic).contract(0), "aarch64")
    assert not re.search(r"\bf(n?m(add|sub)|ml[as])\b", text)


def test_epilogue_of_fixed_point() -> None:
    """Both roundings have an instruction of their own; negative numbers need more only without a ReLU."""
    text = assembly(ArmConv(NEON), Layer(relu=True).contract(0), "aarch64")
    assert "sqrdmulh" in text and "srshl" in text and "sqxtn" in text
    assert not re.search(r"smull2?\s+(?!v\d+\.8h)", text), "no 64-bit products"


def test_lookups_stay_in_registers() -> None:
    """Four look-ups of 64 entries for sixteen codes, and nothing else but loading, turning and storing codes."""
    contract = LookupContract((1, 56, 56, 64), "int8", np.zeros(256, np.uint8))
    lines = instructions(assembly(ArmLookup(), contract, "aarch64"))
    begin = next(i for i, line in enumerate(lines) if line.startswith("tbl"))
    end = next(i for i in range(begin, len(lines)) if lines[i].startswith("b"))
    loop = lines[next(i for i in range(begin, 0, -1) if lines[i].endswith(":")) : end]
    names = [line.split()[0] for line in loop]
    assert names.count("tbx") == 3 * names.count("tbl")
    assert vector_work(loop) == (4 + 3 + 2) * names.count("tbl")
    assert not on_the_stack(loop)


def test_lookups_refused() -> None:
    target = tvm_target(resolve("aarch64"))
    table = np.zeros(256, np.int8)
    lookup = ArmLookup()
    assert plans.refusal(lookup, LookupContract((16,), "int8", table), target) is None
    assert plans.refusal(lookup, LookupContract((15,), "int8", table), target) == "15 codes are fewer than 16"
    assert plans.refusal(lookup, LookupContract((16,), "int8", table.astype(np.int16)), target) == "entries are int16"
    assert (
        plans.refusal(lookup, LookupContract((16,), "int8", table), tvm_target(resolve("x86-64")))
        == "the target is not a 64-bit Arm"
    )


def refusal(kernel: Any, target: str) -> str | None:
    return plans.refusal(kernel, Layer().contract(0), tvm_target(resolve(target)))


def test_refusals() -> None:
    assert refusal(ArmConv(NEON), "x86-64") == "the target is not a 64-bit Arm"
    assert refusal(ArmConv(DOTPROD), "raspberry-pi-4") == "the target has no dotprod"
    assert refusal(ArmConv(I8MM), "raspberry-pi-5") == "the target has no i8mm"
    assert refusal(ArmConv(I8MM), "graviton3") is None
