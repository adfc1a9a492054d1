"""How fast one core reads and writes: each of its caches, and what lies behind them.

Three loops run over so many bytes that they lie in one memory and in no nearer one.  One only reads, one only stores,
one copies.  Copies are measured too because a core reads and stores at once.  In the first cache these have ways of
their own, and a copy takes little longer than the slower of the two; far away they share one way, and it takes as long
as both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from benchmarks.peak import REPEATS, fastest
from tflite2q.kernels.contracts import Tensor
from tflite2q.kernels.tir import Buffer, T, broadcast, function, load, local, store
from tflite2q.lower.machine import use_threads

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # where Linux says what caches a core has
TYPICAL = (1 << 15, 1 << 18, 1 << 23)  # bytes of them where nobody says
NAMES = ("first cache", "second cache", "third cache", "fourth cache")
BEHIND = "memory"

UNROLLED = 4  # vectors of an iteration
LEAST, MOST = 1 << 22, 1 << 30  # bytes: of one measurement, over some passes if need be; of a loop's buffers


@dataclass(frozen=True)
class Memory:
    """A memory that holds `size` bytes (None: any number), and how many 10^9 bytes a second one core reads there,
    stores there, or copies there: bytes of a copy count once."""

    name: str
    size: int | None
    read: float
    store: float
    copy: float

    def holds(self, size: int) -> bool:
        return self.size is None or size <= self.size


def caches(folder: Path = CACHES) -> tuple[int, ...]:
    """Bytes of each cache of data that one core uses, nearest first; typical ones where the system does not say."""
    found = {}
    for place in folder.glob("index*"):
        try:
            kind, level, size = ((place / name).read_text().strip() for name in ("type", "level", "size"))
            if kind != "Instruction":
                found[int(level)] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):  # virtual machines leave out some of it
            continue
    return tuple(found[level] for level in sorted(found)) or TYPICAL


def working(sizes: Sequence[int], most: int = MOST) -> list[int]:
    """For each cache of these sizes, bytes that lie there and in no nearer one; last, bytes that no cache holds, if
    they are no more than `most`, or a quarter of what there is.

    They are as few as that allows: a memory is fastest then, and limits are to be what it can do at best.
    """
    each = [min((below + size) // 2, 4 * below or size) for below, size in zip((0, *sizes), sizes, strict=False)]
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [min(size, most) for size in (*each, min(4 * sizes[-1], physical // 4))]


def measured(target: Any, lanes: int, sizes: Sequence[int] | None = None, most: int = MOST) -> tuple[Memory, ...]:
    """All memories of this processor, nearest first, by vectors of so many 32-bit lanes."""
    use_threads(1)
    sizes = caches() if sizes is None else sizes
    bounds = [*zip(NAMES, sizes, strict=False), (BEHIND, None)]
    return tuple(
        Memory(name, bound, *(_speed(target, lanes, step, size) for step in (_read, _store, _copy)))
        for (name, bound), size in zip(bounds, working(sizes, most), strict=True)
    )


@dataclass(frozen=True)
class _Pass:
    """What a loop works on: `sums` are registers, `number` is a vector that holds the number of the pass."""

    x: Buffer
    y: Buffer
    sums: Sequence[Buffer]
    number: Any
    lanes: int

    def load(self, vector: Any) -> Any:
        return load(self.x, vector * self.lanes, lanes=self.lanes)

    def store(self, value: Any, vector: Any) -> None:
        store(self.y, value, vector * self.lanes, lanes=self.lanes)


_Step = Callable[[_Pass, Any, int], None]  # one vector, and which of those of an iteration it is


def _read(each: _Pass, vector: Any, unrolled: int) -> None:
    """Read, and an exclusive or, of which a core does more than it reads."""
    total = each.sums[unrolled]
    store(total, T.bitwise_xor(load(total, 0, lanes=each.lanes), each.load(vector)), 0, lanes=each.lanes)


def _store(each: _Pass, vector: Any, unrolled: int) -> None:
    each.store(each.number, vector)


def _copy(each: _Pass, vector: Any, unrolled: int) -> None:
    # As it is, the compiler would call memcpy, and store the same once.
    each.store(T.bitwise_xor(each.load(vector), each.number), vector)


def _speed(target: Any, lanes: int, step: _Step, size: int) -> float:
    """10^9 bytes a second of a loop of `step` over buffers of `size` bytes together."""
    each = size // 2 if step is _copy else size
    iterations = max(1, each // (4 * lanes * UNROLLED))
    each = 4 * lanes * UNROLLED * iterations
    passes = max(1, LEAST // each)

    def body(x: Buffer, counts: Buffer, y: Buffer) -> None:
        # Passes and iterations are read: were they known, short loops would be taken apart.
        sums = [local(lanes, "int32") for _ in range(UNROLLED)]
        for total in sums:
            store(total, broadcast(T.int32(0), lanes), 0, lanes=lanes)
        with T.serial(counts[0]) as number:
            work = _Pass(x, y, sums, broadcast(number, lanes), lanes)
            with T.serial(counts[1]) as iteration:
                for unrolled in range(UNROLLED):
                    step(work, iteration * UNROLLED + unrolled, unrolled)
        if step is _read:
            for unrolled, total in enumerate(sums):
                work.store(load(total, 0, lanes=lanes), unrolled)

    few = UNROLLED * lanes
    shapes = (few if step is _store else each // 4, 2, few if step is _read else each // 4)
    x, counts, y = (Tensor((shape,), "int32") for shape in shapes)
    code = function((x,), (counts,), y, body).with_attr("global_symbol", "speed")
    run = tvm.compile(tvm.IRModule({"speed": code}), target=target)["speed"]
    arrays = [tvm.runtime.empty(tensor.shape, "int32") for tensor in (x, counts, y)]
    # All are filled, for memory that nobody wrote to is one page of zeros.
    for array, values in zip(arrays, ([1], [passes, iterations], [1]), strict=True):
        np.from_dlpack(array)[...] = values
    seconds = fastest(lambda: run(*arrays), max(5, min(REPEATS, MOST // (4 * each))))
    return each * passes / seconds / 1e9
