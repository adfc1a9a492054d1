"""rewrite: parts that files may leave out and LiteRT's kernels need.

before: %y = q.depthwise_conv2d(%x, %w) {activation = TANH}
after:  %y = q.depthwise_conv2d(%x, %w, %y/bias), a bias of zeros

Quantized kernels ignore the fused activations TANH and SIGN_BIT; float kernels would apply them.  A sum of 16-bit codes
that got new scales asks for the general kernel: where all scales are powers of two, LiteRT takes few of them otherwise.
"""

from __future__ import annotations

import numpy as np

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.conv import Convolution
from tflite2q.dialect.ops.eltwise import Add
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.rewrites.biases import BIAS_DTYPES
from tflite2q.rewrites.edit import Editor

IGNORED = ("TANH", "SIGN_BIT")


def complete(graph: Graph, original: Graph) -> Graph:
    """The graph with a bias at every convolution, without ignored activations, and with general sums."""
    editor = Editor(graph)
    ops = [_with_bias(op, editor) if isinstance(op, Convolution) else op for op in editor.ops]
    ops = [op.with_(pot_scale_int16=False) if _is_new_sum(op, graph, original) else op for op in ops]
    editor.ops = [op.with_(activation="NONE") if _ignores_activation(op) else op for op in ops]
    return editor.graph()


def _ignores_activation(op: Op) -> bool:
    """Whether a conversion may have changed the op and its kernel ignores the activation; an LSTM's kernel does not."""
    return op.convertible and getattr(op, "activation", "NONE") in IGNORED


def _is_new_sum(op: Op, graph: Graph, original: Graph) -> bool:
    """Whether 16-bit codes are added that have other types than in `original`."""
    if not isinstance(op, Add) or graph[op.name].type.dtype != "int16":
        return False
    names = [name for name in (*op.inputs, *op.outputs) if name is not None]
    return not all(name in original.by_name and original[name].type == graph[name].type for name in names)


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
