"""Whether arrays are what their judge computed: integers bit for bit, real numbers within 1e-5 of the largest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op

Array = npt.NDArray[Any]

# Sums of real numbers depend on their order, which engines choose differently.
REAL_TOLERANCE = 1e-5


def difference(got: Array, want: Array, steps: int = 0) -> str:
    """How `got` differs from `want`, "" where it does not; integers may be `steps` apart."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    if got.dtype.kind == "f":
        both = np.isfinite(got) & np.isfinite(want)
        largest = float(np.abs(want[both]).max(initial=0.0))
        with np.errstate(invalid="ignore"):
            close = np.abs(got.astype(np.float64) - want) <= REAL_TOLERANCE * (largest + np.abs(want))
        same = close | (got == want) | (np.isnan(got) & np.isnan(want))
        unit = ""
    else:
        far = np.abs(got.astype(np.int64) - want.astype(np.int64))
        same, unit = far <= steps, f", by up to {int(far.max(initial=0))}"
    wrong = int(same.size - np.count_nonzero(same))
    return f"{wrong} of {same.size} elements differ{unit}" if wrong else ""


def outputs(graph: Graph, got: Sequence[Array], want: Sequence[Array], steps: int = 0) -> str:
    """The first output that differs and how, "" where none does."""
    if len(got) != len(want):
        return f"{len(got)} outputs instead of {len(want)}"
    for name, a, b in zip(graph.outputs, got, want, strict=True):
        told = difference(a, b, steps)
        if told:
            return f"output {name}: {told}"
    return ""


def tensors(
    graph: Graph, got: Mapping[str, Array], want: Mapping[str, Array], steps: int = 0
) -> tuple[Op | None, str, int]:
    """The op whose result is the first (in order) to differ, how, and how many results the judge had an answer for."""
    seen, first, culprit = 0, "", None
    for op in graph.ops:
        for name in op.outputs:
            if name in got and name in want:
                seen += 1
                told = difference(got[name], want[name], steps)
                if told and not first:
                    first, culprit = f"{op.mnemonic} {name}: {told}", op
    return culprit, first, seen


def worst_step(got: Sequence[Array], want: Sequence[Array]) -> str:
    """How far integer outputs are apart, in words: "equal", "within N steps" or "real numbers"."""
    pairs = [(a, b) for a, b in zip(got, want, strict=True) if a.shape == b.shape]
    if len(pairs) < len(got):
        return "of other shapes"
    whole = [(a, b) for a, b in pairs if a.dtype.kind in "iub"]
    far = max((int(np.abs(a.astype(np.int64) - b.astype(np.int64)).max(initial=0)) for a, b in whole), default=0)
    real = any(difference(a, b) for a, b in pairs if a.dtype.kind == "f")
    if far:
        return f"within {far} steps"
    return "real numbers differ" if real else "equal"
