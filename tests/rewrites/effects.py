"""What each value of each key of a scheme does to a converted graph, computed again from the original by NumPy."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
from settings import INT4, Array, of, samples, weighted

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.dense import Dense

Right = Callable[[Graph, Graph], None]

COMPUTED = ("first", "deep", "logits")  # results whose parameters nothing else has to share
WEIGHTED = ("first", "deep", "point", "logits")
HIGHEST = {"uint8": 255, "int8": 127, "int16": 32767, "int4": 7}
LOWEST = {"uint8": 0, "int8": -128, "int16": -32768}


def half_away(x: Array) -> Array:
    return np.sign(x) * np.floor(np.abs(x) + 0.5)


def parameters(graph: Graph, name: str) -> tuple[float, int]:
    return graph[name].type.scale, graph[name].type.zero_point


def seen(original: Graph, name: str) -> Array:
    """Real numbers that the original computes for a value on the samples."""
    kind = original[name].type
    every = [tflite2q.reference(original, x[None], every=True) for x in samples(original)]
    assert all(isinstance(each, dict) for each in every)
    codes = np.stack([each[name] for each in every if isinstance(each, dict)])
    return (codes.astype(np.float64) - kind.zero_point) * kind.scale


def ends(original: Graph, name: str) -> tuple[float, float]:
    """What a value's codes can say, less what its activation cuts off."""
    kind = original[name].type
    low, high = (kind.scale * (code - kind.zero_point) for code in (LOWEST[kind.dtype], HIGHEST[kind.dtype]))
    relu = getattr(original.producers[name], "activation", "NONE") == "RELU"
    return (max(low, 0.0) if relu else low), high


def covering(low: float, high: float, dtype: str = "int8") -> float:
    """The least scale of a grid around 0 that reaches both ends."""
    return max(high / HIGHEST[dtype], low / LOWEST[dtype])


# -------------------------------------------------------------------------------------------------------- activations


def shifted(dtype: str, by: int) -> Right:
    """The same scale, the zero point moved; and so is every code up to the mean, which rounds by type."""

    def right(original: Graph, new: Graph) -> None:
        for name in COMPUTED:
            scale, zero_point = parameters(original, name)
            assert new[name].type.dtype == dtype
            assert parameters(new, name) == (scale, zero_point + by)
        if by > 0:  # all weights of int8 fit uint8: nothing was rounded
            x = samples(original)[:1]
            before = tflite2q.reference(original, x, every=True)
            after = tflite2q.reference(new, (x.astype(int) + by).astype(dtype), every=True)
            for name in ("first", "deep", "point"):
                np.testing.assert_array_equal(after[name], before[name].astype(int) + by)

    return right


def centred(dtype: str) -> Right:
    """Zero point 0, and the least scale that covers what the codes could say."""

    def right(original: Graph, new: Graph) -> None:
        for name in COMPUTED:
            scale = covering(*ends(original, name), dtype)
            assert parameters(new, name) == (np.float32(scale), 0)
            assert new[name].type.dtype == dtype
        biases = {"int8": "int32", "int16": "int64"}
        assert weighted(new, "deep").bias.dtype == biases[dtype]

    return right


def powers_of_two(original: Graph, new: Graph) -> None:
    for name in COMPUTED:
        least = covering(*ends(original, name))
        assert parameters(new, name) == (2.0 ** np.ceil(np.log2(least)), 0)


def real_numbers(original: Graph, new: Graph) -> None:
    """The same weights as real numbers, and results as near as the original's own rounding is."""
    x = samples(original)
    kind = original[original.inputs[0]].type
    for name in WEIGHTED:
        assert new[name].type.dtype == weighted(new, name).bias.dtype == "float32"
        np.testing.assert_allclose(weighted(new, name).rows, weighted(original, name).real, rtol=1e-6)
    real = (x.astype(np.float32) - np.float32(kind.zero_point)) * np.float32(kind.scale)
    found = [tflite2q.reference(new, each[None], every=True) for each in real]
    for name, most in (("first", 0.51), ("deep", 1.0)):  # rounded once, and twice
        y = np.stack([each[name] for each in found if isinstance(each, dict)])
        steps = (y - seen(original, name)) / original[name].type.scale
        assert 0.4 < np.abs(steps).max() < most


def between(fit: Callable[[Array], tuple[float, float]], dtype: str = "int8") -> Right:
    """Grids around 0 that just cover what `fit` picks of the numbers seen."""

    def right(original: Graph, new: Graph) -> None:
        for name in COMPUTED:
            low, high = fit(seen(original, name))
            assert parameters(new, name) == (np.float32(covering(min(low, 0.0), max(high, 0.0), dtype)), 0), name

    return right


def min_max(x: Array) -> tuple[float, float]:
    return float(x.min()), float(x.max())


def middle(percent: float) -> Callable[[Array], tuple[float, float]]:
    """The smallest numbers at or below which a share of all numbers lies, half of the rest at each end."""
    tail = (1 - percent / 100) / 2
    return lambda x: tuple(np.quantile(x, (tail, 1 - tail), method="inverted_cdf").tolist())


def least_squares_range(original: Graph, new: Graph) -> None:
    """No other upper end of a value that is never negative has a squared error that is much less."""
    x = seen(original, "first").reshape(-1)
    codes = np.arange(1, 256)

    def error(top: float) -> float:
        return float(((np.minimum(x, top) - x) ** 2).sum() + len(x) * (top / 127) ** 2 / 12)

    scale = original["first"].type.scale
    highest = round(x.max() / scale)
    tried = [error(code * scale) for code in codes[codes >= 0.3 * highest]]
    chosen = parameters(new, "first")[0] * 127
    assert chosen < x.max() * 0.99, "nothing was cut off"
    assert error(chosen) <= 1.01 * min(tried)


# ------------------------------------------------------------------------------------------------------------ weights


def legacy_weights(original: Graph, new: Graph) -> None:
    for name in WEIGHTED:
        op = new.producers[name]
        kind, before = (graph[str(op.inputs[1])] for graph in (new, original))
        assert (kind.type.dtype, kind.type.zero_point, kind.type.scale) == ("uint8", 128, before.type.scale)
        np.testing.assert_array_equal(kind.data, before.data.astype(int) + 128)


def steps_of(original: Graph, name: str, limit: int, percent: float = 100) -> Array:
    """The step that puts a percentile of each channel's magnitudes on the highest code, where the channel needs one."""
    before = weighted(original, name)
    sizes = np.percentile(np.abs(before.rows), percent, axis=1) / limit
    return np.where(np.abs(before.rows).max(axis=1) > limit, sizes, 1.0) * before.scales


def weights_of(dtype: str, percent: float = 100, highest: int | None = None) -> Right:
    """Channels that fit keep their integers and their scale; others reach the highest code."""

    def right(original: Graph, new: Graph) -> None:
        limit = highest or HIGHEST[dtype]
        lowest = -limit - (dtype == "int4")
        for name in ("first", "logits"):
            after, before = weighted(new, name), weighted(original, name)
            assert new[str(new.producers[name].inputs[1])].type.dtype == dtype
            assert new[str(new.producers[name].inputs[1])].type.parameters.symmetric
            steps = steps_of(original, name, limit, percent)
            np.testing.assert_array_equal(after.scales, steps.astype(np.float32))
            fits = np.abs(before.rows).max(axis=1) <= limit
            np.testing.assert_array_equal(after.rows[fits], before.rows[fits])
            inside = np.abs(before.real) < limit * after.scales[:, None]
            assert (np.abs(after.real - before.real) <= after.scales[:, None])[inside].all()
            assert lowest <= after.rows.min()
            assert after.rows.max() <= limit <= np.abs(after.rows).max()

    return right


def one_scale(original: Graph, new: Graph) -> None:
    for name in WEIGHTED:
        kind, before = new[str(new.producers[name].inputs[1])].type, weighted(original, name)
        step = before.scales[0] * max(1.0, np.abs(before.rows).max() / 127)
        assert kind.parameters.axis is None and kind.parameters.scale == (float(np.float32(step)),)


def least_squares_weights(original: Graph, new: Graph) -> None:
    """No other step of a channel has a squared error that is much less, and the widest has a larger one."""
    better = 0
    for name in ("first", "logits"):
        after, before = weighted(new, name), weighted(original, name)
        widest = steps_of(original, name, 7)
        for channel, real in enumerate(before.real):

            def error(step: float, real: Array = real) -> float:
                return float(((np.clip(np.rint(real / step), -8, 7) * step - real) ** 2).sum())

            chosen = error(float(after.scales[channel]))
            assert chosen <= 1.05 * min(error(widest[channel] * part) for part in np.linspace(0.4, 1.0, 601))
            better += chosen < 0.95 * error(widest[channel])
    assert better > 5


def exact_codes(original: Graph, new: Graph, name: str) -> Array:
    return np.asarray(weighted(original, name).real / weighted(new, name).scales[:, None])


def rounded_to_nearest(original: Graph, new: Graph) -> None:
    for name in ("first", "logits"):
        codes = np.clip(half_away(exact_codes(original, new, name)), -7, 7)
        np.testing.assert_array_equal(weighted(new, name).rows, codes)


def sums_preserved(original: Graph, new: Graph) -> None:
    """Each filter's sum is kept within half a step; rounding to nearest would not do that."""
    for name in ("first", "logits"):
        exact = exact_codes(original, new, name)
        assert np.abs((weighted(new, name).rows - exact).sum(axis=1)).max() <= 0.5 + 1e-4
        assert np.abs(weighted(new, name).rows - exact).max() < 1.0
    exact = exact_codes(original, new, "first")
    assert np.abs((half_away(exact) - exact).sum(axis=1)).max() > 0.6


def weights_by_powers_of_two(original: Graph, new: Graph) -> None:
    for name in ("first", "logits"):
        covering_all = np.abs(weighted(original, name).real).max(axis=1) / 127
        steps = 2.0 ** np.ceil(np.log2(covering_all))
        np.testing.assert_array_equal(weighted(new, name).scales, steps)


# ----------------------------------------------------------------------------------------------- rescaling, recovery


def rescaled(expected: Callable[[int, float], int]) -> Right:
    """The 1x1 convolution's codes follow from its accumulators, in integers and fractions."""

    def right(original: Graph, new: Graph) -> None:
        found = weighted(new, "point")
        (s_x, z_x), (s_y, z_y) = parameters(new, "deep"), parameters(new, "point")
        codes = np.stack(
            [tflite2q.reference(new, converted(original, new, x), every=True)["deep"] for x in samples(original)[:3]]
        )
        want = np.stack(
            [tflite2q.reference(new, converted(original, new, x), every=True)["point"] for x in samples(original)[:3]]
        )
        sums = (codes.astype(np.int64) - z_x) @ found.rows.astype(np.int64).T + found.bias
        real = s_x * found.scales / s_y
        got = [[expected(int(acc), float(m)) for acc, m in zip(row, real, strict=True)] for row in sums.reshape(-1, 12)]
        np.testing.assert_array_equal(np.clip(np.array(got) + z_y, -128, 127), want.reshape(-1, 12))

    return right


def converted(original: Graph, new: Graph, x: Array) -> Array:
    """A sample in the new graph's input parameters."""
    (before, z_before), (after, z_after) = parameters(original, "x"), parameters(new, "x")
    return np.clip(half_away((x[None].astype(float) - z_before) * before / after) + z_after, -128, 127).astype(np.int8)


def fixed_point(acc: int, real: float) -> int:
    """A rounding doubling high product by 31 bits of the multiplier, then a rounding shift."""
    fraction, exponent = np.frexp(real)
    multiplier = floor(Fraction(float(fraction)) * 2**31 + Fraction(1, 2))
    product = Fraction(acc * 2 ** max(int(exponent), 0) * multiplier, 2**31)
    # Ties of the product go up, those of the shift away from zero.
    return away(Fraction(floor(product + Fraction(1, 2)), 2 ** max(-int(exponent), 0)))


def away(x: Fraction) -> int:
    return floor(x + Fraction(1, 2)) if x >= 0 else -floor(-x + Fraction(1, 2))


def single_precision(acc: int, real: float) -> int:
    return int(np.rint(np.float32(acc) * np.float32(real)))


def shifting(acc: int, real: float) -> int:
    return floor(Fraction(acc) * Fraction(real) + Fraction(1, 2))


def biases(corrected: bool) -> Right:
    """In units of the new accumulator, less what the weights' errors add on average, if that is corrected."""

    def right(original: Graph, new: Graph) -> None:
        old, found = weighted(original, "point"), weighted(new, "point")
        real = old.bias * (parameters(original, "deep")[0] * old.scales)
        if corrected:
            mean = seen(original, "deep").reshape(-1, old.rows.shape[1]).mean(axis=0)
            shift = (found.real - old.real) @ mean
            assert np.abs(shift / (parameters(new, "deep")[0] * found.scales)).max() > 5, "hardly worth correcting"
            real = real - shift
        exact = real / (parameters(new, "deep")[0] * found.scales)
        assert np.abs(found.bias - exact).max() <= 0.5 + 1e-6

    return right


def reconstructed_on_noise(original: Graph, new: Graph) -> None:
    """Codes are no longer those nearest to the weights, but no further than steps away."""
    plain = tflite2q.convert(original, of({**INT4, "interface": "scheme"})).graph
    for name in ("point", "logits"):
        nearest, found = weighted(plain, name), weighted(new, name)
        assert (nearest.rows != found.rows).any()
        assert np.abs(found.real - nearest.real).max() < 4 * nearest.scales.max()


def blocks_of(block: int) -> Right:
    """A float16 scale for each block of a row of the dense layer, and codes that are the nearest."""

    def right(original: Graph, new: Graph) -> None:
        (dense,) = (op for op in new.ops if isinstance(op, Dense))
        value = new[str(dense.inputs[1])]
        q, before = value.type.parameters, weighted(original, "logits")
        assert (value.type.dtype, q.block) == ("int4", block)
        scales = np.array(q.scale).reshape(len(before.rows), -1)
        assert (scales == scales.astype(np.float16)).all()
        real = before.real.reshape(*scales.shape, block)
        np.testing.assert_allclose(scales, np.abs(real).max(axis=2) / 7, rtol=1e-3)
        codes = value.data.reshape(real.shape)
        assert (np.abs(codes * scales[..., None] - real) <= scales[..., None] * 0.51).all()

    return right


def reconstructed(how: str) -> Right:
    """The results over the samples are nearer to the original's than where weights are rounded one by one."""

    def right(original: Graph, new: Graph) -> None:
        plain = tflite2q.convert(original, of({**INT4, "interface": "scheme"})).graph
        errors = [squared_error(original, graph, "logits") for graph in (plain, new)]
        assert errors[0] > 0
        assert errors[1] == errors[0] if how == "none" else errors[1] < 0.6 * errors[0]

    return right


def squared_error(original: Graph, new: Graph, name: str) -> float:
    """The mean squared difference of a value over the samples, in parts of its variance."""
    wanted = seen(original, name)
    scale, zero = parameters(new, name)
    found = []
    for x in samples(original):
        codes = (x[None].astype(int) - 128).astype(np.int8)
        found.append(np.asarray(dict(tflite2q.reference(new, codes, every=True))[name]))
    real = (np.stack(found).astype(np.float64) - zero) * scale
    return float(((real - wanted) ** 2).mean() / wanted.var())


def equalized(original: Graph, new: Graph) -> None:
    """Channels are divided by s, what reads them multiplied: s makes ranges alike, by ratios to the middle channel."""
    first, last = weighted(original, "first"), weighted(original, "last")
    ideal = np.sqrt(np.abs(first.real).max(axis=1) / np.abs(last.real).max(axis=0))
    ideal = np.minimum(ideal / np.median(ideal), 4.0)
    s = np.abs(first.real).max(axis=1) / np.abs(weighted(new, "first").real).max(axis=1)
    assert ideal.max() > 2
    np.testing.assert_allclose(s[ideal >= 1], ideal[ideal >= 1], rtol=0.1)
    # How far the others are lifted depends on what was seen of them.
    assert (s[ideal < 1] < 1.1).all() and (s[ideal < 1] > 0.9 * ideal[ideal < 1]).all()
    assert np.abs(weighted(new, "last").real - last.real * s).max() < 3 * weighted(new, "last").scales[0]


def not_equalized(original: Graph, new: Graph) -> None:
    for name in ("first", "last"):
        step = weighted(new, name).scales[0]
        assert np.abs(weighted(new, name).real - weighted(original, name).real).max() < step


# ---------------------------------------------------------------------------------------------------------- interface


def interface_is(dtype: str) -> Right:
    def right(original: Graph, new: Graph) -> None:
        ends: list[Any] = [new[name].type for name in (*new.inputs, *new.outputs)]
        assert {kind.dtype for kind in ends} == {dtype}
        moved = {"uint8": 0, "int8": -128}[dtype]
        for kind, name in zip(ends, (*original.inputs, *original.outputs), strict=True):
            scale, zero_point = parameters(original, name)
            assert (kind.scale, kind.zero_point) == (scale, zero_point + moved)

    return right


# ------------------------------------------------------------------------------- real activations, integer weights


def layer(graph: Graph, name: str) -> Op:
    """The op with weights that makes a value, perhaps through clamps that the conversion wrote out."""
    op = graph.producers[name]
    while len(op.inputs) < 3:
        op = graph.producers[str(op.inputs[0])]
    return op


def stored(new: Graph, op: Op) -> tuple[Array, Array]:
    """Codes, a row for each channel, and scales of the integer weights of a layer or of the q.dequantize before it."""
    name = op.reads("weights")
    maker = new.producers.get(name)
    weights = new[name] if maker is None else new[maker.reads("x")]
    assert weights.type.dtype == "int8" and weights.constant is not None and weights.type.parameters.symmetric
    rows = np.moveaxis(weights.data.astype(np.float64), op.channel_axis, 0)
    return rows.reshape(len(rows), -1), np.array(weights.type.parameters.scale)


def near(original: Graph, new: Graph, op: str) -> None:
    """Weights are those of the original, within the step to which sums of rows may be rounded."""
    before = weighted(original, op)
    codes, scales = stored(new, layer(new, op))
    assert np.abs(codes - before.rows * (before.scales / scales)[:, None]).max() < 1.0
    assert new[op].type.dtype == "float32"


def dynamic_range(original: Graph, new: Graph) -> None:
    """Layers read integers; the dense layer quantizes its float32 input by the range of each row (eq. 40, 41)."""
    for op in WEIGHTED:
        near(original, new, op)
        assert new[layer(new, op).reads("weights")].constant is not None
    kind = original[original.inputs[0]].type
    x = (kind.scale * (samples(original)[:1].astype(np.float64) - kind.zero_point)).astype(np.float32)
    every = tflite2q.reference(new, x, every=True)
    assert isinstance(every, dict)
    dense = layer(new, "logits")
    codes, scales = stored(new, dense)
    row = every[dense.reads("x")].reshape(-1).astype(np.float64)
    low, high = min(float(row.min()), 0.0), max(float(row.max()), 0.0)
    step = (high - low) / 255
    zero = half_away(np.float64(127 - high / step))
    quantized = np.clip(half_away(row / step) + zero, -128, 127) - zero
    wanted = codes @ quantized * step * scales + new[dense.reads("bias")].data
    np.testing.assert_allclose(every[dense.name][0], wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def weight_only(original: Graph, new: Graph) -> None:
    """Layers read what a q.dequantize makes of integers, and compute on it."""
    for op in WEIGHTED:
        near(original, new, op)
        assert new.producers[layer(new, op).reads("weights")].mnemonic == "q.dequantize"
