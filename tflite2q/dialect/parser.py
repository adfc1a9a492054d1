"""The text form back to a graph; `text.py` writes it and shows an example, docs/architecture.md has the grammar."""

from __future__ import annotations

import base64
import binascii
import difflib
import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph, Signature
from tflite2q.dialect.lexer import Cursor, Token
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops import BY_MNEMONIC
from tflite2q.dialect.types import PAIRS, STORAGE, Carried, Constant, Quantization, Resource, TensorType, Value
from tflite2q.errors import InvalidGraph

T = TypeVar("T")

# Fields of every op that have a place of their own in the text.
NOT_ATTRIBUTES = ("inputs", "outputs", "version", "intermediates", "regions")
DEEPEST = 16  # lists within lists, graphs within graphs
MOST_ELEMENTS = 2**40  # of a constant; beyond, even the count of bytes is a mistake


class Parser(Cursor):
    """Recursive descent over the tokens, one method a rule of the grammar."""

    depth = 0  # of the ops whose graphs are being read

    def graph(self) -> Graph:
        """The whole text."""
        self.expect("graph")
        found = self.subgraph()
        if self.token.kind != "end":
            self.fail(self.token, f"expected the end of the text, found {self.token}")
        return found

    def subgraph(self, depth: int = 0) -> Graph:
        """A graph behind the word; the model's further ones stand in the first."""
        parts: dict[str, Any] = {"name": self.string("the graph's name")}
        repeated: dict[str, list[Any]] = {"signatures": [], "metadata": [], "files": [], "others": []}
        self.expect("{")
        while not self.accept("}"):
            token = self.kind("word", "a part of the graph or '}'")
            if token.text in parts:
                self.fail(token, f"{token.text} occurs twice")
            match token.text:
                case "description":
                    parts["description"] = self.string("the description")
                case "place":
                    parts["place"] = self.integer("how many subgraphs come before")
                case "inputs" | "outputs":
                    parts[token.text] = tuple(self.listed("(", self.value_name, ")"))
                case "signature":
                    repeated["signatures"].append(self.signature())
                case "metadata" | "file":
                    name = self.string("a name")
                    self.expect("=")
                    repeated["files" if token.text == "file" else "metadata"].append((name, self.data()))
                case "values":
                    parts["values"] = tuple(self.block(self.value))
                case "graph" if depth == 0:
                    repeated["others"].append(self.subgraph(1))
                case "ops":
                    parts["ops"] = tuple(self.block(self.op))
                case _:
                    expected = "description, place, inputs, outputs, signature, metadata, file, values, ops or graph"
                    self.fail(token, f"expected {expected}, found {token}")
        for part in ("inputs", "outputs", "values", "ops"):
            if part not in parts:
                self.fail(self.token, f"the graph has no {part}")
        parts.update((part, tuple(items)) for part, items in repeated.items())
        return Graph(**parts)

    def block(self, item: Callable[[], T]) -> list[T]:
        self.expect("{")
        items = []
        while not self.accept("}"):
            items.append(item())
        return items

    def listed(self, opening: str, item: Callable[[], T], closing: str) -> list[T]:
        """Items separated by commas between two marks."""
        self.expect(opening)
        items: list[T] = []
        while not self.accept(closing):
            if items and not self.accept(","):
                self.fail(self.token, f"expected ',' or '{closing}', found {self.token}")
            items.append(item())
        return items

    def signature(self) -> Signature:
        def pair() -> tuple[str, str]:
            public = self.word_or_string("a signature's name for a value")
            self.expect("=")
            return public, self.value_name()

        key = self.string("the signature's key")
        inputs = self.listed("(", pair, ")")
        self.expect("->")
        return Signature(key, tuple(inputs), tuple(self.listed("(", pair, ")")))

    def word_or_string(self, what: str) -> str:
        return self.string(what) if self.token.kind == "string" else self.kind("word", what).text

    def checked(self, token: Token, make: Callable[[], T]) -> T:
        """make(), with its InvalidGraph located at `token`."""
        try:
            return make()
        except InvalidGraph as error:
            self.fail(token, str(error))

    # ------------------------------------------------------------------------------------------------------- values

    def value(self) -> Value:
        name = self.value_name()
        self.expect(":")
        dtype, shape = self.tensor_type()
        quantization = self.quantization() if self.at("<") else None
        signature = self.shape() if self.accept("dynamic") else None
        variable = self.accept("variable")
        resource = self.resource() if self.accept("resource") else None
        carried = self.carried() if self.accept("carried") else None
        kind = TensorType(shape, dtype, quantization)
        constant = self.constant(kind) if self.accept("=") else None
        if resource is not None:
            resource, constant = replace(resource, initial=constant), None
        return Value(name, kind, constant, variable, signature, carried, resource)

    def resource(self) -> Resource:
        return Resource(self.string("the container of a variable"), self.string("its shared name"))

    def carried(self) -> Carried:
        reason, content = self.string("why it is carried"), self.string("its fields in JSON")
        return Carried(reason, content, tuple(self.listed("(", self.value_name, ")")))

    def tensor_type(self) -> tuple[str, tuple[int, ...]]:
        return self.word_or_string("a dtype"), self.shape()

    def shape(self) -> tuple[int, ...]:
        return tuple(self.listed("[", lambda: self.integer("a dimension"), "]"))

    def quantization(self) -> Quantization:
        start = self.token
        axis: int | None = None
        block = 0
        scales: list[float] = []
        zero_points: list[int] = []
        self.expect("<")
        if self.accept("axis"):
            axis = self.integer("an axis")
            block = self.integer("the size of a block") if self.accept("block") else 0
            self.expect(",")
        while True:
            if self.at("elided"):
                self.refuse_elided()
            scales.append(self.scale())
            self.expect(":")
            zero_points.append(self.integer("a zero point"))
            if self.accept(">"):
                break
            self.expect(",")
        return self.checked(start, lambda: Quantization(tuple(scales), tuple(zero_points), axis, block))

    def scale(self) -> float:
        token = self.kind("number", "a scale")
        with np.errstate(over="ignore"):
            return float(np.float32(token.text))

    def constant(self, declared: TensorType) -> Constant:
        start = self.token
        dtype, shape = None if declared.dtype in PAIRS else STORAGE.get(declared.dtype), declared.shape
        if start.kind == "word" and start.text not in ("bytes", "zlib", "elided"):
            dtype, shape = self.tensor_type()
        if dtype is None or dtype not in STORAGE.values():
            self.fail(start, f"data of dtype {declared.dtype if dtype is None else dtype} cannot be written here")
        count = 1
        for size in shape:
            count *= max(size, 0)
        if min(shape, default=0) < 0 or count > MOST_ELEMENTS:
            self.fail(start, f"there are no constants of shape {list(shape)}")
        array = self.elements(dtype, count) if self.at("[") else self.packed(dtype, count)
        return Constant(array.reshape(shape))

    def elements(self, dtype: str, count: int) -> npt.NDArray[Any]:
        start = self.token
        tokens = self.listed("[", self.step, "]")
        if len(tokens) != count:
            self.fail(start, f"{len(tokens)} elements for a constant of {count}")
        array = np.zeros(count, dtype)
        for index, token in enumerate(tokens):
            array[index] = self.element(token, array.dtype)
        return array

    def element(self, token: Token, dtype: np.dtype[Any]) -> Any:
        try:
            if dtype.kind == "b":
                return {"true": True, "false": False}[token.text]
            if dtype.kind == "f":
                with np.errstate(over="ignore"):
                    return dtype.type(token.text)
            info, number = np.iinfo(dtype), int(token.text)
            if not info.min <= number <= info.max:
                self.fail(token, f"{number} is not in the range of {dtype.name}")
            return number
        except (ValueError, KeyError):
            self.fail(token, f"expected an element of type {dtype.name}, found {token}")

    def packed(self, dtype: str, count: int) -> npt.NDArray[Any]:
        start, little = self.token, np.dtype(dtype).newbyteorder("<")
        data = self.data(count * little.itemsize)
        if len(data) != count * little.itemsize:
            self.fail(start, f"{len(data)} bytes of data for a constant of {count * little.itemsize}")
        return np.frombuffer(data, little).astype(dtype)

    def data(self, most: int | None = None) -> bytes:
        """Bytes in base64, compressed or not; of data longer than `most` no more than one byte more is unpacked."""
        if self.at("elided"):
            self.refuse_elided()
        if self.accept("bytes"):
            return self.encoded()
        self.expect("zlib")
        token = self.token
        packed, unpacker = self.encoded(), zlib.decompressobj()
        try:
            data = unpacker.decompress(packed, 0 if most is None else most + 1)
        except zlib.error as error:
            self.fail(token, f"data cannot be unpacked: {error}")
        if not unpacker.eof and (most is None or len(data) <= most):
            self.fail(token, "data cannot be unpacked: it ends too early")
        return data

    def refuse_elided(self) -> None:
        self.fail(
            self.token,
            "the constants of this text are elided, so it cannot be read; print it with constants in full",
        )

    # ---------------------------------------------------------------------------------------------------------- ops

    def op(self) -> Op:
        outputs = self.results()
        self.expect("=")
        token = self.kind("word", "an op such as q.conv2d")
        cls = BY_MNEMONIC.get(token.text)
        if cls is None:
            self.fail(token, f"there is no op {token.text}{_nearest(token.text, list(BY_MNEMONIC))}")
        inputs = self.listed("(", self.operand, ")")
        attributes = self.attributes(cls) if self.at("{") else {}
        version = self.integer("a version") if self.accept("version") else 1
        intermediates = tuple(self.block(self.value)) if self.accept("intermediates") else ()
        regions = tuple(self.block(self.region)) if self.accept("regions") else ()
        return cls(
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            version=version,
            intermediates=intermediates,
            regions=regions,
            **attributes,
        )

    def region(self) -> Graph:
        """A graph that an op runs; its ops may run graphs, too."""
        token = self.expect("graph")
        self.depth += 1
        if self.depth > DEEPEST:
            self.fail(token, f"graphs are nested more than {DEEPEST} deep")
        found = self.subgraph(1)
        self.depth -= 1
        return found

    def results(self) -> list[str]:
        """Names of results; () for an op without."""
        if self.accept("("):
            self.expect(")")
            return []
        outputs = [self.value_name()]
        while self.accept(","):
            outputs.append(self.value_name())
        return outputs

    def operand(self) -> str | None:
        return None if self.accept("_") else self.value_name()

    def attributes(self, cls: type[Op]) -> dict[str, Any]:
        known = [f.name for f in fields(cls) if f.name not in NOT_ATTRIBUTES]
        found: dict[str, Any] = {}

        def pair() -> None:
            token = self.kind("word", "an attribute")
            if token.text not in known:
                self.fail(token, f"{cls.mnemonic} has no attribute {token.text}{_nearest(token.text, known)}")
            if token.text in found:
                self.fail(token, f"attribute {token.text} occurs twice")
            self.expect("=")
            found[token.text] = self.attribute()

        self.listed("{", pair, "}")
        return found

    def attribute(self, depth: int = 0) -> Any:
        token = self.token
        if self.at("["):
            if depth == DEEPEST:
                self.fail(token, f"lists are nested more than {DEEPEST} deep")
            return tuple(self.listed("[", lambda: self.attribute(depth + 1), "]"))
        if token.kind == "string":
            return self.string("an attribute")
        self.step()
        if token.kind == "number":
            return self.whole(token, "a number") if token.text.lstrip("-").isdecimal() else float(token.text)
        if token.kind != "word":
            self.fail(token, f"expected the value of an attribute, found {token}")
        if token.text == "bytes":
            return self.encoded()
        return {"none": None, "true": True, "false": False}.get(token.text, token.text)

    def encoded(self) -> bytes:
        token = self.token
        try:
            return base64.b64decode(self.string("base64"), validate=True)
        except (binascii.Error, ValueError):
            self.fail(token, "this is not base64")


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""
