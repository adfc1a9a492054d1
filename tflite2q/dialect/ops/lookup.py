"""Unary functions: one table look-up for quantized tensors, one formula for real numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.core import Core
from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.arithmetic.rounding import code_range
from tflite2q.arithmetic.tables import FUNCTIONS, Codes, Options, tabulate
from tflite2q.dialect.op import (
    INT8_VERSION_2,
    Builtin,
    Named,
    Op,
    Operand,
    Operands,
    Shape,
    Values,
    attribute,
    require,
    supported,
)
from tflite2q.dialect.ops.common import CODES, PLAIN, is_codes
from tflite2q.dialect.ops.formulas import FORMULAS
from tflite2q.dialect.spans import EVERYTHING, Span, of_activation
from tflite2q.dialect.types import Quantization, TensorType, Value

T = TypeVar("T")

SAMPLES = 1025  # of a function's argument, to find the range of its results

EIGHT, SIGNED = ("uint8", "int8"), ("int8", "int16")

# Results whose parameters TFLite's kernels prescribe: the real number of one step, by dtype.
FIXED_STEPS: Mapping[str, Mapping[str, float]] = {
    "LOGISTIC": {"uint8": 1 / 256, "int8": 1 / 256, "int16": 1 / 32768},
    "TANH": {"uint8": 1 / 128, "int8": 1 / 128, "int16": 1 / 32768},
}


def _function(
    name: str,
    dtypes: tuple[str, ...],
    options: str | None = None,
    versions: Mapping[str, int] | None = None,
    deviation: str = "",
) -> Builtin:
    return Builtin(name, options, versions or {}, {"function": name}, dtypes=dtypes, deviation=deviation)


NO_REFERENCE = "LiteRT has no reference kernel; this is what its other one computes"
LAST_DIGIT = "int16: a step off in some pieces of the table where the C library's erfc or tanh is not rounded correctly"


@dataclass(frozen=True, kw_only=True)
class Lookup(Op):
    """y = function(x), element by element; `function` is the TFLite operator's name."""

    function: str = attribute(None, "RELU")
    alpha: float = attribute("Alpha", 0.0)
    approximate: bool = attribute("Approximate", False)

    mnemonic: ClassVar[str] = "q.lookup"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        _function("LOGISTIC", CODES, None, {"int8": 2, "int16": 3}),
        _function("TANH", CODES, None, {"int8": 2, "int16": 3}),
        _function("HARD_SWISH", EIGHT, "HardSwishOptions"),
        _function("LEAKY_RELU", CODES, "LeakyReluOptions", {"int8": 2, "int16": 2}),
        _function("GELU", CODES, "GeluOptions", INT8_VERSION_2, LAST_DIGIT),
        _function("ELU", ("int8",), deviation=NO_REFERENCE),
        _function("EXP", SIGNED, "ExpOptions", {"int8": 2, "int16": 2}),
        _function("LOG", SIGNED, None, {"int8": 2, "int16": 2}),
        _function("RELU", CODES, None, INT8_VERSION_2),
        _function("RELU6", CODES, None, INT8_VERSION_2),
        _function("RELU_N1_TO_1", EIGHT),
        _function("RELU_0_TO_1", EIGHT),
        _function("ABS", SIGNED, "AbsOptions", {"int8": 2, "int16": 3}),
        _function("NEG", SIGNED, "NegOptions"),
        _function("SQRT", SIGNED, None, INT8_VERSION_2),
        _function("RSQRT", SIGNED, None, {"int8": 2, "int16": 3}),
        _function("SQUARE", (), "SquareOptions"),
        _function("FLOOR", ()),
        _function("CEIL", (), deviation=NO_REFERENCE),
        _function("ROUND", (), deviation=NO_REFERENCE),
        _function("SIGN", (), "SignOptions"),
        _function("SIN", ()),
        _function("COS", (), "CosOptions"),
    )
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"),)
    contract: ClassVar[str | None] = "lookup"
    dtypes: ClassVar[tuple[str, ...]] = CODES

    def accepts(self, dtype: str) -> bool:
        return super().accepts(dtype) or (dtype == "float32" and self.function in FORMULAS)

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        x, y = ins["x"], outs[0]
        supported(x.type.dtype == y.type.dtype, f"input is {x.type.dtype} but result {y.type.dtype}")
        supported(is_codes(x.type) or x.type.dtype in PLAIN, f"{x.name!r} is {x.type.dtype}")
        require(is_codes(x.type) == is_codes(y.type), "input and result must both be quantized or neither")
        require(not self.approximate or self.function == "GELU", f"{self.function} has no approximate form")
        if is_codes(x.type):
            supported(self.function in FUNCTIONS, f"{self.function} takes real numbers, not {x.type.dtype} codes")
            require(len(x.type.parameters.scale) == 1, f"{x.name!r} is quantized per channel")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def ties(self, dtype: str) -> tuple[tuple[str, ...], ...]:
        """NEG negates codes as they are."""
        return ((self.reads("x"), self.outputs[0]),) if self.function == "NEG" else ()

    def computes_in(self, dtype: str) -> str | None:
        """NEG stays: it takes zero points for 0, and the least code, where all below it ends, for its own negative."""
        return None if self.function == "NEG" else super().computes_in(dtype)

    @property
    def steep(self) -> bool:
        return self.function in ("LOG", "SQRT", "RSQRT")

    def stranded(self, dtype: str) -> bool:
        """NEG of codes is none of real numbers."""
        return self.function != "NEG" and super().stranded(dtype)

    def fixed_result(self, dtype: str) -> Quantization | None:
        step = FIXED_STEPS.get(self.function, {}).get(dtype)
        if step is None:
            return None
        low, high = code_range(dtype)
        lowest = low if self.function == "LOGISTIC" and dtype != "int16" else (low + high + 1) // 2
        return Quantization.per_tensor(step, lowest)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        if self.function == "NEG" and is_codes(ins["x"].type):
            return EVERYTHING  # of the codes: see `computes_in`
        return sampled(self.function, self.alpha, self.approximate, spans["x"])

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, y = ins["x"], outs[0].type
        if not is_codes(x.type):
            name = f"{self.function} approximate" if self.approximate else self.function
            return (FORMULAS[name](core, x.data, x.type.dtype, self.alpha),)
        table = self.table(x.type, y)
        index = core.astype(x.data, "int32")
        lowest = x.type.range[0]
        if lowest:
            index = core.subtract(index, core.const(np.array([lowest], np.int32)))
        return (core.take(core.const(table), index),)

    def table(self, x: TensorType, y: TensorType) -> npt.NDArray[Any]:
        """y's code for every code of x, lowest first."""
        return tabulate(self.function, _codes(x), _codes(y), Options(self.alpha, self.approximate))


WAVES = ("SIN", "COS")
DIPS = (0.0, -1.5, -0.75179, -0.75246)  # of ABS and SQUARE, HARD_SWISH, GELU and its form by tanh: small beside a span


@cache
def sampled(function: str, alpha: float, approximate: bool, span: Span) -> Span:
    """Where `function` takes numbers of `span`, found by trying many; everything where it has a pole or no formula."""
    if function in WAVES:
        return -1.0, 1.0
    name = f"{function} approximate" if approximate else function
    if name not in FORMULAS or not np.isfinite(span).all():
        return of_activation(function)
    with np.errstate(over="ignore"):  # of the largest scales there are
        line = np.append(np.linspace(*span, SAMPLES), DIPS).clip(*span).astype(np.float32)
    with np.errstate(all="ignore"):
        found = FORMULAS[name](NumpyCore(), line, "float32", alpha)
    return (float(found.min()), float(found.max())) if np.isfinite(found).all() else EVERYTHING


def _codes(kind: TensorType) -> Codes:
    return Codes(kind.scale, kind.zero_point, kind.dtype)
