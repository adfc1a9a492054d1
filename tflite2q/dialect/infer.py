"""Shapes computed forward from the inputs, and the small numbers that follow from them.

The shapes a file stores for intermediate tensors and outputs are what they were when it was written.  Interpreters
compute them anew from the inputs' shapes, and so does this: what is stored may be of another size, or `[]` or -1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tflite2q.dialect.fold import known_results
from tflite2q.dialect.graph import Graph, check_carried, check_value, located, used
from tflite2q.dialect.op import Op, Shape, Values
from tflite2q.dialect.types import Constant, UnknownUntilRun, Value
from tflite2q.errors import InvalidGraph, Tflite2qError, UnsupportedError

# What is to become of an op that breaks a rule: the op to have in its place, or the error raised again.
Refused = Callable[[int, Op, Tflite2qError], Op]


@dataclass(frozen=True)
class Stale:
    """A value whose stored shape is not the one that follows from the inputs."""

    name: str
    stored: Shape
    computed: Shape


@dataclass(frozen=True)
class Inferred:
    """The graph; values whose stored shape is another; inputs, by name, with the numbers they must be."""

    graph: Graph
    stale: tuple[Stale, ...]
    prescribed: Mapping[str, Shape]


@dataclass
class _Pass:
    """What is known while ops are gone through in order."""

    values: dict[str, Value]
    inputs: tuple[str, ...]
    varying: set[str]  # names of values whose shape, or data, follows from a dynamic size
    stale: list[Stale] = field(default_factory=list)
    prescribed: dict[str, Shape] = field(default_factory=dict)


def refuse(index: int, op: Op, error: Tflite2qError) -> Op:
    """Raise `error` with the op's place in front."""
    raise located(index, op, error) from error


def inferred(graph: Graph, refused: Refused = refuse) -> Inferred:
    """rewrite: every result its shape, and its data where they are small numbers that constants and shapes determine.

    before: s = shape_of(x); n = strided_slice(s, 1, 3, 1); y: u8[1, 1, 1, 3] = resize_nearest(x, n)
    after:  n = constant [h, w];                            y: u8[1, h, w, 3] = resize_nearest(x, n)

    Ops that compute such integers are dropped unless these follow from a size that the file leaves open, for then a
    runtime computes them for other sizes too.  Raises InvalidGraph or UnsupportedError where an op breaks a rule,
    unless `refused` gives another op for it.
    """
    known = _Pass(dict(graph.by_name), graph.inputs, {name for name in graph.inputs if _open(graph[name])})
    ops = []
    for index, op in enumerate(graph.ops):
        try:
            op = _entered(op, known)
            results = _results(op, known)
        except (InvalidGraph, UnsupportedError) as error:
            op = refused(index, op, error)
            results = _results(op, known)
        known.values.update((y.name, y) for y in results)
        if not _settled(results, known, graph):
            ops.append(op)
    values = tuple(known.values[value.name] for value in graph.values)
    return Inferred(graph.with_(ops=tuple(ops), values=values), tuple(known.stale), known.prescribed)


def _entered(op: Op, known: _Pass) -> Op:
    """The op with the shapes of its operands, and what follows from them, in the graphs that it runs."""
    regions = []
    for region, names in zip(op.regions, op.fed, strict=False):
        outer = {inner: known.values[name] for inner, name in zip(region.inputs, names, strict=False) if name}
        values = tuple(_as_operand(v, outer[v.name]) if v.name in outer else v for v in region.values)
        found = inferred(region.with_(values=values))
        if found.prescribed:
            raise UnknownUntilRun(next(iter(found.prescribed)))
        regions.append(used(found.graph))
    return op.with_(regions=tuple(regions)) if regions else op


def _as_operand(value: Value, operand: Value) -> Value:
    """An input of a region with the shape of the operand that it gets."""
    return value.with_(type=value.type.with_(shape=operand.type.shape), shape_signature=operand.shape_signature)


def _results(op: Op, known: _Pass) -> list[Value]:
    """The op's results with their shapes and, where known, their data."""
    ins = Values(op, (None if name is None else known.values[name] for name in op.inputs))
    declared = [known.values[name] for name in op.outputs]
    for value in (*ins, *declared):
        if value is not None:
            check_carried(op, value)
    op.check_operands()
    ins = _assumed(op, ins, declared, known)
    op.verify(ins, declared)
    shapes = op.infer(ins, declared)
    if len(shapes) != len(declared):
        raise InvalidGraph(f"has {len(declared)} results but should have {len(shapes)}")
    outs = [_shaped(y, tuple(shape)) for y, shape in zip(declared, shapes, strict=True)]
    for y in outs:
        check_value(y)
    data = known_results(op, ins, outs)
    if data is not None:
        outs = [y.with_(constant=Constant(array)) for y, array in zip(outs, data, strict=True)]
    if any(name in known.varying for name in op.inputs):
        known.varying.update(op.outputs)
    pairs = zip(declared, outs, strict=True)
    known.stale += [Stale(y.name, y.type.shape, out.type.shape) for y, out in pairs if _contradicts(y, out)]
    return outs


def _assumed(op: Op, ins: Values, declared: list[Value], known: _Pass) -> Values:
    """The operands, those that a user gives with the numbers they must be for the declared results to be right."""
    for slot, numbers in op.assumed(ins, declared).items():
        value = ins[slot]
        if value.name in known.inputs and value.type.size == len(numbers):
            array = np.array(numbers, value.type.dtype).reshape(value.type.shape)
            known.values[value.name] = value.with_(constant=Constant(array))
            known.prescribed[value.name] = numbers
    return Values(op, (None if name is None else known.values[name] for name in op.inputs))


def _shaped(value: Value, shape: Shape) -> Value:
    """`value` with its computed shape; sizes that the file leaves open stay open."""
    signature = value.shape_signature
    if signature is not None:
        same_rank = len(signature) == len(shape)
        signature = tuple(-1 if s == -1 else n for s, n in zip(signature, shape, strict=True)) if same_rank else None
    return value.with_(type=value.type.with_(shape=shape), shape_signature=signature)


def _contradicts(declared: Value, computed: Value) -> bool:
    """Whether the file states another shape, and states it as more than a place to fill in."""
    stored, shape = declared.type.shape, computed.type.shape
    if stored in ((), shape):
        return False
    signature = declared.shape_signature or stored
    if len(stored) != len(shape) or len(signature) != len(stored):
        return -1 not in signature
    return any(s != -1 and n != m for s, n, m in zip(signature, stored, shape, strict=True))


def _settled(results: list[Value], known: _Pass, graph: Graph) -> bool:
    """Whether the op can go: its results are integers, known, asked for by nobody outside, and never others."""
    return bool(results) and all(
        y.constant is not None
        and y.type.dtype != "float32"
        and y.name not in known.varying
        and y.name not in graph.outputs
        for y in results
    )


def _open(value: Value) -> bool:
    return value.shape_signature is not None and -1 in value.shape_signature


def with_input_shapes(graph: Graph, shapes: Mapping[str, Shape]) -> Graph:
    """The graph with the sizes that its inputs leave open chosen: as `shapes` says, as stored, or 1."""
    chosen = {name: _chosen(graph[name], shapes.get(name)) for name in graph.inputs}
    return graph.with_(values=tuple(chosen.get(value.name, value) for value in graph.values))


def _chosen(value: Value, told: Shape | None) -> Value:
    stored = value.type.shape
    shape = tuple(n if n > 0 else 1 for n in stored) if told is None else told
    signature = value.shape_signature
    if signature is None and min(stored, default=1) < 1:
        signature = tuple(n if n > 0 else -1 for n in stored)
    if signature is not None and len(signature) != len(shape):
        signature = None
    return value.with_(type=value.type.with_(shape=shape), shape_signature=signature)
