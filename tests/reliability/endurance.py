"""The same thing many times in one process: memory must not grow.

python -m reliability.endurance [SHARE [NAME]]      in tests/; SHARE of the full numbers, 1 if not given; one of them

Each line gives the resident memory after the first tenth of the rounds, when caches are full, and after the last.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from networks import Net

from tflite2q import rewrites
from tflite2q.dialect.graph import Graph
from tflite2q.evaluation.compare import compare
from tflite2q.execution import runtime
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write
from tflite2q.rewrites import scheme

SAMPLES = 2000  # of one comparison
GROWTH = 32 << 20  # bytes that count as flat: allocators keep what was freed


@dataclass(frozen=True)
class Flat:
    """What so many rounds did to the memory: bytes after a tenth of them, and at the end; seconds."""

    what: str
    rounds: int
    early: int
    late: int
    seconds: float

    @property
    def flat(self) -> bool:
        return self.late - self.early <= GROWTH

    def __str__(self) -> str:
        sizes = f"{self.early / 2**20:.0f} MB, then {self.late / 2**20:.0f} MB"
        return f"{self.rounds:>7} {self.what}: {sizes}, {self.seconds:.0f} s{'' if self.flat else '  GROWS'}"


def resident() -> int:
    """Bytes of memory that this process has now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def repeated(what: str, rounds: int, once: Callable[[int], object]) -> Flat:
    """Do something so many times."""
    started, early = time.monotonic(), 0
    for index in range(rounds):
        once(index)
        if index == max(rounds // 10, 1) - 1:
            early = resident()
    found = Flat(what, rounds, early, resident(), time.monotonic() - started)
    print(found, flush=True)
    return found


def network(seed: int = 0) -> Graph:
    """A small network; others for other seeds."""
    net = Net("uint8", seed)
    x = net.input("x", (1, 6, 6, 4), (0.05, 128))
    return net.graph(net.conv(net.conv(x, "a", 8, (0.1, 120), size=3), "b", 4, (0.1, 128)))


def measured(share: float = 1.0, only: str = "") -> list[Flat]:
    """Runs, conversions, compared samples and compiles: 100,000, 500, 20,000 and 500 times `share`; or those of one
    name."""
    graph, int8 = network(), scheme.find("int8")
    data = write(graph)
    executable = runtime.compile(graph)
    x = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 4), dtype=np.uint8)

    def count(full: int) -> int:
        return max(int(full * share), 10)

    def convert(index: int) -> None:
        write(rewrites.convert(read(write(network(index))), int8).graph)

    def compared(index: int) -> None:
        samples = np.random.default_rng(index).integers(0, 256, (SAMPLES, 6, 6, 4), dtype=np.uint8)
        new = rewrites.convert(read(data), int8)
        compare(graph, new, data=samples, speed=False, layer_samples=0)

    what: tuple[tuple[str, int, Callable[[int], object]], ...] = (
        ("runs", 100_000, lambda _: executable.run(x)),
        ("conversions", 500, convert),
        (f"comparisons of {SAMPLES} samples", 10, compared),
        ("compiles", 500, lambda index: runtime.compile(network(index)).run(x)),
    )
    return [repeated(name, count(full), once) for name, full, once in what if name.startswith(only)]


if __name__ == "__main__":
    os.environ["TFLITE2Q_CACHE"] = "off"  # each compile is one
    found = measured(*map(float, sys.argv[1:2]), *sys.argv[2:3])
    sys.exit(not all(each.flat for each in found))
