"""Records of one subgraph to a graph: values and ops, or what is carried in their place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph, Signature, check_value, located
from tflite2q.dialect.op import Builtin, Op
from tflite2q.dialect.ops import BY_BUILTIN
from tflite2q.dialect.ops.opaque import Opaque
from tflite2q.dialect.types import PAIRS, STORAGE, Carried, Constant, Quantization, TensorType, Value
from tflite2q.errors import InvalidGraph, ModelError, Tflite2qError, UnsupportedError
from tflite2q.flatbuffer import flexbuffer, names, tables
from tflite2q.flatbuffer.records import ModelRecord, OperatorCode, OperatorRecord, TensorRecord

# Options by which an operator names other subgraphs.
_CALLS = ("SubgraphIndex", "Subgraph", "CalledComputations")


class UnknownOperator(UnsupportedError):
    """An operator that the dialect lacks; the message is its index and name."""


class Constants:
    """The model's buffers; copies of them are charged to a budget, for tensors may share them."""

    def __init__(self, model: ModelRecord) -> None:
        self.model = model
        self.made: dict[tuple[int, str, tuple[int, ...]], Constant] = {}
        self.room = 2 * sum(len(data) for data in model.buffers)

    def buffer(self, index: int) -> bytes | memoryview:
        if index == 0 and not self.model.buffers:
            return b""  # 0 stands for "no data", and some writers leave out the empty buffer itself
        if not 0 <= index < len(self.model.buffers):
            raise ModelError(f"buffer {index} does not exist; the file is damaged")
        return self.model.buffers[index]

    def constant(self, buffer: int, kind: TensorType | None) -> Constant:
        """The data of a tensor, its bytes if `kind` is None; one object for all tensors of a buffer and type."""
        data = self.buffer(buffer)
        key = (buffer, "", ()) if kind is None else (buffer, kind.dtype, kind.shape)
        if key not in self.made:
            self.take(len(data))
            self.made[key] = Constant(np.frombuffer(data, np.uint8) if kind is None else _array(data, kind))
        return self.made[key]

    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        data: dict[int, bytes] = {}
        for _, buffer in self.model.metadata:
            if buffer not in data:
                self.take(len(self.buffer(buffer)))
                data[buffer] = bytes(self.buffer(buffer))
        return tuple((name, data[buffer]) for name, buffer in self.model.metadata)

    def take(self, size: int) -> None:
        self.room -= size
        if self.room < 0:
            raise ModelError("the file is damaged: many tensors of different types share a buffer")


class SubgraphReader:
    """Reads one subgraph.  Afterwards `refused` holds the reasons why ops are carried, and `damaged` the contradictions
    in carried tensors, by name."""

    def __init__(self, model: ModelRecord, index: int, constants: Constants) -> None:
        self.model, self.index, self.constants = model, index, constants
        self.subgraph = model.subgraphs[index]
        self.names = _unique_names(self.subgraph.tensors)
        self.refused: list[Tflite2qError] = []
        self.damaged: dict[str, InvalidGraph] = {}

    def graph(self) -> Graph:
        """The graph with all its ops, not yet verified."""
        return self.composed([self.op(index, op) for index, op in enumerate(self.subgraph.operators)])

    def carried(self) -> Graph:
        """The graph with every op carried."""
        return self.composed([self.opaque(index) for index in range(len(self.subgraph.operators))])

    def composed(self, ops: Sequence[Op]) -> Graph:
        graph = self.subgraph
        produced = {index for op in graph.operators for index in op.outputs} | set(graph.inputs)
        return Graph(
            inputs=self.some_names(graph.inputs),
            outputs=self.some_names(graph.outputs),
            values=tuple(self.value(i, tensor, i in produced) for i, tensor in enumerate(graph.tensors)),
            ops=tuple(ops),
            name=graph.name,
            description="" if self.index else self.model.description,
            signatures=tuple(self.signatures()),
        )

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
        data = self.constants.buffer(tensor.buffer)
        if tensor.problem or tensor.dtype not in STORAGE:
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
            kind = plain.with_(quantization=_quantization(tensor))
            value = Value(name, kind, constant, tensor.variable, dynamic)
            check_value(value)
        except InvalidGraph as error:
            self.damaged[name] = InvalidGraph(f"tensor {index} {name!r}: {error}")
            return self.carried_value(
                name, tensor, "contradicts itself in its quantization", None if produced else tensor.buffer
            )
        return value

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
        if code.name not in BY_BUILTIN or BY_BUILTIN[code.name][1].custom != code.custom:
            self.refused.append(UnknownOperator(f"{index} {'custom ' if code.custom else ''}{code.name}"))
            return self.opaque(index)
        cls, builtin = BY_BUILTIN[code.name]
        if not record.outputs:
            raise ModelError(f"operator {index} {code.name} has no outputs; the file is damaged")
        try:
            attributes = _attributes(cls, builtin, record)
        except (UnsupportedError, ModelError) as error:
            self.refused.append(error.at(f"operator {index} {code.name}"))
            return self.opaque(index)
        return self.made(cls, index, attributes)

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
            "options": tuple(record.options.items()),
            "custom_options": record.custom_options,
        }
        return self.made(Opaque, index, attributes)

    def carry(self, index: int, op: Op, error: Tflite2qError) -> Op:
        """Operator `index`, carried because `op` breaks a rule of the dialect."""
        self.refused.append(located(index, op, error))
        return self.opaque(index)

    def made(self, cls: type[Op], index: int, attributes: dict[str, Any]) -> Op:
        record = self.subgraph.operators[index]
        inside = self.subgraph.tensors
        return cls(
            inputs=tuple(None if i == -1 else self.name(i) for i in record.inputs),
            outputs=self.some_names(record.outputs),
            version=self.code(record).version,
            intermediates=tuple(self.value(i, inside[i], True) for i in record.intermediates if self.name(i)),
            **attributes,
        )

    def check_calls(self, subgraphs: int) -> None:
        """Raise where an operator leads to a subgraph that does not exist, or back to the first, which may change."""
        for index, record in enumerate(self.subgraph.operators):
            for called in _called(record):
                if not 0 <= called < subgraphs:
                    raise ModelError(
                        f"operator {index} calls subgraph {called}, which does not exist; the file is damaged"
                    )
                if called == 0:
                    raise UnsupportedError(f"operator {index} of subgraph {self.index} calls the first subgraph")

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


def _called(record: OperatorRecord) -> Iterator[int]:
    """The subgraphs that an operator refers to."""
    for field, value in record.options.items():
        if field.endswith(_CALLS):
            yield from (int(n) for n in (value if isinstance(value, tuple) else (value,)))


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
    if not tensor.scale:
        return None
    count = len(tensor.scale)
    zero_point = tensor.zero_point or (0,)
    if len(zero_point) not in (1, count):
        raise InvalidGraph(f"{count} scales with {len(zero_point)} zero points")
    if len(zero_point) != count:
        zero_point = zero_point * count
    axis = 0 if len(tensor.shape) == 1 else tensor.axis  # some writers keep the weights' axis on a bias
    return Quantization(tensor.scale, zero_point, axis if count > 1 else None)


def _array(data: bytes | memoryview, kind: TensorType) -> npt.NDArray[Any]:
    """The elements of a constant, in the dtype's storage.  Raises InvalidGraph if the number of bytes is wrong."""
    if kind.dtype == "int4":
        return _unpack_int4(np.frombuffer(data, np.uint8), kind)
    dtype = np.dtype(STORAGE[kind.dtype])
    if len(data) != kind.size * dtype.itemsize:
        raise InvalidGraph(f"{len(data)} bytes of data for {kind.dtype}{list(kind.shape)}")
    return np.frombuffer(data, dtype).reshape(kind.shape)


def _unpack_int4(packed: npt.NDArray[np.uint8], kind: TensorType) -> npt.NDArray[np.int8]:
    """Two elements per byte, the first in the low four bits."""
    if packed.size != (kind.size + 1) // 2:
        raise InvalidGraph(f"{packed.size} bytes of data for int4{list(kind.shape)}")
    nibbles = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[: kind.size].astype(np.int8)
    return ((nibbles ^ 8) - 8).reshape(kind.shape)


def _attributes(cls: type[Op], builtin: Builtin, record: OperatorRecord) -> dict[str, Any]:
    """Attribute values of an op from its options; an option the op does not know must have its default value."""
    found: dict[str, Any] = dict(builtin.fixed)
    options = flexbuffer.decode(record.custom_options) if builtin.custom else dict(record.options)
    for field in cls.attributes():
        option, enum = field.metadata["option"], field.metadata["enum"]
        if option in options:
            value = options.pop(option)
            if value != value:
                raise ModelError(f"option {option} is not a number; the file is damaged")
            if enum is not None and value not in names.enum_names(enum):
                raise UnsupportedError(f"{option} {value!r} is unknown")
            found[field.name] = value if enum is None else names.enum_names(enum)[int(value)]  # type: ignore[arg-type]
    if builtin.custom:  # TFLite's custom kernels, too, ignore keys that they do not know
        return found
    defaults = names.option_defaults(record.options_type) if record.options_type else {}
    for option, value in options.items():
        if value != defaults[option]:
            raise UnsupportedError(f"option {option} = {value!r} is not supported")
    return found
