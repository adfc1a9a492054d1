"""Instructions and memory on emulated microcontrollers, beside TensorFlow Lite Micro's with CMSIS-NN.

Its numbers were counted between the same marks on the same boards, both at their own pins, GCC 12.2, -O3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tflite2q import convert, load
from tflite2q.errors import Unchanged
from tflite2q.lower import targets
from tflite2q.micro import emulator, library

# Instructions on the M4 and the M55, bytes of the arena.
THEIRS: Mapping[str, tuple[int, int, int]] = {
    "kws_ref_model": (7_845_816, 1_785_870, 22_820),
    "vww_96_int8": (24_720_399, 6_433_578, 100_708),
    "pretrainedResnet_quant": (29_874_128, 4_811_033, 54_996),
    "ad01_int8": (582_345, 150_001, 2_580),
    "mobilenet_v1_0.25_128_quant": (45_366_921, 12_050_617, 166_244),
}
BOARDS = ("cortex-m4", "cortex-m55")


def measure(folder: Path, wanted: Callable[[str], bool] = lambda name: True, by: str = "a") -> dict[str, Any]:
    """Rows of models in `folder`, those that are there and wanted: by board, instructions, arena, stack, code, weights
    with biases, tables, and ratios to theirs."""
    rows = []
    for name, theirs in THEIRS.items():
        path = folder / f"{name}.tflite"
        if not wanted(name) or not path.exists():
            continue
        try:
            graph = convert(path, "int8").graph
        except Unchanged:
            graph = load(path)
        kind = graph[graph.inputs[0]].type
        sample = np.random.default_rng(0).integers(*kind.range, size=kind.shape, endpoint=True).astype(kind.dtype)
        row: dict[str, Any] = {"model": name}
        for number, board in enumerate(BOARDS):
            target = targets.micro(board)
            assert target is not None
            ran = emulator.run(graph, board, [[sample]], by)
            made = library.make(graph, "model", target)
            arena = made.plan.bytes
            assert ran.code is not None and ran.constants is not None and ran.instructions is not None
            row[board] = {
                "instructions": ran.instructions, "ratio": ran.instructions / theirs[number], "arena": arena,
                "stack": ran.stack, "memory_ratio": (arena + ran.stack) / theirs[2], "code": ran.code,
                "weights": made.program.weight_bytes, "tables": ran.constants - made.program.weight_bytes,
            }  # fmt: skip
        rows.append(row)
    means = {b: math.exp(sum(math.log(r[b]["ratio"]) for r in rows) / max(len(rows), 1)) for b in BOARDS}
    return {"rows": rows, "means": means}


def text(result: Mapping[str, Any]) -> str:
    """A table in Markdown."""
    lines = ["| model | board | instructions | of TFLM | arena | stack | of TFLM's arena | code | weights "
             "and biases | tables | code and tables |", "| --- " * 11 + "|"]  # fmt: skip
    for row in result["rows"]:
        for board in BOARDS:
            each = row[board]
            lines.append(
                f"| {row['model']} | {board} | {each['instructions']:,} | {each['ratio']:.3f} | {each['arena']:,} | "
                f"{each['stack']:,} | {each['memory_ratio']:.2f} | {each['code']:,} | {each['weights']:,} | "
                f"{each['tables']:,} | {each['code'] + each['tables']:,} |"
            )
    lines += [f"| geometric mean | {board} | | {mean:.3f} | | | | | | | |" for board, mean in result["means"].items()]
    return "\n".join(lines)
