"""Layers of activations quantized in every run, of 1 to 200 channels: within their memory and right to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from draw import ACTIVATIONS, Case, Draw
from emulate import levels
from hybrid_cases import integer_weights, real_bias, real_input

from tflite2q.dialect import ops
from tflite2q.dialect.types import TensorType

LEVELS = ("avx2", "avxvnni", "avx512vnni")
QUICK, SLOW = 2, 60

can_run = pytest.mark.skipif(not levels.can_emulate(), reason="needs an x86 with AVX2 and FMA")


def layer(seed: int) -> Case:
    d = Draw(np.random.default_rng([seed, 30]))
    batch, channels, depth, dtype = d.number(1, 3), d.number(1, 200), d.number(1, 40), d.pick(("int8", "int8", "int4"))
    bias = real_bias(d, channels)
    kind = TensorType((), "float32")
    if seed % 3 == 0:
        x = real_input(d, (batch, depth * 8))
        weights = integer_weights(d, dtype, (channels, depth * 8), 0)
        how = {"activation": d.pick(ACTIVATIONS), "asymmetric_inputs": d.chance(0.5)}
        return d.case(ops.Dense, (x, weights, bias), kind, **how)
    made: dict[str, Any] = {
        "padding": d.pick(("SAME", "VALID")), "activation": d.pick(ACTIVATIONS), "stride_h": d.number(1, 2),
    }  # fmt: skip
    made["stride_w"] = made["stride_h"]
    size = (d.number(4, 9), d.number(4, 9))
    if seed % 3 == 1:
        window = d.pick(((1, 1), (3, 3), (2, 4)))
        weights = integer_weights(d, dtype, (channels, *window, depth), 0, d.pick((None, 1)))
        return d.case(ops.Conv2D, (real_input(d, (batch, *size, depth)), weights, bias), kind, **made)
    weights = integer_weights(d, "int8", (1, 3, 3, channels), 3)
    x = real_input(d, (batch, *size, channels))
    return d.case(ops.DepthwiseConv2D, (x, weights, bias), kind, depth_multiplier=1, **made)


def check(seed: int) -> None:
    case, level = layer(seed), LEVELS[seed // 3 % len(LEVELS)]
    for each in (level, "x86-64", "neon"):
        levels.check_bounds(case.graph, each)
    levels.check(case, level)


@can_run
@pytest.mark.parametrize("seed", range(QUICK * 3 * len(LEVELS)))
def test_dynamic_layers(seed: int) -> None:
    check(seed)


@can_run
@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 100 + 9 * SLOW, 9))
def test_many_dynamic_layers(first: int) -> None:
    for seed in range(first, first + 9):
        check(seed)


def test_products_of_bytes_compute_dynamic_layers_of_x86() -> None:
    for level in LEVELS:
        names = [step.built.name for step in levels.kernels(layer(1).graph, levels.target(level))]
        assert names and all(name.endswith(level) for name in names)
