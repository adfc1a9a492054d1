"""Where the error of a layer comes from, on a small model whose numbers are worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.eltwise import Requantize
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.evaluation.layers import LayerTally
from tflite2q.evaluation.results import LayerError
from tflite2q.execution import reference


def chain(*steps: tuple[float, int]) -> Graph:
    """int8 x -> a -> b -> ..., each a requantization to (scale, zero point); the first is that of x."""
    names = ["x", *"abcdef"[: len(steps) - 1]]
    values = tuple(
        Value(name, TensorType((1, 4), "int8", Quantization.per_tensor(*step)))
        for name, step in zip(names, steps, strict=True)
    )
    ops = tuple(Requantize(inputs=(a,), outputs=(b,)) for a, b in itertools.pairwise(names))
    return Graph(("x",), (names[-1],), values, ops)


def measured(before: Graph, after: Graph, *samples: list[int]) -> dict[str, LayerError]:
    tally = LayerTally(before, after)
    for codes in samples:
        x = np.array([codes], np.int8)
        tally.add(reference.run_every(before, x), reference.run_every(after, x))
    return {line.name: line for line in tally.result()}


def test_noise_that_an_earlier_layer_makes_is_not_laid_on_a_later_one() -> None:
    fine, coarse = (0.5, 0), (2.0, 0)
    found = measured(chain(fine, fine, fine, fine), chain(fine, fine, coarse, fine), [2, 4, 10, 18])
    assert found["a"].sqnr_db is None
    b, c = found["b"].diagnosis, found["c"].diagnosis
    assert b is not None and c is not None
    # 1, 2, 5, 9 become 2, 2, 6, 10: ties are rounded up.
    noise, signal = 1 + 0 + 1 + 1, 1 + 4 + 25 + 81
    assert found["b"].sqnr_db == pytest.approx(10 * math.log10(signal / noise)) == b.own_sqnr_db
    assert (b.own_share, b.origin, b.step_ratio) == (1.0, None, 4.0)
    assert found["c"].sqnr_db == found["b"].sqnr_db
    assert (c.own_sqnr_db, c.own_share, c.origin) == (None, 0.0, "b")


def test_clipping_and_unused_bits() -> None:
    wide, narrow = (1.0, 0), (0.125, 0)  # the second holds -16 to 15.875
    found = measured(chain(wide, wide), chain(wide, narrow), [-100, 0, 15, 16], [16, 17, 3, -17])
    seen = found["a"].diagnosis
    assert seen is not None and seen.unused_bits is not None
    assert seen.clipped == 5 / 8  # all but 0, 15 and 3: 16 is more than half a step beyond 15.875
    assert seen.unused_bits.original == math.log2(256 / 118)
    assert seen.unused_bits.converted == 0.0
    assert seen.step_ratio == 0.125


def test_histograms_count_every_element_of_the_first_sample() -> None:
    found = measured(chain((1.0, 0), (1.0, 0)), chain((1.0, 0), (3.0, 0)), [0, 1, 90, 100], [5, 5, 5, 5])
    seen = found["a"].diagnosis
    assert seen is not None and seen.histogram is not None
    bars = seen.histogram
    assert sum(bars.original) == sum(bars.converted) == 4
    assert len(bars.original) == len(bars.converted) <= 48
    assert (bars.high - bars.low) / len(bars.original) % 3.0 == 0
    assert bars.original_range == (-128, 127)
    assert bars.converted_range == (-384, 381)


def test_layers_without_noise_have_neither_origin_nor_histogram() -> None:
    same = chain((0.5, 0), (0.5, 0))
    (line,) = measured(same, same, [1, 2, 3, 4]).values()
    assert line.diagnosis is not None
    assert (line.sqnr_db, line.diagnosis.origin, line.diagnosis.histogram) == (None, None, None)
