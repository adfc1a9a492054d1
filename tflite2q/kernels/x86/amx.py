"""The matrix unit of x86 (AMX): eight registers of up to 16 rows of 64 bytes.

A row of the first operand holds 64 input bytes of one pixel; the second operand holds weights like the vector dot
product takes them, four consecutive bytes for each of 16 channels in a row.  Sums do not saturate.
"""

from __future__ import annotations

from typing import Any

from tflite2q.kernels.loops import DEMANDS_FIRST, mark
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Buffer, Expr, T, demand
from tflite2q.kernels.x86 import isa

NAME = "amx"
FEATURES = ("amx-tile", "amx-int8", *isa.AVX512VNNI.features)

# arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): Documentation/arch/x86/xstate.rst of Linux.
PERMISSION = (158, 0x1023, 18)

_PRODUCTS = {"uint8": "tdpbusd", "int8": "tdpbssd"}


def lacks(target: Any) -> Refusal | None:
    """Why `target` cannot use the unit."""
    if "linux" not in str(target.attrs["mtriple"]):
        return Refusal(Because.INSTRUCTIONS, "only Linux is known to grant the matrix unit")
    return isa.lacks(FEATURES, target)


def ask() -> None:
    """Ask Linux for the unit, which a process must once, and may again; the first statement of a function."""
    mark(DEMANDS_FIRST)
    granted = T.call_extern("int64", "syscall", *(T.int64(number) for number in PERMISSION))
    with demand(T.EQ(granted, T.int64(0)), "the system does not grant the matrix unit (AMX)"):
        T.evaluate(0)


def configure(shapes: Buffer) -> None:
    """Set up the registers of this thread; `shapes` holds the 64 bytes of palette 1."""
    _call("ldtilecfg", T.address_of(shapes[0]))


def release() -> None:
    """Give the registers back."""
    _call("tilerelease")


def zero(register: int) -> None:
    _call("tilezero", T.int8(register))


def load(register: int, element: Expr, stride: Expr) -> None:
    """Rows that lie `stride` bytes apart, the first one at an element of a buffer."""
    _call("tileloadd64", T.int8(register), T.address_of(element), T.int64(stride))


def store(register: int, element: Expr, stride: Expr) -> None:
    _call("tilestored64", T.int8(register), T.address_of(element), T.int64(stride))


def multiply(accumulators: int, inputs: int, weights: int, dtype: str) -> None:
    """Add the products of input rows, of type `dtype`, and weights to 32-bit accumulators."""
    _call(_PRODUCTS[dtype], T.int8(accumulators), T.int8(inputs), T.int8(weights))


def _call(name: str, *operands: Expr) -> None:
    T.evaluate(T.call_llvm_intrin("void", T.llvm_lookup_intrinsic_id(f"llvm.x86.{name}"), *operands))
