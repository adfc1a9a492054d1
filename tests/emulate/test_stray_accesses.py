"""Kernels that are wrong on purpose are found: by their indices, by their neighbourhood, by a page."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plans
import pytest
from emulate import levels
from emulate.bounds import faults
from emulate.pages import Guarded

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.kernels import frame
from tflite2q.kernels.contracts import Conv2DContract, Tensor
from tflite2q.kernels.frame import Built
from tflite2q.kernels.tir import T, function, load, local, store, view
from tflite2q.kernels.x86.epilogue import PACKED, X86Epilogue
from tflite2q.kernels.x86.matrix import X86Matrix

X, Y = Tensor((40,), "int8"), Tensor((8, 5), "int8")
INDICES = np.array([0, 7, 31], np.int32)
Body = Callable[..., None]


def built(body: Body) -> Built:
    func = function([X], [Tensor(INDICES.shape, "int32")], Y, body)
    return Built("wrong", "wrong", func, (X,), (INDICES,), Y)


def copy(x: Any, _: Any, y: Any) -> None:
    with T.serial(8) as row, T.serial(5) as i:
        store(y, x[row * 5 + i], row, i)


def by_constant(x: Any, indices: Any, y: Any) -> None:
    with T.serial(3) as i:
        store(y, x[indices[i] + 8], 0, i)


def some_rows(x: Any, indices: Any, y: Any) -> None:
    with T.serial(3) as i:
        with T.serial(T.min(indices[i], 4)) as j:
            with T.If(i < 2):
                with T.Then():
                    store(y, x[i * 30 + j], i, j)


RIGHT = {"copy": copy, "by constant": by_constant, "some rows": some_rows}


def reads_beyond(x: Any, _: Any, y: Any) -> None:
    with T.serial(8) as row:
        store(y, load(x, row * 5 + 1, lanes=5), row, 0, lanes=5)


def reads_before(x: Any, _: Any, y: Any) -> None:
    with T.serial(8) as row:
        store(y, x[row * 5 - 1], row, 0)


def writes_into_the_next_row(x: Any, _: Any, y: Any) -> None:
    with T.serial(7) as row:
        store(y, load(x, row * 5, lanes=8), row, 0, lanes=8)


def writes_before(x: Any, _: Any, y: Any) -> None:
    store(y, load(x, 0, lanes=8), 0, T.int32(5 - 8), lanes=8)


def leaves_scratch(x: Any, _: Any, y: Any) -> None:
    scratch = local(39, "int8")
    with T.serial(40) as i:
        store(scratch, x[i], i)


def views_too_much(x: Any, _: Any, y: Any) -> None:
    store(view(y, (41,)), x[0], 40)


def by_wrong_constant(x: Any, indices: Any, y: Any) -> None:
    with T.serial(3) as i:
        store(y, x[indices[i] + 9], 0, i)


def by_input(x: Any, _: Any, y: Any) -> None:
    store(y, x[T.cast(x[0], "int32")], 0, 0)


def one_row_too_many(x: Any, indices: Any, y: Any) -> None:
    with T.serial(3) as i:
        with T.serial(T.min(indices[i], 6)) as j:
            store(y, x[j], i, j)


WRONG = {
    body.__name__: body
    for body in (
        reads_beyond, reads_before, writes_into_the_next_row, writes_before, leaves_scratch, views_too_much,
        by_wrong_constant, by_input, one_row_too_many,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_indices_have_no_faults(name: str) -> None:
    assert faults(built(RIGHT[name])) == []


@pytest.mark.parametrize("name", WRONG)
def test_wrong_indices_are_faults(name: str) -> None:
    assert faults(built(WRONG[name]))


def tiled(last_row: int) -> Built:
    """Loads a tile of 4 rows of 16 bytes, 20 bytes apart, from `last_row` of a matrix on."""
    matrix = Tensor((8, 20), "int8")
    shapes = np.zeros(64, np.uint8)
    shapes[0], shapes[16], shapes[48] = 1, 16, 4

    def call(name: str, *operands: Any) -> None:
        T.evaluate(T.call_llvm_intrin("void", T.llvm_lookup_intrinsic_id(f"llvm.x86.{name}"), *operands))

    def body(x: Any, shape: Any, y: Any) -> None:
        call("ldtilecfg", T.address_of(shape[0]))
        call("tileloadd64", T.int8(0), T.address_of(x[last_row, 4]), T.int64(20))
        store(y, x[0, 0], 0, 0)

    func = function([matrix], [Tensor((64,), "uint8")], Y, body)
    return Built("tile", "tile", func, (matrix,), (shapes,), Y)


def test_tiles_are_followed_row_by_row() -> None:
    assert faults(tiled(4)) == []
    assert faults(tiled(5))


def stored_whole(self: X86Epilogue, rounded: Any, stored: int, y: Any, rows: Any, channel: Any) -> None:
    """The mistake of old: a block is stored whole, up to its last channel, also where it has fewer channels."""
    block = PACKED * self.level.lanes
    for row, vectors in zip(rows, rounded, strict=True):
        assert len(vectors) == PACKED
        store(y, self.packed(vectors), row, channel + stored - block, lanes=block)


def wrong_matrix_kernel(monkeypatch: pytest.MonkeyPatch) -> Built:
    weights = np.ones((56, 2, 2, 21), np.int8)
    contract = Conv2DContract(
        batch=1, in_h=3, in_w=4, in_c=21, out_h=2, out_w=3, out_c=56, strides=(1, 1), dilation=(1, 1),
        padding=(0, 0, 0, 0), groups=1, x_dtype="int8", x_zero_point=0, weights=weights, weight_zero_points=(0,),
        bias=None, rescale=Rescale((0.01,), 0, -128, 127, "int8"),
    )  # fmt: skip
    functions = frame._function
    functions.cache_clear()
    monkeypatch.setattr(X86Epilogue, "store", stored_whole)
    kernel = plans.built(X86Matrix(slow_too=True), contract, levels.target("amx"))
    functions.cache_clear()  # the wrong one must not be taken for the right one later
    return kernel


def test_a_block_stored_whole_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = wrong_matrix_kernel(monkeypatch)
    assert any("store to" in fault.access and fault.low < 0 for fault in faults(kernel))


@pytest.mark.parametrize("edge", ["end", "start"])
def test_a_touched_neighbourhood_is_counted(edge: str) -> None:
    with Guarded(np.arange(100, dtype=np.uint8), edge, writable=True) as guarded:
        assert guarded.touched() == 0
        start, end = guarded._span
        guarded._bytes[end if edge == "start" else start - 1] ^= 1
        assert guarded.touched() == 1


CRASH = """
import numpy as np, sys
from emulate.pages import Guarded
import ctypes
edge, offset, writable = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "write"
guarded = Guarded(np.zeros(64 * 3, np.uint8), edge, writable=writable)
address = guarded.array.ctypes.data + offset
print(ctypes.string_at(address, 1)) if sys.argv[3] == "read" else ctypes.memset(address, 1, 1)
"""


@pytest.mark.parametrize(
    ("edge", "offset", "access", "dies"),
    [("end", 192, "read", True), ("start", -1, "read", True), ("end", 191, "read", False), ("start", 0, "write", False),
     ("end", 0, "write into what is read", True)],
)  # fmt: skip
def test_pages_end_who_goes_beyond(edge: str, offset: int, access: str, dies: bool) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CRASH), edge, str(offset), access]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, check=False)
    assert done.returncode == (-signal.SIGSEGV if dies else 0)


@pytest.mark.skipif(not levels.can_emulate(), reason="needs an x86 with AVX2 and FMA")
def test_a_kernel_that_writes_around_its_result_is_found() -> None:
    def body(x: Any, _: Any, y: Any) -> None:
        with T.serial(41) as i:  # into the gap that alignment leaves, or the rest of the page
            store(view(y, (41,)), T.int8(3), i)

    kernel = built(body)
    import tvm

    module = tvm.compile(tvm.IRModule({"kernel": kernel.func.with_attr("global_symbol", "kernel")}), levels.here())
    with pytest.raises(levels.Wrong, match="1 bytes written around the result"):
        levels.call_guarded(module["kernel"], kernel, [np.zeros(X.shape, X.dtype)])
