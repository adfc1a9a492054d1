"""Runs on the emulated Arm machine: marks what the emulator's counter is to count.  With NumPy and a runtime only.

    counted.py litert MODEL.tflite ...      LiteRT's `invoke`
    counted.py ours LIBRARY.so ...          the compiled model's function without the virtual machine

For each file: runs that are not counted, then blocks of one share, two, one and two, each between two marks.  How many
runs are a share is printed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

BLOCKS = (1, 2, 1, 2)  # shares
# Of an inference that takes long a share is one; of others so many that what Python does now and then is spread.
LONG_S, SHARE = 0.25, 32


def mark() -> None:
    """What the counter takes for a mark; to the system it is a question."""
    os.sched_get_priority_max(os.SCHED_BATCH)


def litert(path: str) -> Callable[[], Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], codes(detail["shape"], detail["dtype"]))
    invoke: Callable[[], Any] = interpreter.invoke
    return invoke


def ours(path: str) -> Callable[[], Any]:
    # As on a device: TVM's runtime without its compiler, and one thread.
    os.environ.update(TVM_USE_RUNTIME_LIB="1", TVM_NUM_THREADS="1")
    import json

    import tvm
    from tvm.runtime.vm import VirtualMachine

    machine = VirtualMachine(tvm.runtime.load_module(path), tvm.cpu())
    content = machine["manifest"]().numpy().tobytes()
    inputs = json.loads(content[content.index(b"{") :])["inputs"]
    # What `run` of a bound executable does: inputs and results have their places, here 64 bytes or multiples of them.
    sizes, *rest = machine["main_rest"]()
    places = [tvm.runtime.empty((1, -(-int(size) // 64) * 64), "uint8") for size in sizes.numpy()]
    for place, value in zip(places, inputs, strict=False):
        array = codes(value["shape"], value["dtype"])
        np.from_dlpack(place)[0, : array.nbytes] = array.reshape(-1).view(np.uint8)
    return partial(machine.module.get_function("main_many", True), *places, *rest, 1)


def codes(shape: Any, dtype: Any) -> Any:
    """Random codes of 8 bits."""
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8).view(dtype)


def main(kind: str, *paths: str) -> None:
    for path in paths:
        run = {"litert": litert, "ours": ours}[kind](path)
        run()  # the emulator translates
        start = time.perf_counter()
        run()
        share = 1 if time.perf_counter() - start > LONG_S else SHARE
        print(share, flush=True)
        for _ in range(share):
            run()
        mark()
        for count in BLOCKS:
            for _ in range(count * share):
                run()
            mark()


if __name__ == "__main__":
    main(*sys.argv[1:])
