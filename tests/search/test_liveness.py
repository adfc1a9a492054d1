"""The peak of activations, by hand and against a simulation that frees what nobody reads any more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import STORAGE
from tflite2q.mixing.liveness import peak


def simulated(graph: Graph) -> int:
    """Run the graph with a table of what is held, reshapes in place."""
    size = {v.name: int(np.prod(v.type.shape)) * np.dtype(STORAGE[v.type.dtype]).itemsize for v in graph.values}
    reads = {v.name: 0 for v in graph.values}
    for op in graph.ops:
        for name in set(op.inputs) - {None}:
            reads[str(name)] += 1
    for name in graph.outputs:
        reads[name] += 1
    held = {name: size[name] for name in graph.inputs}
    most = 0
    for op in graph.ops:
        if op.mnemonic == "q.reshape":
            # The source's memory is the result's from now on.
            held.pop(str(op.inputs[0]))
            held[op.name] = size[op.name]
            continue
        held.update({name: size[name] for name in op.outputs})
        most = max(most, sum(held.values()))
        for name in set(op.inputs) - {None}:
            reads[str(name)] -= 1
            if not reads[str(name)]:
                held.pop(str(name), None)
    return most


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_the_peak_is_what_a_run_holds(digits: Path, scheme: str) -> None:
    graph = tflite2q.convert(digits, scheme).graph
    found = peak(graph)
    assert found.bytes == simulated(graph)
    assert found.op in graph.producers and found.values


def test_wider_activations_need_more(digits: Path) -> None:
    narrow, wide = (peak(tflite2q.convert(digits, name).graph).bytes for name in ("int8", "int16x8"))
    assert 1.5 * narrow < wide <= 2 * narrow + 64
