"""Code for Arm fuses no product with a sum where results are exact.

64-bit Arm has fused multiply-add in its base instructions, and LLVM may use it: it rounds once where the definitions
round twice.  Sums of float32 products are excepted: their order is not prescribed, and they are compared with a
tolerance everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from cases import FAMILIES, cases

from tflite2q.lower.build import build
from tflite2q.lower.graph import lower
from tflite2q.lower.target import resolve, tvm_target

FUSED = re.compile(r"\bf(?:n?m(?:add|sub)|ml[as])\b")
SUMS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "BATCH_MATMUL")
EXACT = [family for family in FAMILIES if family not in {f"{op}-float32" for op in SUMS}]


def assembly(module: Any) -> Iterator[str]:
    """Of a runtime module and all it imports."""
    if "asm" in [str(each) for each in module.get_write_formats()] or module.kind == "llvm":
        yield str(module.inspect_source("asm"))
    for imported in module.imports:
        yield from assembly(imported)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, len(EXACT), 40))
def test_no_op_of_exact_results_contracts(first: int) -> None:
    target = tvm_target(resolve("aarch64"))
    fused = {}
    for family in EXACT[first : first + 40]:
        (case,) = cases(family, 1, seed=5)
        lowered = lower(case.graph, target)
        if any("_fma__" in choice.kernel for choice in lowered.choices):
            # Those fuse on purpose, and are proven for every pair of codes.
            lowered = lower(case.graph, target, use_kernels=False)
        texts = list(assembly(build(lowered.module, target).executable.mod))
        assert any("\tret" in text for text in texts), "code was read"
        found = sorted({match for text in texts for match in FUSED.findall(text)})
        if found:
            fused[family] = found
    assert not fused
