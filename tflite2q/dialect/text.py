"""The text form of a graph: `parse_graph(print_graph(graph)) == graph`.  Its grammar is in docs/architecture.md.

    graph "digits" {
      inputs (%image)
      outputs (%scores)

      values {
        %image : uint8[1, 8, 8, 1] <0.0625:0>
        %filters : int8[4, 3, 3, 1] <axis 0, 0.01:0, 0.02:0, 0.03:0, 0.01:0> = zlib "eJw..."
        %bias : int32[4] <0.000625:0> = [12, -3, 0, 7]
        %scores : uint8[1, 4, 4, 4] <0.05:0>
      }

      ops {
        %scores = q.conv2d(%image, %filters, %bias) {stride_h = 2, stride_w = 2}
      }
    }

Values stand in the order of the file's tensors, ops in the order of execution.  Attributes of an op, its version and
all other parts of a graph that have their default value are left out.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph, Signature
from tflite2q.dialect.lexer import quoted, value_name, word
from tflite2q.dialect.op import Op
from tflite2q.dialect.parser import NOT_ATTRIBUTES, Parser
from tflite2q.dialect.types import STORAGE, Quantization, Value
from tflite2q.errors import InvalidGraph

Constants = Literal["full", "elided"]

TEXT_SUFFIX = ".q.txt"  # of files that hold the text form instead of a flatbuffer
INLINE = 16  # constants of at most so many elements are written as a list
UNPACKED = 32  # bytes that are neither compressed nor elided
SHOWN_SCALES = 4  # of a per-channel quantization, when the rest is elided


def print_graph(graph: Graph, constants: Constants = "full") -> str:
    """The graph as text.

    `constants="elided"` writes large constants as the start of their SHA-256, long lists of scales by their first few
    and data of metadata and files likewise: short enough to read and to compare, but not to be parsed.
    """
    return _Printer(constants).graph(graph)


def digest(graph: Graph) -> str:
    """SHA-256, in hexadecimal digits, of everything that the text form says: equal for equal graphs only."""
    return hashlib.sha256(_Printer("digests").graph(graph).encode()).hexdigest()


def parse_graph(text: str) -> Graph:
    """The graph that `text` describes; it is not verified.

    Raises InvalidGraph with line and column where the text breaks the grammar, names an unknown op or attribute, or has
    elided constants.
    """
    return Parser(text).graph()


class _Printer:
    def __init__(self, constants: Constants | Literal["digests"]) -> None:
        self.constants = constants

    def graph(self, graph: Graph) -> str:
        head = [f"graph {quoted(graph.name)} {{"]
        if graph.description:
            head.append(f"  description {quoted(graph.description)}")
        head.append(f"  inputs {_names(graph.inputs)}")
        head.append(f"  outputs {_names(graph.outputs)}")
        if graph.place:
            head.append(f"  place {graph.place}")
        head += [f"  {_signature(signature)}" for signature in graph.signatures]
        for kind, entries in (("metadata", graph.metadata), ("file", graph.files)):
            head += [f"  {kind} {quoted(name)} = {self.data(data)}" for name, data in entries]
        values = [f"    {self.value(value)}" for value in graph.values]
        ops = [_indented(f"{self.op(op)}{_result_types(op, graph)}", 4) for op in graph.ops]
        body = [*head, "", "  values {", *values, "  }", "", "  ops {", *ops, "  }"]
        for other in graph.others:
            body += ["", _indented(self.graph(other).rstrip(), 2)]
        return "\n".join([*body, "}", ""])

    def value(self, value: Value) -> str:
        kind = value.type
        parts = [f"{value_name(value.name)} : {_type(kind.dtype, kind.shape)}"]
        if kind.quantization is not None:
            parts.append(self.quantization(kind.quantization))
        if value.shape_signature is not None:
            parts.append(f"dynamic{list(value.shape_signature)}")
        if value.variable:
            parts.append("variable")
        if value.resource is not None:
            parts.append(f"resource {quoted(value.resource.container)} {quoted(value.resource.shared_name)}")
        if value.carried is not None:
            carried = value.carried
            parts.append(f"carried {quoted(carried.reason)} {quoted(carried.fields)} {_names(carried.names)}")
        constant = value.constant if value.resource is None else value.resource.initial
        if constant is not None:
            parts.append(f"= {self.constant(constant.array, value)}")
        return " ".join(parts)

    def op(self, op: Op) -> str:
        results = ", ".join(value_name(name) for name in op.outputs) or "()"
        text = f"{results} = {op.mnemonic}{_names(op.inputs)}"
        attributes = [f"{f.name} = {attribute_text(getattr(op, f.name))}" for f in fields(op) if _said(op, f)]
        if attributes:
            text += f" {{{', '.join(attributes)}}}"
        if op.version != 1:
            text += f" version {op.version}"
        if op.intermediates:
            text += f" intermediates {{{' '.join(self.value(value) for value in op.intermediates)}}}"
        if op.regions:
            text += "\n".join((" regions {", *(_indented(self.graph(r).rstrip(), 2) for r in op.regions), "}"))
        return text

    def quantization(self, q: Quantization) -> str:
        pairs = [f"{real(np.float32(s))}:{z}" for s, z in zip(q.scale, q.zero_point, strict=True)]
        if self.constants == "elided" and len(pairs) > SHOWN_SCALES:
            pairs = [*pairs[:SHOWN_SCALES], f"elided {len(pairs) - SHOWN_SCALES} more"]
        if q.axis is not None:
            pairs.insert(0, f"axis {q.axis}{f' block {q.block}' if q.block else ''}")
        return f"<{', '.join(pairs)}>"

    def constant(self, array: npt.NDArray[Any], value: Value) -> str:
        declared = array.dtype.name == STORAGE.get(value.type.dtype) and array.shape == value.type.shape
        prefix = "" if declared else f"{_type(array.dtype.name, array.shape)} "
        if array.size <= INLINE and (array.dtype.kind != "f" or bool(np.isfinite(array).all())):
            return f"{prefix}[{', '.join(_element(e) for e in array.reshape(-1))}]"
        return prefix + self.data(array.astype(array.dtype.newbyteorder("<")).tobytes())

    def data(self, data: bytes) -> str:
        if len(data) <= UNPACKED:
            return attribute_text(data)
        if self.constants != "full":
            known = hashlib.sha256(data).hexdigest()
            return f'elided "sha256:{known[:16] if self.constants == "elided" else known}" {len(data)} bytes'
        return f'zlib "{base64.b64encode(zlib.compress(data, 9)).decode("ascii")}"'


def _indented(text: str, columns: int) -> str:
    return "\n".join(f"{' ' * columns}{line}" if line else "" for line in text.split("\n"))


def _names(names: Iterable[str | None]) -> str:
    return f"({', '.join('_' if name is None else value_name(name) for name in names)})"


def _signature(signature: Signature) -> str:
    def pairs(items: Sequence[tuple[str, str]]) -> str:
        return f"({', '.join(f'{word(public)} = {value_name(name)}' for public, name in items)})"

    return f"signature {quoted(signature.key)} {pairs(signature.inputs)} -> {pairs(signature.outputs)}"


def _type(dtype: str, shape: Sequence[int]) -> str:
    return f"{word(dtype)}{list(shape)}"


def _result_types(op: Op, graph: Graph) -> str:
    """A comment: the reader of a long listing should not have to look the results up."""
    known = [graph.by_name[name].type for name in op.outputs if name in graph.by_name]
    return f"  // {', '.join(_type(kind.dtype, kind.shape) for kind in known)}" if known else ""


def _said(op: Op, field: Field[Any]) -> bool:
    """Whether the text names the field: attributes that differ from their default, if only in type or sign of zero."""
    if field.name in NOT_ATTRIBUTES:
        return False
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return repr(getattr(op, field.name)) != repr(default)


def attribute_text(value: object) -> str:
    """An attribute's value; its notation tells its type.  Raises InvalidGraph for a type without one."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return float.__repr__(value)
    if isinstance(value, str):
        return word(value)
    if isinstance(value, bytes):
        return f'bytes "{base64.b64encode(value).decode("ascii")}"'
    if isinstance(value, tuple):
        return f"[{', '.join(attribute_text(item) for item in value)}]"
    raise InvalidGraph(f"an attribute of type {type(value).__name__} has no text form")


def real(value: np.floating[Any]) -> str:
    """The shortest decimal that reads back as the same number of the same width."""
    return str(value)


def _element(element: np.generic) -> str:
    if isinstance(element, np.bool_):
        return str(bool(element)).lower()
    return real(element) if isinstance(element, np.floating) else str(element)
