"""rewrite: a q.requantize wherever neighbouring values may get different types, before types are assigned.

    before: %y = q.conv2d(%x, ...)                  %x: the model's own input, which keeps its type
    after:  %x_0 = q.requantize(%x); %y = q.conv2d(%x_0, ...)

Each starts as an identity (or, for parts of a concatenation, as the rescaling that the concatenation did).  Those that
are still identities after types are assigned are dropped by `drop_identities`; the others are needed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.eltwise import Dequantize, Requantize
from tflite2q.dialect.ops.shape import Reshape
from tflite2q.dialect.ops.slicing import Slice
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.rewrites.edit import Editor
from tflite2q.rewrites.parameters import Boundaries
from tflite2q.rewrites.plan import Plan, activation_operands, casts, is_activation
from tflite2q.rewrites.scheme import Activations

CASTS = (Requantize, Dequantize)
# How codes get between uint8 and int16.
CAST_PATHS = (["uint8", "int8", "int16"], ["int16", "int8", "uint8"])


def guard(graph: Graph, plan: Plan) -> tuple[Graph, Boundaries]:
    """The graph with boundaries between values that keep their type and those that follow the scheme."""
    return _Guard(graph, plan).run()


class _Guard:
    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.editor = Editor(graph)
        self.editor.ops = []
        self.wants = {op.name: plan.wanted(op, graph) for op in graph.ops}
        self.pinned = self._kept()
        self.asked: dict[str, Activations] = {}
        self.made_for = self._inputs()  # what the maker of a value computes with
        self.made: dict[tuple[str, Activations | None, TensorType], str] = {}

    def _kept(self) -> set[str]:
        """Values that keep their type: the interface, unless the scheme changes it, and operands and results of
        unchanged ops."""
        kept: set[str] = set()
        if self.plan.scheme.interface == "keep":
            kept.update(n for n in (*self.graph.inputs, *self.graph.outputs) if is_activation(self.graph[n]))
        for op in self.graph.ops:
            if self.wants[op.name] is None:
                kept.update(v.name for v in self.graph.outs(op) if is_activation(v))
                kept.update(n for n in op.inputs if n is not None and self._made_for_fixed(n))
        return kept

    def _inputs(self) -> dict[str, Activations | None]:
        """What the first reader of each input that follows the scheme computes with: inputs get the type that it
        wants."""
        found: dict[str, Activations | None] = {}
        for op in self.graph.ops:
            for value in activation_operands(op, self.graph) if self.wants[op.name] is not None else ():
                if value.name in self.graph.inputs:
                    found.setdefault(value.name, self.wants[op.name])
        return found

    def _made_for_fixed(self, name: str) -> bool:
        """Whether a value is a conversion that only unchanged ops read: the boundary exists already."""
        maker = self.graph.producers.get(name)
        return (
            maker is not None
            and casts(maker, self.graph)
            and all(self.wants[reader.name] is None for reader in self.graph.consumers[name])
        )

    def run(self) -> tuple[Graph, Boundaries]:
        renamed: dict[str, str] = {}  # outputs that keep their type, to the free value before them
        for op in self.graph.ops:
            name_before = op.name
            op = self.editor.replace_inputs(op, renamed)
            op = op.with_(inputs=self._operands(op))
            kept_outputs = [name for name in op.outputs if self._splits(op, name)]
            for name in kept_outputs:
                inner = self.editor.add(self.editor.values[name], near=name)
                op = op.with_(outputs=tuple(inner if n == name else n for n in op.outputs))
                renamed[name] = inner
            self.made_for.update(dict.fromkeys(op.outputs, self.wants[name_before]))
            self.editor.ops.append(op)
            for name in kept_outputs:
                self.editor.ops.append(Requantize(inputs=(renamed[name],), outputs=(name,)))
        return self.editor.graph(), Boundaries(frozenset(self.pinned), self.asked, renamed)

    def _splits(self, op: Op, name: str) -> bool:
        """Whether a free op's result is a model output that keeps its type; a converting op makes any type itself."""
        return name in self.pinned and self.wants[op.name] is not None and not casts(op, self.graph)

    def _operands(self, op: Op) -> tuple[str | None, ...]:
        """The values that `op` must read; an op may read one a thousand times."""
        found: dict[tuple[str | None, str], str | None] = {}
        for index, name in enumerate(op.inputs):
            if (name, op.operand(index).role) not in found:
                found[name, op.operand(index).role] = self._operand(op, index, name)
        return tuple(found[name, op.operand(index).role] for index, name in enumerate(op.inputs))

    def _operand(self, op: Op, index: int, name: str | None) -> str | None:
        """The value that `op` must read instead of `name`."""
        if name is None or casts(op, self.graph) or op.operand(index).role not in ("activation", "fixed"):
            return name
        value = self.editor.values[name]
        if not is_activation(value) or value.constant is not None or value.variable:
            return name
        wants = self.wants[op.name]
        if wants is None:
            return name if name in self.pinned else self._requantize(value, None, value.type)
        return self._free_operand(op, value, wants)

    def _free_operand(self, op: Op, value: Value, wants: Activations) -> str:
        """`value`, or the value after a new boundary if it is pinned, made for another dtype, or tied to other
        parameters."""
        tied = self._tied_type(op, value, wants)
        made_for = self.made_for.get(value.name)
        other_dtype = made_for is not None and made_for.dtype != wants.dtype
        if tied != value.type or value.name in self.pinned or other_dtype:
            return self._requantize(value, wants, tied)
        return value.name

    def _tied_type(self, op: Op, value: Value, wants: Activations) -> TensorType:
        """`value`'s type with the parameters of the result it must share them with in the new dtype but not the old."""
        result = self.graph[op.name].type
        tied_before = any(value.name in group for group in op.ties(value.type.dtype))
        tied_after = any({value.name, op.name} <= set(group) for group in op.ties(wants.dtype))
        if tied_after and not tied_before:
            return value.type.with_(dtype=result.dtype, quantization=result.quantization)
        return value.type

    def _requantize(self, value: Value, wants: Activations | None, kind: TensorType) -> str:
        """The value after a boundary, shared by all readers that want the same type; `wants` None keeps the type."""
        key = (value.name, wants, kind)
        if key not in self.made:
            dtype = kind.dtype if wants is None else wants.dtype
            name, op = self.editor.requantize(value.name, kind, f"{value.name}_{dtype}")
            self.editor.ops.append(op)
            self.made[key] = name
            if wants is None:
                self.pinned.add(name)
            else:
                self.asked[name] = wants
        return self.made[key]


def drop_identities(graph: Graph, original: Graph) -> Graph:
    """The graph without requantizations between equal types, or to what the next one takes, that `original` lacks.

    Those that it has stay, unless their codes became real numbers, which no cast takes to real numbers.
    """
    editor = Editor(graph)
    renamed: dict[str, str] = {}
    kept: list[Op] = []
    before = {
        op.name
        for op in original.ops
        if isinstance(op, CASTS) and _is_identity(op, original) and graph[op.name].type.dtype != "float32"
    }
    for op in graph.ops:
        if isinstance(op, CASTS) and op.name not in before and _is_idle(op, graph, original):
            source, target = op.reads("x"), op.outputs[0]
            source = renamed.get(source, source)
            if target not in graph.outputs:
                renamed[target] = source
                continue
            if graph[source].constant is not None:
                editor.values[target] = graph[source].with_(name=target)
                continue
            if source not in graph.inputs and source not in graph.outputs:
                renamed = {old: target if new == source else new for old, new in renamed.items()} | {source: target}
                kept = [_rename(old, source, target) for old in kept]
                continue
            if graph[target].type.dtype == "float32":  # TFLite has no cast that leaves real numbers as they are
                kept.append(_copy(editor, source, target))
                continue
        kept.append(editor.replace_inputs(_fitting(op, graph), renamed))
    editor.ops = kept
    return editor.graph()


def _copy(editor: Editor, source: str, target: str) -> Op:
    """An output with the numbers of another value, which is an input or another output of the model."""
    value = editor.values[target]
    shape = value.shape_signature or value.type.shape
    if shape.count(-1) > 1:  # which a new shape cannot leave open
        ends = [np.full(len(shape), number, np.int32) for number in (0, -1)]
        return Slice(inputs=(source, *(_numbers(editor, end, target) for end in ends)), outputs=(target,))
    return Reshape(inputs=(source, _numbers(editor, np.array(shape, np.int32), target)), outputs=(target,))


def _numbers(editor: Editor, data: npt.NDArray[np.int32], target: str) -> str:
    kind = TensorType(data.shape, "int32")
    return editor.add(Value(f"{target}_shape", kind, constant=Constant(data)), near=target)


def _fitting(op: Op, graph: Graph) -> Op:
    """A cast of the class that its new types need: q.dequantize to real numbers, q.requantize to codes."""
    if not isinstance(op, CASTS):
        return op
    cls = Dequantize if graph[op.outputs[0]].type.dtype == "float32" else Requantize
    return op if isinstance(op, cls) else cls(inputs=op.inputs, outputs=op.outputs)


def split_casts(graph: Graph) -> Graph:
    """rewrite: casts between uint8 and int16 go through int8, because TFLite's QUANTIZE has no kernel for that pair.

    before: %y: u8 = q.requantize(%x: s16)      after: %t: s8 = q.requantize(%x); %y: u8 = q.requantize(%t), exactly
    """
    editor = Editor(graph)
    ops: list[Op] = []
    for op in editor.ops:
        source = op.inputs[0] if isinstance(op, Requantize) else None
        if source is None or {graph[source].type.dtype, graph[op.name].type.dtype} != {"uint8", "int16"}:
            ops.append(op)
            continue
        legacy = graph[source].type if graph[source].type.dtype == "uint8" else graph[op.name].type
        middle = legacy.with_(dtype="int8", quantization=Quantization.per_tensor(legacy.scale, legacy.zero_point - 128))
        name, first = editor.requantize(source, middle, f"{op.name}_int8")
        ops += [first, op.with_(inputs=(name,))]
    editor.ops = ops
    return editor.graph()


def join_casts(graph: Graph) -> Graph:
    """rewrite: the inverse of `split_casts`: one cast again, so that a converted file reads as the graph it was made
    from.

    before: %t: s8 = q.requantize(%x: s16); %y: u8 = q.requantize(%t)      after: %y: u8 = q.requantize(%x: s16)
    """
    editor = Editor(graph)
    ops: list[Op] = []
    for op in graph.ops:
        middle = op.inputs[0] if isinstance(op, Requantize) else None
        first = graph.producers.get(middle or "")
        if middle is not None and isinstance(first, Requantize) and _splits_cast(first, op, graph):
            ops = [other for other in ops if other is not first]
            op = op.with_(inputs=first.inputs)
        ops.append(op)
    editor.ops = ops
    return editor.graph()


def _splits_cast(first: Op, second: Op, graph: Graph) -> bool:
    """Whether two casts go through int8 only because there is no cast between uint8 and int16."""
    (source,), (middle,), (target,) = first.inputs, first.outputs, second.outputs
    kinds = [graph[name].type for name in (str(source), middle, target)]
    legacy = next((kind for kind in kinds if kind.dtype == "uint8"), None)
    alone = middle not in graph.outputs and len(graph.consumers[middle]) == 1
    if legacy is None or not alone or [kind.dtype for kind in kinds] not in CAST_PATHS:
        return False
    return kinds[1].quantization == Quantization.per_tensor(legacy.scale, legacy.zero_point - 128)


def _is_idle(op: Op, graph: Graph, original: Graph) -> bool:
    """Whether a cast changes nothing, or is a detour from int16 to int32, which has a kernel."""
    if op.name in original.by_name or op.name in graph.outputs or not graph.consumers[op.name]:
        return _is_identity(op, graph)
    to_wide = all(reader.converts and graph[reader.name].type.dtype == "int32" for reader in graph.consumers[op.name])
    return _is_identity(op, graph) or (to_wide and graph[op.reads("x")].type.dtype == "int16")


def _is_identity(op: Op, graph: Graph) -> bool:
    return graph[op.reads("x")].type == graph[op.outputs[0]].type


def _rename(op: Op, old: str, new: str) -> Op:
    return op.with_(
        inputs=tuple(new if n == old else n for n in op.inputs),
        outputs=tuple(new if n == old else n for n in op.outputs),
    )
