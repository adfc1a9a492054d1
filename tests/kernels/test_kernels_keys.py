"""What is known of kernels without running them, on any machine and for every level of x86: keys, texts, parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import made
import numpy as np
import plans
import pytest
import test_kernels_conv as bytes_
import test_kernels_conv16 as wide
import tvm

from tflite2q.kernels.contracts import Tensor
from tflite2q.kernels.frame import Built

# (kernels of convolution and depthwise convolution, geometries of both), by level
FAMILIES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "bytes": (bytes_.LEVELS, bytes_.CONVOLUTIONS, bytes_.DEPTHWISE),
    "wide": (wide.LEVELS, {**wide.CONVOLUTIONS, **wide.MORE}, {**wide.DEPTHWISE, **wide.MORE_DEPTHWISE}),
}
ARITHMETICS = {"bytes": ("fixed", "float64", "float32", "shift"), "wide": ("fixed16", "float64", "float32", "shift")}


def contracts(family: str, depthwise: bool) -> Iterator[tuple[str, Any]]:
    """Every geometry, the arithmetics in turn; the dtype of the family."""
    dtype = {"dtype": "int16"} if family == "wide" else {}
    for index, (case, facts) in enumerate(FAMILIES[family][1 + depthwise].items()):
        arithmetic = ARITHMETICS[family][index % 4]
        given = {**facts, **dtype, "arithmetic": arithmetic, "depthwise": depthwise}
        if depthwise:
            given["out_c"] = facts["size"][2]
        yield case, made.conv(index, **given)


def parameters(built: Built) -> list[Tensor]:
    return [Tensor(tuple(int(n) for n in each.shape), str(each.dtype)) for each in built.func.params]


def shuffled(contract: Any) -> Any:
    """The same geometry with weights in another order, other biases and other multipliers."""
    rng = np.random.default_rng(2)
    weights = rng.permutation(contract.weights.reshape(-1)).reshape(contract.weights.shape)
    bias = None if contract.bias is None else contract.bias[::-1].copy()
    rescale = dataclasses.replace(contract.rescale, real=contract.rescale.real[::-1])
    return dataclasses.replace(contract, weights=weights, bias=bias, rescale=rescale)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("level", bytes_.LEVELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_key_says_all_that_the_text_depends_on(family: str, level: str, depthwise: bool) -> None:
    """Layers of equal keys share one function, so it must not know their weights, biases or multipliers."""
    name, *kernels = FAMILIES[family][0][level]
    kernel = kernels[depthwise] or FAMILIES[family][0]["avx512vnni"][2]
    target = made.target(name)
    shared = built = 0
    for case, contract in contracts(family, depthwise):
        other = shuffled(contract)
        if any(plans.refusal(kernel, each, target) is not None for each in (contract, other)):
            continue
        one, two = plans.built(kernel, contract, target), plans.built(kernel, other, target)
        for each in (one, two):
            constants = [Tensor(array.shape, str(array.dtype)) for array in each.constants]
            assert parameters(each) == [*each.inputs, *constants, each.output], case
        built += 1
        if one.key == two.key:
            shared += 1
            tvm.ir.assert_structural_equal(one.func, two.func)
            assert any(not np.array_equal(a, b) for a, b in zip(one.constants, two.constants, strict=True)), case
    assert built >= 8 and shared >= built // 2
