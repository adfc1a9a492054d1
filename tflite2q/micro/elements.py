"""Element-wise functions of broadcasting tensors, and reductions: C written from the op's own meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.dialect.ops.reduce import ReduceExtremum, Sum
from tflite2q.dialect.types import STORAGE, Value
from tflite2q.kernels.contracts import EltwiseContract
from tflite2q.kernels.generic.eltwise import Loops
from tflite2q.micro.expressions import CCore, Expr
from tflite2q.micro.program import CTYPES, Table


@dataclass(frozen=True)
class Function:
    """A C function: its text, the tables it reads, how many bytes before each operand its result may begin, and whether
    it reports elements that have no result (by a last parameter)."""

    text: str
    tables: tuple[Table, ...]
    gaps: tuple[int | None, ...]
    fails: bool = False


def eltwise(name: str, contract: EltwiseContract) -> Function:
    """`NAME(x0, x1 ..., y)` for a contract.  Raises UnsupportedError where its meaning cannot be written."""
    output, operands = contract.output, contract.inputs
    last = output.shape[-1] if output.shape else 1
    probe = CCore(name, last)
    contract.meaning(probe, *[Expr("x", tensor.dtype) for tensor in operands])
    along = [np.empty((last,))] if probe.tables else []
    loops = Loops.of(output.shape, [t.shape for t in operands] + [a.shape for a in along])
    depth = len(loops.extents)
    core = CCore(name, last, index=f"i{depth - 1}")
    inputs = [Expr(f"x{k}[{place(loops, k)}]", tensor.dtype) for k, tensor in enumerate(operands)]
    result = contract.meaning(core, *inputs)
    lines = [head(axis, extent) for axis, extent in enumerate(loops.extents)]
    body = "\n".join(f"    {line}" for line in (*core.needed(result), f"*y++ = ({CTYPES[output.dtype]}){result.text};"))
    heads = "\n  ".join(lines)
    parameters = [f"const {CTYPES[t.dtype]} *x{k}" for k, t in enumerate(operands)]
    unused = "".join(f"  (void)x{k};\n" for k in range(len(operands)) if f"x{k}[" not in body)
    takes = ", ".join([*parameters, f"{CTYPES[output.dtype]} *y", *(["int *failed"] if core.fails else [])])
    text = f"Q_KERNEL void {name}({takes}) {{\n{unused}  {heads} {{\n{body}\n  }}\n}}\n"
    width = np.dtype(output.dtype).itemsize
    gaps = tuple(
        max(0, t.size * (width - np.dtype(t.dtype).itemsize)) if t.size == output.size else None for t in operands
    )
    return Function(text, tuple(core.tables), gaps, core.fails)


def place(loops: Loops, operand: int) -> str:
    """Where operand number `operand` has the element of the current indices."""
    present, step, terms = loops.present[operand], 1, []
    for axis in reversed(range(len(loops.extents))):
        if present[axis]:
            terms.append(f"i{axis}" if step == 1 else f"i{axis} * {step}")
            step *= loops.extents[axis]
    return " + ".join(reversed(terms)) or "0"


class _Reduced(CCore):
    """A core in which sums over axes have been computed: `sum` is what it is given."""

    def sum(self, x: Expr, axis: Sequence[int], keepdims: bool = False) -> Expr:
        return Expr(x.text, x.dtype)


def reduction(name: str, op: Sum, axes: tuple[int, ...], x: Value, y: Value) -> Function:
    """`NAME(x, y)` for a sum or mean over `axes`, accumulated in 32 bits as the reference kernels do."""
    shape = x.type.shape
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    steps = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
    core = _Reduced(name, 1)
    result: Any = op.codes(core, Expr("sum", "int32"), axes, x, y)  # type: ignore[arg-type]
    outer = "\n  ".join(head(axis, shape[axis]) for axis in kept)
    inner = "\n    ".join(head(axis, shape[axis]) for axis in axes)
    at = " + ".join(f"i{axis} * {steps[axis]}" for axis in range(len(shape))) or "0"
    body = "\n".join(f"    {line}" for line in core.needed(result))
    types = [CTYPES[STORAGE[v.type.dtype]] for v in (x, y)]
    text = (
        f"Q_KERNEL void {name}(const {types[0]} *x, {types[1]} *y) {{\n  {outer} {{\n    int32_t sum = 0;\n"
        f"    {inner}\n      sum += x[{at}];\n{body}\n    *y++ = ({types[1]}){result.text};\n  }}\n}}\n"
    )
    return Function(text, tuple(core.tables), (None,))


def extremum(name: str, op: ReduceExtremum, axes: tuple[int, ...], x: Value) -> Function:
    """`NAME(x, y)` for the largest or smallest integers over `axes`."""
    shape, kind = x.type.shape, CTYPES[STORAGE[x.type.dtype]]
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    steps = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
    outer = "\n  ".join(head(axis, shape[axis]) for axis in kept)
    inner = "\n    ".join(head(axis, shape[axis]) for axis in axes)
    first, every = (" + ".join(f"i{a} * {steps[a]}" for a in some) or "0" for some in (kept, range(len(shape))))
    text = (
        f"Q_KERNEL void {name}(const {kind} *x, {kind} *y) {{\n  {outer} {{\n    {kind} best = x[{first}];\n"
        f"    {inner}\n      if (x[{every}] {'<' if op.smallest else '>'} best) best = x[{every}];\n"
        f"    *y++ = best;\n  }}\n}}\n"
    )
    return Function(text, (), (None,))


def head(axis: int, extent: int) -> str:
    """The head of a loop over an axis."""
    return f"for (int32_t i{axis} = 0; i{axis} < {extent}; i{axis}++)"
