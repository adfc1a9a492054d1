"""rewrite: an item that a loop sets in a list becomes q.dynamic_update_slice, whose result has a known shape.

before: head = SLICE(x, [0, 0], [i, -1]);  tail = SLICE(x, [i + 1, 0], [-1, -1]);  y = CONCATENATION(head, item, tail)
after:  y = DYNAMIC_UPDATE_SLICE(x, item, [i, 0])

TensorFlow's converter writes so what a recurrent layer does to the list of its results.  The sizes of both slices are
known only at run time; for each i from 0 on that SLICE takes, the bits of y are the same.

The shapes that a file states may be wrong, and those that follow from the inputs are known only when the slices are
gone: `fit` tells afterwards whether each item is one of the list's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tflite2q.dialect.graph import Graph, fresh
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.eltwise import Add
from tflite2q.dialect.ops.opaque import Opaque
from tflite2q.dialect.ops.placement import DynamicUpdateSlice
from tflite2q.dialect.ops.shape import Concat, Reshape
from tflite2q.dialect.ops.slicing import Slice
from tflite2q.dialect.types import Value


@dataclass(frozen=True)
class Listed:
    """A graph whose settings of items are one op each, by names of the results of those ops and of where they start;
    and where the ops that each of its ops stands for was before."""

    graph: Graph
    places: tuple[int, ...]
    items: frozenset[tuple[str, str]] = frozenset()

    def fit(self, graph: Graph) -> bool:
        """Whether the items have the shapes of the lists' items, in this graph with its shapes inferred, and none of
        the ops that set them had to be carried."""
        for op in graph.ops:
            if not all(self.fit(region) for region in op.regions):
                return False
            if op.outputs and any(op.name == name for name, _ in self.items) and isinstance(op, Opaque):
                return False
            if not isinstance(op, DynamicUpdateSlice) or (op.name, op.inputs[2]) not in self.items:
                continue
            x, item = (graph[name or ""].type.shape for name in op.inputs[:2])
            if item != (1, *x[1:]):
                return False
        return True


def listed(graph: Graph) -> Listed:
    """The graph, and the regions of its ops, with each setting of an item as one op."""
    ops: list[tuple[int, Op]] = []
    values = list(graph.values)
    names = {value.name for value in values}
    dropped: set[str] = set()
    items: set[tuple[str, str]] = set()
    for place, op in enumerate(graph.ops):
        if op.regions:
            regions = [listed(region) for region in op.regions]
            op = op.with_(regions=tuple(region.graph for region in regions))
            items.update(*(region.items for region in regions))
        found = _set_item(graph, op)
        if found is None:
            ops.append((place, op))
            continue
        x, item, number, zeros = found
        start = fresh(names, f"{op.name}_start")
        names.add(start)
        kind = graph[number].type
        values.append(Value(start, kind.with_(shape=(1 + graph[zeros].type.size,))))
        ops.append((place, Concat(inputs=(number, zeros), outputs=(start,))))
        ops.append((place, DynamicUpdateSlice(inputs=(x, item, start), outputs=op.outputs)))
        items.add((op.name, start))
        dropped.update(name for name in (op.inputs[0], op.inputs[2]) if name is not None)
    if dropped:
        ops = _without(ops, graph.outputs, dropped)
    new = replace(graph, values=tuple(values), ops=tuple(op for _, op in ops))
    return Listed(new, tuple(place for place, _ in ops), frozenset(items))


def _set_item(graph: Graph, op: Op) -> tuple[str, str, str, str] | None:
    """The list, the item, the item's number [1], and as many zeros as the list has further axes."""
    if not isinstance(op, Concat) or op.axis != 0 or op.activation != "NONE" or len(op.inputs) != 3:
        return None
    head, tail = (graph.producers.get(op.inputs[place] or "") for place in (0, 2))
    if not isinstance(head, Slice) or not isinstance(tail, Slice) or head.inputs[0] != tail.inputs[0]:
        return None
    update = op.inputs[1]
    x, begin, size = head.inputs
    _, after, rest = tail.inputs
    if x is None or update is None or graph[update].type.shape[:1] != (1,) or not _of_one_type(graph, x, op):
        return None
    if graph[x].variable:  # which ops between the slices and here may update
        return None
    first, behind = _led(graph, size, -1), _led(graph, after, 0)
    if first is None or behind is None or not _filled(graph, begin, 0) or not _filled(graph, rest, -1):
        return None
    return (x, update, first[0], behind[1]) if _follows(graph, behind[0], first[0]) else None


def _of_one_type(graph: Graph, x: str, op: Op) -> bool:
    """Whether the list, the item and the result are of one type that the op moves without a change."""
    kinds = [graph[name].type for name in (x, *op.inputs, *op.outputs) if name is not None]
    codes = kinds[0].quantized and kinds[0].dtype not in DynamicUpdateSlice.dtypes
    return not codes and all((k.dtype, k.quantization) == (kinds[0].dtype, kinds[0].quantization) for k in kinds)


def _led(graph: Graph, name: str | None, rest: int) -> tuple[str, str] | None:
    """The first entry of [number, rest, rest, ...] and the others, by name."""
    op = graph.producers.get(name or "")
    if not isinstance(op, Concat) or len(op.inputs) != 2 or None in op.inputs:
        return None
    number, others = op.inputs
    one = number is not None and graph[number].type.dtype == "int32" and graph[number].type.shape == (1,)
    return (number, others) if one and number and others and _filled(graph, others, rest) else None


def _filled(graph: Graph, name: str | None, number: int) -> bool:
    """Whether it is a constant with this number everywhere."""
    value = None if name is None else graph[name]
    return value is not None and value.constant is not None and bool((value.data == number).all())


def _follows(graph: Graph, name: str, other: str) -> bool:
    """Whether the number `name` is one more than `other`."""
    op = graph.producers.get(_bare(graph, name))
    if not isinstance(op, Add) or op.subtract or op.activation != "NONE":
        return False
    a, b = op.inputs
    return any(_bare(graph, x or "") == _bare(graph, other) and _filled(graph, y, 1) for x, y in ((a, b), (b, a)))


def _bare(graph: Graph, name: str) -> str:
    """The number itself, before it was reshaped."""
    while isinstance(op := graph.producers.get(name), Reshape) and op.inputs[0] is not None:
        name = op.inputs[0]
    return name


def _without(ops: list[tuple[int, Op]], outputs: Sequence[str], dropped: set[str]) -> list[tuple[int, Op]]:
    """The ops without those of these results, and those that only they needed, where nothing else needs them.

    Ops without results, which set variables, are needed.
    """
    while True:
        needed = {name for _, op in ops for name in op.inputs} | set(outputs)
        idle = {
            op.name for _, op in ops if op.outputs and dropped.issuperset(op.outputs) and needed.isdisjoint(op.outputs)
        }
        if not idle:
            return ops
        dropped = {name for _, op in ops if op.outputs and op.name in idle for name in op.inputs if name is not None}
        ops = [(place, op) for place, op in ops if not op.outputs or op.name not in idle]
