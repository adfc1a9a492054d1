"""Damaged models that are used: compiled code and LiteRT's reference kernels compared with the reference."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from judge import judge
from reliability.fuzz import Array, inputs_of, results

from tflite2q.errors import Tflite2qError
from tflite2q.execution import runtime
from tflite2q.flatbuffer.reader import read


def deep(models: Sequence[bytes], answers: Any, mark: Callable[[bytes], None]) -> None:
    """Compile and run each model, then judge all of them; outcomes and finds are lines of `answers`."""
    os.environ["TVM_NUM_THREADS"] = "1"
    asked, expected = [], []
    for data in models:
        mark(data)
        graph = read(data)
        inputs = inputs_of(graph)
        wanted = results(graph, inputs)
        outcome = _compiled(graph, inputs, wanted)
        if outcome.startswith("compiled: other"):
            answers.write(f"find {outcome} {'/'.join(op.mnemonic for op in graph.ops)} {data.hex()}\n")
        answers.write(f"done {outcome}\n")
        answers.flush()
        asked.append((data, inputs))
        expected.append(wanted)
    for (data, _), found, wanted in zip(asked, judge(asked), expected, strict=True):
        outcome = _judged(found, wanted)
        if outcome == "judge: other results":
            ops = "/".join(op.mnemonic for op in read(data).ops)
            answers.write(f"find {outcome} {ops} {data.hex()}\n")
        answers.write(f"done {outcome}\n")


def _compiled(graph: Any, inputs: Sequence[Array], wanted: list[Array] | str) -> str:
    try:
        executable = runtime.compile(graph)
        found: list[Array] | str = executable.run(*inputs)
    except Tflite2qError as error:
        found = type(error).__name__
    if isinstance(found, str) or isinstance(wanted, str):
        return (
            "compiled: refused"
            if found == wanted
            else f"compiled: other outcome {found if isinstance(found, str) else ''}"
        )
    return "compiled: agrees" if close(found, wanted) else "compiled: other results"


def _judged(found: list[Array] | str, wanted: list[Array] | str) -> str:
    if isinstance(found, str):
        return f"judge: {'dies' if 'died' in found else 'refuses'}"
    if isinstance(wanted, str):
        return "judge: runs what is refused"
    return "judge: agrees" if close(found, wanted) else "judge: other results"


def close(found: Sequence[Array], wanted: Sequence[Array]) -> bool:
    """Whether results agree: integers bit for bit, real numbers to the last digits."""
    if len(found) != len(wanted):
        return False
    for a, b in zip(found, wanted, strict=True):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.dtype.kind not in "fc":
            if not np.array_equal(a, b):
                return False
            continue
        finite = np.isfinite(b) & np.isfinite(a)
        if not np.array_equal(np.isnan(a), np.isnan(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return False
        with np.errstate(all="ignore"):
            largest = float(np.abs(b[finite]).max(initial=0.0))
            if not np.allclose(a[finite], b[finite], rtol=1e-4, atol=1e-4 * largest):
                return False
    return True
