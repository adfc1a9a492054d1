"""The contents of a model, as plain values for the reports."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tflite2q.dialect.graph import Graph, inner_name
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Quantization, Value
from tflite2q.errors import Tflite2qError, Unchanged
from tflite2q.evaluation.models import FilePath, Loaded, name_of, opened
from tflite2q.rewrites import Forecast
from tflite2q.rewrites import scheme as schemes
from tflite2q.rewrites.scheme import Scheme
from tflite2q.runtimes.check import broken
from tflite2q.runtimes.rules import breaches
from tflite2q.runtimes.table import RUNTIMES


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's type; `scale` and `zero_point` have one entry per tensor, or one per channel along `axis`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int | None = None


@dataclass(frozen=True)
class LayerInfo:
    """One op: its TFLite operator, its first result, its weights if it has any, and its multiply-accumulates per
    run."""

    index: int
    name: str
    op: str
    tflite: str
    output: TensorInfo | None
    weights: TensorInfo | None
    macs: int


@dataclass(frozen=True)
class SchemeEffect:
    """The effect of converting to a scheme: the number of layers in each loss class, or why it is impossible.

    `clamped` counts layers that get an explicit clamp because only the range of the original's codes limited them.
    """

    scheme: str
    sentence: str
    losses: tuple[tuple[str, int], ...] = ()
    channels: int = 0
    channels_rescaled: int = 0
    refused: str | None = None
    clamped: int = 0


@dataclass(frozen=True)
class Inspection:
    """A whole model; `parameters` counts the elements of its constants, `macs` the multiply-accumulates of one run;
    `runtimes` has the number of layers that break a rule of each runtime, and `notes` hold remarks of the reader."""

    model: str
    size: int
    description: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: tuple[LayerInfo, ...]
    parameters: int
    macs: int
    schemes: tuple[SchemeEffect, ...] = ()
    runtimes: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


def inspect(model: FilePath | Loaded) -> Inspection:
    """Describe a model in a file, and what each shipped scheme would do to it."""
    found = model if isinstance(model, Loaded) else opened(model)
    forecast = Forecast(found.graph)
    effects = tuple(_effect(forecast, schemes.find(name)) for name in schemes.shipped())
    runtimes = tuple((name, broken(breaches(found.graph, runtime))) for name, runtime in RUNTIMES.items())
    return replace(describe(found.graph, name_of(found), os.path.getsize(found.path), effects), runtimes=runtimes)


def describe(graph: Graph, model: str, size: int, effects: tuple[SchemeEffect, ...] = ()) -> Inspection:
    """Describe `graph`, read from a file called `model` of `size` bytes."""
    layers = tuple(_layers(graph))
    return Inspection(
        model=model,
        size=size,
        description=graph.description,
        inputs=tuple(_tensor(graph[name]) for name in graph.inputs),
        outputs=tuple(_tensor(graph[name]) for name in graph.outputs),
        layers=layers,
        parameters=_parameters(graph),
        macs=sum(layer.macs for layer in layers),
        schemes=effects,
        notes=graph.notes,
    )


def _effect(forecast: Forecast, scheme: Scheme) -> SchemeEffect:
    try:
        layers = forecast.layers(scheme)
    except Unchanged:
        return SchemeEffect(scheme.name, scheme.summary, refused="nothing: the model already follows this scheme")
    except Tflite2qError as error:
        return SchemeEffect(scheme.name, scheme.summary, refused=f"not possible: {error}")
    return SchemeEffect(
        scheme.name,
        scheme.summary,
        tuple(sorted(Counter(layer.loss for layer in layers if layer.loss is not None).items())),
        sum(layer.channels or 0 for layer in layers),
        sum(layer.channels_rescaled or 0 for layer in layers),
        clamped=sum(layer.clamp is not None for layer in layers),
    )


def _layers(graph: Graph) -> Iterator[LayerInfo]:
    """Each op, followed by the ops of the graphs that it runs, which have its index."""
    for index, op in enumerate(graph.ops):
        yield _layer(graph, index, op)
        for region in op.regions:
            for layer in _layers(region):
                yield replace(layer, index=index, name=inner_name(op, region, layer.name))


def _parameters(graph: Graph) -> int:
    """Elements of the constants of a graph, and of those that its ops run."""
    made = {*graph.inputs, *graph.producers}
    inner = sum(_parameters(region) for op in graph.ops for region in op.regions)
    return inner + sum(v.type.size for v in graph.values if v.constant is not None and v.name not in made)


def _layer(graph: Graph, index: int, op: Op) -> LayerInfo:
    operands = graph.ins(op)
    weights = next(map(graph.__getitem__, op.in_role("weights").values()), None)
    return LayerInfo(
        index=index,
        name=op.name,
        op=op.mnemonic,
        tflite=op.builtin.name,
        output=_tensor(graph[op.outputs[0]]) if op.outputs else None,
        weights=None if weights is None else _tensor(weights),
        macs=op.macs(operands, graph.outs(op)),
    )


def _tensor(value: Value) -> TensorInfo:
    kind = value.type
    q: Quantization | None = kind.quantization if kind.quantized else None
    if q is None:
        return TensorInfo(value.name, kind.dtype, kind.shape)
    return TensorInfo(value.name, kind.dtype, kind.shape, q.scale, q.zero_point, q.axis)
