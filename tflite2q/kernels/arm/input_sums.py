"""Sums of the inputs that each output pixel of a convolution reads: what a weight zero point multiplies."""

from __future__ import annotations

from tflite2q.kernels.arm.isa import LANES, Form, flipped, intrinsic
from tflite2q.kernels.gemm import Geometry
from tflite2q.kernels.loops import region
from tflite2q.kernels.tir import Buffer, Expr, T, load, local, shuffle, store

UNIT = 4  # bytes of the last, narrow steps of a run
CHUNK = 16


def input_sums(g: Geometry, form: Form, image: Buffer, factor: Buffer) -> Buffer:
    """int32 [output pixels]: `factor[0]` times the sum of the codes under the kernel, as `form` multiplies them.

    A dot product with ones adds sixteen of them at once.
    """
    sums = T.decl_buffer((g.rows * g.width,), "int32")
    with region(g.rows, g.rows * g.width * g.run * len(g.runs)) as row, T.serial(g.width) as column:
        address = g.address(row, column)
        total = local(LANES, "int32")
        store(total, T.Broadcast(T.int32(0), LANES), 0, lanes=LANES)
        for first, count, pitch in g.regular_runs():
            with T.serial(count) as r:
                _add_run(g, form, image, T.Bind(address + g.runs[first] + r * pitch), total)
        add = T.llvm_lookup_intrinsic_id("llvm.vector.reduce.add")
        value = T.call_llvm_pure_intrin("int32", add, load(total, 0, lanes=LANES))
        store(sums, value * factor[0], row * g.width + column)
    return sums


def _add_run(g: Geometry, form: Form, image: Buffer, base: Expr, total: Buffer) -> None:
    whole = g.run // CHUNK
    with T.serial(whole) as c:
        bytes_ = T.reinterpret("int32x4", load(image, base + c * CHUNK, lanes=CHUNK))
        _add(form, total, bytes_, T.Broadcast(T.int32(0x01010101), LANES))
    for unit in range(whole * CHUNK // UNIT, g.units(UNIT)):
        start = g.unit_start(unit, UNIT)
        fresh = [UNIT * unit <= start + i < g.run for i in range(UNIT)]
        ones = sum(1 << 8 * i for i in range(UNIT) if fresh[i])
        four = T.reinterpret("int32", load(image, base + start, lanes=UNIT))
        # Counted in one lane only.
        pattern = shuffle([T.Broadcast(T.int32(ones), LANES), T.Broadcast(T.int32(0), LANES)], [0, 4, 4, 4])
        _add(form, total, T.Broadcast(four, LANES), pattern)


def _add(form: Form, total: Buffer, bytes_: Expr, ones: Expr) -> None:
    unsigned = form.dtype == "uint8" and not form.shift
    x = T.reinterpret("int8x16", flipped(bytes_) if form.shift else bytes_)
    value = intrinsic("udot" if unsigned else "sdot", load(total, 0, lanes=LANES), x, T.reinterpret("int8x16", ones))
    store(total, value, 0, lanes=LANES)
