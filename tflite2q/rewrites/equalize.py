"""Cross-layer equalization: channel ranges of neighbouring layers evened out before weights are rescaled (eq. S8).

Where y = f(W1 x + b1) feeds W2 alone and f(v) / s = f(v / s), dividing channel c of W1 and b1 by s[c] and multiplying
W2's input channel c by it changes nothing in real numbers, but lets one scale serve all channels better.  That holds
for no activation and for RELU; RELU6's upper bound would have to differ by channel.  What the original cuts off at the
end of y's codes is cut off later in a channel that is divided: equalize models whose ranges fit their data.
Source: Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", 2019, section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tflite2q import numerics
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.conv import Conv2D, DepthwiseConv2D
from tflite2q.dialect.types import Value
from tflite2q.rewrites.plan import Plan, is_activation

HOMOGENEOUS = ("NONE", "RELU")
# A channel may give up at most two bits of its activation for the sake of the weights.
LARGEST = 4.0


def equalize(graph: Graph, plan: Plan) -> dict[str, numerics.Floats]:
    """The factor s[c] >= 1 by which each channel of a value is to be divided, for the values that gain from it."""
    found: dict[str, numerics.Floats] = {}
    for value in graph.values:
        pair = _pair(value, graph)
        if pair is None or not all(plan.layer(op).recover.equalize and plan.wanted(op, graph) for op in pair):
            continue
        first, second = (np.abs(real_weights(op, graph, found)) for op in pair)
        made = first.max(axis=tuple(i for i in range(4) if i != pair[0].channel_axis))
        read = second.max(axis=(0, 1, 2))
        if not (made > 0).all() or not (read > 0).all():
            continue
        factors = np.sqrt(made / read)
        factors = np.clip(factors / factors.min(), 1.0, LARGEST)
        found[value.name] = factors
    return found


def _pair(value: Value, graph: Graph) -> tuple[Op, Op] | None:
    """The convolutions before and after `value`, if scaling its channels is free."""
    maker, readers = graph.producers.get(value.name), graph.consumers[value.name]
    if maker is None or len(readers) != 1 or value.name in graph.outputs or not is_activation(value):
        return None
    reader = readers[0]
    if not isinstance(maker, Conv2D | DepthwiseConv2D) or maker.activation not in HOMOGENEOUS:
        return None
    if not isinstance(reader, Conv2D | DepthwiseConv2D) or reader.inputs[0] != value.name:
        return None
    weights = [graph[op.inputs[1]] for op in (maker, reader) if op.inputs[1] is not None]
    if len(weights) != 2 or any(w.constant is None or len(graph.consumers[w.name]) != 1 for w in weights):
        return None
    # One input channel of the reader for each channel of the value: no groups, no depth multiplier.
    return (maker, reader) if weights[1].type.shape[3] == value.type.shape[3] else None


def real_weights(op: Op, graph: Graph, factors: Mapping[str, numerics.Floats]) -> numerics.Floats:
    """The op's weights in real numbers, the factors of its operand and its result applied."""
    assert op.inputs[0] is not None and op.inputs[1] is not None
    value = graph[op.inputs[1]]
    shape = [1] * 4
    shape[op.channel_axis] = -1
    channels = value.type.shape[op.channel_axis]
    q = value.type.parameters
    real = (value.data - q.zero_points(channels).reshape(shape)) * q.scales(channels).astype(np.float64).reshape(shape)
    return np.asarray(real * input_gain(op, factors) / output_gain(op, factors).reshape(shape))


def input_gain(op: Op, factors: Mapping[str, numerics.Floats]) -> numerics.Floats:
    """What the last axis of the weights is multiplied by because of the operand."""
    return factors.get(op.source or "", np.ones(1))


def output_gain(op: Op, factors: Mapping[str, numerics.Floats]) -> numerics.Floats:
    """What each output channel is divided by because of the result."""
    return factors.get(op.name, np.ones(1))
