"""rewrite: convolutions without a bias get one of zeros, which LiteRT's kernels want or crash without.

before: %y = q.depthwise_conv2d(%x, %w)          after: %y = q.depthwise_conv2d(%x, %w, %y/bias), zeros
"""

from __future__ import annotations

import numpy as np

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.conv import Convolution
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.rewrites.biases import BIAS_DTYPES
from tflite2q.rewrites.edit import Editor


def add_missing_biases(graph: Graph) -> Graph:
    """The graph with a bias at every convolution."""
    editor = Editor(graph)
    editor.ops = [_with_bias(op, editor) if isinstance(op, Convolution) else op for op in editor.ops]
    return editor.graph()


def _with_bias(op: Op, editor: Editor) -> Op:
    source, filters, *rest = op.inputs
    if any(name is not None for name in rest) or source is None or filters is None:
        return op
    x, weights = editor.values[source].type, editor.values[filters].type
    if x.dtype not in BIAS_DTYPES:
        return op
    scales = None
    if x.quantized and weights.quantization is not None:
        products = np.float32(x.scale) * np.array(weights.quantization.scale, np.float32)
        scales = Quantization.per_channel(products, 0)
    kind = TensorType((weights.shape[op.channel_axis],), BIAS_DTYPES[x.dtype], scales)
    zeros = Value(f"{op.name}/bias", kind, Constant(np.zeros(kind.shape, kind.dtype)))
    return op.with_(inputs=(source, filters, editor.add(zeros, near=filters)))
