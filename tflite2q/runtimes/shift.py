"""Processors and logic without a wide multiplier: codes are rescaled by an addition and a shift alone."""

from __future__ import annotations

from math import frexp

from tflite2q.runtimes.rules import Layer, Rule, Runtime

EQUATION = "docs/quantization.md, eq. 12"


def _integers(layer: Layer) -> str | None:
    real = [v for v in layer.tensors if v.type.dtype.startswith("float")]
    return f"{real[0].name!r} is {real[0].type.dtype}" if real else None


def _powers(layer: Layer) -> str | None:
    for value in layer.tensors:
        q = value.type.quantization
        if q is None or not value.type.quantized:
            continue
        odd = [scale for scale in q.scale if frexp(scale)[0] != 0.5]
        if odd:
            return f"{value.name!r} has the scale {odd[0]:.6g}"
    return None


def _zero_points(layer: Layer) -> str | None:
    weights = layer.weights
    q = None if weights is None else weights.type.quantization
    return "the zero point of its weights is not 0" if q is not None and any(q.zero_point) else None


SHIFT_ONLY = Runtime(
    "shift-only",
    "Processors and logic without a wide multiplier",
    "tflite2q's own definition",
    (
        Rule("integers", "There are no real numbers.", EQUATION, _integers, final=True),
        Rule("powers-of-two", "Every scale is a power of two.", EQUATION, _powers),
        Rule(
            "weight-zero",
            "Weights have zero point 0; others need products of their zero point.",
            EQUATION,
            _zero_points,
        ),
    ),
    ("power-of-two",),
)
