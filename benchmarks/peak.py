"""What one core can multiply: the rates of its instructions alone, in 10^9 multiply-accumulates of bytes a second.

There is one of the vector unit, and one of the matrix unit (AMX) where the processor has it.  `python -m
benchmarks.peak` prints both for the best level of this processor.  Efficiency is a rate over one of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm

from tflite2q.kernels.contracts import Tensor
from tflite2q.kernels.loops import threads
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, function, load, local, store, vector
from tflite2q.kernels.x86 import amx
from tflite2q.kernels.x86.isa import LEVELS, DotProduct, Level
from tflite2q.lower.machine import use_threads
from tflite2q.lower.target import resolve, tvm_target

ITERATIONS = 4096
REPEATS = 60
VARIED = 16  # different operands: few enough for the first cache

# A register of the matrix unit holds so many rows of so many bytes; it has eight of them.
ROWS, ROW = 16, 64
SUMS, INPUTS, WEIGHTS = 6, 6, 7  # so many of sums, then one of each operand


@dataclass(frozen=True)
class Peaks:
    """The peaks of one core: of its vector unit, and of its matrix unit, None where there is none."""

    vector: float
    matrix: float | None

    def of(self, matrix: bool) -> float:
        """The peak of products; `matrix`: they are ones that a matrix unit can do."""
        return self.vector if self.matrix is None or not matrix else max(self.vector, self.matrix)


def level(target: Any) -> Level | None:
    """The best level of x86 vector instructions that `target` has; None if it has none."""
    return next((isa for isa in LEVELS if isa.lacks(target) is None), None)


def gmacs(threads: int = 1) -> float | None:
    """The peak of this processor's dot products on so many cores at once; None where it has none."""
    target = tvm_target(resolve("native"))
    isa = level(target)
    return peak(isa, target, threads) if isa is not None and isinstance(isa.bytes, DotProduct) else None


def peaks(isa: Level, target: Any) -> Peaks:
    """Both peaks of one core of this processor, which `target` is."""
    return Peaks(peak(isa, target), None if amx.lacks(target) else matrix_peak(target))


def peak(isa: Level, target: Any, threads: int = 1) -> float:
    """10^9 multiply-accumulates of bytes a second, by the fastest products there are, into independent accumulators in
    registers.

    Dot products take the same operands again and again, and nothing is read from memory.  Where a product is several
    instructions a compiler would do these once, so that operands come from the first cache instead, as in a kernel.
    """
    chains, product = isa.accumulators, isa.unsaturated or isa.bytes
    count = 4 * isa.lanes
    once = isinstance(product, DotProduct)
    sets = 1 if once else VARIED

    def body(x: Buffer, w: Buffer, y: Buffer) -> None:
        with T.parallel(threads) if threads > 1 else T.serial(1) as thread:
            accumulators = [local(isa.lanes, "int32") for _ in range(chains)]
            for accumulator in accumulators:
                store(accumulator, broadcast(T.int32(0), isa.lanes), 0, lanes=isa.lanes)

            def inputs(at: Expr | int) -> Any:
                return product.inputs(T.reinterpret(vector("int32", isa.lanes), load(x, at, 0, lanes=count)))

            def weights(at: Expr | int) -> Any:
                return product.weights(lambda offset, lanes: load(w, at, offset, lanes=lanes))

            fixed = (inputs(0), weights(0)) if once else None
            with T.serial(ITERATIONS) as iteration:
                # Products of two inputs by half as many weights as there are accumulators, as in a tile.
                rows = [inputs((iteration + row) % sets) for row in range(2)] if fixed is None else []
                for number, accumulator in enumerate(accumulators):
                    factors = fixed or (rows[number % 2], weights((iteration + number // 2) % sets))
                    value = product.add(load(accumulator, 0, lanes=isa.lanes), *factors)
                    store(accumulator, value, 0, lanes=isa.lanes)
            for i, accumulator in enumerate(accumulators):
                store(y, load(accumulator, 0, lanes=isa.lanes), thread, i * isa.lanes, lanes=isa.lanes)

    tensors = (
        Tensor((sets, count), "uint8"),
        Tensor((sets, count), f"int{product.bits}"),
        Tensor((threads, chains * isa.lanes), "int32"),
    )
    code = function(tensors[:1], tensors[1:2], tensors[2], body).with_attr("global_symbol", "peak")
    run = tvm.compile(tvm.IRModule({"peak": code}), target=target)["peak"]
    arrays = [tvm.runtime.tensor(np.ones(t.shape, t.dtype)) for t in tensors]
    use_threads(threads)
    seconds = fastest(lambda: run(*arrays))
    return threads * chains * isa.lanes * 4 * ITERATIONS / seconds / 1e9


def matrix_peak(target: Any) -> float:
    """10^9 multiply-accumulates of bytes a second of the matrix unit, from registers into independent accumulators."""

    def body(x: Buffer, w: Buffer, configuration: Buffer, y: Buffer) -> None:
        amx.ask()
        amx.configure(configuration)
        for register in range(SUMS):
            amx.zero(register)
        amx.load(INPUTS, x[0, 0], T.int64(ROW))
        amx.load(WEIGHTS, w[0, 0], T.int64(ROW))
        with T.serial(ITERATIONS):
            for register in range(SUMS):
                amx.multiply(register, INPUTS, WEIGHTS, "uint8")
        for register in range(SUMS):
            amx.store(register, y[register * ROWS, 0], T.int64(ROW))
        amx.release()

    tensors = (
        Tensor((ROWS, ROW), "uint8"),
        Tensor((ROWS, ROW), "int8"),
        Tensor((64,), "uint8"),
        Tensor((SUMS * ROWS, ROW // 4), "int32"),
    )
    with threads(parts=False):
        code = function(tensors[:1], tensors[1:3], tensors[3], body).with_attr("global_symbol", "peak")
    run = tvm.compile(tvm.IRModule({"peak": code}), target=target)["peak"]
    configuration = np.zeros(64, np.uint8)  # palette 1: bytes of a row from 16 on, rows from 48 on
    configuration[0] = 1
    configuration[16:32:2], configuration[48:56] = ROW, ROWS
    x, w, y = (np.ones(t.shape, t.dtype) for t in (*tensors[:2], tensors[3]))
    arrays = [tvm.runtime.tensor(array) for array in (x, w, configuration, y)]
    use_threads(1)
    seconds = fastest(lambda: run(*arrays))
    return SUMS * ROWS * (ROW // 4) * ROW * ITERATIONS / seconds / 1e9


def fastest(run: Any, repeats: int = REPEATS) -> float:
    """Seconds of the fastest of several runs: other processes only ever add."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    target = tvm_target(resolve("native"))
    isa = level(target)
    if isa is None:
        raise SystemExit("peak: only x86 processors with AVX2 or later are measured, and this is none")
    found = peaks(isa, target)
    print(f"{isa.name}: {found.vector:.0f} G MAC/s on one core")
    if found.matrix is not None:
        print(f"{amx.NAME}: {found.matrix:.0f} G MAC/s on one core")


if __name__ == "__main__":
    main()
