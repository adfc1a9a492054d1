"""rewrite: weights of dynamic-range layers that are called uint8 become the int8 that they are.

    before: %x: f32, %w: u8 (scale 0.01, zero point 0) [[5, 251]], dense(%x, %w)
    after:  %x: f32, %w: s8 (scale 0.01, zero point 0) [[5, -5]], dense(%x, %w)

Old converters call them so, and give them one scale.  LiteRT's kernels read their bytes as int8 and heed no zero point,
whatever the file says.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from tflite2q.flatbuffer.records import ModelRecord, OperatorRecord, SubgraphRecord, TensorRecord

# Layers whose first operand says that they are dynamic-range, and those whose result does.
BY_INPUT = (
    "CONV_2D",
    "FULLY_CONNECTED",
    "SVDF",
    "RNN",
    "UNIDIRECTIONAL_SEQUENCE_RNN",
    "BIDIRECTIONAL_SEQUENCE_RNN",
    "LSTM",
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
    "BIDIRECTIONAL_SEQUENCE_LSTM",
)
BY_RESULT = ("EMBEDDING_LOOKUP",)


def renamed(model: ModelRecord) -> ModelRecord:
    """`model` with such weights as int8, where nothing else reads them; what is damaged stays as it is."""
    if not any(_called_uint8(tensor) for graph in model.subgraphs for tensor in graph.tensors):
        return model
    return replace(model, subgraphs=tuple(_renamed(model, graph) for graph in model.subgraphs))


def _called_uint8(tensor: TensorRecord) -> bool:
    constant = tensor.buffer > 0 and not tensor.variable
    return tensor.problem is None and tensor.dtype == "uint8" and constant and len(tensor.scale) == 1


def _renamed(model: ModelRecord, graph: SubgraphRecord) -> SubgraphRecord:
    weights, uses = Counter[int](), Counter((*graph.inputs, *graph.outputs))
    for op in graph.operators:
        uses.update((*op.inputs, *op.outputs))
        weights.update(_weights(model, graph, op))
    tensors = list(graph.tensors)
    for place, count in weights.items():
        if count == uses[place]:
            tensors[place] = replace(tensors[place], dtype="int8", zero_point=(0,))
    return replace(graph, tensors=tuple(tensors))


def _weights(model: ModelRecord, graph: SubgraphRecord, op: OperatorRecord) -> list[int]:
    """The operands that the kernel of `op` reads as int8 although they are called uint8."""
    code = model.codes[op.code].name if 0 <= op.code < len(model.codes) else ""
    telling = op.inputs[:1] if code in BY_INPUT else op.outputs[:1] if code in BY_RESULT else ()
    tensors = graph.tensors
    if not any(0 <= place < len(tensors) and tensors[place].dtype == "float32" for place in telling):
        return []
    return [place for place in op.inputs[1:] if 0 <= place < len(tensors) and _called_uint8(tensors[place])]
