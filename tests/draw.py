"""Random choices from which models of one op grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.rounding import RANGES
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.op import Op, Values
from tflite2q.dialect.types import STORAGE, Constant, Quantization, TensorType, Value

Array = npt.NDArray[Any]
CODES = ("uint8", "int8", "int16")
ACTIVATIONS = ("NONE", "NONE", "RELU", "RELU6", "RELU_N1_TO_1")


@dataclass(frozen=True)
class Case:
    """A graph of one op, inputs for it, and the TFLite operator it is."""

    graph: Graph
    inputs: tuple[Array, ...]
    builtin: str


@dataclass
class Draw:
    """Random choices, and a graph that grows from them."""

    rng: np.random.Generator
    values: list[Value] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def number(self, low: int, high: int) -> int:
        """An integer of low..high, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def shape(self, rank: int, most: int = 6) -> tuple[int, ...]:
        return tuple(self.number(1, most) for _ in range(rank))

    def scale(self, low: float = 1e-3, high: float = 0.5) -> float:
        """Log-uniform; now and then a power of two, where ties are frequent."""
        if self.chance(0.2):
            return float(2.0 ** self.number(int(np.log2(low)), int(np.log2(high))))
        return float(np.float32(np.exp(self.rng.uniform(np.log(low), np.log(high)))))

    def zero_point(self, dtype: str) -> int:
        if dtype == "int16":
            return 0
        low, high = RANGES[dtype]
        return self.pick((low, high, 0, self.number(low, high), self.number(low, high), self.number(low, high)))

    def kind(
        self, shape: Sequence[int], dtype: str, scale: float | None = None, zero_point: int | None = None
    ) -> TensorType:
        """A tensor type; codes get parameters, given or drawn."""
        if dtype not in CODES:
            return TensorType(tuple(shape), dtype)
        scale = self.scale() if scale is None else scale
        zero_point = self.zero_point(dtype) if zero_point is None else zero_point
        return TensorType(tuple(shape), dtype, Quantization.per_tensor(scale, zero_point))

    def data(self, kind: TensorType, spread: float = 4.0) -> Array:
        """Uniform codes with the extremes among them, or real numbers."""
        if kind.dtype == "float32":
            return (self.rng.normal(size=kind.shape) * spread).astype(np.float32)
        if kind.dtype == "bool":
            return self.rng.random(kind.shape) < 0.5
        low, high = RANGES[kind.dtype] if kind.dtype in CODES else (-1000, 1000)
        array = self.rng.integers(low, high + 1, kind.shape)
        extreme = self.rng.random(kind.shape) < 0.05
        ends = np.where(self.rng.random(kind.shape) < 0.5, low, high)
        return np.where(extreme, ends, array).astype(STORAGE[kind.dtype])

    def input(self, kind: TensorType, array: Array | None = None) -> str:
        name = f"x{len(self.values)}"
        self.values.append(Value(name, kind))
        self.inputs.append(name)
        self.arrays.append(self.data(kind) if array is None else array)
        return name

    def constant(self, array: Any, kind: TensorType | None = None) -> str:
        array = np.asarray(array)
        kind = TensorType(array.shape, array.dtype.name) if kind is None else kind
        name = f"c{len(self.values)}"
        self.values.append(Value(name, kind, Constant(array.astype(STORAGE[kind.dtype]))))
        return name

    def ints(self, *entries: int) -> str:
        return self.constant(np.array(entries, np.int32))

    def state(self, kind: TensorType) -> str:
        name = f"s{len(self.values)}"
        self.values.append(Value(name, kind, variable=True))
        return name

    def case(self, cls: type[Op], operands: Sequence[str | None], *kinds: TensorType, **attributes: Any) -> Case:
        """The graph of one op with results of `kinds`; their shapes are inferred where given as ()."""
        outputs = tuple(f"y{index}" for index in range(len(kinds)))
        version = attributes.pop("version", None)
        op = cls(inputs=tuple(operands), outputs=outputs, **attributes)
        dtypes = [v.type.dtype for name in operands for v in self.values if v.name == name]
        versions = [op.builtin.versions.get(dtype, 1) for dtype in dtypes]
        op = op.with_(version=version or max(versions, default=1))
        by_name = {value.name: value for value in self.values}
        ins = Values(op, (None if name is None else by_name[name] for name in operands))
        results = [Value(name, kind) for name, kind in zip(outputs, kinds, strict=True)]
        if all(kind.shape == () for kind in kinds):
            shapes = op.infer(ins, results)
            results = [r.with_(type=r.type.with_(shape=tuple(s))) for r, s in zip(results, shapes, strict=True)]
        graph = Graph(tuple(self.inputs), outputs, (*self.values, *results), (op,))
        return Case(verify(graph), tuple(self.arrays), op.builtin.name)


Family = Callable[[Draw], Case]


def each(name: str, dtypes: Sequence[str], make: Callable[..., Case], *args: Any, **options: Any) -> dict[str, Family]:
    """A family for each dtype, called name-dtype."""
    return {f"{name}-{dtype}": lambda d, t=dtype: make(d, *args, dtype=t, **options) for dtype in dtypes}
