"""A graph: values, ops in execution order, and what else a .tflite model carries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tflite2q.arithmetic.rounding import RANGES
from tflite2q.dialect.op import Op, Values
from tflite2q.dialect.types import PAIRS, STORAGE, Quantization, UnknownUntilRun, Value
from tflite2q.errors import InvalidGraph, Tflite2qError, UnsupportedError

LARGEST = 2**31 - 1  # elements of a value: TFLite counts them in an int
MOST_AXES = 32  # of a value: as many as every NumPy has


@dataclass(frozen=True)
class Signature:
    """A SignatureDef: (public name, value name) pairs of inputs and outputs under a key."""

    key: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Graph:
    """One subgraph of a model.  Values keep the order of the file's tensors, ops the order of execution.

    A value that an op computes may hold data too: numbers that follow from the shapes the graph has now.
    `metadata` are the file's (name, bytes) buffers; `files` the associated files packed behind the model (labels, ...);
    `others` are the model's further subgraphs, carried from file to file as they are, and `place` how many of them come
    before this one; `notes` what a user should know
    of how it was read, one line each, which is no part of the graph.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: tuple[Value, ...]
    ops: tuple[Op, ...]
    name: str = ""
    description: str = ""
    signatures: tuple[Signature, ...] = ()
    metadata: tuple[tuple[str, bytes], ...] = ()
    files: tuple[tuple[str, bytes], ...] = ()
    others: tuple[Graph, ...] = ()
    place: int = 0
    notes: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def by_name(self) -> Mapping[str, Value]:
        return {value.name: value for value in self.values}

    @cached_property
    def producers(self) -> Mapping[str, Op]:
        """Value name -> the op that defines it."""
        return {name: op for op in self.ops for name in op.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Op, ...]]:
        """Value name -> the ops that read it, in execution order, each once."""
        found: dict[str, list[Op]] = {value.name: [] for value in self.values}
        for op in self.ops:
            for name in dict.fromkeys(n for n in op.inputs if n is not None):
                found[name].append(op)
        return {name: tuple(ops) for name, ops in found.items()}

    @cached_property
    def states(self) -> tuple[Value, ...]:
        """The variables that a stream keeps from run to run: those that an op updates and that no input gives."""
        updated = {name for op in self.ops if op.updates for name in op.written[len(op.outputs) :]}
        return tuple(v for v in self.values if v.name in updated and v.name not in self.inputs)

    def __repr__(self) -> str:
        ends = (
            ", ".join(f"{self[n].type.dtype}{list(self[n].type.shape)}" if n in self.by_name else n for n in side)
            for side in (self.inputs, self.outputs)
        )
        named = f"{self.name!r} " if self.name else ""
        return f"<Graph {named}of {len(self.ops)} ops: {' -> '.join(ends)}>"

    def __getitem__(self, name: str) -> Value:
        return self.by_name[name]

    def ins(self, op: Op) -> Values:
        """The operand values of `op`, None where absent."""
        return Values(op, (None if name is None else self[name] for name in op.inputs))

    def outs(self, op: Op) -> list[Value]:
        return [self[name] for name in op.outputs]

    def with_(self, **changes: Any) -> Graph:
        return replace(self, **changes)

    def every_op(self) -> Iterator[Op]:
        """The ops, and those of the graphs that they run."""
        for op in self.ops:
            yield op
            for region in op.regions:
                yield from region.every_op()

    def macs(self) -> int:
        """Multiply-accumulate operations of one run; of the graphs that ops run, of one run each."""
        inner = sum(region.macs() for op in self.ops for region in op.regions)
        return inner + sum(op.macs(self.ins(op), self.outs(op)) for op in self.ops)


def verify(graph: Graph) -> Graph:
    """Check every rule of the dialect; returns the graph, or raises InvalidGraph naming the op and the rule."""
    _verify_values(graph)
    for name in graph.inputs:
        if name not in graph.by_name:
            raise InvalidGraph(f"graph input {name!r} does not exist")
    for name in (*graph.inputs, *graph.outputs):
        if name in graph.by_name and graph[name].type.dtype in PAIRS and graph[name].carried is None:
            raise UnsupportedError(
                f"{name!r} is {graph[name].type.dtype}, which a model's inputs and outputs cannot be"
            )
    computed = graph.producers
    constants = {v.name for v in graph.values if v.constant is not None and v.name not in computed}
    defined = constants | {v.name for v in graph.values if v.variable} | set(graph.inputs)
    for index, op in enumerate(graph.ops):
        try:
            op.check_operands()
            _verify_names(op, graph.by_name, defined)
            _verify_types(op, graph)
        except (InvalidGraph, UnsupportedError) as error:
            raise located(index, op, error) from error
        defined.update(op.outputs)
    for name in graph.outputs:
        if name not in defined:
            raise InvalidGraph(f"graph output {name!r} is never computed")
    for signature in graph.signatures:
        for public, name in (*signature.inputs, *signature.outputs):
            if name not in graph.by_name:
                raise InvalidGraph(f"signature {signature.key!r}: {public!r} stands for {name!r}, which does not exist")
    return graph


def _verify_values(graph: Graph) -> None:
    if len(graph.by_name) != len(graph.values):
        raise InvalidGraph("two values have the same name")
    if not 0 <= graph.place <= len(graph.others):
        raise InvalidGraph(f"place {graph.place} among {len(graph.others)} further subgraphs")
    for value in graph.values:
        check_value(value)
    resources = [(v.resource.container, v.resource.shared_name) for v in graph.values if v.resource is not None]
    if len(set(resources)) != len(resources):
        raise InvalidGraph("two values are the same variable")


def located(index: int, op: Op, error: Tflite2qError) -> Tflite2qError:
    """The error with the op that it is about in front."""
    if isinstance(error, UnknownUntilRun) and error.value in op.inputs:
        error = UnknownUntilRun(error.value, op.operand(op.inputs.index(error.value)).name)
    return error.at(f"op {index} {op.mnemonic} {op.name!r}")


def check_value(value: Value) -> None:
    """Raise InvalidGraph where a value contradicts itself or is larger than any TFLite tensor."""
    kind = value.type
    if kind.dtype not in STORAGE and value.carried is None:
        raise InvalidGraph(f"value {value.name!r}: dtype {kind.dtype} is not known")
    if any(size < 0 for size in kind.shape):
        raise InvalidGraph(f"value {value.name!r}: shape {list(kind.shape)} is not static; fix the dynamic dimensions")
    if math.prod(max(size, 1) for size in kind.shape) > LARGEST or len(kind.shape) > MOST_AXES:
        raise InvalidGraph(f"value {value.name!r}: shape {list(kind.shape[:MOST_AXES])} is too large")
    if kind.quantization is not None:
        _verify_quantization(value, kind.quantization)
    if value.resource is not None and not value.variable:
        raise InvalidGraph(f"value {value.name!r} is a resource but no variable")
    constant = value.constant if value.resource is None else value.resource.initial
    if constant is None or value.carried is not None:
        return
    if kind.dtype in PAIRS:
        raise InvalidGraph(f"value {value.name!r}: there are no constants of {kind.dtype}")
    array = constant.array
    if array.shape != kind.shape or array.dtype.name != STORAGE[kind.dtype]:
        declared = f"{kind.dtype}{list(kind.shape)}"
        raise InvalidGraph(f"value {value.name!r}: data is {array.dtype.name}{list(array.shape)}, declared {declared}")


def _verify_quantization(value: Value, q: Quantization) -> None:
    shape, dtype = value.type.shape, value.type.dtype
    if q.axis is not None and (not 0 <= q.axis < len(shape) or _scales(shape, q) != len(q.scale)):
        blocks = f" in blocks of {q.block}" if q.block else ""
        raise InvalidGraph(
            f"value {value.name!r}: {len(q.scale)} scales on axis {q.axis} of shape {list(shape)}{blocks}"
        )
    low, high = RANGES.get(dtype, (0, 0))
    if dtype in RANGES and not low <= min(q.zero_point) <= max(q.zero_point) <= high:
        raise InvalidGraph(f"value {value.name!r}: a zero point is not in the range of {dtype}")


def _scales(shape: tuple[int, ...], q: Quantization) -> int:
    """How many scales a tensor has along `q.axis`; -1 if its rows do not split into blocks."""
    if not q.block or q.axis is None:
        return shape[q.axis or 0]
    split = q.block > 0 and q.axis < len(shape) - 1 and shape[-1] % q.block == 0
    return shape[q.axis] * (shape[-1] // q.block) if split else -1


def _verify_names(op: Op, values: Mapping[str, Value], defined: set[str]) -> None:
    for name in (*op.inputs, *op.outputs):
        if name is None:
            continue
        if name not in values:
            raise InvalidGraph(f"value {name!r} does not exist")
        check_carried(op, values[name])
    for value in op.intermediates:
        if value.name in values:
            raise InvalidGraph(f"has {value.name!r} among its intermediates, which is a value of the graph")
    for name in op.inputs:
        if name is not None and name not in defined:
            raise InvalidGraph(f"reads {name!r} before it is computed")
    for name in op.outputs:
        if name in defined:
            raise InvalidGraph(f"defines {name!r} a second time")
    for name in op.written[len(op.outputs) :]:
        if not values[name].variable:
            raise InvalidGraph(f"updates {name!r}, which is no variable")


def _verify_types(op: Op, graph: Graph) -> None:
    ins, outs = graph.ins(op), graph.outs(op)
    op.verify(ins, outs)
    shapes = op.infer(ins, outs)
    if len(shapes) != len(outs):
        raise InvalidGraph(f"has {len(outs)} results but should have {len(shapes)}")
    for value, shape in zip(outs, shapes, strict=True):
        if value.type.shape != tuple(shape):
            raise InvalidGraph(f"result {value.name!r} is {list(value.type.shape)} but should be {list(shape)}")


def check_carried(op: Op, value: Value) -> None:
    """Raise UnsupportedError where an op touches a value that the dialect cannot represent, or complex numbers that it
    does not know."""
    if value.type.dtype in PAIRS and not (op.complexes or op.carries):
        raise UnsupportedError(f"{value.name!r} is {value.type.dtype}, which the operator does not take here")
    if value.carried is not None and not op.carries:
        raise UnsupportedError(f"{value.name!r} {value.carried.reason}, which is not supported")


def used(graph: Graph) -> Graph:
    """rewrite: drop values that no op, input, output or signature mentions."""
    names: set[str | None] = {*graph.inputs, *graph.outputs}
    for op in graph.ops:
        names.update(op.inputs, op.outputs)
    for signature in graph.signatures:
        names.update(name for _, name in (*signature.inputs, *signature.outputs))
    for value in graph.values:
        if value.carried is not None and value.name in names:
            names.update(value.carried.names)
    return graph.with_(values=tuple(v for v in graph.values if v.name in names))


def inner_name(op: Op, region: Graph, name: str) -> str:
    """What reports call the op `name` of a graph that `op` runs."""
    return f"{op.name}/{region.name}/{name}"


def fresh(names: Iterable[str], wish: str) -> str:
    """`wish`, or `wish` with the first number behind it that makes it a new name."""
    taken = names if isinstance(names, Mapping | Set) else set(names)
    if wish not in taken:
        return wish
    number = 1
    while f"{wish}_{number}" in taken:
        number += 1
    return f"{wish}_{number}"
