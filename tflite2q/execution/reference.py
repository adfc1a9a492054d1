"""The reference: runs a graph with NumPy.  Every other way of running it is compared with this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.dialect import needs
from tflite2q.dialect.fold import folded
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Operands, Tensor
from tflite2q.dialect.ops.opaque import check_runnable
from tflite2q.errors import DataError
from tflite2q.execution.checks import Inputs

Array = npt.NDArray[Any]


def run(graph: Graph, *inputs: npt.ArrayLike) -> list[Array]:
    """The graph's outputs for `inputs`, one array each, in the graph's order; variables start from their initial data.

    Raises DataError if their number, shapes or dtypes do not fit.
    """
    return Stream(graph).step(*inputs)


def run_every(graph: Graph, *inputs: npt.ArrayLike) -> dict[str, Array]:
    """All values by name: inputs, constants, every intermediate result, and variables as the run leaves them."""
    return Stream(graph).step_every(*inputs)


class Stream:
    """A graph that is run step by step: each step starts from the variables that the last one left."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._states: dict[str, Array] = {}
        self.reset()

    def step(self, *inputs: npt.ArrayLike) -> list[Array]:
        """The outputs of the next step, as `run` gives them.  Raises DataError; the state is then what it was."""
        values = self.step_every(*inputs)
        return [values[name] for name in self.graph.outputs]

    def step_every(self, *inputs: npt.ArrayLike) -> dict[str, Array]:
        """The next step, as `run_every`."""
        return dict(self.steps(inputs))

    def steps(self, inputs: Sequence[npt.ArrayLike]) -> Iterator[tuple[str, Array]]:
        """The next step, as `steps`; it is taken when the last value has been."""
        states = dict(self._states)
        for name, array in steps(self.graph, inputs, self._states):
            if name in states:
                states[name] = array
            yield name, array
        # Copies: an array may be the caller's input, or become the caller's output.
        self._states = {name: array.copy() for name, array in states.items()}

    def reset(self) -> None:
        """Back to the state before the first step."""
        self._states = {value.name: value.initial for value in self.graph.states}


def steps(
    graph: Graph, inputs: Sequence[npt.ArrayLike], states: Mapping[str, Array] | None = None
) -> Iterator[tuple[str, Array]]:
    """Yields (name, array) for each value in order of computation, a variable again when it is updated.

    `states` is what variables hold before the run; those not given have their initial data.
    """
    check_runnable(graph)
    needs.require_run(graph)
    yield from _Run().steps(folded(graph), Inputs(graph[name] for name in graph.inputs).checked(inputs), states or {})


def core() -> NumpyCore:
    """The core vocabulary in NumPy, which also runs the graphs of ops."""
    return _Run().core


class _Run:
    """One run of a graph, and the runs of the graphs in it."""

    def __init__(self) -> None:
        self.core = NumpyCore(self.results)
        self.folded: dict[int, Graph] = {}  # regions by identity: their graph is alive as long as the run

    def results(self, region: Graph, inputs: Sequence[Array]) -> list[Array]:
        """The outputs of a region of an op."""
        if id(region) not in self.folded:
            self.folded[id(region)] = folded(region)
        values = dict(self.steps(self.folded[id(region)], inputs, {}))
        return [values[name] for name in region.outputs]

    def steps(self, graph: Graph, inputs: Sequence[Array], states: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        """As the function `steps`, of a folded graph and inputs that fit."""
        values: dict[str, Array] = {}
        for value in graph.values:
            if value.constant is not None:
                values[value.name] = value.constant.array
            elif value.variable:
                values[value.name] = value.initial
        values.update(states)
        values.update(zip(graph.inputs, inputs, strict=True))
        yield from values.items()
        for op in graph.ops:
            operands = Operands(op, [None if n is None else Tensor(graph[n], values[n]) for n in op.inputs])
            try:
                with np.errstate(all="ignore"):  # infinities and NaN are results like others
                    results = op.compute(self.core, operands, graph.outs(op))
            except IndexError as error:
                place = f"{op.mnemonic} {op.name!r}"
                raise DataError(f"{place}: the data contain an index out of range: {error}") from error
            for name, result in zip(op.written, results, strict=True):
                values[name] = result
                yield name, result
