"""rewrite: channels of weights with scale 0, as converters write it where all weights are 0, get a scale.

    before: %w: s8 (scales 0.01, 0) [[5, 7], [3, 0]], %b: s32 [40, 9]
    after:  %w: s8 (scales 0.01, 0.005) [[5, 7], [0, 0]], %b: s32 [40, 0]

LiteRT multiplies the sum of such a channel, bias included, by 0; in dynamic-range layers, only the products.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.flatbuffer.records import ModelRecord, OperatorRecord, SubgraphRecord, TensorRecord

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")  # whose operands are an input, weights and a bias
WEIGHTS, CODES, BIASES = ("int8", "uint8"), ("int8", "uint8", "int16"), ("int32", "int64")


def scaled(model: ModelRecord) -> ModelRecord:
    """`model` with a scale for all weights that only a layer reads; what is damaged stays as it is."""
    if not any(_scaleless(tensor) for graph in model.subgraphs for tensor in graph.tensors):
        return model
    buffers = list(model.buffers)
    subgraphs = tuple(_Scaler(model, graph, buffers).run() for graph in model.subgraphs)
    return replace(model, buffers=tuple(buffers), subgraphs=subgraphs)


def _scaleless(tensor: TensorRecord) -> bool:
    return tensor.problem is None and tensor.dtype in WEIGHTS and 0.0 in tensor.scale


class _Scaler:
    """One subgraph; new data are added to `buffers`."""

    def __init__(self, model: ModelRecord, graph: SubgraphRecord, buffers: list[bytes | memoryview]) -> None:
        self.model, self.graph, self.buffers = model, graph, buffers
        self.tensors = list(graph.tensors)

    def run(self) -> SubgraphRecord:
        for op in self.graph.operators:
            named = 0 <= op.code < len(self.model.codes) and self.model.codes[op.code].name in LAYERS
            if named and self._known(op) and _scaleless(self.tensors[op.inputs[1]]):
                self._layer(op)
        return replace(self.graph, tensors=tuple(self.tensors))

    def _known(self, op: OperatorRecord) -> bool:
        """Whether the tensors of a layer exist, and nothing else uses its constants."""
        used = [*self.graph.inputs, *self.graph.outputs]
        for other in self.graph.operators:
            used += [*other.inputs, *other.outputs]
        places = (*op.inputs, *op.outputs)
        exist = len(op.inputs) in (2, 3) and len(op.outputs) == 1 and all(-1 <= i < len(self.tensors) for i in places)
        return (
            exist
            and -1 not in (*op.inputs[:2], *op.outputs)
            and all(used.count(i) <= 1 for i in op.inputs[1:] if i >= 0)
        )

    def _layer(self, op: OperatorRecord) -> None:
        x, weights, y = (self.tensors[i] for i in (op.inputs[0], op.inputs[1], op.outputs[0]))
        codes, scales = self._data(weights), np.array(weights.scale, np.float32)
        zeros = np.array(weights.zero_point or (0,) * len(scales), np.int64)
        thin = [1] * len(weights.shape)
        if len(scales) > 1 and weights.axis < len(thin):
            thin[weights.axis] = weights.shape[weights.axis]
        if codes is None or not len(zeros) == len(scales) == np.prod(thin):
            return
        gone, quantized = scales == 0, x.dtype in CODES
        if quantized and not (len(x.scale) == len(y.scale) == 1 and x.scale[0] > 0):
            return
        usual = y.scale[0] / x.scale[0] if quantized else 1.0  # any will do: this one makes the multiplier 1
        least = min(scales[~gone], default=np.float32(usual))
        # Different from all others, as 0 is: dynamic-range layers choose their kernel by whether scales differ.
        scales = np.where(gone, least if gone.all() else least / 2 or least, scales)
        if quantized and len(op.inputs) == 3 and op.inputs[2] >= 0:
            bias = self.tensors[op.inputs[2]]
            added = self._data(bias)
            if added is None or bias.dtype not in BIASES or len(gone) not in (1, added.size):
                return
            added = np.where(gone, 0, added.reshape(-1)).astype(added.dtype)
            units = np.float32(x.scale[0]) * scales
            self.tensors[op.inputs[2]] = self._stored(bias, added, units if bias.scale else np.zeros(0))
        codes = np.where(gone.reshape(thin), zeros.reshape(thin), codes).astype(codes.dtype)
        self.tensors[op.inputs[1]] = self._stored(weights, codes, scales)

    def _data(self, tensor: TensorRecord) -> npt.NDArray[Any] | None:
        """The data of a constant; None if there are none, or not as many as there must be."""
        data = self.buffers[tensor.buffer] if 0 < tensor.buffer < len(self.buffers) else b""
        dtype = np.dtype(tensor.dtype)
        if min(tensor.shape, default=1) < 0 or tensor.variable or tensor.problem is not None:
            return None
        whole = len(data) > 0 and len(data) == np.prod(tensor.shape, dtype=np.int64) * dtype.itemsize
        return np.frombuffer(data, dtype).reshape(tensor.shape) if whole else None

    def _stored(self, tensor: TensorRecord, data: npt.NDArray[Any], scales: npt.NDArray[Any]) -> TensorRecord:
        self.buffers.append(data.tobytes())
        found = tuple(scales.astype(np.float32).tolist())
        points = tensor.zero_point if len(tensor.zero_point) == len(found) else (0,) * len(found)
        return replace(tensor, buffer=len(self.buffers) - 1, scale=found, zero_point=points)
