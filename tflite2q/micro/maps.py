"""Pooling, look-ups, softmax, resizing and positions of extrema as calls of kernels."""

from __future__ import annotations

import math

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.rounding import code_range
from tflite2q.dialect.op import Values
from tflite2q.dialect.ops.eltwise import ADD_HEADROOM, Add
from tflite2q.dialect.ops.reduce import ArgExtremum
from tflite2q.dialect.ops.resize import ResizeBilinear
from tflite2q.dialect.types import STORAGE, Value
from tflite2q.errors import UnsupportedError
from tflite2q.kernels.contracts import LookupContract, PoolContract
from tflite2q.micro.calls import Call
from tflite2q.micro.program import CTYPES, Table
from tflite2q.micro.rescaling import within

INTEGERS = ("int8", "uint8", "int16", "int32", "int64")


def pool(name: str, contract: PoolContract) -> Call:
    """Windows of any integer type, written in the order of rows."""
    kernel = f"q_{contract.kind}_{contract.dtype}"
    if max(contract.window) > 65535 or max(contract.in_h, contract.in_w, contract.channels) > 65535:
        raise UnsupportedError("an extent above 65535")
    struct = (
        f"static const q_pool {name} = {{.in_h = {contract.in_h}, .in_w = {contract.in_w}, .channels = "
        f"{contract.channels}, .out_h = {contract.out_h}, .out_w = {contract.out_w}, .top = {contract.padding[0]}, "
        f".left = {contract.padding[1]}, .batch = {contract.batch}, .kh = {contract.window[0]}, .kw = "
        f"{contract.window[1]}, .sh = {contract.strides[0]}, .sw = {contract.strides[1]}, .low = {contract.low}, "
        f".high = {contract.high}}};\n"
    )
    text = f"Q_POOL({kernel}, {CTYPES[contract.dtype]}, {int(contract.kind == 'max')})\n"
    width = np.dtype(contract.dtype).itemsize
    gap = 0
    for y in range(contract.out_h):
        first = min(max(0, y * contract.strides[0] - contract.padding[0]), contract.in_h)
        gap = max(gap, (y + 1) * contract.out_w * contract.channels - first * contract.in_w * contract.channels)
    return Call(
        f"{kernel}(&{name}, {{x0}}, {{y0}});", ("maps",), text + "\0" + struct, (), 0,
        gap * width if contract.batch == 1 else None,
    )  # fmt: skip


def lookup(name: str, contract: LookupContract) -> Call:
    """Tables begin with code 0, so that a code's byte is its index."""
    dtype = str(contract.table.dtype)
    kernel = f"q_lookup_{dtype}"
    table = np.roll(contract.table, contract.low)
    size = int(np.prod(contract.shape, dtype=np.int64))
    return Call(
        f"{kernel}({name}_t, {{x0}}, {{y0}}, {size});", ("maps",), f"Q_LOOKUP({kernel}, {CTYPES[dtype]})\n\0",
        (Table(f"{name}_t", table),), 0, size * (contract.table.dtype.itemsize - 1),
    )  # fmt: skip


def softmax(name: str, exponentials: np.ndarray, rows: int, classes: int, dtype: str, result: str) -> Call:
    """Rows of 8-bit codes; `exponentials` as in the contract."""
    kernel = f"q_softmax_{dtype}_{result}"
    low, high = code_range(result)
    return Call(
        f"{kernel}({name}_e, {{x0}}, {{y0}}, {rows}, {classes}, {low}, {high}, {8 if result == 'int16' else 0});",
        ("maps",), f"Q_SOFTMAX({kernel}, {CTYPES[dtype]}, {CTYPES[result]})\n\0",
        (Table(f"{name}_e", exponentials.astype(np.int32)),), 0, 0 if dtype == result else None,
    )  # fmt: skip


def softmax16(rows: int, classes: int, m: int, shift: int) -> Call:
    """Rows of 16-bit codes, by linear pieces of exp and of 1 / (1 + x)."""
    from tflite2q.dialect.ops.softmax import int16_tables
    from tflite2q.micro.lookup16 import pieces

    exponential, reciprocal = (pieces(table) for table in int16_tables())
    assert exponential is not None and reciprocal is not None  # which they are made of
    tables = (Table("q_exp16", exponential), Table("q_reciprocal16", reciprocal))
    shift = int(within(shift))
    return Call(
        f"q_softmax16({{x0}}, {{y0}}, {rows}, {classes}, {m}, {shift});",
        ("lookup16", "softmax16"),
        "\0",
        tables,
        0,
        None,
    )


def add(name: str, op: Add, a: Value, b: Value, y: Value) -> Call | None:
    """The sum of int8 tensors of one shape in the reference kernels' arithmetic; None for other sums."""
    alike = a.type.shape == b.type.shape and all(v.type.dtype == "int8" for v in (a, b, y))
    if not alike or op.rescale != "tflite" or op.subtract or a.name == b.name:
        return None
    m, shift = rounding.quantize_multiplier(np.array(op.multipliers(a.type, b.type, y.type, ADD_HEADROOM)))
    if (shift > 0).any() or (shift < -30).any():
        return None
    factors = ", ".join(f"{{{int(each)}, {-int(by)}}}" for each, by in zip(m, shift, strict=True))
    low, high = op.clamp(y.type)
    struct = (
        f"static const q_sum {name} = {{{a.type.zero_point}, {b.type.zero_point}, {factors}, {y.type.zero_point}, "
        f"{low}, {high}, {y.type.size}}};\n"
    )
    return Call(f"q_add8(&{name}, {{x0}}, {{x1}}, {{y0}});", ("add",), "\0" + struct, (), 0, 0)


def resize(name: str, op: ResizeBilinear, x: Value, y: Value) -> Call:
    """Images interpolated in integers, or in float32 for uint8."""
    dtype = x.type.dtype
    if dtype not in ("int8", "int16", "uint8"):
        raise UnsupportedError(f"of {dtype}, for which there is no kernel")
    (batch, in_h, in_w, channels), (_, out_h, out_w, _) = x.type.shape, y.type.shape
    if max(x.type.shape) > 65535 or max(y.type.shape) > 65535:
        raise UnsupportedError("an extent above 65535")
    positions, width = (op.positions, np.float32) if dtype == "uint8" else (op.fixed_positions, np.int16)
    tables = []
    for letter, extent, out in (("y", in_h, out_h), ("x", in_w, out_w)):
        first, second, fraction = positions(extent, out)
        tables += [
            Table(f"{name}_{letter}0", first.astype(np.uint16)), Table(f"{name}_{letter}1", second.astype(np.uint16)),
            Table(f"{name}_f{letter}", fraction.astype(width)),
        ]  # fmt: skip
    struct = (
        f"static const q_resize {name} = {{{name}_y0, {name}_y1, {name}_x0, {name}_x1, {name}_fy, {name}_fx, "
        f"{in_h}, {in_w}, {channels}, {out_h}, {out_w}, {batch}}};\n"
    )
    kernel = f"q_resize_{dtype}"
    shared = {"int8": f"Q_RESIZE({kernel}, int8_t, int32_t)\n", "int16": f"Q_RESIZE({kernel}, int16_t, int64_t)\n"}
    text = shared.get(dtype, "") + "\0" + struct
    return Call(f"{kernel}(&{name}, {{x0}}, {{y0}});", ("resize",), text, tuple(tables), 0, None)


def argmax(op: ArgExtremum, ins: Values, y: Value) -> Call:
    """The first largest or smallest along an axis."""
    x, axis = ins["x"].type, op.axis(ins)
    if STORAGE[x.dtype] not in INTEGERS:
        raise UnsupportedError(f"of {x.dtype}, for which there is no kernel")
    kernel = f"q_arg_{'min' if op.smallest else 'max'}_{x.dtype}_{y.type.dtype}"
    text = f"Q_ARG({kernel}, {CTYPES[x.dtype]}, {CTYPES[y.type.dtype]}, {'<' if op.smallest else '>'})\n"
    rows, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    call = f"{kernel}({{x0}}, {{y0}}, {rows}, {x.shape[axis]}, {inner});"
    return Call(call, ("maps",), text + "\0", (), 0, None)
