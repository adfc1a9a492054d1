"""Sums of the inputs that each output pixel of a convolution reads: what a weight zero point multiplies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tflite2q.kernels.loops import region
from tflite2q.kernels.tir import Buffer, Expr, T, load, local, store, vector

if TYPE_CHECKING:
    from tflite2q.kernels.x86.conv import Plan


def row_sums(plan: Plan, image: Buffer, factor: Buffer) -> Buffer:
    """int32 [output pixels]: `factor[0]` times the sum of the (unsigned) bytes under the kernel."""
    sums = T.decl_buffer((plan.rows * plan.width,), "int32")
    _, h, w, c = plan.image
    h, w = h + plan.padding[0] + plan.padding[2], w + plan.padding[1] + plan.padding[3]
    out_h = max(plan.rows // plan.image[0], 1)
    with region(plan.rows, plan.rows * plan.width * plan.run * len(plan.runs)) as row:
        with T.serial(plan.width) as column:
            line = row // out_h * h + row % out_h * plan.strides[0] if plan.rows > 1 else 0
            address = (line * w + column * plan.strides[1]) * c
            total = local(1, "int32")
            store(total, T.int32(0), 0)
            for run in plan.runs:
                _add_run(image, address + run, plan.run, plan.inputs.dtype, total)
            store(sums, load(total, 0) * factor[0], row * plan.width + column)
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
