"""Integer forms of rescaling are the rescaling itself, on every accumulator of small ranges and on random ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from micro import host

from tflite2q.arithmetic.numpy_core import NUMPY
from tflite2q.arithmetic.rescale import ARITHMETICS, Rescale
from tflite2q.dialect.graph import verify
from tflite2q.dialect.text import parse_graph
from tflite2q.execution import reference
from tflite2q.micro import source
from tflite2q.micro.lookup16 import bent, between, pieces
from tflite2q.micro.rescaling import LOW_BITS, MOST_DOUBLE, Form, form_of

Ints = npt.NDArray[np.int64]


def codes_of(form: Form, a: Ints) -> Ints:
    """The equations of the module, channel by channel, in Python's integers."""
    found = []
    for channel in range(a.shape[1]):
        m, n = int(form.m[channel]), int(form.n[channel])
        for value in a[:, channel].tolist():
            offset = form.negative if value < 0 else form.positive
            if form.kind == "fixed":
                h = (value * m + (1 << 30)) >> 31
                code = (((h + (h >> 31)) >> n) + 2 * form.zero + 1) >> 1
            elif form.kind == "linear":
                code = ((value * m + (1 << n - 1) + offset) >> n) + form.zero
            else:
                assert form.kind == "double" and form.lower is not None
                value = max(-MOST_DOUBLE, min(MOST_DOUBLE, value))
                low = (value * int(form.lower[channel])) >> LOW_BITS
                code = ((value * m + low + (1 << n - 1) + offset) >> n) + form.zero
            found.append(min(max(code, form.low), form.high))
    return np.array(found).reshape(a.shape[1], -1).T


@pytest.mark.parametrize("arithmetic", sorted({*ARITHMETICS} - {"float32"}))  # which C computes as it is
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_forms_are_exact(arithmetic: str, dtype: str) -> None:
    rng = np.random.default_rng(7)
    low, high = (-128, 127) if dtype == "int8" else (-32768, 32767)
    for _ in range(2):
        real = 2.0 ** rng.uniform(-14, -3, 3) if arithmetic != "shift" else 2.0 ** rng.integers(-12, -2, 3)
        zero = int(rng.integers(low, high)) if dtype == "int8" else 0
        rescale = Rescale(tuple(real.tolist()), zero, low, high, dtype, arithmetic)
        form = form_of(rescale, 3, 2.0**24)
        a = np.concatenate([np.arange(-600, 600), rng.integers(-(2**24), 2**24, 600)])[:, None].repeat(3, 1)
        np.testing.assert_array_equal(codes_of(form, a), rescale.meaning(NUMPY, a).astype(np.int64))


def test_ties_of_products_in_float64_go_away_from_zero() -> None:
    rescale = Rescale((0.125,), 3, -128, 127, "int8", "float64")
    form = form_of(rescale, 1, 2.0**20)
    a = np.arange(-2000, 2000)[:, None]
    np.testing.assert_array_equal(codes_of(form, a), rescale.meaning(NUMPY, a).astype(np.int64))


def test_functions_that_bend_at_the_zero_point_are_the_table_or_none() -> None:
    codes = np.arange(-32768, 32768)
    for below, above, zero, result in ((0.0, 0.7312345, 0, 0), (-0.1234567, 1.9012345, 500, -7), (-1.0, -1.0, 0, 0)):
        away = codes - zero
        real = np.where(away < 0, below, above) * away
        table = np.rint(real).astype(np.int64).clip(-32768 - result, 32767 - result) + result
        assert bent(table, zero, result) is not None
        assert bent(np.where(codes == 1234, table + 1, table), zero, result) is None
    assert bent(np.rint(np.sqrt(np.maximum(codes, 0)) * 100).astype(np.int64), 0, 0) is None


@pytest.mark.skipif(host.compiler() is None, reason="gcc is not installed")
def test_square_roots_are_those_of_ieee(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 0x7F800001, 20000).astype(np.uint32)
    edges = np.array([0, 1, 2, 0x7FFFFF, 0x800000, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0x80000000], np.uint32)
    values = np.concatenate([bits, edges, np.square(np.arange(1, 4096, dtype=np.float32)).view(np.uint32)])
    program = (
        "#include <stdint.h>\n#include <stdio.h>\n" + source.kernel("common")
        + f"static const uint32_t v[] = {{{','.join(map(str, values))}}};\n"
        "int main(void) { for (unsigned i = 0; i < sizeof v / 4; i++) { float x; q_copy(&x, v + i, 4); x = q_sqrt(x);"
        " fwrite(&x, 4, 1, stdout); } return 0; }\n"
    )  # fmt: skip
    found = np.frombuffer(host.output_of(program, tmp_path), np.uint32)
    np.testing.assert_array_equal(found, np.sqrt(values.view(np.float32)).view(np.uint32))


def test_pieces_are_the_table_or_none() -> None:
    rng = np.random.default_rng(0)
    for steepest in (3, 100, 4000):
        ends = np.clip(np.cumsum(rng.integers(-steepest, steepest + 1, 513)), -32768, 32767)
        table = between(ends)
        found = pieces(table)
        assert found is not None
        np.testing.assert_array_equal(between(found.astype(np.int64)), table)
        table[int(rng.integers(1, 65535))] += 1
        again = pieces(table)
        assert again is None or np.array_equal(between(again.astype(np.int64)), table)


@pytest.mark.skipif(host.compiler() is None, reason="gcc is not installed")
def test_factors_beyond_32_bits_shift_as_the_reference_does(tmp_path: Path) -> None:
    """C leaves shifts by 32 and more undefined, and processors differ in them."""
    scales = [2.0**power for power in (17, 18, 19, 20, 34, 50)]
    values = " ".join(f"%y{k} : int16[2, 5] <{2**-15}:0> %x{k} : int16[2, 5] <{s}:0>" for k, s in enumerate(scales))
    inputs, outputs = (", ".join(f"%{letter}{k}" for k in range(len(scales))) for letter in "xy")
    ops = "\n".join(f"%y{k} = q.softmax(%x{k}) version 3" for k in range(len(scales)))
    graph = parse_graph(f'graph "g" {{ inputs ({inputs}) outputs ({outputs}) values {{ {values} }} ops {{ {ops} }} }}')
    rng = np.random.default_rng(2)
    arrays = [rng.integers(-32768, 32767, (2, 5), np.int16) for _ in scales]
    arrays[0][0] = [32767, -32768, -1, 0, 1]
    found = host.run(verify(graph), arrays, "plain", tmp_path)
    for got, want in zip(found, reference.run(graph, *arrays), strict=True):
        np.testing.assert_array_equal(got, want)
