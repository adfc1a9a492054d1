"""What an op is: one class that holds every fact about it.

Operands, attributes with their TFLite option names, shapes, verification, meaning over the core vocabulary, what a
scheme may do with its parameters, and the kernel contract it may use.  The reader, the writer, the text form, the
reference and the lowering are generic loops over these facts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.spans import EVERYTHING, Span, of_activation
from tflite2q.dialect.types import STORAGE, Quantization, TensorType, Value
from tflite2q.errors import InvalidGraph, UnsupportedError

if TYPE_CHECKING:
    from tflite2q.dialect.graph import Graph

T = TypeVar("T")
V = TypeVar("V")
Shape = tuple[int, ...]

ROLES = ("activation", "weights", "bias", "fixed", "plain")  # of operands, see `Operand`

# Kernel contracts that an op may name; the lowering has a builder for each.
CONTRACTS = (
    "conv2d",
    "depthwise_conv2d",
    "dense",
    "average_pool2d",
    "max_pool2d",
    "eltwise",
    "lookup",
    "softmax",
    "resize_bilinear",
    "argmax",
    "concat",
    "transpose_conv2d",
    "batch_matmul",
)


@dataclass(frozen=True)
class Operand:
    """A named operand slot.

    Role is what a scheme sees: activation, weights, bias, fixed (the op's arithmetic is bound to this type, so a scheme
    leaves the op and the types around it alone), or plain (shapes, axes, indices).
    """

    name: str
    role: str = "activation"
    optional: bool = False


@dataclass(frozen=True)
class Builtin:
    """A TFLite operator that encodes a dialect op.

    `options` names its options table; `versions` is the lowest operator version by the dtype of an operand
    (others: 1), and `stated` is what converters write for one where that is more; `fixed` are attribute values that
    this operator stands for, when several operators share one class; `custom` operators are named by `name` and keep
    their options in a flexbuffer; `dtypes` are the quantized activations that this operator has a kernel for, where
    they are not all of the op's; `deviation` is as the op's, but of this operator alone.
    """

    name: str
    options: str | None = None
    versions: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    custom: bool = False
    dtypes: tuple[str, ...] | None = None
    deviation: str = ""
    stated: Mapping[str, int] = field(default_factory=dict)


# Most operators got their int8 kernel in version 2 and their int16 kernel in version 3 or later.
INT8_VERSION_2: Mapping[str, int] = {"int8": 2}


def attribute(option: str | None, default: Any, enum: str | None = None) -> Any:
    """A dataclass field read from and written to TFLite option `option` (None: known to the dialect alone).

    `enum` names the TFLite enumeration whose member names are the attribute's values.
    """
    return field(default=default, metadata={"option": option, "enum": enum})


@dataclass(frozen=True)
class Tensor(Generic[T]):
    """An operand during execution: the graph's value and the core implementation's tensor."""

    value: Value
    data: T

    @property
    def type(self) -> TensorType:
        return self.value.type


class Named(Sequence[V | None]):
    """What belongs to the operands of an op: by the names of its slots, or one after the other, None where absent.

    A name that the op does not declare is a KeyError: a mistake in the op's class, not in a model.
    """

    def __init__(self, op: Op, entries: Iterable[V | None]) -> None:
        self.op, self.entries = op, tuple(entries)

    @overload
    def __getitem__(self, key: str) -> V: ...
    @overload
    def __getitem__(self, key: int) -> V | None: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[V | None, ...]: ...
    def __getitem__(self, key: str | int | slice) -> V | tuple[V | None, ...] | None:
        """What is in the slot of that name.  Raises InvalidGraph if it is absent."""
        if not isinstance(key, str):
            return self.entries[key]
        entry = self.get(key)
        if entry is None:
            raise InvalidGraph(f"operand {key} is missing")
        return entry

    def get(self, name: str) -> V | None:
        """What is in the slot of that name, or None where it is absent."""
        index = self.op.index(name)
        return self.entries[index] if index < len(self.entries) else None

    def every(self, name: str) -> list[V]:
        """All that is present in the slot of that name; the last one of a variadic op repeats."""
        first = self.op.index(name)
        repeats = self.op.variadic and first == len(self.op.slots) - 1
        return [entry for entry in self.entries[first : None if repeats else first + 1] if entry is not None]

    def __len__(self) -> int:
        return len(self.entries)


class Values(Named[Value]):
    """The operands of an op in its graph."""


class Operands(Named[Tensor[T]], Generic[T]):
    """The operands of an op during execution."""

    @property
    def values(self) -> Values:
        return Values(self.op, (None if tensor is None else tensor.value for tensor in self.entries))


@dataclass(frozen=True, kw_only=True)
class Op:
    """Base of all ops: names of the values it reads (None: absent optional operand) and defines."""

    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    version: int = 1  # TFLite operator version of the file
    # Tensors of the file that hold no data, only the parameters of numbers inside the operator (LSTM).
    intermediates: tuple[Value, ...] = ()
    regions: tuple[Graph, ...] = ()  # graphs that the op runs, with values and names of their own

    mnemonic: ClassVar[str]
    builtins: ClassVar[tuple[Builtin, ...]]
    operands: ClassVar[tuple[Operand, ...]]
    results: ClassVar[tuple[str, ...]] = ("y",)
    variadic: ClassVar[bool] = False  # the last operand repeats
    contract: ClassVar[str | None] = None  # name of the kernel contract that may compute it
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8")  # quantized activations TFLite has a kernel for
    floats: ClassVar[bool] = False  # True: computes on float32 just as well
    kept_dtypes: ClassVar[tuple[str, ...]] = ()  # further ones that some kernels take: no scheme makes or replaces them
    channel_axis: ClassVar[int] = 0  # of an operand in the role of weights: where its output channel is
    scales_below: ClassVar[float] = math.inf  # what the kernels take as the scale of an operand
    carries: ClassVar[bool] = False  # True: may touch tensors that the dialect cannot represent
    updates: ClassVar[tuple[str, ...]] = ()  # slots of variables that get new data, which `meaning` gives after results
    subgraphs: ClassVar[tuple[str, ...]] = ()  # TFLite's options that name the op's regions, in their order
    complexes: ClassVar[bool] = False  # True: takes or makes complex numbers
    converts: ClassVar[bool] = False  # True: operand and result may be of different quantized types
    # Integer weights that TFLite's kernel takes with float32 activations, which it quantizes in every run.
    # By their dtype, the operator version that these runtimes need.
    hybrid_weights: ClassVar[Mapping[str, int]] = {}
    hybrid_channels: ClassVar[bool] = False  # True: such weights need a scale for each channel
    blockwise: ClassVar[bool] = False  # True: such weights may have a scale for each block of a row
    # Fused activations that every interpreter's kernel honours, for ops that have the attribute `activation`.
    fuses: ClassVar[tuple[str, ...]] = ()

    hybrid_deviation: ClassVar[str] = ""  # as `deviation`, but of float32 activations with integer weights alone
    deviation: ClassVar[str] = ""  # where results may differ from the reference kernels', or none exist to compare with

    @property
    def name(self) -> str:
        """An op is known by its first result, whose name is unique in the graph."""
        return self.outputs[0]

    @property
    def written(self) -> tuple[str, ...]:
        """Names of the values that get data: the results, then the variables that the op updates."""
        return (*self.outputs, *(self.reads(slot) for slot in self.updates))

    @property
    def fed(self) -> tuple[tuple[str | None, ...], ...]:
        """What each region takes as its inputs: names of operands."""
        return ()

    @property
    def slots(self) -> tuple[Operand, ...]:
        """The operand slots of this op, where they depend on its attributes."""
        return self.operands

    @property
    def steep(self) -> bool:
        """Whether the function has a pole or a steep end at 0, which the even pieces of a 16-bit look-up (eq. 22) hit
        the worse the wider the operand's range is."""
        return False

    @property
    def convertible(self) -> bool:
        """Whether a scheme may change the types around the op."""
        return all(slot.role != "fixed" for slot in self.slots)

    def takes_codes(self, ins: Values) -> bool:
        """Whether codes may take the place of its real operands `ins`: not where rounding ruins results."""
        return True

    @classmethod
    def attributes(cls) -> tuple[Any, ...]:
        """The dataclass fields that are attributes, in declaration order."""
        return tuple(f for f in fields(cls) if "option" in f.metadata)

    @property
    def builtin(self) -> Builtin:
        """The TFLite operator that this op is written as."""
        return next(b for b in self.builtins if self._is(b))

    def _is(self, builtin: Builtin) -> bool:
        """Whether the attributes that `builtin` stands for have its values."""
        return all(getattr(self, name) == value for name, value in builtin.fixed.items())

    def deviates(self, ins: Values, outs: Sequence[Value]) -> str:
        """Where results may differ from the reference kernels', with types like these; "" if nowhere."""
        return "; ".join(filter(None, (self.builtin.deviation or self.deviation, self.of_hybrid(ins))))

    def of_hybrid(self, ins: Values) -> str:
        """The part of `deviates` that is about float32 activations with integer weights."""
        kinds = [value.type for value in ins if value is not None]
        hybrid = any(kind.dtype == "float32" for kind in kinds) and any(kind.quantized for kind in kinds)
        return self.hybrid_deviation if hybrid else ""

    def accepts(self, dtype: str) -> bool:
        """Whether its activations may be of `dtype`: codes TFLite has a kernel for, or float32."""
        dtypes = self.dtypes if self.builtin.dtypes is None else self.builtin.dtypes
        return dtype in dtypes or (dtype == "float32" and self.floats)

    @property
    def source(self) -> str | None:
        """The main operand: the first in an activation's role (some operators take shapes or axes before it)."""
        return next(iter(self.in_role("activation", "fixed").values()), None)

    def in_role(self, *roles: str) -> dict[int, str]:
        """The operands in these roles that are present, by their place among the inputs."""
        return {i: name for i, name in enumerate(self.inputs) if name is not None and self.operand(i).role in roles}

    def computes_in(self, dtype: str) -> str | None:
        """The dtype of activations that a scheme of `dtype` gives the op; None: the types around it stay."""
        return dtype if self.convertible and self.accepts(dtype) else None

    def stranded(self, dtype: str) -> bool:
        """Whether no kernel takes its codes of `dtype`, and real numbers, which one does, can replace them."""
        known = self.accepts(dtype) or dtype in self.kept_dtypes
        return self.convertible and not known and self.accepts("float32")

    def accepts_weights(self, dtype: str) -> bool:
        """Whether its weights may be of `dtype`; few operators take int4."""
        return dtype != "int4" or "int4" in self.builtin.versions

    def takes_integers(self, ins: Values) -> bool:
        """Whether the kernel for activations of real numbers takes integer weights of these shapes and scales."""
        return True

    def takes_scales(self, ins: Values, outs: Sequence[Value]) -> bool:
        """Whether the kernels that interpreters choose by themselves take operands and results of these scales."""
        named = zip(ins.entries, map(self.operand, range(len(ins.entries))), strict=True)
        activations = [value.type for value, slot in named if value is not None and slot.role == "activation"]
        if any(kind.quantized and max(kind.parameters.scale) >= self.scales_below for kind in activations):
            return False
        bounds = (end for end in of_activation(getattr(self, "activation", "NONE")) if math.isfinite(end))
        bound = max(map(abs, bounds), default=0.0)
        return all(bound < 2**30 * min(y.type.parameters.scale) for y in outs if y.type.quantized)

    def outgrown(self, before: tuple[Values, Sequence[Value]], after: tuple[Values, Sequence[Value]]) -> bool:
        """Whether kernels take operands and results like those of `before`, and not like those of `after`."""
        return not self.takes_scales(*after) and self.takes_scales(*before)

    def constant_dtype(self, index: int, dtype: str) -> str:
        """The dtype of input `index` where activations are of `dtype`; only a constant can have another."""
        return dtype

    def operand(self, index: int) -> Operand:
        """The slot of input `index`; repeats the last one of a variadic op."""
        return self.slots[min(index, len(self.slots) - 1)]

    def index(self, name: str) -> int:
        """Where the operand in the slot of that name is.  Raises KeyError if the op declares none."""
        for index, slot in enumerate(self.slots):
            if slot.name == name:
                return index
        raise KeyError(f"{self.mnemonic} has no operand {name!r}")

    def reads(self, name: str) -> str:
        """The value in the slot of that name.  Raises InvalidGraph if it is absent."""
        return Named(self, self.inputs)[name]

    def with_(self, **changes: Any) -> Op:
        return replace(self, **changes)

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        """Raise InvalidGraph if types do not fit; shapes are checked against `infer` by the graph."""

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        """Shapes of the results.  `outs` are the declared results, for ops whose operands do not determine shapes."""
        raise NotImplementedError

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        """The op's results and the new data of variables it `updates`, written over the core vocabulary."""
        raise NotImplementedError

    def compute(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        """What `meaning` gives, scalars without axes: the constants of the core vocabulary have at least one.

        Of results without elements there is nothing to compute.
        """
        if outs and not self.updates and all(0 in y.type.shape for y in outs):
            return tuple(core.const(np.zeros(y.type.shape, STORAGE[y.type.dtype])) for y in outs)
        results = self.meaning(core, ins, outs)
        kinds = [*(y.type for y in outs), *(ins[slot].type for slot in self.updates)]
        return tuple(r if kind.held else core.reshape(r, ()) for r, kind in zip(results, kinds, strict=True))

    def assumed(self, ins: Values, outs: Sequence[Value]) -> Mapping[str, Shape]:
        """By name, what operands given at run time must be for the results to have their declared shapes."""
        return {}

    def ties(self, dtype: str) -> tuple[tuple[str, ...], ...]:
        """Groups of values that must keep equal quantization parameters when activations are of `dtype`."""
        return ()

    def fixed_result(self, dtype: str) -> Quantization | None:
        """The result's parameters where TFLite's kernel prescribes them for activations of `dtype`."""
        return None

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        """Real numbers that results can be before activation and codes' range cut them off.

        `spans` are those of the operands, everything for absent ones.
        """
        return EVERYTHING

    def fused(self, ins: Values) -> Span:
        """Where a fused activation keeps results; everything for one that does other things than end them."""
        return of_activation(getattr(self, "activation", "NONE"))

    def macs(self, ins: Values, outs: Sequence[Value]) -> int:
        """Multiply-accumulate operations of one run; 0 for ops without products."""
        return 0

    def workspace(self, ins: Values, outs: Sequence[Value]) -> int:
        """Bytes that NumPy takes beside operands and results, about: numbers of 64 bits, twice."""
        return 16 * sum(value.type.size for value in (*ins.entries, *outs) if value is not None)

    def check_operands(self) -> None:
        """Raise InvalidGraph on a wrong number of inputs or outputs, a missing required one, or attributes of no
        operator."""
        if len(self.regions) != len(self.subgraphs):
            raise InvalidGraph(f"runs {len(self.subgraphs)} graphs, has {len(self.regions)}")
        if self.builtins and not any(self._is(builtin) for builtin in self.builtins):
            raise InvalidGraph(f"no operator of TFLite is this {self.mnemonic}")
        required = sum(not slot.optional for slot in self.slots)
        most = len(self.inputs) if self.variadic else len(self.slots)
        if not required <= len(self.inputs) <= most:
            raise InvalidGraph(f"takes {required} to {most} operands, has {len(self.inputs)}")
        for index, name in enumerate(self.inputs):
            if name is None and not self.operand(index).optional:
                raise InvalidGraph(f"operand {self.operand(index).name} is missing")


def require(condition: bool, why: str) -> None:
    """Raise InvalidGraph(why) unless `condition`: one line a rule in `verify`."""
    if not condition:
        raise InvalidGraph(why)


def supported(condition: bool, why: str) -> None:
    """Raise UnsupportedError(why) unless `condition`: of types that TFLite may have kernels for, the dialect not."""
    if not condition:
        raise UnsupportedError(why)
