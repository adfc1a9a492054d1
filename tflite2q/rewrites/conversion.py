"""Converting a graph to a scheme: guard boundaries, assign types, rewrite ops, drop what turned out to be idle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tflite2q import numerics
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.eltwise import Requantize
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.errors import InvalidGraph, Unchanged
from tflite2q.flatbuffer import writer
from tflite2q.rewrites.biases import accumulator_units, convert_bias
from tflite2q.rewrites.boundaries import drop_identities, guard
from tflite2q.rewrites.edit import Editor
from tflite2q.rewrites.parameters import activation_operands, assign, is_activation, parameters, wanted
from tflite2q.rewrites.weights import NewWeights, convert_weights
from tflite2q.scheme import Activations, Layer, Scheme


@dataclass(frozen=True)
class LayerChange:
    """What a conversion did to one op of the original.

    `loss`: "exact" (same integers, same grid), "rescaled" (channels_rescaled of `channels` weight channels lost
    precision), "requantized" (the result has another grid), None (left alone: nothing of it is quantized, or the scheme
    has no form for it).  `bound` is how far a result can be from the original's for equal real inputs, in steps of the
    new result.
    """

    name: str
    op: str
    loss: str | None
    channels: int | None = None
    channels_rescaled: int | None = None
    bound: float | None = None


@dataclass(frozen=True)
class Conversion:
    """A converted graph, what happened to each layer, and how many requantizations the scheme had to insert."""

    graph: Graph
    scheme: Scheme
    layers: tuple[LayerChange, ...]
    requantizations: int

    def save(self, path: str | os.PathLike[str], force: bool = False) -> None:
        """Write as .tflite.  Raises UsageError if the file exists and `force` is not given, or cannot be written."""
        writer.save(self.graph, path, force=force)


def convert(graph: Graph, scheme: Scheme) -> Conversion:
    """Rewrite `graph` to `scheme`.

    Raises SchemeError where the scheme is impossible for a layer, Unchanged if there is nothing to do.
    """
    guarded, boundaries = guard(graph, scheme)
    types = assign(guarded, scheme, boundaries)
    rewriter = _Rewriter(guarded, scheme, types)
    new = drop_identities(rewriter.run(), graph)
    if new == graph:
        raise Unchanged(f"the model already is what scheme {scheme.name} asks for; nothing was written")
    weights = {name: rewriter.weights.get(boundaries.inner.get(name, name)) for name in graph.producers}
    layers = tuple(_change(op, graph, new, weights[op.name]) for op in graph.ops)
    inserted = _requantizations(new) - _requantizations(graph)
    return Conversion(verify(new), scheme, layers, inserted)


def _requantizations(graph: Graph) -> int:
    return sum(isinstance(op, Requantize) for op in graph.ops)


class _Rewriter:
    """Gives every value its assigned type and every op the weights and biases that go with it."""

    def __init__(self, graph: Graph, scheme: Scheme, types: Mapping[str, TensorType]) -> None:
        self.graph, self.scheme, self.types = graph, scheme, types
        self.editor = Editor(graph)
        self.weights: dict[str, NewWeights] = {}

    def run(self) -> Graph:
        for name, kind in self.types.items():
            self.editor.values[name] = self.editor.values[name].with_(type=kind)
        self.editor.ops = [self._op(op) for op in self.graph.ops]
        return self.editor.graph()

    def _op(self, op: Op) -> Op:
        if wanted(op, self.graph, self.scheme) is None:
            return op
        layer = self.scheme.layer(op)
        inputs = list(op.inputs)
        roles = {op.operand(i).role: i for i, name in enumerate(inputs) if name is not None}
        if "weights" in roles and self._value(op, roles["weights"]).type.quantized:
            inputs[roles["weights"]] = self._weights(op, roles["weights"], layer)
            if "bias" in roles:
                inputs[roles["bias"]] = self._bias(op, roles["bias"], roles["weights"], inputs[roles["weights"]])
        for index, name in enumerate(inputs):
            if name is not None and op.operand(index).role == "activation":
                inputs[index] = self._constant_activation(op, name, layer.activations)
        return self._with_version(op.with_(inputs=tuple(inputs)))

    def _value(self, op: Op, index: int) -> Value:
        name = op.inputs[index]
        assert name is not None
        return self.graph[name]

    def _weights(self, op: Op, index: int, layer: Layer) -> str:
        value = self._value(op, index)
        if value.constant is None:
            raise InvalidGraph(f"{op.mnemonic} {op.name!r}: weights are computed by the model and cannot be converted")
        new = convert_weights(value, op.channel_axis, layer.weights)
        self.weights[op.name] = new
        return self._replace(value, new.value)

    def _bias(self, op: Op, bias: int, weights: int, new_weights: str | None) -> str:
        """The bias in units of the new accumulator."""
        assert new_weights is not None and op.inputs[0] is not None
        old_bias, w_old, w_new = self._value(op, bias), self._value(op, weights), self.editor.values[new_weights]
        x_old, x_new = self.graph[op.inputs[0]], self.editor.values[op.inputs[0]]
        if x_old.type == x_new.type and w_old.type == w_new.type:
            return old_bias.name
        channels = w_old.type.shape[op.channel_axis]
        old = accumulator_units(x_old.type.parameters, w_old.type.parameters, channels)
        new = accumulator_units(x_new.type.parameters, w_new.type.parameters, channels)
        scales = np.float32(x_new.type.scale) * np.array(w_new.type.parameters.scale, np.float32)
        return self._replace(old_bias, convert_bias(old_bias, old, new, Quantization.per_channel(scales, 0)))

    def _constant_activation(self, op: Op, name: str, settings: Activations) -> str:
        """A constant in an activation's place: in the parameters it is tied to, or in its own."""
        value = self.graph[name]
        if value.constant is None or not is_activation(value):
            return name
        tied = [self.types.get(n) for group in op.ties(settings.dtype) if name in group for n in group if n != name]
        kind = value.type
        real = kind.scale * (value.data.astype(np.float64) - kind.zero_point)
        if tied and tied[0] is not None:
            new = tied[0].parameters
        else:
            new = parameters(kind, settings, (float(real.min(initial=0.0)), float(real.max(initial=0.0))))
        codes = numerics.round_half_away(real / new.scale[0]) + new.zero_point[0]
        array = np.clip(codes, *numerics.code_range(settings.dtype)).astype(settings.dtype)
        changed = kind.with_(dtype=settings.dtype, quantization=new)
        return self._replace(value, value.with_(type=changed, constant=Constant(array)))

    def _replace(self, old: Value, new: Value) -> str:
        """`new` in place of the constant `old`; a copy where another op still reads something else under that name."""
        if self.editor.values[old.name] == old and len(self.graph.consumers[old.name]) == 1:
            self.editor.values[old.name] = new
            return old.name
        return self.editor.constant(new)

    def _with_version(self, op: Op) -> Op:
        """`op` with the operator version that its first operand's dtype needs."""
        first = next((self.editor.values[n] for n in op.inputs if n is not None), None)
        needed = op.builtin.versions.get(first.type.dtype, 1) if first is not None else 1
        return op.with_(version=max(op.version, needed))


def _change(op: Op, old: Graph, new: Graph, weights: NewWeights | None) -> LayerChange:
    """What became of `op`."""
    result = old[op.name].type
    now = new[op.name].type if op.name in new.by_name else result
    touched = [v for v in (*activation_operands(op, old), *old.outs(op)) if is_activation(v)]
    if not touched:
        return LayerChange(op.name, op.mnemonic, None)
    channels = rescaled = None
    if weights is not None:
        channels, rescaled = len(weights.rescaled), int(weights.rescaled.sum())
    requantized = result.quantized and now.quantized and now.scale != result.scale
    loss = "requantized" if requantized else "rescaled" if rescaled else "exact"
    return LayerChange(op.name, op.mnemonic, loss, channels, rescaled, _bound(op, old, result, now, weights))


def _bound(op: Op, old: Graph, result: TensorType, now: TensorType, weights: NewWeights | None) -> float | None:
    """Steps of the new result by which it can differ, given equal real inputs: the weights' error on the largest
    input, half a step of each grid, and nothing where neither dtype nor grid nor weights changed."""
    if not (result.quantized and now.quantized):
        return None
    bound = 0.0
    if now.scale != result.scale:
        bound += 0.5 + 0.5 * result.scale / now.scale
    elif now != result:
        bound += 1.0  # TFLite's uint8 and int8 kernels round some ties and multipliers differently
    if weights is not None and weights.rescaled.any() and op.inputs[0] is not None:
        x = old[op.inputs[0]].type
        reach = max(abs(code - x.zero_point) for code in x.range) * x.scale
        axes = tuple(i for i in range(weights.error.ndim) if i != op.channel_axis)
        bound += float(np.abs(weights.error).sum(axis=axes).max()) * reach / now.scale + 1.0
    return bound
