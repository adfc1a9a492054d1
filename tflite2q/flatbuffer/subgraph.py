"""Records of one subgraph to a graph: values and ops, or what is carried in their place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from tflite2q.dialect.graph import Graph, Signature, check_value, located
from tflite2q.dialect.op import Builtin, Op
from tflite2q.dialect.ops import BY_BUILTIN
from tflite2q.dialect.ops.opaque import Opaque
from tflite2q.dialect.types import PAIRS, STORAGE, Carried, Quantization, Resource, TensorType, Value
from tflite2q.errors import InvalidGraph, ModelError, Tflite2qError, UnsupportedError
from tflite2q.flatbuffer import flexbuffer, names, tables, variables
from tflite2q.flatbuffer.blocks import blockwise
from tflite2q.flatbuffer.constants import Constants
from tflite2q.flatbuffer.records import ModelRecord, OperatorCode, OperatorRecord, TensorRecord
from tflite2q.flatbuffer.variables import Variable, Variables

DEEPEST = 16  # regions within regions
SUMS = ("int32", "int64")  # biases: their scale is that of the products, and kernels do not heed what else is stated


class UnknownOperator(UnsupportedError):
    """An operator that the dialect lacks; the message is its index and name."""


class SubgraphReader:
    """Reads one subgraph.  Afterwards `refused` holds the reasons why ops are carried, and `damaged` the contradictions
    in carried tensors, by name.

    `places` are the new places of subgraphs, where some are left out.  `inside` are the subgraphs that this one is a
    region of, outermost first; None: operators with regions are carried.
    """

    def __init__(
        self,
        model: ModelRecord,
        index: int,
        constants: Constants,
        places: Mapping[int, int] | None = None,
        inside: tuple[int, ...] | None = None,
    ) -> None:
        self.model, self.index, self.constants, self.places = model, index, constants, places or {}
        self.inside = inside
        self.subgraph = model.subgraphs[index]
        self.names = _unique_names(self.subgraph.tensors)
        self.refused: list[Tflite2qError] = []
        self.damaged: dict[str, InvalidGraph] = {}
        self.variables: Variables | None = None  # None: operators that use variables are carried
        self.kept: list[int] = list(range(len(self.subgraph.operators)))  # operators that become ops

    def find_variables(self) -> frozenset[int]:
        """Turn variables into state; the subgraphs that only initialize it, of which the graph has no further need."""
        if not any(self.code(op).name in variables.OPERATORS for op in self.subgraph.operators):
            self.variables = Variables()
            return frozenset()
        try:
            self.variables = variables.found(self.model, self.index)
        except UnsupportedError as error:
            self.refused.append(error)
            return frozenset()
        for handle, stands in self.variables.handles.items():
            self.names[handle] = self.name(stands)
        codes = [self.code(op).name for op in self.subgraph.operators]
        self.kept = [index for index, code in enumerate(codes) if code not in (variables.HANDLE, variables.ONCE)]
        return self.variables.once

    def graph(self) -> Graph:
        """The graph with all its ops, not yet verified."""
        given = set(self.subgraph.inputs)
        for index, op in enumerate(self.subgraph.operators):
            for place in given.intersection(op.outputs):
                raise ModelError(f"operator {index} computes {self.name(place)!r}, an input; the file is damaged")
        return self.composed([self.op(index, self.subgraph.operators[index]) for index in self.kept])

    def carried(self) -> Graph:
        """The graph with every op carried."""
        return self.composed([self.opaque(index) for index in range(len(self.subgraph.operators))])

    def composed(self, ops: Sequence[Op]) -> Graph:
        graph = self.subgraph
        produced = {index for op in graph.operators for index in op.outputs} | set(graph.inputs)
        values = (self.value(i, tensor, i in produced) for i, tensor in enumerate(graph.tensors) if not self.doubled(i))
        fresh = frozenset[str]() if self.inside else self.fresh(ops)  # regions with variables are refused
        return Graph(
            inputs=self.some_names(graph.inputs),
            outputs=self.some_names(graph.outputs),
            values=tuple(replace(v, variable=False) if v.variable and v.name in fresh else v for v in values),
            ops=tuple(ops),
            name=graph.name,
            signatures=tuple(self.signatures()),
        )

    def fresh(self, ops: Sequence[Op]) -> frozenset[str]:
        """What each run gives or computes anew before anything reads it: no variable, whatever its tensor says."""
        found, read = set(self.some_names(self.subgraph.inputs)), set[str]()
        for op in ops:
            read.update(name for name in op.inputs if name is not None)
            found.update(name for name in op.outputs if name not in read)
        kept = {name for op in ops for name in op.written[len(op.outputs) :]}
        carried = {name for op in ops if isinstance(op, Opaque) for name in op.inputs}  # it may change any of them
        return frozenset(found - kept - carried)

    def doubled(self, tensor: int) -> bool:
        """Whether a tensor is a further handle of a variable."""
        return self.variables is not None and self.variables.handles.get(tensor, tensor) != tensor

    def code(self, op: OperatorRecord) -> OperatorCode:
        if not 0 <= op.code < len(self.model.codes):
            raise ModelError(f"operator code {op.code} does not exist; the file is damaged")
        return self.model.codes[op.code]

    def name(self, index: int) -> str:
        if not 0 <= index < len(self.names):
            raise ModelError(f"tensor {index} does not exist; the file is damaged")
        return self.names[index]

    def some_names(self, indices: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.name(index) for index in indices)

    # -------------------------------------------------------------------------------------------------------- values

    def value(self, index: int, tensor: TensorRecord, produced: bool) -> Value:
        name = self.names[index]
        if self.variables is not None and index in self.variables.by_tensor:
            return self.state(name, self.variables.by_tensor[index])
        data = self.constants.buffer(tensor.buffer)
        blocks = blockwise(tensor, self.subgraph.tensors, self.constants) if tensor.problem else None
        if (tensor.problem and blocks is None) or tensor.dtype not in STORAGE:
            reason = tensor.problem or f"is {tensor.dtype}"
            return self.carried_value(name, tensor, reason, None if produced else tensor.buffer)
        if tensor.dtype in PAIRS and (not produced or index in (*self.subgraph.inputs, *self.subgraph.outputs)):
            reason = f"is {tensor.dtype} and not computed and used by operators alone"
            return self.carried_value(name, tensor, reason, None if produced else tensor.buffer)
        # A size of -1 in a tensor that is computed is open, as one that the signature says is.
        open_shape = produced and min(tensor.shape, default=0) < 0
        shape = tuple(1 if n < 0 else n for n in tensor.shape) if open_shape else tensor.shape
        signature = tensor.shape_signature or (tensor.shape if open_shape else ())
        dynamic = signature if -1 in signature and len(signature) == len(shape) else None
        plain = TensorType(shape, tensor.dtype)
        known = not produced and not tensor.variable and (len(data) > 0 or plain.size == 0)
        try:
            constant = self.constants.constant(tensor.buffer, plain) if known else None
        except InvalidGraph as error:
            raise error.at(f"tensor {index} {name!r}") from error
        try:
            kind = plain.with_(quantization=_quantization(tensor) if blocks is None else blocks)
            value = Value(name, kind, constant, tensor.variable, dynamic)
            check_value(value)
        except InvalidGraph as error:
            self.damaged[name] = InvalidGraph(f"tensor {index} {name!r}: {error}")
            return self.carried_value(
                name, tensor, "contradicts itself in its quantization", None if produced else tensor.buffer
            )
        return value

    def state(self, name: str, variable: Variable) -> Value:
        """A variable as a value."""
        tensor, initial = variable.typed, variable.initial
        try:
            kind = TensorType(tensor.shape, tensor.dtype)
            data = None if initial is None else self.constants.constant(initial.buffer, kind)
            resource = Resource(*variables.names_of(variable), data)
            value = Value(name, kind.with_(quantization=_quantization(tensor)), None, True, resource=resource)
            check_value(value)
            return value
        except InvalidGraph as error:
            raise error.at(f"variable {name!r}") from error

    def carried_value(self, name: str, tensor: TensorRecord, reason: str, buffer: int | None) -> Value:
        """A tensor as the file has it; `buffer` holds its data unless it is computed."""
        fields = json.loads(json.dumps(tensor.beyond))
        if not fields and tensor.scale:
            stated = {"scale": tensor.scale, "zero_point": tensor.zero_point, "quantized_dimension": tensor.axis}
            fields = {"Quantization": stated}
        referred: list[str] = []
        for reference in references(fields):
            for field in tables.REFERENCES:
                place = reference.get(field, 0)
                if 0 <= place < len(self.names):
                    reference[field] = len(referred)
                    referred.append(self.names[place])
        carried = Carried(reason, json.dumps(fields, sort_keys=True), tuple(referred))
        full = buffer is not None and not tensor.variable and len(self.constants.buffer(buffer)) > 0
        constant = self.constants.constant(buffer or 0, None) if full else None
        signature, shape = tensor.shape_signature, tensor.shape
        if buffer is None and min(shape, default=0) < 0:
            signature, shape = signature or shape, tuple(1 if n < 0 else n for n in shape)
        return Value(name, TensorType(shape, tensor.dtype), constant, tensor.variable, signature, carried)

    # ----------------------------------------------------------------------------------------------------------- ops

    def op(self, index: int, record: OperatorRecord) -> Op:
        """The op of an operator; one that cannot be read is carried."""
        code = self.code(record)
        if record.problem:
            return self.opaque(index)
        if self.variables is None and code.name in variables.OPERATORS:
            return self.opaque(index)  # `refused` says why
        if code.name not in BY_BUILTIN or BY_BUILTIN[code.name][1].custom != code.custom:
            self.refused.append(UnknownOperator(f"{index} {'custom ' if code.custom else ''}{code.name}"))
            return self.opaque(index)
        cls, builtin = BY_BUILTIN[code.name]
        if cls.results and not record.outputs:
            raise ModelError(f"operator {index} {code.name} has no outputs; the file is damaged")
        try:
            attributes = _attributes(cls, builtin, record)
            attributes["regions"] = tuple(self.region(record, option) for option in cls.subgraphs)
        except (UnsupportedError, ModelError, InvalidGraph) as error:
            self.refused.append(error.at(f"operator {index} {code.name}"))
            return self.opaque(index)
        return self.made(cls, index, attributes)

    def region(self, record: OperatorRecord, option: str) -> Graph:
        """The subgraph that an option names, as a region of the operator; its shapes are not yet inferred.

        Raises UnsupportedError with the first reason against it.
        """
        if self.inside is None:
            raise UnsupportedError("is carried with its subgraphs, because other operators are carried")
        inside, place = (*self.inside, self.index), int(record.options.get(option, 0))  # type: ignore[arg-type]
        if place in inside:
            raise ModelError(f"runs subgraph {place}, which it is a part of; the file is damaged")
        if len(inside) > DEEPEST:
            raise UnsupportedError(f"subgraphs within subgraphs more than {DEEPEST} deep are not supported")
        reader = SubgraphReader(self.model, place, self.constants, self.places, inside)
        self.constants.run(len(reader.subgraph.operators))
        for op in reader.subgraph.operators:
            if reader.code(op).name in variables.OPERATORS:
                uses = f"in subgraph {place}: {reader.code(op).name} uses a variable"
                raise UnsupportedError(f"{uses}, which is not supported in a branch or loop")
        graph = reader.graph()
        for error in (*reader.refused, *reader.damaged.values()):
            raise error.at(f"in subgraph {place}")
        return graph

    def opaque(self, index: int) -> Op:
        """An operator as the file has it.  Raises UnsupportedError for options that could not be written again."""
        record = self.subgraph.operators[index]
        code = self.code(record)
        if record.problem:
            raise UnsupportedError(f"operator {index} {code.name} {record.problem}, so it cannot be carried either")
        attributes = {
            "code": code.name,
            "custom": code.custom,
            "options_type": record.options_type,
            "options": tuple(variables.renumbered(record.options, self.places)),
            "custom_options": record.custom_options,
        }
        return self.made(Opaque, index, attributes)

    def carry(self, place: int, op: Op, error: Tflite2qError) -> Op:
        """The operator of op number `place` of the graph, carried because `op` breaks a rule of the dialect."""
        index = self.kept[place]
        self.refused.append(located(index, op, error))
        return self.opaque(index)

    def made(self, cls: type[Op], index: int, attributes: dict[str, Any]) -> Op:
        record = self.subgraph.operators[index]
        inside = self.subgraph.tensors
        for shared in self.touched.intersection(record.intermediates):
            raise ModelError(
                f"operator {index} has {self.name(shared)!r} among its intermediates, which is used elsewhere; "
                "the file is damaged"
            )
        return cls(
            inputs=tuple(None if i == -1 else self.name(i) for i in record.inputs),
            outputs=self.some_names(record.outputs),
            version=self.code(record).version,
            intermediates=tuple(self.value(i, inside[i], True) for i in record.intermediates if self.name(i)),
            **attributes,
        )

    @cached_property
    def touched(self) -> frozenset[int]:
        """The tensors that operators, the subgraph or its signatures use."""
        graph = self.subgraph
        found = {*graph.inputs, *graph.outputs}
        for op in graph.operators:
            found.update(op.inputs, op.outputs)
        for signature in self.model.signatures:
            if signature.subgraph == self.index:
                found.update(place for _, place in (*signature.inputs, *signature.outputs))
        return frozenset(found - {-1})

    def check_calls(self, main: int) -> None:
        """Raise where an operator leads to a subgraph that does not exist, or to `main`, which may change."""
        subgraphs = len(self.model.subgraphs)
        for index in self.kept:
            record = self.subgraph.operators[index]
            for called in variables.called(record):
                if not 0 <= called < subgraphs:
                    raise ModelError(
                        f"operator {index} calls subgraph {called}, which does not exist; the file is damaged"
                    )
                if called == main:
                    which = "the first subgraph" if main == 0 else f"subgraph {main}, which is to be converted"
                    raise UnsupportedError(f"operator {index} of subgraph {self.index} calls {which}")

    def signatures(self) -> list[Signature]:
        def named(items: tuple[tuple[str, int], ...]) -> tuple[tuple[str, str], ...]:
            return tuple((name, self.name(index)) for name, index in items)

        mine = [s for s in self.model.signatures if s.subgraph == self.index]
        return [Signature(s.key, named(s.inputs), named(s.outputs)) for s in mine]


def references(fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of a carried tensor's fields that refer to other tensors, to be changed in place."""
    details = fields.get("Quantization", {}).get("details")
    if details and details[0] != "CustomQuantization":
        yield details[1]


def _unique_names(tensors: Sequence[TensorRecord]) -> list[str]:
    """The tensors' names; unnamed ones get one, and of equal names all but the first a number."""
    taken: dict[str, int] = {}  # -> the number to try next, so that thousands of equal names take no time
    for index, tensor in enumerate(tensors):
        wish = name = tensor.name or f"tensor_{index}"
        while name in taken:
            taken[wish] += 1
            name = f"{wish}_{taken[wish]}"
        taken[name] = 0
    return list(taken)


def _quantization(tensor: TensorRecord) -> Quantization | None:
    if not tensor.scale or (tensor.dtype in SUMS and not all(0 < scale < math.inf for scale in tensor.scale)):
        return None
    count = len(tensor.scale)
    zero_point = tensor.zero_point or (0,)
    if len(zero_point) not in (1, count):
        raise InvalidGraph(f"{count} scales with {len(zero_point)} zero points")
    if len(zero_point) != count:
        zero_point = zero_point * count
    axis = 0 if len(tensor.shape) == 1 else tensor.axis  # some writers keep the weights' axis on a bias
    return Quantization(tensor.scale, zero_point, axis if count > 1 else None)


def _attributes(cls: type[Op], builtin: Builtin, record: OperatorRecord) -> dict[str, Any]:
    """Attribute values of an op from its options; an option the op does not know must have its default value."""
    found: dict[str, Any] = dict(builtin.fixed)
    table = record.options_type
    if table not in (None, builtin.options) and not builtin.custom and (builtin.options or names.option_fields(table)):
        raise UnsupportedError(f"has {table} instead of {builtin.options or 'no options'}")
    if builtin.custom:
        options = flexbuffer.decode(record.custom_options)
    elif table is None and builtin.options:
        options = dict(names.option_zeros(builtin.options))
    else:
        options = dict(record.options)
    for field in cls.attributes():
        option, enum = field.metadata["option"], field.metadata["enum"]
        if option in options:
            value = options.pop(option)
            if value != value:
                raise ModelError(f"option {option} is not a number; the file is damaged")
            if enum is not None and value not in names.enum_names(enum):
                raise UnsupportedError(f"{option} {value!r} is unknown")
            found[field.name] = value if enum is None else names.enum_names(enum)[int(value)]  # type: ignore[arg-type]
    if builtin.custom or table is None:  # TFLite's custom kernels, too, ignore keys that they do not know
        return found
    defaults = names.option_defaults(table)
    for option, value in options.items():
        if option not in cls.subgraphs and value != defaults[option]:
            raise UnsupportedError(f"option {option} = {value!r} is not supported")
    return found
