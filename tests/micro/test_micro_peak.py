"""The RAM of a run: the arena that is planned for its code, also where there is no code for a layer."""

from __future__ import annotations

from pathlib import Path

import cases
import numpy as np
import pytest

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import STORAGE
from tflite2q.lower.targets import micro
from tflite2q.micro import library
from tflite2q.micro.peak import held, peak


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
def test_the_peak_is_what_the_code_of_a_model_takes(digits: Path, scheme: str) -> None:
    graph = tflite2q.convert(digits, scheme).graph
    target = micro("cortex-m3")
    assert target is not None
    made = library.make(graph, "model", target)
    ends = sum(held(graph, name) for name in (*graph.inputs, *graph.outputs))
    found = peak(graph)
    assert found.bytes == made.plan.bytes + ends
    assert found.op in graph.producers
    assert {*graph.producers[found.op].outputs} & {*found.values}
    # Inputs and outputs are there all the time, and kernels may need scratch; results may lie where operands do.
    scratch = max(step.scratch for step in made.program.steps)
    assert found.bytes <= simulated(graph) + ends + scratch


def test_wider_activations_need_more(digits: Path) -> None:
    narrow, wide = (peak(tflite2q.convert(digits, name).graph).bytes for name in ("int8", "int16x8"))
    assert 1.5 * narrow < wide <= 2.5 * narrow


def test_layers_without_code_count_with_what_they_read_and_write() -> None:
    graph = next(iter(cases.cases("CONV_2D-float32", 1))).graph
    names = (*graph.inputs, *graph.outputs)
    assert peak(graph).bytes == sum(held(graph, name) for name in names)
