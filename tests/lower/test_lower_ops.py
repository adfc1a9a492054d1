"""Every op family, lowered by core operations and by kernels, computes what the reference computes."""

from __future__ import annotations

import numpy as np
import pytest
from cases import FAMILIES, cases
from draw import Case

from tflite2q.execution import reference, runtime
from tflite2q.lower.contracts import contract_of

# Beside integers: results of sums of float32 products depend on the order of summation, which nobody prescribes.
TOLERANCE = 1e-5
FIRST = list({family.split("-")[0]: family for family in reversed(list(FAMILIES))}.values())  # one of each operator
# LLVM takes long for these; another type of each operator is quick.
LONG = (
    "DIV-uint8",
    "DIV-int16",
    "LOG_SOFTMAX-int8",
    "L2_NORMALIZATION-uint8",
    "FULLY_CONNECTED-float32-int4-asymmetric",
)


def assert_same(case: Case, use_kernels: bool) -> None:
    executable = runtime.compile(case.graph, use_kernels=use_kernels)
    expected = reference.run(case.graph, *case.inputs)
    for got, want in zip(executable.run(*case.inputs), expected, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE * float(np.abs(want).max(initial=0)))
        else:
            np.testing.assert_array_equal(got, want)


def has_kernel(case: Case) -> bool:
    contracts = (contract_of(op, case.graph.ins(op), case.graph.outs(op)) for op in case.graph.ops)
    return any(contract is not None for contract in contracts)


def _is_quick(family: str) -> bool:
    return family in FIRST and family not in LONG


@pytest.mark.parametrize("family", [f if _is_quick(f) else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def test_as_users_compile_it(family: str) -> None:
    for case in cases(family, 1):
        assert_same(case, use_kernels=True)


@pytest.mark.parametrize(
    "family", [family if family in FIRST else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]
)
def test_by_core_operations(family: str) -> None:
    """The definition that kernels are compared with; elsewhere it is what users compile."""
    found = [case for case in cases(family, 1) if has_kernel(case)]
    if not found:
        pytest.skip("core operations are all there is")
    for case in found:
        assert_same(case, use_kernels=False)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_more_of_family(family: str) -> None:
    for case in cases(family, 6, seed=1):
        assert_same(case, use_kernels=False)
        if has_kernel(case):
            assert_same(case, use_kernels=True)
