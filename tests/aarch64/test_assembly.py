"""What LLVM makes of the Arm kernels, read from its assembly: no processor is needed for that."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tvm
from aarch64.layers import Layer

from tflite2q.kernels.arm.conv import ArmConv
from tflite2q.kernels.arm.isa import DOTPROD, I8MM, NEON, Level
from tflite2q.lower.target import resolve, tvm_target

PRODUCTS = re.compile(r"(sdot|udot|usdot|sudot|smmla|ummla|usmmla|smlal2?|umlal2?)\b")
LABEL = re.compile(r"(\.LBB\w+|[A-Za-z_]\w*):")
BRANCH = re.compile(r"(b|b\.\w+|cbn?z|tbn?z|ret|br)\b")
VECTOR_REGISTER = re.compile(r"\b[bhsdqv]\d+\b")


def assembly(kernel: ArmConv, layer: Layer, target: str) -> str:
    made = tvm_target(resolve(target))
    contract = layer.contract(seed=0)
    assert kernel.refuses(contract, made) is None
    function = kernel.build(contract, made).func.with_attr("global_symbol", "kernel")
    return str(tvm.compile(tvm.IRModule({"kernel": function}), target=made).mod.inspect_source("asm"))


def basic_blocks(text: str) -> list[list[str]]:
    """The instructions between labels and branches."""
    found: list[list[str]] = [[]]
    for line in map(str.strip, text.splitlines()):
        if LABEL.match(line):
            found.append([])
        elif line and not line.startswith((".", "/", "#")):
            found[-1].append(line)
            if BRANCH.match(line):
                found.append([])
    return found


def inner_loop(text: str) -> list[str]:
    """Vector instructions (loads too) of the block with the most products."""
    block = max(basic_blocks(text), key=lambda lines: sum(bool(PRODUCTS.match(line)) for line in lines))
    return [line for line in block if VECTOR_REGISTER.search(line)]


@pytest.mark.parametrize("types", ["int8", "uint8"])
@pytest.mark.parametrize(
    ("target", "level", "signed", "unsigned"),
    [
        ("aarch64", NEON, "smlal", "smlal"),
        ("cortex-a53", NEON, "smlal", "smlal"),
        ("aarch64-dotprod", DOTPROD, "sdot", "sdot"),
        ("cortex-a76", DOTPROD, "sdot", "sdot"),
        ("aarch64-i8mm", I8MM, "smmla", "usmmla"),
        ("graviton3", I8MM, "smmla", "usmmla"),
    ],
)
def test_products_in_the_inner_loop_of_a_1x1_convolution(
    target: str, level: Level, signed: str, unsigned: str, types: str
) -> None:
    layer = Layer(in_c=256, out_c=64, size=14, x=types, y=types)
    instructions = inner_loop(assembly(ArmConv(level), layer, target))
    products = [line.split()[0] for line in instructions if PRODUCTS.match(line)]
    assert {name.removesuffix("2") for name in products} == {signed if types == "int8" else unsigned}
    assert len(products) >= 0.7 * len(instructions), instructions
    assert not [line for line in instructions if "[sp" in line], "accumulators must stay in registers"


def test_single_rows_take_dot_products() -> None:
    """A dense layer on one row has no pixels to pair for smmla."""
    layer = Layer(in_c=256, out_c=64, size=1, x="uint8", y="uint8", batch=1)
    instructions = inner_loop(assembly(ArmConv(I8MM), layer, "aarch64-i8mm"))
    products = {line.split()[0] for line in instructions if PRODUCTS.match(line)}
    assert products <= {"usdot", "sudot"} and products


@pytest.mark.parametrize("arithmetic", ["fixed", "float32", "float64", "shift"])
def test_no_product_and_sum_are_contracted(arithmetic: str) -> None:
    """A fused multiply-add rounds once where the definition rounds twice."""
    text = assembly(ArmConv(NEON), Layer(arithmetic=arithmetic), "aarch64")
    assert not re.search(r"\bf(n?m(add|sub)|ml[as])\b", text)


def test_epilogue_of_fixed_point() -> None:
    """Both roundings have an instruction of their own; negative numbers need more only without a ReLU."""
    text = assembly(ArmConv(NEON), Layer(relu=True), "aarch64")
    assert "sqrdmulh" in text and "srshl" in text and "sqxtn" in text
    assert "smull" not in text, "no 64-bit products"


def refusal(kernel: Any, target: str) -> str | None:
    answer: str | None = kernel.refuses(Layer().contract(0), tvm_target(resolve(target)))
    return answer


def test_refusals() -> None:
    assert refusal(ArmConv(NEON), "x86-64") == "the target is not a 64-bit Arm"
    assert refusal(ArmConv(DOTPROD), "raspberry-pi-4") == "the target has no dotprod"
    assert refusal(ArmConv(I8MM), "raspberry-pi-5") == "the target has no i8mm"
    assert refusal(ArmConv(I8MM), "graviton3") is None
