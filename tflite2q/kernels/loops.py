"""Loops and scratch shared by the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from tflite2q.kernels.contracts import Tensor
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, store, view

# Regions of less work stay serial: multiply-accumulates, or bytes moved times eight.  Starting one takes about a
# microsecond, and its inputs must come from the cache of the core that wrote them: small models lost up to half of
# their speed to smaller regions.  Where threads wrote the inputs, it is the serial region that waits for the caches of
# all the others, and so does the next one that is shared: nearly all pay.
PARALLEL_WORK, PARALLEL_WORK_OF_PARTS = 1 << 22, 1 << 16


@dataclass
class Threads:
    """Threads and a function under construction.

    `parts`: threads made the function's inputs, each a part; `used`: they share its work; `decisive`: whether `parts`
    is what decided about that; `attributes`: names of those that the function is to have.
    """

    parts: bool = False
    used: bool = False
    decisive: bool = False
    attributes: set[str] = field(default_factory=set)


# Attributes of functions.  They have `threads_at_once`; they begin with a demand on the machine, which need not be made
# again in the same run.
AT_ONCE, DEMANDS_FIRST = "tflite2q.threads_at_once", "tflite2q.demands_first"
_threads: ContextVar[Threads] = ContextVar("threads")


@contextmanager
def threads(parts: bool) -> Iterator[Threads]:
    """While a function is emitted whose inputs threads made in `parts`, or did not."""
    token = _threads.set(Threads(parts))
    try:
        yield _threads.get()
    finally:
        _threads.reset(token)


def pays(work: int) -> bool:
    """Whether so much work (multiply-accumulates, or bytes moved times eight) is worth to be shared by threads."""
    current = _threads.get()
    found = work >= (PARALLEL_WORK_OF_PARTS if current.parts else PARALLEL_WORK)
    current.used |= found
    current.decisive |= PARALLEL_WORK_OF_PARTS <= work < PARALLEL_WORK
    return found


def mark(attribute: str) -> None:
    """Give an attribute to the function that is being emitted."""
    _threads.get().attributes.add(attribute)


def threads_at_once() -> Any:
    """Statements that each thread runs; it takes its share of every `T.parallel` among them, and waits for no other.

    Scratch that they declare is a thread's own.  TVM's StorageRewrite would move it out of the threads, which then
    shared it, so functions with the attribute `AT_ONCE` are compiled without that pass.
    """
    mark(AT_ONCE)
    return T.attr(T.int32(0), "pragma_parallel_launch_point", T.int32(1))


def region(extent: int, work: int) -> Any:
    """A loop that runs on all threads if so much work pays."""
    return T.parallel(extent) if extent > 1 and pays(work) else T.serial(extent)


ZEROS = {"zeros": Tensor((16,), "int32")}  # what programs declare that call `moving_zero`; plans pack it


def moving_zero(constants: Buffers, i: Expr) -> Expr:
    """Zero, but LLVM cannot know: an element of `ZEROS` that depends on the loop variable `i`.

    Added to the index of a loop's constants it keeps LLVM from loading them all ahead of the loop, into more registers
    than there are and from there to the stack, where vectors of 64 bytes lie across cache lines.
    """
    return T.Bind(constants["zeros"][T.bitwise_and(i, ZEROS["zeros"].shape[0] - 1)])


@contextmanager
def fence(constants: Buffers, i: Expr) -> Iterator[None]:
    """Statements that LLVM leaves between those before and after: a branch that is always taken, and it cannot know.

    `i` differs from that of the fence before.  Within a basic block LLVM orders instructions as it likes.  With few
    vectors of weights it multiplies one of them in all steps first, and keeps the inputs on the stack for the next.
    """
    with T.If(T.EQ(moving_zero(constants, i), 0)), T.Then():
        yield


def padded_image(x: Buffer, tensor: Tensor, padding: tuple[int, int, int, int], fill: int, slack: int = 0) -> Buffer:
    """x [batch, h, w, c], whose parameter may have another shape, as one axis; if padded, a copy with it filled.

    With `slack` it is always a copy, followed by that many readable bytes.
    """
    n, h, w, c = tensor.shape
    top, left, bottom, right = padding
    if not any(padding) and not slack:
        return view(x, (tensor.size,), tensor.dtype)
    rows, width, row = h + top + bottom, (w + left + right) * c, w * c
    image = T.decl_buffer((n * rows * width + slack,), tensor.dtype)
    flat = view(image, (n * rows, width), tensor.dtype)
    source = view(x, (n * h, row), tensor.dtype)
    with region(n * rows, n * rows * width * 8) as r:
        inside = T.And(r % rows >= top, r % rows < top + h)
        with T.If(inside):
            with T.Then():
                _fill(flat, r, 0, left * c, fill, tensor.dtype)
                copy_row(flat, source, r, left * c, r // rows * h + r % rows - top, row)
                _fill(flat, r, left * c + row, right * c, fill, tensor.dtype)
            with T.Else():
                _fill(flat, r, 0, width, fill, tensor.dtype)
    return image


def chunks(length: int, lanes: int, emit: Any) -> None:
    """`emit(start, lanes)` so that vectors cover range(length), the last two overlapping if they must."""
    lanes = min(lanes, 1 << (length.bit_length() - 1)) if length else 0
    if not length:
        return
    count = -(-length // lanes)
    if count == 1:
        emit(0, lanes)
        return
    with T.serial(count) as i:
        emit(T.min(i * lanes, length - lanes), lanes)


def _fill(target: Buffer, row: Any, start: int, length: int, value: int, dtype: str) -> None:
    literal = (T.FloatImm if dtype.startswith("float") else T.IntImm)(dtype, value)

    def emit(at: Any, lanes: int) -> None:
        store(target, broadcast(literal, lanes), row, start + at, lanes=lanes)

    chunks(length, 64, emit)


def copy_row(target: Buffer, source: Buffer, row: Any, start: int, source_row: Any, length: int) -> None:
    """`length` elements from the beginning of a row of `source` to `start` in a row of `target`."""

    def emit(at: Any, lanes: int) -> None:
        store(target, load(source, source_row, at, lanes=lanes), row, start + at, lanes=lanes)

    chunks(length, 64, emit)
