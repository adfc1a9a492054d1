"""Resource variables of a model: from handles, and a subgraph that runs once, to state with initial data, and back.

file:   CALL_ONCE 1;  h = VAR_HANDLE "s";  y = READ_VARIABLE(h);  ASSIGN_VARIABLE(h, x)
        subgraph 1:  h = VAR_HANDLE "s";  ASSIGN_VARIABLE(h, constant)
graph:  %h: variable = constant;           %y = q.read_variable(%h);  q.assign_variable(%h, %x)

Initial data may be stored as float16, which a DEQUANTIZE of the subgraph that runs once makes float32 (`widened`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.opaque import Opaque
from tflite2q.dialect.types import STORAGE, Resource, Value
from tflite2q.errors import ModelError, UnsupportedError
from tflite2q.flatbuffer.records import (
    ModelRecord,
    OperatorRecord,
    OptionValue,
    SubgraphRecord,
    TensorRecord,
)

Key = tuple[bytes, bytes]  # container and shared name: handles of equal keys are of one variable
HANDLE, ONCE, READ, ASSIGN = "VAR_HANDLE", "CALL_ONCE", "READ_VARIABLE", "ASSIGN_VARIABLE"
WIDEN = "DEQUANTIZE"
OPERATORS = (HANDLE, ONCE, READ, ASSIGN)
# Options by which an operator names other subgraphs.
_CALLS = ("SubgraphIndex", "Subgraph", "CalledComputations")


@dataclass(frozen=True)
class Variable:
    """`typed` is the tensor that has the variable's type, `initial` the one that has its initial data, if any."""

    key: Key
    typed: TensorRecord
    initial: TensorRecord | None


@dataclass(frozen=True)
class Variables:
    """The variables of one subgraph, by the index of the tensor that stands for each.

    `handles` maps every tensor that is a handle to the one that stands for its variable; `once` are the subgraphs that
    do nothing but initialize, for this subgraph alone.
    """

    by_tensor: Mapping[int, Variable] = field(default_factory=dict)
    handles: Mapping[int, int] = field(default_factory=dict)
    once: frozenset[int] = frozenset()


def widened(model: ModelRecord) -> ModelRecord:
    """rewrite: float16 constants that subgraphs which run once make float32 are stored so, without the operator.

    Only these: what other subgraphs compute from halves stays theirs.
    """
    names = [code.name for code in model.codes]
    if ONCE not in names or WIDEN not in names:
        return model
    subgraphs, buffers = list(model.subgraphs), list(model.buffers)
    once = {
        op.options.get("InitSubgraphIndex", 0)
        for graph in subgraphs
        for op in graph.operators
        if 0 <= op.code < len(names) and names[op.code] == ONCE
    }
    for place, graph in enumerate(subgraphs):
        if place not in once:
            continue
        tensors, operators = list(graph.tensors), []
        for op in graph.operators:
            data = _halves(model, graph, op) if 0 <= op.code < len(names) and names[op.code] == WIDEN else None
            if data is None:
                operators.append(op)
                continue
            (result,) = op.outputs
            tensors[result] = replace(tensors[result], buffer=len(buffers))
            buffers.append(data)
        subgraphs[place] = replace(graph, tensors=tuple(tensors), operators=tuple(operators))
    return replace(model, subgraphs=tuple(subgraphs), buffers=tuple(buffers))


def _halves(model: ModelRecord, graph: SubgraphRecord, op: OperatorRecord) -> bytes | None:
    """The float32 data of what an operator makes of a float16 constant, None if it is something else."""
    if len(op.inputs) != 1 or len(op.outputs) != 1:
        return None
    x, y = _tensor(graph, op.inputs[0]), _tensor(graph, op.outputs[0])
    if (x.dtype, y.dtype) != ("float16", "float32") or not 0 < x.buffer < len(model.buffers):
        return None
    data = model.buffers[x.buffer]
    return np.frombuffer(data, "<f2").astype("<f4").tobytes() if len(data) and not len(data) % 2 else None


def found(model: ModelRecord, index: int) -> Variables:
    """The variables of subgraph `index`.

    Raises UnsupportedError for variables that more than constants initialize; ModelError for references that lead
    nowhere.
    """
    return _Finder(model, index).variables()


class _Finder:
    def __init__(self, model: ModelRecord, index: int) -> None:
        self.model, self.index = model, index
        self.graph = model.subgraphs[index]
        self.keys = self.handles_of(index)

    def variables(self) -> Variables:
        once = self.called_once()
        initial: dict[Key, TensorRecord] = {}
        for place in sorted(once):
            initial.update(self.assigned(place))
        first: dict[Key, int] = {}
        for tensor, key in self.keys.items():
            first.setdefault(key, tensor)
        self.check_handles()
        by_tensor = {first[key]: self.variable(key, uses, initial.get(key)) for key, uses in self.uses().items()}
        return Variables(by_tensor, {tensor: first[key] for tensor, key in self.keys.items()}, once - self.needed())

    def name(self, op: OperatorRecord) -> str:
        if not 0 <= op.code < len(self.model.codes):
            raise ModelError(f"operator code {op.code} does not exist; the file is damaged")
        return self.model.codes[op.code].name

    def handles_of(self, index: int) -> dict[int, Key]:
        """The key of each tensor of a subgraph that is a handle."""
        handles = [op for op in self.model.subgraphs[index].operators if self.name(op) == HANDLE]
        return {tensor: _key(op) for op in handles for tensor in op.outputs}

    def called_once(self) -> frozenset[int]:
        """The subgraphs that are called before the first run."""
        places, touched = set(), False
        for op in self.graph.operators:
            touched = touched or self.name(op) in (READ, ASSIGN)
            if self.name(op) == ONCE:
                place = op.options.get("InitSubgraphIndex", 0)
                if not isinstance(place, int) or not 0 <= place < len(self.model.subgraphs) or place == self.index:
                    raise ModelError(f"CALL_ONCE calls subgraph {place!r}, which does not exist; the file is damaged")
                if touched:
                    raise UnsupportedError("CALL_ONCE after ops that use variables is not supported")
                places.add(place)
        return frozenset(places)

    def assigned(self, place: int) -> dict[Key, TensorRecord]:
        """What a subgraph that is called once assigns, by variable."""
        graph, keys = self.model.subgraphs[place], self.handles_of(place)
        results: dict[Key, TensorRecord] = {}
        for op in graph.operators:
            name = self.name(op)
            if name == HANDLE:
                continue
            if name != ASSIGN or len(op.inputs) != 2 or op.inputs[0] not in keys:
                raise UnsupportedError(f"CALL_ONCE runs {name} of subgraph {place}; it may only assign constants")
            tensor = _tensor(graph, op.inputs[1])
            if not self.has_data(tensor):
                raise UnsupportedError(f"CALL_ONCE assigns {tensor.name!r} of subgraph {place}, which is not constant")
            results[keys[op.inputs[0]]] = tensor
        return results

    def has_data(self, tensor: TensorRecord) -> bool:
        return 0 < tensor.buffer < len(self.model.buffers) and len(self.model.buffers[tensor.buffer]) > 0

    def needed(self) -> frozenset[int]:
        """The subgraphs that other ones call, or that a signature is for."""
        others = (graph for index, graph in enumerate(self.model.subgraphs) if index != self.index)
        places = {place for graph in others for op in graph.operators for place in called(op)}
        return frozenset(places | {signature.subgraph for signature in self.model.signatures})

    def check_handles(self) -> None:
        """Raise UnsupportedError where a handle is used for more than reading and assigning."""
        for op in self.graph.operators:
            name = self.name(op)
            used = {READ: op.inputs[1:], ASSIGN: op.inputs[1:], HANDLE: ()}.get(name, op.inputs)
            if any(tensor in self.keys for tensor in used):
                raise UnsupportedError(f"{name} takes the handle of a variable")
        if any(tensor in self.keys for tensor in (*self.graph.inputs, *self.graph.outputs)):
            raise UnsupportedError("the handle of a variable is an input or output of the model")

    def uses(self) -> dict[Key, list[tuple[str, OperatorRecord]]]:
        """(READ or ASSIGN, operator) for each use of each variable, in order."""
        found: dict[Key, list[tuple[str, OperatorRecord]]] = {}
        for op in self.graph.operators:
            name = self.name(op)
            if name in (READ, ASSIGN) and op.inputs and op.inputs[0] in self.keys:
                found.setdefault(self.keys[op.inputs[0]], []).append((name, op))
        return found

    def variable(self, key: Key, uses: list[tuple[str, OperatorRecord]], initial: TensorRecord | None) -> Variable:
        """The variable; its type is that of its initial data, or of what is assigned first."""
        moved = [_tensor(self.graph, (op.inputs if name == ASSIGN else op.outputs)[-1]) for name, op in uses]
        if initial is None and uses[0][0] == READ:
            raise UnsupportedError(f"variable {_text(key[1])!r} is read before anything sets it")
        typed = moved[0] if initial is None else initial
        if typed.problem or typed.dtype not in STORAGE or min(typed.shape, default=1) < 0:
            reason = typed.problem or f"is {typed.dtype}{list(typed.shape)}"
            raise UnsupportedError(f"variable {_text(key[1])!r} {reason}, which is not supported")
        if not typed.scale:  # codes are only moved: any of the tensors may have the parameters
            scaled = next((tensor for tensor in moved if tensor.scale), typed)
            typed = replace(typed, scale=scaled.scale, zero_point=scaled.zero_point, axis=scaled.axis)
        return Variable(key, typed, initial)


def called(op: OperatorRecord) -> Iterator[int]:
    """The subgraphs that an operator refers to."""
    for option, value in op.options.items():
        if option.endswith(_CALLS):
            yield from (int(n) for n in (value if isinstance(value, tuple) else (value,)))


def renumbered(options: Mapping[str, OptionValue], places: Mapping[int, int]) -> Iterator[tuple[str, OptionValue]]:
    """An operator's options with the subgraphs it refers to at their new places."""
    for option, value in options.items():
        if not option.endswith(_CALLS):
            yield option, value
        elif isinstance(value, tuple):
            yield option, tuple(places.get(int(n), n) for n in value)
        else:
            yield option, places.get(int(value), int(value))


def names_of(variable: Variable) -> tuple[str, str]:
    """Container and shared name."""
    return _text(variable.key[0]), _text(variable.key[1])


def _key(op: OperatorRecord) -> Key:
    container, shared = (op.options.get(option, b"") for option in ("Container", "SharedName"))
    if not isinstance(container, bytes) or not isinstance(shared, bytes):
        raise ModelError("a variable has no name; the file is damaged")
    return container, shared


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _tensor(graph: SubgraphRecord, index: int) -> TensorRecord:
    if not 0 <= index < len(graph.tensors):
        raise ModelError(f"tensor {index} does not exist; the file is damaged")
    return graph.tensors[index]


# ------------------------------------------------------------------------------------------------------------ writing


def handle_operator(resource: Resource, tensor: int, code: int) -> OperatorRecord:
    """VAR_HANDLE of a variable into tensor index `tensor`."""
    names = (resource.container, resource.shared_name)
    container, shared = (name.encode("utf-8", "surrogateescape") for name in names)
    options: dict[str, OptionValue] = {"Container": container, "SharedName": shared}
    return OperatorRecord(code, (), (tensor,), options_type="VarHandleOptions", options=options)


def initializations(state: Value, others: Sequence[Graph]) -> Iterator[int]:
    """The places of the further subgraphs that do nothing but assign constants, among them its initial data to `state`.

    They are called instead of a new one: what has initialized a variable for another subgraph does not do so again.
    """
    for place, graph in enumerate(others):
        handles: dict[str, tuple[str, str]] = {}
        assigned: dict[tuple[str, str], Value] = {}
        for op in graph.ops:
            if not isinstance(op, Opaque) or op.code not in (HANDLE, ASSIGN):
                break
            if op.variable is not None:
                handles[op.outputs[0]] = op.variable
            elif op.inputs[0] in handles and op.inputs[1] is not None:
                assigned[handles[op.inputs[0]]] = graph[op.inputs[1]]
        else:
            resource = state.resource
            source = None if resource is None else assigned.get((resource.container, resource.shared_name))
            if source is not None and resource is not None and source.constant == resource.initial:
                yield place


def once_operator(subgraph: int, code: int) -> OperatorRecord:
    """CALL_ONCE of a subgraph."""
    options: dict[str, OptionValue] = {"InitSubgraphIndex": subgraph}
    return OperatorRecord(code, (), (), options_type="CallOnceOptions", options=options)


def handle_tensor(name: str) -> TensorRecord:
    return TensorRecord(name, (), "resource", 0)
