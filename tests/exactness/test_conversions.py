"""Every operator converted to the schemes that keep TFLite's arithmetic: LiteRT runs the file and the oracle agrees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from cases import FAMILIES, cases
from draw import Case
from judge import judge

from tflite2q import convert
from tflite2q.dialect.graph import Graph
from tflite2q.errors import Unchanged
from tflite2q.execution import reference
from tflite2q.flatbuffer.writer import write

pytest.importorskip("ai_edge_litert")

SCHEMES = (
    "int8",
    "symmetric-int8",
    "asymmetric-uint8",
    "symmetric-uint8",
    "int8-per-tensor",
    "int8-w4",
    "int16x8",
    "float32",
)
# Without those whose second input holds indices: schemes that look at data draw random ones, which need not exist.
INDICES = ("GATHER", "GATHER_ND", "ONE_HOT")
EIGHT_BITS = [f for f in FAMILIES if {"uint8", "int8"} & set(f.split("-")) and f.split("-")[0] not in INDICES]


def converted(count: int, schemes: Sequence[str]) -> list[tuple[str, Case, Graph]]:
    """(what it is, the original, the converted graph) of `count` cases of each 8-bit family and scheme."""
    found = []
    for family in EIGHT_BITS:
        for index, case in enumerate(cases(family, count, seed=2)):
            for scheme in schemes:
                if family == "EXP-int8" and scheme == "float32":
                    continue  # exponentials beyond int32 steps: LiteRT's QUANTIZE overflows where ours saturates
                try:
                    found.append((f"{family} {index} {scheme}", case, convert(case.graph, scheme).graph))
                except Unchanged:
                    continue
    return found


def agree(got: np.ndarray, want: np.ndarray, behind_floats: bool) -> bool:
    """Equal codes (a step apart where the last digit of a float32 decides), real numbers within 1e-5."""
    if got.dtype == np.float32:
        return np.allclose(got, want, rtol=1e-5, atol=1e-4)
    return int(np.abs(got.astype(np.int64) - want.astype(np.int64)).max(initial=0)) <= int(behind_floats)


def check(count: int, schemes: Sequence[str]) -> None:
    made = converted(count, schemes)
    assert len(made) > len(EIGHT_BITS)
    wrong = []
    for (name, case, graph), expected in zip(made, judge([(write(g), c.inputs) for _, c, g in made]), strict=True):
        if isinstance(expected, str):
            wrong.append(f"{name}: {expected[-150:]}")
            continue
        for got, want in zip(reference.run(graph, *case.inputs), expected, strict=True):
            if not agree(got, want, behind_floats=name.endswith("float32")):
                wrong.append(f"{name}: {' '.join(op.mnemonic for op in graph.ops)}")
    assert not wrong, f"{len(wrong)} of {len(made)}\n" + "\n".join(wrong[:20])


def test_once() -> None:
    check(1, ("int8", "symmetric-int8"))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_often(scheme: str) -> None:
    check(8, (scheme,))
