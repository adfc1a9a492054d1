"""rewrite: weights that a model stores as integers or halves and dequantizes become operands of layers, and back.

    before: %r: f32[8, 4] = q.dequantize(%w: s8[8, 4]); %y = q.dense(%x, %r)      (weight-only)
    after:  %y = q.dense(%x, %w)

In between, a layer of float32 activations with integer weights says nothing about how it computes: `restored` gives
those that compute in real numbers their dequantization.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tflite2q.dialect.fold import dequantized
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.eltwise import Dequantize
from tflite2q.dialect.types import Value
from tflite2q.rewrites.edit import Editor

PER_CHANNEL = 5  # the version of DEQUANTIZE that takes a scale for each channel


@dataclass(frozen=True)
class Stored:
    """The q.dequantize that a lifted graph lacks, by the name of the constant that it read."""

    ops: Mapping[str, Op]
    results: Mapping[str, Value]


def lifted(graph: Graph) -> tuple[Graph, Stored]:
    """`graph` with stored weights as operands of their layers, and halves and biases as float32 constants; and what it
    lacks."""
    graph = _widened(graph)
    found = {op.name: op for op in graph.ops if _stores(op, graph)}
    if not found:
        return graph, Stored({}, {})
    editor = Editor(graph)
    editor.ops = [_reading(op, found) for op in graph.ops]
    read = {name for op in editor.ops for name in op.inputs} | set(graph.outputs)
    gone = [op for op in found.values() if op.name not in read]
    editor.ops = [op for op in editor.ops if op.name not in {op.name for op in gone}]
    for op in gone:
        editor.values.pop(op.name)
    stored = Stored({str(op.inputs[0]): op for op in gone}, {str(op.inputs[0]): graph[op.name] for op in gone})
    return editor.graph(), stored


def restored(graph: Graph, stored: Stored, original: Graph, real: Iterable[str]) -> Graph:
    """`graph` with a q.dequantize before the integer weights of each layer that computes in `real` numbers.

    Where the weights are those of `original`, so are the op, its result and their places.
    """
    layers = set(real)
    editor = Editor(graph)
    made: dict[str, tuple[str, Op]] = {}
    ops: list[Op] = []
    for op in graph.ops:
        if op.name in layers:
            slot, source = next(iter(op.in_role("weights").items()))
            if graph[source].type.quantized:
                if source not in made:
                    made[source] = _dequantize(editor, graph[source], stored)
                    ops.append(made[source][1])
                op = op.with_(inputs=(*op.inputs[:slot], made[source][0], *op.inputs[slot + 1 :]))
        ops.append(op)
    if not made:
        return graph
    editor.ops = ops
    return _in_order(editor.graph(), original)


def _widened(graph: Graph) -> Graph:
    """The graph with constants that only a q.dequantize can read as the float32 ones that it makes: float16 ones, and
    biases, whose codes would count in steps of the layer's sums."""
    biases = {name for op in graph.ops for name in op.in_role("bias").values()}
    halves = [op for op in graph.ops if _stores(op, graph) and op.name not in graph.outputs]
    halves = [op for op in halves if op.name in biases or graph[str(op.inputs[0])].type.dtype == "float16"]
    if not halves:
        return graph
    known = dequantized(graph)
    names = {op.name for op in halves}
    editor = Editor(graph)
    editor.values.update({name: known[name] for name in names})
    editor.ops = [op for op in graph.ops if op.name not in names]
    return editor.graph()


def _stores(op: Op, graph: Graph) -> bool:
    return isinstance(op, Dequantize) and graph[str(op.inputs[0])].constant is not None


def _reading(op: Op, found: Mapping[str, Op]) -> Op:
    """`op` with the constants behind its dequantized weights."""
    inputs = [
        found[name].inputs[0] if name is not None and name in found and op.operand(index).role == "weights" else name
        for index, name in enumerate(op.inputs)
    ]
    return op.with_(inputs=tuple(inputs))


def _dequantize(editor: Editor, weights: Value, stored: Stored) -> tuple[str, Op]:
    """The op that dequantizes `weights`, the one that there was if they are the same, and the name of its result."""
    kind, q = weights.type, weights.type.parameters
    if weights.name in stored.ops and stored.results[weights.name].name not in editor.values:
        return editor.add(stored.results[weights.name], near=weights.name), stored.ops[weights.name]
    plain = Value(f"{weights.name}_dequantized", kind.with_(dtype="float32", quantization=None))
    name = editor.add(plain, near=weights.name)
    op = Dequantize(inputs=(weights.name,), outputs=(name,))
    version = op.builtin.versions.get(kind.dtype, 1)
    return name, op.with_(version=version if q.axis is None else max(version, PER_CHANNEL))


def _in_order(graph: Graph, original: Graph) -> Graph:
    """`graph` with what it shares with `original` in that order."""
    place = {value.name: index for index, value in enumerate(original.values)}
    values, last = {}, -1.0
    for index, value in enumerate(graph.values):
        last = place.get(value.name, last)
        values[value.name] = (last, 0 if value.name in place else 1, index)
    order = {op.name: index for index, op in enumerate(original.ops)}
    waiting = [op for op in graph.ops if op.name in order and isinstance(op, Dequantize)]
    early = {op.name for op in waiting if graph[str(op.inputs[0])].constant is not None}
    waiting = sorted((op for op in waiting if op.name in early), key=lambda op: order[op.name])
    ops: list[Op] = []
    for op in (op for op in graph.ops if op.name not in early):
        while waiting and (order[waiting[0].name] < order.get(op.name, -1) or waiting[0].name in op.inputs):
            ops.append(waiting.pop(0))
        ops.append(op)
    return graph.with_(values=tuple(sorted(graph.values, key=lambda value: values[value.name])), ops=(*ops, *waiting))
