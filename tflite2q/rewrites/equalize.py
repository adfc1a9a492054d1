"""Cross-layer equalization: channel ranges of neighbouring layers evened out before weights are rescaled (eq. S8).

Where y = f(W1 x + b1) feeds W2 alone and f(v) / s = f(v / s), dividing channel c of W1 and b1 by s[c] and multiplying
W2's input channel c by it changes nothing in real numbers, but lets one scale serve all channels better.  That holds
without an activation and for RELU.  Any other bound, such as RELU6's or an end of y's codes that cuts results off,
would have to differ by channel.  So channels with such a bound are divided only if they were never seen to reach it.

A divisor below 1 lifts a channel that uses little of y's range, so that the weights that read it need not be large: the
depthwise layers of MobileNets have such channels.  Observations tell how much room there is.
Source: Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", 2019, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.conv import Conv2D, DepthwiseConv2D
from tflite2q.dialect.spans import of_codes
from tflite2q.dialect.types import TensorType, Value
from tflite2q.rewrites.clamps import Cut
from tflite2q.rewrites.plan import Plan, is_activation
from tflite2q.rewrites.statistics import Observation
from tflite2q.rewrites.weights import convert_weights

HOMOGENEOUS = ("NONE", "RELU")
BOUNDED = "RELU6"
# A channel may give up at most two bits of its activation for the sake of the weights.
LARGEST = 4.0
# A channel that is lifted keeps this much room above the largest result that was seen, since not all were.
HEADROOM = 1.5


def equalize(
    graph: Graph,
    plan: Plan,
    types: Mapping[str, TensorType],
    seen: Mapping[str, Observation],
    cuts: Mapping[str, Cut],
) -> dict[str, rounding.Floats]:
    """The factors s[c] by which the channels of a value are divided, for the values that gain from it.

    `types` are the new types of values that change, which lifted channels stay within.  `seen` are observations by
    name: without them bounded values are left unchanged, and none is lifted.  `cuts` are where the range of codes
    bounds values.
    """
    found: dict[str, rounding.Floats] = {}
    for value in graph.values:
        pair = _pair(value, graph)
        if pair is None or not all(plan.layer(op).recover.equalize and plan.wanted(op, graph) for op in pair):
            continue
        if not any(_rounds(op, graph, plan) for op in pair):
            continue
        made, read = _ranges(pair, graph, plan, found)
        live = (made > 0) & (read > 0)
        if not live.any():
            continue
        # A channel that no weight makes is constant, and what reads it may have any size; one that none reads is left.
        factors = np.where(read > 0, np.sqrt(made / np.where(read > 0, read, 1.0)), 0.0)
        # Only ratios matter.  A channel that is divided uses fewer codes, so the middle one is left as it is.
        factors = np.where(read > 0, factors / np.median(factors[live]), 1.0)
        factors = np.clip(
            factors, _least(value, pair[0], types.get(value.name, value.type), seen.get(value.name)), LARGEST
        )
        factors[_reaching_bound(value, pair[0], seen.get(value.name), cuts.get(value.name))] = 1.0
        if (factors != 1.0).any():
            found[value.name] = factors
    return found


def _rounds(op: Op, graph: Graph, plan: Plan) -> bool:
    """Whether the op's weights do not all stay the integers that they are, so that there is something to gain."""
    settings = replace(plan.layer(op).weights, range="max", rounding="nearest")  # the quickest says it, too
    if settings.dtype == "float32":
        return True
    return bool(convert_weights(graph[op.reads("weights")], op.channel_axis, settings).rescaled.any())


def _ranges(
    pair: tuple[Op, Op], graph: Graph, plan: Plan, factors: Mapping[str, rounding.Floats]
) -> tuple[rounding.Floats, rounding.Floats]:
    """For each channel of the value between `pair`, the largest weight that makes it and the largest that reads it;
    1 where a scale of its own serves the channel's weights anyway."""
    first, second = (np.abs(real_weights(op, graph, factors)) for op in pair)
    made = first.max(axis=tuple(i for i in range(4) if i != pair[0].channel_axis))
    read = second.max(axis=(0, 1, 2))
    own = [plan.layer(op).weights.granularity == "per-channel" for op in pair]
    if own[0]:
        made = np.sign(made)
    if own[1] and isinstance(pair[1], DepthwiseConv2D):
        read = np.sign(read)
    return made, read


def _least(value: Value, maker: Op, new: TensorType, seen: Observation | None) -> rounding.Floats:
    """The least divisor of each channel for which what was seen of it, and HEADROOM, stays within the value's range,
    and within that of its `new` type."""
    channels = value.type.shape[-1]
    if seen is None:
        return np.ones(channels)
    low, high = (float(code) for code in _range(value, maker) - value.type.zero_point)
    if new.quantized:
        first, last = (end / value.type.scale for end in of_codes(new))
        low, high = max(low, first), min(high, last)
    highest = seen.highest.reshape(-1, channels).max(axis=0) - value.type.zero_point
    lowest = seen.lowest.reshape(-1, channels).min(axis=0) - value.type.zero_point
    used = np.maximum(highest / max(high, 1), lowest / min(low, -1))
    return np.asarray(np.clip(HEADROOM * used, 1 / (high - low + 1), 1.0))


def _range(value: Value, maker: Op) -> npt.NDArray[np.int64]:
    """The lowest and the highest code that the result of `maker` can have."""
    kind = value.type
    activation = getattr(maker, "activation", "NONE")
    return np.array(rounding.activation_range(activation, kind.scale, kind.zero_point, kind.dtype))


def _reaching_bound(value: Value, maker: Op, seen: Observation | None, cut: Cut | None) -> npt.NDArray[np.bool_]:
    """The channels of `value` that its activation or its codes may have cut off at a limit other than 0."""
    channels = value.type.shape[-1]
    activation = getattr(maker, "activation", "NONE")
    above = activation == BOUNDED or (cut is not None and math.isfinite(cut.high))
    below = cut is not None and math.isfinite(cut.low) and cut.low != 0.0
    if not above and not below:
        return np.zeros(channels, bool)
    if seen is None:
        return np.ones(channels, bool)
    first, last = _range(value, maker)
    reaching = above & (seen.highest.reshape(-1, channels).max(axis=0) >= last)
    return np.asarray(reaching | (below & (seen.lowest.reshape(-1, channels).min(axis=0) <= first)))


def _pair(value: Value, graph: Graph) -> tuple[Op, Op] | None:
    """The convolutions before and after `value`, if scaling its channels is free."""
    maker, readers = graph.producers.get(value.name), graph.consumers[value.name]
    if maker is None or len(readers) != 1 or value.name in graph.outputs or not is_activation(value):
        return None
    reader = readers[0]
    if not isinstance(maker, Conv2D | DepthwiseConv2D) or maker.activation not in (*HOMOGENEOUS, BOUNDED):
        return None
    if not isinstance(reader, Conv2D | DepthwiseConv2D) or reader.reads("x") != value.name:
        return None
    weights = [graph[op.reads("weights")] for op in (maker, reader)]
    if any(w.constant is None or len(graph.consumers[w.name]) != 1 for w in weights):
        return None
    # One input channel of the reader for each channel of the value: no groups, no depth multiplier.
    return (maker, reader) if weights[1].type.shape[3] == value.type.shape[3] else None


def real_weights(op: Op, graph: Graph, factors: Mapping[str, rounding.Floats]) -> rounding.Floats:
    """The op's weights in real numbers, the factors of its operand and its result applied."""
    value = graph[op.reads("weights")]
    shape = [1] * 4
    shape[op.channel_axis] = -1
    q = value.type.quantization
    real = value.data.astype(np.float64) if q is None else q.real(value.data)
    return np.asarray(real * input_gain(op, factors) / output_gain(op, factors).reshape(shape))


def input_gain(op: Op, factors: Mapping[str, rounding.Floats]) -> rounding.Floats:
    """The factors of the weights' last axis due to the operand."""
    return factors.get(op.source or "", np.ones(1))


def output_gain(op: Op, factors: Mapping[str, rounding.Floats]) -> rounding.Floats:
    """The divisors of each output channel due to the result."""
    return factors.get(op.name, np.ones(1))
