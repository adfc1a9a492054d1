"""Every shipped scheme runs: reference, core operations and kernels give the same bits, and what a scheme promises of
its arithmetic shows in the lowered module."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.errors import Unchanged
from tflite2q.execution import reference, runtime
from tflite2q.rewrites import scheme

SHARED_MODELS = ("kws_ref_model", "vww_96_int8", "mobilenet_v1_0.25_128_quant")


def converted(graph: Graph, name: str) -> Graph:
    try:
        return tflite2q.convert(graph, name).graph
    except Unchanged:
        return graph


def inputs(graph: Graph, seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    kinds = [graph[name].type for name in graph.inputs]
    return [random.integers(*kind.range, kind.shape, kind.dtype, endpoint=True) for kind in kinds]


def agrees(graph: Graph, use_kernels: bool, exact: bool) -> None:
    executable = runtime.compile(graph, use_kernels=use_kernels)
    for seed in range(2):
        sample = inputs(graph, seed)
        for got, want in zip(executable.run(*sample), reference.run(graph, *sample), strict=True):
            if exact:
                np.testing.assert_array_equal(got, want)
            else:  # real sums in another order: the codes behind them may differ by a step
                assert np.abs(got.astype(np.int64) - want.astype(np.int64)).max() <= 1


# Code for these is that of another scheme with other constants, or core operations that take long to compile.
COMPILED_ALIKE = {
    "dynamic-range-w4",
    "int8-16-levels",
    "int8-w2",
    "int8-w3",
    "int8-w4",
    "int8-per-tensor",
    "int8-w4-dw8",
    "mixed-depthwise",
    "mixed-first-last",
    "mixed-small",
    "symmetric-uint8",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in COMPILED_ALIKE else ()) for name in scheme.shipped()],
)
def test_digits_compiled_under_every_scheme(digits: Path, name: str) -> None:
    agrees(converted(tflite2q.load(digits), name), use_kernels=True, exact=name != "float32")


@pytest.mark.slow  # LLVM takes twenty seconds for the core operations of one scheme
@pytest.mark.parametrize("name", scheme.shipped())
def test_digits_by_core_operations_under_every_scheme(digits: Path, name: str) -> None:
    agrees(converted(tflite2q.load(digits), name), use_kernels=False, exact=name != "float32")


@pytest.mark.slow
@pytest.mark.parametrize("model", SHARED_MODELS)
@pytest.mark.parametrize("name", scheme.shipped())
def test_shared_models_compiled_under_every_scheme(shared: Path, model: str, name: str) -> None:
    graph = tflite2q.load(shared / "models" / f"{model}.tflite")
    agrees(converted(graph, name), use_kernels=True, exact=name != "float32")


def core_text(graph: Graph) -> str:
    """The module of core operations, whose constants' values are not part of the text."""
    return runtime.lowered_text(graph, use_kernels=False)


def calls(text: str, operation: str) -> int:
    return len(re.findall(rf"R\.{operation}\(", text))


def kernels(graph: Graph) -> dict[str, str]:
    """Name -> text of each kernel for a processor without special instructions."""
    parts = runtime.lowered_text(graph, "x86-64").split("@T.prim_func")[1:]
    return {re.findall(r"def (\w+)\(", part)[0]: part for part in parts}


def test_power_of_two_layers_multiply_nothing_but_weights(digits: Path) -> None:
    """Products of inputs and weights stay; of the rest only softmax multiplies, and the casts to and from the model's
    own scales, which are no powers of two."""
    graph = converted(tflite2q.load(digits), "power-of-two")
    (softmax,) = (op for op in graph.ops if op.mnemonic == "q.softmax")
    alone = graph.with_(inputs=softmax.inputs, outputs=softmax.outputs, ops=(softmax,))
    casts = sum(op.mnemonic == "q.requantize" for op in graph.ops)
    assert calls(core_text(graph), "multiply") <= calls(core_text(alone), "multiply") + casts
    symmetric = converted(tflite2q.load(digits), "symmetric-int8")
    assert calls(core_text(symmetric), "multiply") > calls(core_text(graph), "multiply") + 8


def test_float32_rescale_has_no_64_bit_integers(digits: Path) -> None:
    graph = tflite2q.load(digits)
    wide = r'"int64(x\d+)?"'
    rescaling = r"conv|dense|add"
    found = kernels(converted(graph, "float32-rescale"))
    real = {name: text for name, text in found.items() if re.search(rescaling, name)}
    assert len(real) >= 4
    assert not [name for name, text in real.items() if re.search(wide, text)]
    fixed = {name: text for name, text in kernels(converted(graph, "int8")).items() if re.search(r"conv|add", name)}
    assert any(re.search(wide, text) for text in fixed.values())


def test_symmetric_layers_subtract_no_zero_point(digits: Path) -> None:
    graph = tflite2q.load(digits)
    asymmetric, symmetric = (core_text(converted(graph, name)) for name in ("int8", "symmetric-int8"))
    assert calls(symmetric, "subtract") < calls(asymmetric, "subtract") - 8
