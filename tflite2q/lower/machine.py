"""TVM's virtual machine, as little of it as running a model takes."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from tflite2q.errors import DataError
from tflite2q.kernels.x86 import amx

Array = npt.NDArray[Any]

FASTEST_CORES = 1  # TVM's affinity mode: threads on the fastest cores first

# How many threads TVM may use at all.  Without it TVM asks the system again at every parallel region, which takes as
# long as a small layer, and on x86 it believes that half of the processors are there.
MOST_THREADS = "TVM_NUM_THREADS"
# How often a thread of TVM's pool looks for work before it sleeps.  TVM's own 300,000 take half a second of every
# processor, also for a model on one thread, whenever another thread first runs one; these cover the gaps within a run.
PATIENCE = ("TVM_THREAD_POOL_SPIN_COUNT", "10000")

_configured = threading.local()

# What arrays' own indexing calls, too, after a microsecond of checks.
_item = tvm.get_global_func("ffi.ArrayGetItem")


def load(path: str) -> Any:
    """The code of a shared library.  Raises DataError if the system cannot load it."""
    try:
        return tvm.runtime.load_module(path)
    except (RuntimeError, OSError, ValueError) as error:
        why = str(error).strip().splitlines()[-1]
        raise DataError(f"{path}: cannot be loaded: {why}") from error


def machine(code: Any) -> Any:
    """A virtual machine on this processor for an executable or a loaded library; `machine["main"]` is the model."""
    return relax.VirtualMachine(code, tvm.cpu())


def tensor(array: Any) -> Any:
    """A TVM tensor with a copy of `array`."""
    return tvm.runtime.tensor(array)


class Worker:
    """A virtual machine with argument tensors of its own, for one call at a time."""

    def __init__(self, code: Any, arguments: Sequence[Array], threads: int) -> None:
        self._main = machine(code)["main"]
        self._arguments = [tensor(array) for array in arguments]
        self._places = [np.from_dlpack(argument) for argument in self._arguments]
        self._threads = threads
        self._count = 0  # of the results, known after the first run

    @property
    def places(self) -> list[Array]:
        """The memory of the arguments."""
        return self._places

    def run(self, arrays: Sequence[Array], out: Sequence[Array] = ()) -> list[Array]:
        """All results for `arrays`, one for each argument, of its shape and dtype: the first ones in `out`, the others
        copies."""
        # One for each, as the caller has checked; `strict` would take as long as copying a small input.
        for place, array in zip(self._places, arrays, strict=False):
            place[...] = array
        found = self.results()
        if not out:
            # Results may be arguments or constants of the code, and the memory of others is the next call's.
            return [result.copy() for result in found]
        for place, result in zip(out, found, strict=False):
            place[...] = result
        return [*out, *[result.copy() for result in found[len(out) :]]]

    def results(self) -> list[Array]:
        """All results for what the arguments hold, in memory that the next call may write to."""
        use_threads(self._threads)
        found = self._main(*self._arguments)
        if self._count == 1:
            return [np.from_dlpack(_item(found, 0))]
        if not self._count:
            self._count = len(found)
        return [np.from_dlpack(_item(found, index)) for index in range(self._count)]

    def times(self, runs: int) -> list[float]:
        """Milliseconds of each of `runs` runs on the arguments of the last one."""
        use_threads(self._threads)
        found = []
        for _ in range(runs):
            start = time.perf_counter()
            self._main(*self._arguments)
            found.append((time.perf_counter() - start) * 1e3)
        return found


def use_threads(count: int) -> None:
    """Run parallel regions started by the calling thread on `count` threads, at most one a processor.

    The environment's TVM_NUM_THREADS, if set, is the limit instead of the number of processors.
    """
    if getattr(_configured, "count", None) != count:
        os.environ.setdefault(MOST_THREADS, str(processors()))
        os.environ.setdefault(*PATIENCE)
        tvm.get_global_func("runtime.config_threadpool")(FASTEST_CORES, count)
        _configured.count = count


def processors() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def grants_matrix_unit() -> bool:
    """Whether the system lets this process use the matrix unit of x86, if its processor has one."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    return int(ctypes.CDLL(None).syscall(*map(ctypes.c_long, amx.PERMISSION))) == 0
