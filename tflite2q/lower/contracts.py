"""Dialect ops as kernel contracts: the facts a kernel needs, gathered from an op and its values.

An op names its contract; the function of that name here fills it in, or gives None where the op's types are outside the
contract (weights that are not constant, float32 in most), and the op goes through core operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.dialect.op import CONTRACTS, Op, Operands, Tensor, Values
from tflite2q.dialect.ops.conv import Convolution, wide_accumulator
from tflite2q.dialect.ops.dense import Dense
from tflite2q.dialect.ops.eltwise import INT16_HEADROOM, Add
from tflite2q.dialect.ops.pool import Pool
from tflite2q.dialect.ops.reduce import ArgExtremum
from tflite2q.dialect.ops.resize import ResizeBilinear
from tflite2q.dialect.ops.shape import Concat
from tflite2q.dialect.ops.softmax import Softmax
from tflite2q.dialect.ops.transpose_conv import TransposeConv
from tflite2q.dialect.types import STORAGE, TensorType, Value
from tflite2q.kernels import contracts, layout
from tflite2q.lower import matmul, real, transposed

EIGHT_BITS = ("int8", "uint8")
CODES = (*EIGHT_BITS, "int16")
K = TypeVar("K", bound=Op)


def contract_of(op: Op, ins: Values, outs: Sequence[Value]) -> contracts.Contract | None:
    """The contract that `op` on these values fulfils, or None if only core operations can compute it."""
    if op.contract is None or any(0 in v.type.shape for v in (*ins, *outs) if v):
        return None
    return _BUILDERS[op.contract](op, ins, outs)


def activations(op: Op, contract: contracts.Contract) -> list[str]:
    """Names of the values that are the contract's inputs, in its order."""
    if isinstance(op, TransposeConv):
        return [op.reads("x")]
    names = [name for name in op.inputs if name is not None]
    return names[: len(contract.inputs)]


def _of(kind: type[K], op: Op) -> K:
    """`op`, which names a contract that only ops of class `kind` have."""
    if not isinstance(op, kind):
        raise TypeError(f"{op.mnemonic} names the contract {op.contract}, but is no {kind.__name__}")
    return op


def _product(ins: Values) -> tuple[Value, Value, dict[str, Any]] | None:
    """Input and weights of a convolution or dense layer of codes that kernels can compute, and what their contracts
    have in common."""
    x, weights, bias = ins["x"], ins["weights"], ins.get("bias")
    if x.type.dtype not in CODES or STORAGE[weights.type.dtype] not in EIGHT_BITS:
        return None
    if any(value is not None and value.constant is None for value in (weights, bias)):
        return None
    common = {
        "x_dtype": x.type.dtype,
        "x_zero_point": x.type.zero_point,
        "weight_zero_points": weights.type.parameters.zero_point,
        "bias": None if bias is None else bias.data.reshape(-1),
        "accumulator": wide_accumulator(x.type, None if bias is None else bias.type),
    }
    return x, weights, common


def _convolution(op: Op, ins: Values, outs: Sequence[Value]) -> contracts.Contract | None:
    if outs[0].type.dtype == "float32":
        return real.product(op, ins, outs)
    facts = _product(ins)
    if facts is None:
        return None
    (x, weights, common), y, conv = facts, outs[0], _of(Convolution, op)
    geometry = conv.window(x, weights)
    common |= {
        **dict(zip(("batch", "in_h", "in_w", "in_c"), x.type.shape, strict=True)),
        **dict(zip(("out_h", "out_w", "out_c"), y.type.shape[1:], strict=True)),
        "strides": geometry.strides,
        "dilation": geometry.dilation,
        "padding": (*geometry.before, *geometry.after),
        "rescale": conv.rescaling(ins, y),
    }
    data = weights.data
    if op.contract == "conv2d":
        return _safe(contracts.Conv2DContract(groups=conv.groups(x.type, weights.type), weights=data, **common))
    if (
        x.type.shape[3] == 1
    ):  # one input channel: the same sums as an ordinary convolution, which has the faster kernels
        return _safe(
            contracts.Conv2DContract(groups=1, weights=np.ascontiguousarray(data.transpose(3, 1, 2, 0)), **common)
        )
    return _safe(contracts.DepthwiseConv2DContract(weights=data, **common))


def _dense(op: Op, ins: Values, outs: Sequence[Value]) -> contracts.Contract | None:
    if outs[0].type.dtype == "float32":
        return real.product(op, ins, outs)
    facts = _product(ins)
    if facts is None:
        return None
    x, weights, common = facts
    units, depth = weights.type.shape
    rescale = _of(Dense, op).rescaling(ins, outs[0])
    contract = contracts.DenseContract(
        rows=x.type.size // depth, depth=depth, units=units, weights=weights.data, rescale=rescale, **common
    )
    return contract if _safe(contract.conv2d()) else None


def _safe(contract: contracts.ConvolutionContract) -> contracts.ConvolutionContract | None:
    """`contract`, unless its biases are so large that products with multipliers would leave 64 bits."""
    return contract if layout.accumulator_bound(contract).max(initial=0) < layout.MOST else None


def _pool(op: Op, ins: Values, outs: Sequence[Value]) -> contracts.Contract | None:
    x, pool = ins["x"], _of(Pool, op)
    if x.type.dtype not in CODES:
        return None
    geometry = pool.window(x)
    if x.type.dtype == "int16" and geometry.size[0] * geometry.size[1] > contracts.MOST_TAPS_OF_16_BITS:
        return None
    low, high = pool.clamp(outs[0])
    batch, in_h, in_w, channels = x.type.shape
    return contracts.PoolContract(
        kind="max" if op.contract == "max_pool2d" else "average",
        batch=batch,
        in_h=in_h,
        in_w=in_w,
        channels=channels,
        out_h=geometry.out[0],
        out_w=geometry.out[1],
        window=geometry.size,
        strides=geometry.strides,
        padding=(*geometry.before, *geometry.after),
        dtype=x.type.dtype,
        low=low,
        high=high,
    )


def _eltwise(op: Op, ins: Values, outs: Sequence[Value]) -> contracts.Contract | None:
    """A look-up table for one 8-bit operand, a fused loop for others."""
    operands = [value for value in ins if value is not None]
    kinds = [value.type.quantization for value in (*operands, *outs)]
    if any(quantization is not None and quantization.axis is not None for quantization in kinds):
        return None  # a code means another number in each channel
    if len(operands) == 1 and operands[0].type.dtype in EIGHT_BITS:
        return contracts.LookupContract(
            operands[0].type.shape, operands[0].type.dtype, lookup_table(op, operands[0], outs[0])
        )
    if op.contract == "lookup":  # of more than 256 codes, or of real numbers by functions that loops do not have
        return None
    y = outs[0].type

    def meaning(core: Any, *data: Any) -> Any:
        tensors = [Tensor(value, each) for value, each in zip(operands, data, strict=True)]
        return op.meaning(core, Operands(op, tensors), outs)[0]

    parameters = tuple((v.type.dtype, v.type.quantization) for v in (*operands, *outs))
    attributes = tuple(getattr(op, field.name) for field in op.attributes())
    return contracts.EltwiseContract(
        name=op.mnemonic.removeprefix("q."),
        key=(op.mnemonic, attributes, parameters),
        meaning=meaning,
        operands=tuple(contracts.Tensor(v.type.shape, STORAGE[v.type.dtype]) for v in operands),
        result=contracts.Tensor(y.shape, STORAGE[y.dtype]),
        linear=_linear(op, [v.type for v in operands], y),
        fixed_sum=_fixed_sum(op, [v.type for v in operands], y),
    )


def _linear(op: Op, operands: Sequence[TensorType], y: TensorType) -> tuple[float, ...] | None:
    """Factors and offset of a sum or difference, in codes of its result."""
    if not isinstance(op, Add) or any(t.dtype not in EIGHT_BITS for t in (*operands, y)):
        return None
    first, second = (t.scale / y.scale for t in operands)
    second = -second if op.subtract else second
    return first, second, y.zero_point - first * operands[0].zero_point - second * operands[1].zero_point


def _fixed_sum(op: Op, operands: Sequence[TensorType], y: TensorType) -> contracts.FixedSum | None:
    """Multipliers of a sum or difference of 16-bit tensors in the reference kernels' fixed point."""
    types = (*operands, y)
    if not isinstance(op, Add) or op.rescale != "tflite" or any(t.dtype != "int16" or t.zero_point for t in types):
        return None
    a, b = operands
    if op.shifts(a, b, y) is not None:
        return None
    m, shift = rounding.quantize_multiplier(np.array(op.multipliers(a, b, y, INT16_HEADROOM)))
    first, second, result = zip(m.tolist(), shift.tolist(), strict=True)
    return contracts.FixedSum((first, second), result, op.subtract, *op.clamp(y))


def _softmax(op: Op, ins: Values, outs: Sequence[Value]) -> contracts.Contract | None:
    x = ins["x"].type
    if x.dtype not in EIGHT_BITS or not x.shape or outs[0].type.dtype != x.dtype:
        return None
    classes, exponentials = x.shape[-1], _of(Softmax, op).exponentials(x.scale)
    return contracts.SoftmaxContract(x.size // classes, classes, x.dtype, exponentials)


def _resize_bilinear(op: Op, ins: Values, outs: Sequence[Value]) -> contracts.Contract | None:
    x, resize = ins["x"], _of(ResizeBilinear, op)
    if x.type.dtype not in (*CODES, real.FLOAT):
        return None
    batch, in_h, in_w, channels = x.type.shape
    positions = resize.fixed_positions if x.type.dtype in ("int8", "int16") else resize.positions
    rows, columns = (positions(extent, out) for extent, out in zip((in_h, in_w), outs[0].type.shape[1:3], strict=True))
    return contracts.ResizeBilinearContract(batch, in_h, in_w, channels, rows, columns, x.type.dtype)


def _argmax(op: Op, ins: Values, outs: Sequence[Value]) -> contracts.Contract | None:
    x, extremum = ins["x"].type, _of(ArgExtremum, op)
    if x.dtype not in (*CODES, real.FLOAT) or extremum.axis(ins) != len(x.shape) - 1:
        return None
    classes = x.shape[-1]
    if x.dtype != real.FLOAT and classes > 2 ** (16 if x.dtype == "int16" else 20):
        return None  # a code and its index share 32 bits
    return contracts.ArgMaxContract(x.size // classes, classes, x.dtype, outs[0].type.dtype, extremum.smallest)


def _concat(op: Op, ins: Values, outs: Sequence[Value]) -> contracts.Contract | None:
    """Several parts that are copied as they are; uint8 parts of other parameters would be rescaled."""
    y, concat = outs[0].type, _of(Concat, op)
    if y.dtype not in CODES:
        return None
    parts = [value for value in ins if value is not None]
    if len(parts) < 2 or any(part.constant is not None or part.type.quantization != y.quantization for part in parts):
        return None
    axis = concat.axis % len(y.shape)
    rows = math.prod(y.shape[:axis])
    return contracts.ConcatContract(rows, tuple(part.type.size // rows for part in parts), y.dtype)


def lookup_table(op: Op, x: Value, y: Value) -> Any:
    """An element-wise op's results for the 256 codes of x's 8-bit dtype, lowest first: its own meaning tabulates it."""
    low, high = x.type.range
    codes = np.arange(low, high + 1).astype(x.type.dtype)
    operand, result = (v.with_(type=v.type.with_(shape=codes.shape), constant=None) for v in (x, y))
    return op.meaning(NumpyCore(), Operands(op, [Tensor(operand, codes)]), [result])[0]


_BUILDERS: Mapping[str, Callable[[Op, Values, Sequence[Value]], contracts.Contract | None]] = {
    "conv2d": _convolution,
    "depthwise_conv2d": _convolution,
    "dense": _dense,
    "average_pool2d": _pool,
    "max_pool2d": _pool,
    "eltwise": _eltwise,
    "lookup": _eltwise,
    "softmax": _softmax,
    "resize_bilinear": _resize_bilinear,
    "argmax": _argmax,
    "concat": _concat,
    "transpose_conv2d": transposed.transposed,
    "batch_matmul": matmul.matmul,
}

if set(_BUILDERS) != set(CONTRACTS):
    raise TypeError(f"ops may name the contracts {sorted(CONTRACTS)}, the lowering builds {sorted(_BUILDERS)}")
