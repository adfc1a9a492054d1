"""TVM's virtual machine, as little of it as running a model takes."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import combinations
from math import prod
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tvm
import tvm_ffi
from tvm import relax

from tflite2q.errors import DataError
from tflite2q.kernels.x86 import amx
from tflite2q.lower.entry import ALIGNMENT, MAIN, MANY, REST, aligned

Array = npt.NDArray[Any]
Kind = tuple[tuple[int, ...], np.dtype[Any]]  # shape and dtype
T = TypeVar("T")

FASTEST_CORES = 1  # TVM's affinity mode: threads on the fastest cores first

# How many threads TVM may use at all.  Without it TVM asks the system again at every parallel region, which takes as
# long as a small layer, and on x86 it believes that half of the processors are there.
MOST_THREADS = "TVM_NUM_THREADS"
# How often a thread of TVM's pool looks for work before it sleeps.  TVM's own 300,000 take half a second of every
# processor, also for a model on one thread, whenever another thread first runs one; these cover the gaps within a run.
PATIENCE = ("TVM_THREAD_POOL_SPIN_COUNT", "10000")

LARGE = 1 << 14  # bytes of an array that take longer to copy than a call of Python's takes

# What each thread was configured for: `count` threads.  `orphan`: the thread was forked, without those that help it.
_configured = threading.local()


def machine(code: Any) -> Any:
    """A virtual machine on this processor for an executable or a loaded library; `machine["main"]` is the model."""
    return relax.VirtualMachine(code, tvm.cpu())


def tensor(array: Any) -> Any:
    """A TVM tensor with a copy of `array`."""
    return tvm.runtime.tensor(array)


class Slots:
    """Memory for one argument or result of so many samples, as `entry.MANY` takes it.

    `slots` are the samples' arrays, the first axis being that of samples, `rows` the bytes of each.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, count: int) -> None:
        size = prod(shape) * dtype.itemsize
        self.tensor = tvm.runtime.empty((count, aligned(size)), "uint8")
        self.rows = np.from_dlpack(self.tensor)[:, :size]
        self.slots = self.rows.view(dtype).reshape(count, *shape)
        self.large = size >= LARGE

    def take(self, arrays: Sequence[Array]) -> None:
        """Copy the arrays of samples into the first slots."""
        if self.large:  # each by itself, while other threads go on
            for index, array in enumerate(arrays):
                self.slots[index] = array
        else:
            self.slots[: len(arrays)] = arrays


class Many:
    """The function of compiled code for several samples, and memory for up to `capacity` of them."""

    def __init__(
        self, virtual: Any, arguments: Sequence[Array], results: Sequence[Kind], threads: int, capacity: int
    ) -> None:
        self._threads, self.capacity = threads, capacity
        sizes, *rest = virtual[REST]()
        self.taken = [Slots(array.shape, array.dtype, capacity) for array in arguments]
        self.given = [Slots(*kind, capacity) for kind in results]
        slots = [*self.taken, *self.given]
        if [each.rows.shape[1] for each in slots] != sizes.numpy().tolist():
            raise DataError("the library's manifest does not describe its code; compile it again")
        self._function, self._rest = virtual.module.get_function(MANY, True), rest
        self._arguments, self.own = ([each.tensor for each in side] for side in (self.taken, self.given))
        self.call = partial(self._function, *self._arguments, *self.own, *rest)
        self._used = [_span(each.tensor, each.tensor.numel()) for each in slots]
        self.lends = any(each.large for each in self.given)

    def call_into(self, places: Sequence[Any]) -> None:
        """One sample, its results in these tensors (`places`)."""
        self._function(*self._arguments, *places, *self._rest, 1)

    def places(self, out: Sequence[Array]) -> list[Any]:
        """The tensors that the code is to write its results to: those of `out` that start where a tensor may, without
        gaps, in memory that nothing else of the call lies in, and its own for the others and for small ones."""
        places, used = list(self.own), self._used
        for index, array in enumerate(out):
            if array.nbytes >= LARGE and array.flags.c_contiguous:
                lent = tvm_ffi.from_dlpack(array)
                first, end = _span(lent, array.nbytes)
                if first % ALIGNMENT == 0 and all(end <= low or high <= first for low, high in used):
                    places[index], used = lent, [*used, (first, end)]
        return places

    def run_all(self, samples: Sequence[Sequence[Array]]) -> list[list[Array]]:
        """All results for each of at most `capacity` samples."""
        count = len(samples)
        for slots, arrays in zip(self.taken, zip(*samples, strict=True), strict=True):
            slots.take(arrays)
        launched(self._threads, partial(self.call, count))
        # Each result is a part of one copy: copies by themselves would take as long as a small layer.
        found = [_parts(slots.slots[:count].copy()) for slots in self.given]
        return list(map(list, zip(*found, strict=True))) if found else [[] for _ in samples]

    def run_rows(self, arrays: Sequence[Array], out: Sequence[Array]) -> None:
        """Results for at most `capacity` samples: arrays of their bytes, a row for each."""
        count = len(arrays[0])
        for slots, array in zip(self.taken, arrays, strict=True):
            slots.rows[:count] = array
        launched(self._threads, partial(self.call, count))
        for slots, array in zip(self.given, out, strict=True):
            array[...] = slots.rows[:count]


class Worker:
    """A compiled model with memory for what it takes and gives, for one call at a time.

    Code that has the function for it computes `many` samples in one call.
    """

    def __init__(self, code: Any, arguments: Sequence[Array], results: Sequence[Kind], threads: int, most: int) -> None:
        """`arguments` are those of the first call, if no others are given; `most` samples are computed at once."""
        self._threads = threads
        self.many: Many | None = None
        virtual = machine(code)
        if not virtual.module.implements_function(MANY, True):
            tensors = [tensor(array) for array in arguments]
            self._places = [np.from_dlpack(each) for each in tensors]
            self._call = partial(virtual[MAIN], *tensors)
            return
        self.many = many = Many(virtual, arguments, results, threads, most)
        self._places, self._found = ([each.slots[0, ...] for each in side] for side in (many.taken, many.given))
        self._call = partial(many.call, 1)
        self.fill(arguments)

    @property
    def places(self) -> list[Array]:
        """The memory of the arguments."""
        return self._places

    def fill(self, arrays: Sequence[Array]) -> None:
        """Set the arguments, one array for each, of its shape and dtype."""
        # The caller has checked their number; `strict` would take as long as copying a small input.
        for place, array in zip(self._places, arrays, strict=False):
            place[...] = array

    def run(self, arrays: Sequence[Array], out: Sequence[Array] = ()) -> list[Array]:
        """All results for `arrays`, one for each argument, of its shape and dtype: the first ones in `out`, the others
        copies."""
        self.fill(arrays)
        if out:
            found = self.results_in(out)
            return [*out, *[result.copy() for result in found[len(out) :]]]
        # Their memory is the next call's, or that of arguments or constants of the code.
        return [result.copy() for result in self.results()]

    def results(self) -> list[Array]:
        """All results for what the arguments hold, in memory that the next call may write to."""
        found = launched(self._threads, self._call)
        return self._found if found is None else [np.from_dlpack(found[index]) for index in range(len(found))]

    def results_in(self, out: Sequence[Array]) -> list[Array]:
        """As `results`, the first ones in `out`: written there by the code itself where the memory is as it needs it,
        else copied."""
        if self.many is None or not self.many.lends:
            found = self.results()
            copied = list(zip(out, found, strict=False))
        else:
            places, found = self.many.places(out), self._found
            launched(self._threads, partial(self.many.call_into, places))
            each = zip(out, found, places, self.many.own, strict=False)
            copied = [(array, result) for array, result, place, own in each if place is own]
        if len(copied) > 1 and _overlap(copied):
            copied = [(array, result.copy()) for array, result in copied]
        for array, result in copied:
            array[...] = result
        return [*out, *found[len(out) :]]

    def run_all(self, samples: Sequence[Sequence[Array]]) -> list[list[Array]]:
        """As `run`, for several samples, in one call if there is one for so many."""
        if self.many is None or not 1 < len(samples) <= self.many.capacity:
            return [self.run(sample) for sample in samples]
        return self.many.run_all(samples)

    def times(self, runs: int) -> list[float]:
        """Milliseconds of each of `runs` runs on the arguments of the last one."""
        return launched(self._threads, partial(self._timed, runs))

    def _timed(self, runs: int) -> list[float]:
        found = []
        for _ in range(runs):
            start = time.perf_counter()
            self._call()
            found.append((time.perf_counter() - start) * 1e3)
        return found


def _overlap(copied: Sequence[tuple[Array, Array]]) -> bool:
    """Whether what one result is copied to may hold a later one."""
    return any(np.may_share_memory(array, later) for (array, _), (_, later) in combinations(copied, 2))


def _span(tensor: Any, size: int) -> tuple[int, int]:
    """The addresses of the first of a tensor's bytes, and behind its last."""
    first: int = tensor.data_ptr()
    return first, first + size


def _parts(array: Array) -> Iterable[Array]:
    """The arrays along the first axis."""
    return array if array.ndim > 1 else (array[index, ...] for index in range(len(array)))  # numbers by themselves


def launched(count: int, call: Callable[[], T]) -> T:
    """What `call` returns, with parallel regions in it on `count` threads."""
    if getattr(_configured, "count", None) != count:
        if getattr(_configured, "orphan", False):
            found: T = _stand_in().submit(partial(launched, count, call)).result()
            return found
        use_threads(count)
    return call()


def _orphaned() -> None:
    """In a forked process: TVM would wait for ever for the threads that helped this one, which are the parent's."""
    if hasattr(_configured, "count"):
        _configured.orphan = True
        _configured.stand_in = None
        if _configured.count != 1:  # on one thread there is nobody to wait for
            _configured.count = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_orphaned)


def _stand_in() -> ThreadPoolExecutor:
    """A new thread, to which TVM gives new helpers."""
    if _configured.stand_in is None:
        _configured.stand_in = ThreadPoolExecutor(1)
    found: ThreadPoolExecutor = _configured.stand_in
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
