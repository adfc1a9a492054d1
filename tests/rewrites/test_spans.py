"""What values can be: no input takes a value out of its span, whatever the operator, and nothing that is made with
spans cuts results off."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from cases import FAMILIES, cases
from draw import Array

from tflite2q import rewrites
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.binary import Extremum
from tflite2q.dialect.text import parse_graph
from tflite2q.dialect.types import STORAGE, Constant, Value
from tflite2q.errors import DataError
from tflite2q.evaluation import calibration
from tflite2q.execution import reference
from tflite2q.rewrites import clamps, scheme
from tflite2q.rewrites.plan import is_activation

PARTS = 6
NUMBERS = ("float16", "float32", "int8", "int16", "int32", "int64", "uint8")


def is_free(value: Value) -> bool:
    """Whether the value is an input of codes that may be anything."""
    return is_activation(value) and value.constant is None


def narrowed(graph: Graph, pick: np.random.Generator) -> Graph:
    """The graph whose inputs first go through a maximum and a minimum: spans that end before codes do, and some that
    have no 0."""
    values, before, renamed = list(graph.values), list[Op](), dict[str | None, str]()
    for name in graph.inputs:
        kind = graph[name].type
        if not is_free(graph[name]) or not kind.shape:
            continue
        low, high = kind.range
        side = pick.integers(3)
        if side == 1 and kind.zero_point < high:
            low = kind.zero_point + 1
        elif side == 2 and kind.zero_point > low:
            high = kind.zero_point - 1
        source = name
        for end, code in zip(("least", "most"), sorted(pick.integers(low, high + 1, 2).tolist()), strict=True):
            bound, result = f"{name}/{end}", f"{name}/{end}/y"
            constant = Constant(np.array([code], STORAGE[kind.dtype]))
            values += [Value(bound, kind.with_(shape=(1,)), constant), Value(result, kind)]
            inputs = (source, bound)
            before.append(Extremum(inputs=inputs, outputs=(result,), smallest=end == "most", version=4))
            source = result
        renamed[name] = source
    ops = (op.with_(inputs=tuple(renamed.get(each, each) for each in op.inputs)) for op in graph.ops)
    return verify(graph.with_(values=tuple(values), ops=(*before, *ops)))


def inputs(graph: Graph, drawn: tuple[Array, ...], pick: np.random.Generator) -> Iterator[list[Array]]:
    """The lowest codes, the highest, and both beside each other; what is no code as `drawn`."""
    for highest in (0.0, 1.0, 0.5):
        given = []
        for name, array in zip(graph.inputs, drawn, strict=True):
            kind = graph[name].type
            if is_free(graph[name]):
                low, high = kind.range
                array = np.where(pick.random(kind.shape) < highest, high, low).astype(STORAGE[kind.dtype])
            given.append(array)
        yield given


def beyond(value: Value, array: Array, span: tuple[float, float]) -> float:
    """How far the numbers of an array are beyond a span: in steps, or as a part of its larger end."""
    real, unit = array.astype(np.float64), max((abs(end) for end in span if math.isfinite(end)), default=1.0)
    if is_activation(value):
        real, unit = value.type.scale * (real - value.type.zero_point), value.type.scale
    real = real[np.isfinite(real)]
    return float(max(span[0] - real.min(), real.max() - span[1]) / (unit or 1.0)) if real.size else -math.inf


def check(family: str, count: int, seed: int) -> None:
    pick = np.random.default_rng(zlib.crc32(f"{family} {seed}".encode()))
    for case in cases(family, count, seed):
        for graph in (case.graph, narrowed(case.graph, pick)):
            spans = clamps.limits(graph).spans
            stream = reference.Stream(graph)
            for given in inputs(graph, case.inputs, pick):
                try:
                    found = stream.step_every(*given)
                except DataError:  # an index out of range, say
                    continue
                for name, array in found.items():
                    value = graph[name]
                    if array.dtype.name not in NUMBERS or not (is_activation(value) or value.type.quantization is None):
                        continue
                    # Kernels may round twice, and tables have a step of their own.
                    room = 1.02 if is_activation(value) else 1e-4
                    assert beyond(value, array, spans[name]) <= room, (family, graph.producers[name], spans[name])


@pytest.mark.parametrize("part", range(PARTS))
def test_no_value_leaves_its_span(part: int) -> None:
    for family in list(FAMILIES)[part::PARTS]:
        check(family, 2, 0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_no_value_of_many_leaves_its_span(family: str) -> None:
    check(family, 20, 1)


def converted(graph: Graph, name: str) -> Graph:
    return rewrites.convert(graph, scheme.find(name)).graph


def real(graph: Graph, *given: Array) -> Array:
    """The real numbers of the first result."""
    (codes, *_), kind = reference.run(graph, *given), graph[graph.outputs[0]].type
    return np.asarray(kind.scale * (codes.astype(np.float64) - kind.zero_point))


@pytest.mark.parametrize("name", ["int16x8", "symmetric-int8", "power-of-two"])
def test_a_cache_of_zeros_holds_what_is_written_to_it(name: str) -> None:
    """And a layer that reads it gets scales for that, not for zeros."""
    graph = verify(
        parse_graph(
            """graph "g" { inputs (%u) outputs (%z) values {
            %u : int8[1, 4] <0.1:0>
            %c : int8[2, 4] <0.1:0> = [0, 0, 0, 0, 0, 0, 0, 0]
            %s : int32[2] = [1, 0]
            %y : int8[2, 4] <0.1:0>
            %w : int8[1, 4] <0.1:0> = [10, 10, 10, 10]
            %b : int32[1] <0.01:0> = [100]
            %z : int8[2, 1] <0.5:3>
            } ops {
            %y = q.dynamic_update_slice(%c, %u, %s) version 2
            %z = q.dense(%y, %w, %b) version 4
            } }"""
        )
    )
    full = np.full((1, 4), 60, np.int8)
    np.testing.assert_allclose(real(converted(graph, name), full), real(graph, full), atol=0.5)


@pytest.mark.parametrize("relation", ["LESS", "EQUAL"])
def test_what_is_compared_with_a_constant_has_room_for_it(relation: str) -> None:
    """No result of RELU6 is 8; in 16 bits both share a scale, which must not end at 6."""
    graph = verify(
        parse_graph(
            f"""graph "g" {{ inputs (%x) outputs (%z) values {{
            %x : int8[4] <0.1:0>
            %y : int8[4] <0.1:0>
            %k : int8[1] <0.1:0> = [80]
            %z : bool[4]
            }} ops {{
            %y = q.lookup(%x) {{function = RELU6}} version 2
            %z = q.compare(%y, %k) {{relation = {relation}}} version 2
            }} }}"""
        )
    )
    (found,) = reference.run(converted(graph, "int16x8"), np.array([60, 127, 0, 80], np.int8))
    assert found.tolist() == [relation == "LESS"] * 4


@pytest.mark.parametrize("calibrated", [False, True])
def test_channels_are_lifted_within_the_new_range(calibrated: bool) -> None:
    """The weights of the third channel are small, and the new range of %y ends where the others' results do."""
    graph = verify(
        parse_graph(
            """graph "g" { inputs (%x) outputs (%z) values {
            %x : int8[1, 1, 1, 1] <0.003921569:-128>
            %w : int8[3, 1, 1, 1] <axis 0, 0.0078125:0, 0.0078125:0, 0.0039:0> = [127, 127, 127]
            %y : int8[1, 1, 1, 3] <0.0235294:-118>
            %v : int8[1, 1, 1, 3] <0.04:0> = [2, 3, 125]
            %z : int8[1, 1, 1, 1] <0.02:-98>
            } ops {
            %y = q.conv2d(%x, %w) {activation = RELU} version 3
            %z = q.conv2d(%y, %v) version 3
            } }"""
        )
    )
    samples = [np.full((1, 1, 1, 1), code, np.int8) for code in range(-128, 128, 15)]
    seen = calibration.observe(graph, [[sample] for sample in samples])
    new = rewrites.convert(graph, scheme.find("symmetric-uint8"), seen, calibrated).graph
    for sample in samples:
        np.testing.assert_allclose(real(new, sample), real(graph, sample), atol=0.1)


def test_scales_are_not_finer_than_the_codes_that_were_there() -> None:
    """Products of 1e-11 become codes of 0, whose scale says nothing: kernels refuse what would follow from the sums."""
    graph = verify(
        parse_graph(
            """graph "g" { inputs (%x) outputs (%z) values {
            %x : int8[1, 1, 1, 1] <0.1:5>
            %w : int8[1, 1, 1, 1] <0.000000000001:0> = [100]
            %y : int8[1, 1, 1, 1] <0.0235:-128>
            %k : int8[1] <0.01:0> = [100]
            %z : int8[1, 1, 1, 1] <0.0235:-100>
            } ops {
            %y = q.conv2d(%x, %w) {activation = RELU6} version 3
            %z = q.add(%y, %k) version 2
            } }"""
        )
    )
    for name in ("int16x8", "symmetric-int8", "power-of-two"):
        new = converted(graph, name)
        assert new["y"].type.scale >= 0.0235 / 32767
        np.testing.assert_allclose(real(new, np.full((1, 1, 1, 1), 9, np.int8)), 1.0, atol=0.03)
