"""Sums of the inputs that each output pixel of a convolution reads: what a weight zero point multiplies."""

from __future__ import annotations

from tflite2q.kernels.gemm import Geometry
from tflite2q.kernels.loops import region
from tflite2q.kernels.tir import Buffer, Expr, T, load, local, store, vector


def input_sums(g: Geometry, dtype: str, image: Buffer, factor: Buffer) -> Buffer:
    """int32 [output pixels]: `factor[0]` times the sum of the bytes under the kernel, shifted by 128 if signed."""
    sums = T.decl_buffer((g.pixels,), "int32")
    with region(g.rows, g.pixels * g.taps) as row:
        with T.serial(g.width) as column:
            address = g.address(row, column)
            total = local(1, "int32")
            store(total, T.int32(0), 0)
            for run in g.runs:
                _add_run(image, address + run, g.run, dtype, total)
            store(sums, load(total, 0) * factor[0], row * g.width + column)
    return sums


def _add_run(image: Buffer, address: Expr, length: int, dtype: str, total: Buffer) -> None:
    """Add `length` consecutive bytes to `total`, in vectors of 64 and then smaller ones."""
    done = 0
    while done < length:
        lanes = min(64, 1 << ((length - done).bit_length() - 1))
        count = (length - done) // lanes
        with T.serial(count) as i:
            part = load(image, address + done + i * lanes, lanes=lanes)
            value = T.cast(T.reinterpret(vector("uint8", lanes), part), vector("int32", lanes))
            if dtype == "int8":
                value = T.bitwise_xor(value, T.broadcast(T.int32(128), lanes) if lanes > 1 else T.int32(128))
            if lanes > 1:
                add = T.llvm_lookup_intrinsic_id("llvm.vector.reduce.add")
                value = T.call_llvm_pure_intrin("int32", add, value)
            store(total, load(total, 0) + value, 0)
        done += count * lanes
