"""Float32 activations with integer weights: bit for bit LiteRT's kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from draw import Case, Draw, Family
from hybrid_cases import EXACT, SUMMED, block_dense
from judge import Array, judge
from litert import run_litert

from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.text import parse_graph, print_graph
from tflite2q.dialect.types import Quantization, TensorType
from tflite2q.execution import reference, runtime
from tflite2q.flatbuffer.reader import load, read
from tflite2q.flatbuffer.writer import write

pytest.importorskip("ai_edge_litert")

QUICK, SLOW = 12, 200
# LiteRT's reference kernel ignores the scales of blocks.
BLOCKS: dict[str, Family] = {"FULLY_CONNECTED-float32-int4-blocks": block_dense}


def drawn(family: str, make: Family, count: int, seed: int = 0) -> Iterator[Case]:
    for index in range(count):
        yield make(Draw(np.random.default_rng([seed, index, *family.encode()])))


def judged(families: Mapping[str, Family], count: int, kernels: str, seed: int = 0) -> list[tuple[Case, list[Array]]]:
    cases = [case for family, make in families.items() for case in drawn(family, make, count, seed)]
    found = []
    for case, verdict in zip(cases, judge([(write(c.graph), c.inputs) for c in cases], kernels), strict=True):
        assert not isinstance(verdict, str), f"LiteRT refused {case.graph.ops[0]}: {verdict}"
        found.append((case, verdict))
    return found


def check_bits(case: Case, want: list[Array]) -> None:
    for got, expected in zip(reference.run(case.graph, *case.inputs), want, strict=True):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32), err_msg=str(case.graph.ops[0]))


def test_a_dozen_of_each_form_to_the_last_bit() -> None:
    for case, want in judged(EXACT, QUICK, "ref"):
        check_bits(case, want)
    for case, want in judged(BLOCKS, QUICK, "optimized"):
        check_bits(case, want)


@pytest.mark.slow
@pytest.mark.parametrize("family", EXACT)
def test_hundreds(family: str) -> None:
    for case, want in judged({family: EXACT[family]}, SLOW, "ref", seed=1):
        check_bits(case, want)


@pytest.mark.slow
def test_hundreds_with_a_scale_for_each_block() -> None:
    for case, want in judged(BLOCKS, SLOW, "optimized", seed=1):
        check_bits(case, want)


@pytest.mark.parametrize("family", [*EXACT, *SUMMED, *BLOCKS])
def test_files_and_texts_read_as_the_graph_they_were_made_from(family: str) -> None:
    make = {**EXACT, **SUMMED, **BLOCKS}[family]
    for case in drawn(family, make, 3):
        assert read(write(case.graph)) == case.graph
        assert parse_graph(print_graph(case.graph)) == case.graph


@pytest.mark.slow
@pytest.mark.parametrize("family", [*EXACT, *SUMMED, *BLOCKS])
def test_compiled_code_gives_the_bits_of_the_reference(family: str) -> None:
    make = {**EXACT, **SUMMED, **BLOCKS}[family]
    for case in drawn(family, make, 3, seed=2):
        want, got = reference.run(case.graph, *case.inputs), runtime.compile(case.graph).run(*case.inputs)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32), err_msg=str(case.graph.ops[0]))


@pytest.mark.parametrize("asymmetric", [False, True])
def test_sums_too_large_for_float32_are_summed_in_integers(asymmetric: bool) -> None:
    """Rows of 1200 codes of 127: 255 times their sum is beyond 2^24, and so is the largest product."""
    d = Draw(np.random.default_rng(0))
    x = d.input(TensorType((2, 1200), "float32"), d.rng.choice([-1, 1], (2, 1200)).astype(np.float32))
    kind = TensorType((3, 1200), "int8", Quantization.per_tensor(0.01, 0))
    signs = np.sign(d.arrays[0][:1])
    weights = d.constant(np.where(d.rng.random((3, 1200)) < 0.01, 126, 127) * signs, kind)
    case = d.case(ops.Dense, (x, weights, None), TensorType((), "float32"), asymmetric_inputs=asymmetric)
    executable = runtime.compile(case.graph)
    want = reference.run(case.graph, *case.inputs)[0]
    assert np.abs(want).max() / 0.01 * 127 > 2**24
    np.testing.assert_array_equal(executable.run(*case.inputs)[0].view(np.uint32), want.view(np.uint32))


def test_layers_are_one_kernel() -> None:
    for family in ("CONV_2D-float32-int8-channels", "FULLY_CONNECTED-float32-int4-asymmetric"):
        for case in drawn(family, EXACT[family], 1, seed=2):
            executable = runtime.compile(case.graph)
            assert all("conv2d_dynamic" in choice.kernel for choice in executable.choices), executable.choices
            for a, b in zip(executable.run(*case.inputs), reference.run(case.graph, *case.inputs), strict=True):
                np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


def every_tensor(path: Path, graph: Graph, seed: int, tolerance: float) -> None:
    """Every computed tensor against LiteRT's reference kernels, relative to the largest element."""
    rng = np.random.default_rng(seed)
    inputs = [rng.normal(size=graph[name].type.shape).astype(np.float32) for name in graph.inputs]
    want, got = run_litert(path, inputs, every=True), reference.run_every(graph, *inputs)
    for op in graph.ops:
        for name in op.outputs:
            expected = want[name]
            largest = float(np.abs(expected).max(initial=0.0))
            np.testing.assert_allclose(got[name], expected, rtol=0, atol=tolerance * largest, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "tolerance"), [("kws_dynamic_wi8", 2e-7), ("kws_weight_only_wi8", 2e-6), ("dtln_quant_1", 2e-6)]
)
def test_shared_models(name: str, tolerance: float, seed: int, shared: Path) -> None:
    path = shared / "cases" / "dynamic_range" / f"{name}.tflite"
    every_tensor(path, load(path), seed, tolerance)
