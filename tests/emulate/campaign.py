"""Random graphs by number, each on one level of x86: `python -m emulate.campaign FIRST COUNT [LEVEL ...]` in `tests`.

Graph n runs on level n modulo the number of levels, all of them if none are named.  A line tells each graph before it
runs, so that the last line names what ended the process.  Exit code 1 if something was wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from emulate import levels
from emulate.graphs import graph

from tflite2q.lower.machine import use_threads


def level_of(seed: int, names: Sequence[str]) -> str:
    return names[seed % len(names)]


def run(first: int, count: int, names: Sequence[str]) -> int:
    """How many of the graphs were wrong."""
    use_threads(1)
    wrong = 0
    for seed in range(first, first + count):
        case, level = graph(seed), level_of(seed, names)
        layers = " ".join(op.mnemonic.removeprefix("q.") for op in case.graph.ops)
        print(f"{seed} on {level}: {layers}:", end=" ", flush=True)
        try:
            kernels = levels.check_bounds(case.graph, level)
            levels.check(case, level)
        except levels.Wrong as error:
            wrong += 1
            print(f"WRONG: {error}", flush=True)
        else:
            print(f"{kernels} kernels are right", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(levels.X86)) > 0)
