"""The few TIR constructs that kernels are written in; the only place in `kernels/` that knows TVM's builder.

Functions are built by statement, with Python as the macro language: a Python `for` unrolls, `T.serial` loops.  Vectors
are explicit (`load` and `store` of so many lanes), so that what LLVM sees is already in registers of the right width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from tflite2q.kernels.contracts import Tensor

Expr = Any  # a TIR expression, scalar or vector, or a Python number
Buffer = Any
Buffers = Mapping[str, Buffer]

__all__ = [
    "Buffer", "Buffers", "Expr", "T", "broadcast", "demand", "function", "load", "local", "part", "prefetch", "shuffle",
    "store", "store_first", "uncontracted", "vector", "view", "wrapping_add",
]  # fmt: skip


def function(
    inputs: Sequence[Tensor], constants: Sequence[Tensor], output: Tensor, body: Callable[..., None]
) -> tvm.tirx.PrimFunc:
    """A PrimFunc whose parameters are inputs, constants and output; `body(*buffers)` emits its statements.

    Buffers do not alias.  Relax must not take a one-input function for a reshape (its HasReshapePattern looks at
    functions of two buffers and expects a root block), so lowering always passes at least one constant.
    """
    with IRBuilder() as builder:
        with T.prim_func():
            T.func_name("kernel")
            T.func_attr({"tirx.noalias": True})
            names = [f"x{i}" for i in range(len(inputs))] + [f"c{i}" for i in range(len(constants))] + ["y"]
            body(
                *[
                    T.arg(n, T.buffer(t.shape, t.dtype))
                    for n, t in zip(names, [*inputs, *constants, output], strict=True)
                ]
            )
    return builder.get()


def demand(condition: Expr, message: str) -> Any:
    """A frame for what follows where `condition` holds; where it does not, the function ends with an error."""
    return T.Assert(condition, message)


def load(buffer: Buffer, *index: Expr, lanes: int = 1) -> Expr:
    """`lanes` consecutive elements of the last axis, from `index` on."""
    *outer, last = index
    place = (*outer, last if lanes == 1 else T.ramp(last, 1, lanes))
    return buffer[place]


def store(buffer: Buffer, value: Expr, *index: Expr, lanes: int = 1) -> None:
    *outer, last = index
    T.buffer_store(buffer, value, [*outer, last if lanes == 1 else T.ramp(last, 1, lanes)])


def store_first(codes: Expr, lanes: int, count: int, y: Buffer, *index: Expr) -> None:
    """The first `count` of a vector's `lanes` codes to consecutive elements of y, and nothing behind them."""
    *outer, last = index
    done, count = 0, min(count, lanes)
    while done < count:
        step = 1 << ((count - done).bit_length() - 1)
        store(y, codes if step == lanes else part(codes, done, step), *outer, last + done, lanes=step)
        done += step


def prefetch(element: Expr) -> None:
    """Ask for the cache line of a buffer's element, in the second-level cache; it may lie behind the buffer's end."""
    place, read, second_level, data = T.address_of(element), T.int32(0), T.int32(2), T.int32(1)
    T.evaluate(T.call_llvm_intrin("void", T.llvm_lookup_intrinsic_id("llvm.prefetch"), place, read, second_level, data))


def local(size: int, dtype: str) -> Buffer:
    """Scratch that LLVM turns into registers when every index is a constant.

    Up to one kilobyte TVM puts it on the stack (with scope "local" it would call an allocator each time), where LLVM's
    scalar replacement finds it; more accumulators than that go into several.
    """
    return T.decl_buffer((size,), dtype)


def view(buffer: Buffer, shape: Sequence[int], dtype: str | None = None) -> Buffer:
    """The same memory with another shape."""
    return T.decl_buffer(tuple(shape), dtype or str(buffer.dtype), data=buffer.data)


def broadcast(value: Expr, lanes: int) -> Expr:
    return value if lanes == 1 else T.broadcast(value, lanes)


def shuffle(vectors: Sequence[Expr], indices: Sequence[int]) -> Expr:
    """Elements of the concatenated vectors."""
    return tvm.tirx.Shuffle(list(vectors), list(indices))


def part(value: Expr, first: int, count: int) -> Expr:
    """`count` elements of a vector from `first` on."""
    return shuffle([value], range(first, first + count))


def wrapping_add(a: Expr, b: Expr, lanes: int, dtype: str = "int32") -> Expr:
    """Addition modulo 2**32 (or as many bits as `dtype` has).  Plain signed addition tells LLVM that it never
    overflows."""
    unsigned, signed = vector(f"u{dtype}", lanes), vector(dtype, lanes)
    return T.reinterpret(signed, T.reinterpret(unsigned, a) + T.reinterpret(unsigned, b))


def vector(dtype: str, lanes: int) -> str:
    """The name of a vector type."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def uncontracted(product: Expr) -> Expr:
    """A floating point product that LLVM must round before it is added to anything.

    TVM lets LLVM contract a product and a sum into one fused multiply-add, which rounds once where the reference
    kernels round twice.
    """
    fence = T.llvm_lookup_intrinsic_id("llvm.arithmetic.fence")
    return T.Bind(T.call_llvm_pure_intrin(product.ty.dtype, fence, product))
