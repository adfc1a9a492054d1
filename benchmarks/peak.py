"""What one core can multiply: the rate of the dot-product instruction alone, in 10^9 multiply-accumulates a second.

`python -m benchmarks.peak` prints it for the best level of this processor.  Efficiency is a rate over this one.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tvm

from tflite2q.kernels.contracts import Tensor
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, function, load, local, store, vector
from tflite2q.kernels.x86.isa import LEVELS, DotProduct, Level
from tflite2q.lower.machine import use_threads
from tflite2q.lower.target import resolve, tvm_target

ITERATIONS = 4096
REPEATS = 60
VARIED = 16  # different operands: few enough for the first cache


def level(target: Any) -> Level | None:
    """The best level of dot-product instructions that `target` has; None if it has none."""
    return next((isa for isa in LEVELS if isinstance(isa.bytes, DotProduct) and isa.lacks(target) is None), None)


def gmacs(threads: int = 1) -> float | None:
    """The peak of this processor on so many cores at once; None where it has no dot products."""
    target = tvm_target(resolve("native"))
    isa = level(target)
    return None if isa is None else peak(isa, target, threads)


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
        print("this processor has no dot-product instructions")
        return
    print(f"{isa.name}: {peak(isa, target):.0f} G MAC/s on one core")


if __name__ == "__main__":
    main()
