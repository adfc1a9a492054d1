"""rewrite: every value gets its assigned type; every op gets the weights, biases, constants and arithmetic for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding
from tflite2q.dialect.graph import Graph, located
from tflite2q.dialect.op import Op, Values
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.errors import InvalidGraph
from tflite2q.rewrites.biases import BIAS_DTYPES, accumulator_units, convert_bias, real_bias
from tflite2q.rewrites.clamps import Cut
from tflite2q.rewrites.edit import Editor
from tflite2q.rewrites.equalize import equalize, input_gain, output_gain
from tflite2q.rewrites.parameters import parameters, quantizing, rescaling
from tflite2q.rewrites.plan import Plan, is_activation
from tflite2q.rewrites.scheme import Activations, Layer
from tflite2q.rewrites.statistics import Observation
from tflite2q.rewrites.traces import Exact
from tflite2q.rewrites.weights import NewWeights, convert_weights, one_scale, scale_each

USUAL_RANK = 4  # operators that take more axes often say so in their version
NOT_SAID = "FLOAT32"  # the type of a bias in an operator that states none


class Applier:
    """Applies a plan and assigned types to a guarded graph; afterwards `weights` holds the fitted weights of each op,
    and `exact` what they and the bias were before rounding.

    `seen` holds observations of the values that feed layers to be equalized or bias-corrected; `cuts` are the limits
    that the range of codes puts on values.  In a `provisional` graph the operator versions are those of real numbers.
    """

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        types: Mapping[str, TensorType],
        seen: Mapping[str, Observation],
        cuts: Mapping[str, Cut],
        provisional: bool = False,
    ) -> None:
        self.provisional = provisional
        self.graph, self.plan, self.types, self.seen = graph, plan, types, seen
        self.editor = Editor(graph)
        self.factors = equalize(graph, plan, types, seen, cuts)
        self.weights: dict[str, NewWeights] = {}
        self.exact: dict[str, Exact] = {}

    def run(self) -> Graph:
        for name, kind in self.types.items():
            self.editor.values[name] = _retyped(self.editor.values[name], kind)
        for index, op in enumerate(self.graph.ops):
            try:
                self.editor.ops[index] = self._op(op)
            except InvalidGraph as error:  # a bias's scale that float32 does not hold, say
                raise located(index, op, error) from error
        return self.editor.graph()

    def _op(self, op: Op) -> Op:
        wanted = self.plan.wanted(op, self.graph)
        real = self.plan.real(op, self.graph)
        if wanted is None and real is None:
            return op
        layer = self.plan.layer(op)
        inputs = list(op.inputs)
        roles = {op.operand(i).role: i for i, name in enumerate(inputs) if name is not None}
        weights = self.plan.reweighted(op, self.graph) if real is None else real
        if weights is not None:
            inputs[roles["weights"]] = new = self._weights(op, weights, layer)
            bias = self.graph[op.reads("bias")] if "bias" in roles else None
            if bias is not None:
                inputs[roles["bias"]] = self._bias(op, bias, weights, new, layer)
            self.exact[op.name] = self._before_rounding(op, bias, weights, layer)
        for index, name in enumerate(inputs):
            if wanted is not None and name is not None and op.operand(index).role == "activation":
                settings = replace(wanted, dtype=op.constant_dtype(index, wanted.dtype))
                inputs[index] = self._constant_activation(op, name, settings)
        op = op.with_(inputs=tuple(inputs))
        if getattr(op, "bias_type", NOT_SAID) != NOT_SAID:
            op = op.with_(bias_type=self._bias_type(inputs[roles["bias"]] if "bias" in roles else None, layer))
        op = rescaling(op, layer, [self.editor.values[n].type for n in (*op.inputs, *op.outputs) if n is not None])
        if not self._is_dynamic(op):
            return self._with_version(op)
        if layer.weights.compute == "float":
            return op
        op = quantizing(op, layer)
        version = op.hybrid_weights[self._weights_dtype(op)]
        return op.with_(version=max(op.version, version))

    def _is_dynamic(self, op: Op) -> bool:
        """Whether `op`, whose operands may be new, is given integer weights with real numbers."""
        if not op.hybrid_weights or self.editor.values[op.name].type.dtype != "float32":
            return False
        ins = Values(op, (None if name is None else self.editor.values[name] for name in op.inputs))
        return self._weights_dtype(op) in op.hybrid_weights and op.takes_integers(ins)

    def _weights_dtype(self, op: Op) -> str:
        return next((self.editor.values[name].type.dtype for name in op.in_role("weights").values()), "")

    def _bias_type(self, bias: str | None, layer: Layer) -> str:
        """The new attributes of an operator that states the type of its bias."""
        dtype = BIAS_DTYPES[layer.activations.dtype] if bias is None else self.editor.values[bias].type.dtype
        return dtype.upper()

    def _weights(self, op: Op, value: Value, layer: Layer) -> str:
        gains = (input_gain(op, self.factors), 1 / output_gain(op, self.factors))
        scaled = op.source in self.factors or op.name in self.factors
        new = convert_weights(value, op.channel_axis, layer.weights, gains if scaled else None)
        if layer.activations.dtype != "float32":  # dynamic-range kernels differ between the two forms
            new = one_scale(new)
        elif op.hybrid_channels and layer.weights.compute != "float":
            new = scale_each(new)
        self.weights[op.name] = new
        return self._replace(value, new.value)

    def _bias(self, op: Op, old_bias: Value, w_old: Value, new_weights: str, layer: Layer) -> str:
        """The bias in units of the new accumulator."""
        w_new, x = self.editor.values[new_weights], op.reads("x")
        x_old, x_new = self.graph[x], self.editor.values[x]
        same = x_old.type == x_new.type and w_old.type == w_new.type and op.name not in self.factors
        if same and not self.provisional:
            return old_bias.name
        channels = w_old.type.shape[op.channel_axis]
        old = self._bias_units(op, old_bias, w_old)
        if layer.activations.dtype == "float32":
            return self._replace(old_bias, real_bias(old_bias, old))
        new = accumulator_units(x_new.type.parameters, w_new.type.parameters, channels)
        scales = np.float32(x_new.type.scale) * np.array(w_new.type.parameters.scale, np.float32)
        stated = Quantization.per_channel(scales, 0)
        dtype = BIAS_DTYPES[layer.activations.dtype]
        correction = self._correction(op, x_old.name) if layer.recover.bias_correction else None
        return self._replace(old_bias, convert_bias(old_bias, old, new, stated, dtype, correction))

    def _bias_units(self, op: Op, bias: Value, weights: Value) -> list[float]:
        """What one step of the old bias stands for, of each channel, after equalization."""
        channels = weights.type.shape[op.channel_axis]
        units = [1.0] * channels  # a real bias has none
        if bias.type.dtype != "float32":
            units = accumulator_units(self.graph[op.reads("x")].type.parameters, weights.type.parameters, channels)
        gains = np.broadcast_to(output_gain(op, self.factors), (channels,))
        return list((np.array(units) / gains).tolist())

    def _before_rounding(self, op: Op, bias: Value | None, weights: Value, layer: Layer) -> Exact:
        """The op's weights and bias in real numbers."""
        new = self.weights[op.name]
        added = None
        if bias is not None and bias.constant is not None:
            added = bias.data.reshape(-1).astype(np.float64) * np.array(self._bias_units(op, bias, weights))
        gains = input_gain(op, self.factors), output_gain(op, self.factors)
        return Exact(new, added, new.rescaled, *gains, layer)

    def _correction(self, op: Op, x: str) -> list[float] | None:
        """Minus the mean error of each output channel due to the weights' errors (eq. S7)."""
        weights = self.weights[op.name]
        if x not in self.seen or weights.largest == 0.0:
            return None
        error = weights.error
        mean = self.seen[x].mean / self.factors.get(x, 1.0)
        if error.ndim == 2:  # [units, k]
            return [-float(v) for v in error @ mean.reshape(-1, error.shape[1]).mean(axis=0)]
        channel = mean.reshape(-1, mean.shape[-1]).mean(axis=0)
        if op.channel_axis == 3:  # [1, kh, kw, channels * multiplier]
            per_output = np.repeat(channel, error.shape[3] // len(channel))
            return [-float(v) for v in error.sum(axis=(0, 1, 2)) * per_output]
        groups = len(channel) // error.shape[3]
        split = channel.reshape(groups, 1, error.shape[3])
        per_filter = error.sum(axis=(1, 2)).reshape(groups, -1, error.shape[3])
        return [-float(v) for v in (per_filter * split).sum(axis=2).reshape(-1)]

    def _constant_activation(self, op: Op, name: str, settings: Activations) -> str:
        """A constant used as an activation: with the parameters it is tied to, or its own."""
        value = self.graph[name]
        if value.constant is None or not is_activation(value):
            return name
        kind = value.type
        if settings.dtype == "float32":
            changed = kind.with_(dtype="float32", quantization=None)
            return self._replace(value, value.with_(type=changed, constant=_recoded(value.constant, kind, changed)))
        tied = [self.types.get(n) for group in op.ties(settings.dtype) if name in group for n in group if n != name]
        if tied and tied[0] is not None:
            new = tied[0].parameters
        else:
            real = _real(value.data, kind)
            new = parameters(kind, settings, (float(real.min(initial=0.0)), float(real.max(initial=0.0))))
        changed = kind.with_(dtype=settings.dtype, quantization=new)
        return self._replace(value, value.with_(type=changed, constant=_recoded(value.constant, kind, changed)))

    def _replace(self, old: Value, new: Value) -> str:
        """`new` in place of the constant `old`; a copy if another op still reads a different value of that name."""
        if self.editor.values[old.name] == old and len(self.graph.consumers[old.name]) == 1:
            self.editor.values[old.name] = new
            return old.name
        return self.editor.constant(new)

    def _with_version(self, op: Op) -> Op:
        """`op` with the operator version that the dtypes of operands which changed need.

        A version that may stand for more than dtypes, such as an option or a fifth axis, stays at least what it is,
        unless it is just the one that converters state for the dtypes.
        """
        now = [self.editor.values[name].type for name in op.inputs if name is not None]
        known = {} if self.provisional else self.graph.by_name
        before = {known[name].type.dtype for name in op.inputs if name is not None and name in known}
        needed, stated = op.builtin.versions, op.builtin.stated
        changed = [needed.get(kind.dtype, 1) for kind in now if kind.dtype not in before]
        plain = not any(attribute.metadata["option"] for attribute in op.attributes())
        settled = op.version in {stated.get(dtype) for dtype in before}
        if changed and before and (settled or (plain and max(len(kind.shape) for kind in now) <= USUAL_RANK)):
            explained = max(max(needed.get(dtype, 1), stated.get(dtype, 1)) for dtype in before)
            if op.version <= explained:
                return op.with_(version=max(needed.get(kind.dtype, 1) for kind in now))
        return op.with_(version=max(op.version, *changed, 1))


def _retyped(value: Value, kind: TensorType) -> Value:
    """`value` with its new type; a variable's initial data stay the same real numbers, rounded to the new codes."""
    resource = value.resource
    if resource is not None and resource.initial is not None and kind != value.type:
        resource = replace(resource, initial=_recoded(resource.initial, value.type, kind))
    return value.with_(type=kind, resource=resource)


def _recoded(data: Constant, old: TensorType, new: TensorType) -> Constant:
    """The real numbers of codes of type `old` as codes of `new`, or as they are where that is float32."""
    real = _real(data.array, old)
    if new.dtype == "float32":
        with np.errstate(over="ignore"):  # of the largest scales there are
            return Constant(real.astype(np.float32))
    codes = rounding.round_half_away(real / new.scale) + new.zero_point
    return Constant(np.clip(codes, *rounding.code_range(new.dtype)).astype(new.dtype))


def _real(codes: npt.NDArray[Any], kind: TensorType) -> npt.NDArray[np.float64]:
    return kind.scale * (codes.astype(np.float64) - kind.zero_point)
