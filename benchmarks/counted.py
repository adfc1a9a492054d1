"""Runs on the emulated Arm machine: marks what the emulator's counter is to count.  With NumPy and a runtime only.

    counted.py litert MODEL.tflite ...      LiteRT's `invoke`
    counted.py ours LIBRARY.so ...          the compiled model's `main`, and its results as arrays

For each file: runs that are not counted, then blocks of one share, two, one and two, each between two marks.  How many
runs are a share is printed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
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
    return interpreter.invoke


def ours(path: str) -> Callable[[], Any]:
    # As on a device: TVM's runtime without its compiler, and one thread.
    os.environ.update(TVM_USE_RUNTIME_LIB="1", TVM_NUM_THREADS="1")
    import json

    import tvm
    from tvm.runtime.vm import VirtualMachine

    machine = VirtualMachine(tvm.runtime.load_module(path), tvm.cpu())
    content = machine["manifest"]().numpy().tobytes()
    inputs = json.loads(content[content.index(b"{") :])["inputs"]
    arguments = [tvm.runtime.tensor(codes(value["shape"], value["dtype"])) for value in inputs]
    main, item = machine["main"], tvm.get_global_func("ffi.ArrayGetItem")
    count = len(main(*arguments))

    def run() -> list[Any]:
        # What `run` of a bound executable does.
        found = main(*arguments)
        return [np.from_dlpack(item(found, index)) for index in range(count)]

    return run


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
