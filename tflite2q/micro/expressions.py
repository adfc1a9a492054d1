"""The element-wise part of `arithmetic.core.Core` as C, one element at a time.

The fourth reader of an op's meaning, after NumPy, Relax and TIR.  Every intermediate result is a variable of the type
that the vocabulary gives it.  Integers wrap, so sums, products and left shifts are those of unsigned types.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tflite2q.errors import UnsupportedError
from tflite2q.micro.program import CTYPES, Array, Table

NAME = re.compile(r"\bv\d+\b")  # of a variable
VARIABLE = re.compile(r"(?:const )?\w+ (v\d+) = ")  # a statement that makes one
UNSIGNED = {"int8": "uint32_t", "uint8": "uint32_t", "int16": "uint32_t", "int32": "uint32_t", "int64": "uint64_t"}


def unsigned(dtype: str) -> str:
    """The C type in which integers of a dtype wrap.  Raises UnsupportedError for those that are not computed with."""
    if dtype not in UNSIGNED:
        raise UnsupportedError(f"computes with {dtype}, for which there is no kernel")
    return UNSIGNED[dtype]


@dataclass(frozen=True)
class Expr:
    """A C expression without side effects, and its dtype."""

    text: str
    dtype: str


@dataclass
class CCore:
    """Collects statements; `prefix` begins the names of tables, which are indexed by `index`, the last axis."""

    prefix: str
    last: int
    index: str = "c"
    lines: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    fails: bool = False  # whether statements set *failed where elements have no result

    def needed(self, result: Expr) -> list[str]:
        """The statements on which `result` depends, or that report failure."""
        kept: list[str] = []
        used = set(NAME.findall(result.text))
        for line in reversed(self.lines):
            found = VARIABLE.match(line)
            if found is None or found[1] in used:
                used |= set(NAME.findall(line))
                kept.append(line)
        return kept[::-1]

    def bind(self, text: str, dtype: str) -> Expr:
        if dtype == "float64":
            raise UnsupportedError("computes in float64, which microcontrollers lack")
        name = f"v{len(self.lines)}"
        self.lines.append(f"const {CTYPES[dtype]} {name} = {text};")
        return Expr(name, dtype)

    def const(self, array: Array) -> Expr:
        dtype = str(array.dtype)
        if array.size == 1:
            return Expr(literal(array.reshape(-1)[0]), dtype)
        if array.size != self.last or array.shape[-1] != self.last:
            raise UnsupportedError(f"has a constant of shape {list(array.shape)}, not along the last axis")
        table = Table(f"{self.prefix}_k{len(self.tables)}", array.reshape(-1))
        self.tables.append(table)
        return Expr(f"{table.name}[{self.index}]", dtype)

    def astype(self, x: Expr, dtype: str) -> Expr:
        return x if x.dtype == dtype else self.bind(f"({CTYPES[dtype]}){x.text}", dtype)

    def _wrapping(self, a: Expr, sign: str, b: Expr) -> Expr:
        if a.dtype.startswith("float"):
            return self.bind(f"{a.text} {sign} {b.text}", a.dtype)
        kind = unsigned(a.dtype)
        return self.bind(f"({CTYPES[a.dtype]})(({kind}){a.text} {sign} ({kind}){b.text})", a.dtype)

    def add(self, a: Expr, b: Expr) -> Expr:
        return self._wrapping(a, "+", b)

    def subtract(self, a: Expr, b: Expr) -> Expr:
        return self._wrapping(a, "-", b)

    def multiply(self, a: Expr, b: Expr) -> Expr:
        product = self._wrapping(a, "*", b)
        if a.dtype.startswith("float"):  # or a compiler would fuse it with an addition that follows
            self.lines[-1] = f"{self.lines[-1].removeprefix('const ')} Q_ROUNDED({product.text});"
        return product

    def divide(self, a: Expr, b: Expr) -> Expr:
        return self.bind(f"{a.text} / {b.text}", a.dtype)

    def floor_divide(self, a: Expr, b: Expr) -> Expr:
        """A divisor of 0 gives 0."""
        if a.dtype.startswith("float"):
            raise UnsupportedError("rounds quotients of floats, for which there is no kernel")
        whole = self.bind(f"{b.text} == 0 ? 0 : {a.text} / {b.text}", a.dtype)
        rest = self.subtract(a, self.multiply(whole, b))
        return self.bind(f"{whole.text} - ({rest.text} != 0 && ({rest.text} < 0) != ({b.text} < 0))", a.dtype)

    def demand(self, x: Expr, holds: Expr, message: str) -> Expr:
        """The run goes on with x, and reports that it has failed."""
        self.fails = True
        self.lines.append(f"if (!{holds.text}) *failed = 1;")
        return x

    def left_shift(self, a: Expr, b: Expr) -> Expr:
        return self.bind(f"({CTYPES[a.dtype]})(({unsigned(a.dtype)}){a.text} << {b.text})", a.dtype)

    def right_shift(self, a: Expr, b: Expr) -> Expr:
        return self.bind(f"{a.text} >> {b.text}", a.dtype)

    def bitwise_and(self, a: Expr, b: Expr) -> Expr:
        return self.bind(f"{a.text} & {b.text}", a.dtype)

    def minimum(self, a: Expr, b: Expr) -> Expr:
        return self.bind(f"{a.text} < {b.text} ? {a.text} : {b.text}", a.dtype)

    def maximum(self, a: Expr, b: Expr) -> Expr:
        return self.bind(f"{a.text} > {b.text} ? {a.text} : {b.text}", a.dtype)

    def clip(self, x: Expr, low: float, high: float) -> Expr:
        """A NaN becomes `low`: no comparison with it holds."""
        first, last = (literal(np.array([b]).astype(x.dtype)[0]) for b in (low, high))
        raised = self.bind(f"{x.text} > {first} ? {x.text} : {first}", x.dtype)
        return self.bind(f"{raised.text} < {last} ? {raised.text} : {last}", x.dtype)

    def sqrt(self, x: Expr) -> Expr:
        return self.bind(f"q_sqrt({x.text})", x.dtype)

    def abs(self, x: Expr) -> Expr:
        return self.maximum(x, self.negative(x))

    def negative(self, x: Expr) -> Expr:
        return self.subtract(Expr(literal(np.zeros(1, x.dtype)[0]), x.dtype), x)

    def trunc(self, x: Expr) -> Expr:
        """Truncation toward zero; x must fit 32 bits, as everything that becomes a code does."""
        return self.bind(f"({CTYPES[x.dtype]})(int32_t){x.text}", x.dtype)

    def broadcast_to(self, x: Expr, shape: Sequence[int]) -> Expr:
        """One element is what it is: loops find it in its tensor."""
        return x

    def equal(self, a: Expr, b: Expr) -> Expr:
        return self.bind(f"{a.text} == {b.text}", "bool")

    def less(self, a: Expr, b: Expr) -> Expr:
        return self.bind(f"{a.text} < {b.text}", "bool")

    def less_equal(self, a: Expr, b: Expr) -> Expr:
        return self.bind(f"{a.text} <= {b.text}", "bool")

    def where(self, condition: Expr, a: Expr, b: Expr) -> Expr:
        return self.bind(f"{condition.text} ? {a.text} : {b.text}", a.dtype)

    def __getattr__(self, name: str) -> object:
        raise UnsupportedError(f"has no kernel, and needs {name!r}, which is not available element by element")


def literal(value: np.generic) -> str:
    """A C constant of exactly that value and type."""
    kind = value.dtype.kind
    if kind == "f":
        return (
            f"{float(value).hex()}f" if np.isfinite(value) else ("-" if float(value) < 0 else "") + "__builtin_inff()"
        )
    if value.dtype == np.int64:
        number = int(value)
        return "INT64_MIN" if number == -(2**63) else f"INT64_C({number})"
    number = int(value)
    return "INT32_MIN" if number == -(2**31) else f"({number})" if number < 0 else str(number)
