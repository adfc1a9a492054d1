"""A scheme applied to one graph: the settings of each op, and the ops that cannot follow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Value
from tflite2q.errors import InvalidGraph, Tflite2qError, Unchanged, UnsupportedError
from tflite2q.rewrites.scheme import Activations, Layer, Scheme, Weights

# dtypes that hold activations; int32 tensors with a scale are accumulators and biases.
ACTIVATION_DTYPES = ("uint8", "int8", "int16")
CARRIED = "carried through unchanged"


@dataclass(frozen=True)
class Plan:
    """Settings by op name; ops that rewrites insert have the scheme's base settings.  `kept` says why ops stay."""

    scheme: Scheme
    layers: Mapping[str, Layer]
    kept: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(scheme: Scheme, graph: Graph) -> Plan:
        """Raises SchemeError for rules that do not fit the graph."""
        return Plan(scheme, scheme.layers(graph))

    def layer(self, op: Op) -> Layer:
        """The settings for `op`; weights of a type that TFLite's kernel does not support become int8, or float32."""
        layer = self.layers.get(op.name, self.scheme.layer)
        if layer.activations.dtype == "float32":
            return replace(layer, weights=_real_weights(op, layer.weights))
        if op.accepts_weights(layer.weights.dtype):
            return layer
        return replace(layer, weights=replace(layer.weights, dtype="int8"))

    def renamed(self, inner: Mapping[str, str]) -> Plan:
        """The plan for a graph in which results, of which the first names its op, have the new names of `inner`."""
        new = {new: self.layers[old] for old, new in inner.items() if old in self.layers}
        return replace(self, layers={**self.layers, **new})

    def wanted(self, op: Op, graph: Graph) -> Activations | None:
        """The activations that `op` is to compute with; None if it must stay as it is.

        An op that moves codes stays if some of them have no parameters: those cannot follow the others to a new type.
        """
        settings = self.layer(op).activations
        touched = _touched(op, graph)
        if not touched or self._refusal(op, graph, settings, touched) is not None:
            return None
        dtype = _dtype(op, settings, touched)
        return settings if dtype in (None, settings.dtype) else replace(settings, dtype=dtype)

    def reweighted(self, op: Op, graph: Graph) -> Value | None:
        """The weights of `op` that become what the scheme says; None if they stay or it has none.

        Raises InvalidGraph if the model computes them.
        """
        weights = weights_of(op, graph)
        if weights is None or self.wanted(op, graph) is None:
            return None
        if weights.constant is None:
            raise InvalidGraph(f"{op.mnemonic} {op.name!r}: weights are computed by the model and cannot be converted")
        return weights

    def real(self, op: Op, graph: Graph) -> Value | None:
        """The constant weights of `op`, which computes on real numbers and goes on to; None if it has none or does not.

        They become what the scheme says.
        """
        weights = weights_of(op, graph)
        if op.carries or not op.outputs or weights is None or weights.constant is None or _touched(op, graph):
            return None
        stays = self.layer(op).activations.dtype == "float32" and graph[op.name].type.dtype == "float32"
        return weights if stays else None

    def stays(self, op: Op, graph: Graph) -> str | None:
        """Why `op` cannot follow the scheme; None if it does, has no codes, or is of the wanted type anyway."""
        settings = self.layer(op).activations
        touched = _touched(op, graph)
        factor = _integer_factor(op, graph)
        if factor and (settings.dtype != "float32" or self.scheme.layer.weights.dtype == "float32"):
            return f"{op.builtin.name} of float32 and {factor.type.dtype} is defined only for the types that it has"
        if not any(map(is_activation, touched)) or all(v.type.dtype == settings.dtype for v in touched):
            return None
        return self._refusal(op, graph, settings, touched)

    def followed(self, op: Op, graph: Graph) -> bool:
        """Whether `op` computes in the type that the scheme wants, by itself."""
        dtype = self.layer(op).activations.dtype
        if dtype == "float32":
            return not casts(op, graph) and any(value.type.dtype == dtype for value in graph.outs(op))
        return not casts(op, graph) and self.wanted(op, graph) is not None

    def _refusal(self, op: Op, graph: Graph, settings: Activations, touched: list[Value]) -> str | None:
        if op.carries:
            return f"{op.builtin.name} is {CARRIED}"
        if op.regions:
            return f"what crosses the border of {op.builtin.name} keeps its type"
        if op.converts and not casts(op, graph):
            return f"{op.builtin.name} makes int32 of few types"
        if not op.convertible:
            return f"{op.builtin.name} is defined only for the types that it has"
        if _dtype(op, settings, touched) is None:
            return f"there is no {settings.dtype} form of {op.builtin.name} that tflite2q can write"
        if op.name in self.kept:
            return self.kept[op.name]
        if not all(map(is_activation, touched)):
            return f"{op.builtin.name} moves codes without quantization parameters"
        for index, name in enumerate(op.inputs):
            dtype = op.constant_dtype(index, settings.dtype)
            if dtype != settings.dtype and (name is None or graph[name].constant is None):
                return f"{op.builtin.name} of {settings.dtype} takes a constant {op.operand(index).name} only"
        return None


def _dtype(op: Op, settings: Activations, touched: list[Value]) -> str | None:
    """The dtype of activations that `settings` give `op`: real numbers where neither they nor the codes that it has,
    those of `touched`, have a kernel; None if it stays."""
    dtype = op.computes_in(settings.dtype)
    if dtype is None and any(op.stranded(value.type.dtype) for value in touched):
        return "float32"
    return dtype


def is_activation(value: Value) -> bool:
    """Whether a value holds quantized codes, of one scale, that a scheme may change."""
    q = value.type.quantization
    return value.type.dtype in ACTIVATION_DTYPES and q is not None and q.axis is None


def casts(op: Op, graph: Graph) -> bool:
    """Whether `op` only changes types, and takes any: QUANTIZE makes int32 of few, so there it keeps its operand's."""
    return op.converts and graph[op.outputs[0]].type.dtype != "int32"


def _touched(op: Op, graph: Graph) -> list[Value]:
    """Codes that `op` reads as activations or makes; none where a constant meets real numbers, as weights do."""
    if _integer_factor(op, graph):
        return []
    return [v for v in (*_in_role(op, graph), *graph.outs(op)) if v.type.dtype in ACTIVATION_DTYPES]


def _integer_factor(op: Op, graph: Graph) -> Value | None:
    """The constant that an op of real numbers multiplies by as weights, but has in an activation's role."""
    if not op.hybrid_weights or graph[op.name].type.dtype != "float32":
        return None
    return next((value for value in _in_role(op, graph) if value.type.dtype in op.hybrid_weights), None)


def activation_operands(op: Op, graph: Graph) -> list[Value]:
    """Quantized operands in an activation's role."""
    return [value for value in _in_role(op, graph) if is_activation(value)]


def activations_of(op: Op, graph: Graph) -> list[Value]:
    """Quantized activations that `op` reads or makes."""
    return [value for value in (*activation_operands(op, graph), *graph.outs(op)) if is_activation(value)]


def weights_of(op: Op, graph: Graph) -> Value | None:
    """The weights of `op`: codes, or real numbers."""
    named = map(graph.__getitem__, op.in_role("weights").values())
    return next((value for value in named if value.type.quantized or value.type.dtype == "float32"), None)


def _real_weights(op: Op, settings: Weights) -> Weights:
    """The weights of `op` on real numbers: where they are to meet integers, what its kernel takes."""
    if settings.dtype == "float32" or settings.compute == "float":
        return settings
    dtypes = [dtype for dtype in (settings.dtype, "int8") if dtype in op.hybrid_weights]
    granularity = "per-channel" if op.hybrid_channels else settings.granularity
    block = settings.block if op.blockwise and dtypes[:1] == ["int4"] else 0
    return replace(settings, dtype=dtypes[0] if dtypes else "float32", granularity=granularity, block=block)


def _in_role(op: Op, graph: Graph) -> list[Value]:
    return [graph[name] for name in op.in_role("activation").values()]


def computes_codes(graph: Graph) -> bool:
    """Whether an op computes with codes; those that only make them of real numbers, or the reverse, do not."""
    values = (v for op in graph.ops if not op.converts for v in (*graph.ins(op), *graph.outs(op)) if v is not None)
    return any(is_activation(value) and value.constant is None for value in values)


def unchanged(graph: Graph, plan: Plan) -> Tflite2qError:
    """The error for a graph that a plan leaves unchanged: it follows the scheme already, or nothing could be done."""
    name = plan.scheme.name
    real = plan.scheme.layer.activations.dtype == "float32"
    reasons = "; ".join(dict.fromkeys(reason for op in graph.ops if (reason := plan.stays(op, graph))))
    if not real and not computes_codes(graph):
        reasons = reasons or "no activation of the model is quantized, or can be"
        return UnsupportedError(f"scheme {name} changes nothing: {reasons}")
    follows = any(plan.followed(op, graph) for op in graph.ops)
    if not (follows or reasons):
        reasons = "; ".join(dict.fromkeys(f"{op.builtin.name} is {CARRIED}" for op in graph.ops if op.carries))
    if reasons and not follows:
        return UnsupportedError(f"scheme {name} changes nothing: {reasons}")
    rest = f" except where it cannot be ({reasons})" if reasons else ""
    return Unchanged(f"the model already follows scheme {name}{rest}")
