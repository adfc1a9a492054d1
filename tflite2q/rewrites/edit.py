"""Editing a frozen graph: the operations that rewrites use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tflite2q.dialect.graph import Graph, fresh, used
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.eltwise import Requantize
from tflite2q.dialect.types import TensorType, Value


class Editor:
    """A graph under construction: values and ops of `graph`, changed in place until `graph()` is called."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.values: dict[str, Value] = dict(graph.by_name)
        self.ops: list[Op] = list(graph.ops)
        self._behind: dict[str, list[str]] = {}  # values that stand behind another one, the first to be added last

    def graph(self) -> Graph:
        """The edited graph, without unused values, in the original order."""
        return used(self._graph.with_(values=tuple(self._in_order()), ops=tuple(self.ops)))

    def _in_order(self) -> Iterator[Value]:
        moved = {name for names in self._behind.values() for name in names}
        known = dict.fromkeys(
            (*self._graph.by_name, *self.values)
        )  # also those behind which others stand that are gone
        waiting = [name for name in reversed(known) if name not in moved]
        while waiting:
            name = waiting.pop()
            waiting += self._behind.get(name, ())
            if name in self.values:
                yield self.values[name]

    def add(self, value: Value, near: str | None = None) -> str:
        """Add `value` under its name, or a new one made of it; after value `near` if given.  Returns the name."""
        name = fresh(self.values, value.name)
        self.values[name] = value.with_(name=name)
        if near is not None:
            self._behind.setdefault(near, []).append(name)
        return name

    def constant(self, value: Value) -> str:
        """A constant by its name, or under a new name if another consumer already holds something else there."""
        old = self.values.get(value.name)
        if old == value:
            return value.name
        return self.add(value, near=value.name if old is not None else None)

    def replace_inputs(self, op: Op, names: Mapping[str, str]) -> Op:
        """`op` reading renamed values."""
        return op.with_(inputs=tuple(names.get(n, n) if n is not None else None for n in op.inputs))

    def requantize(self, source: str, kind: TensorType, wish: str) -> tuple[str, Op]:
        """A new value of type `kind` and the op that makes it from `source`; the op is not yet placed."""
        name = self.add(Value(wish, kind, shape_signature=self.values[source].shape_signature), near=source)
        return name, Requantize(inputs=(source,), outputs=(name,))
