"""Checking a graph against a runtime's rules, and trying which scheme would mend what breaks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tflite2q.dialect.graph import Graph
from tflite2q.errors import Tflite2qError
from tflite2q.rewrites.scheme import INTERFACES
from tflite2q.runtimes.rules import Breach, Layer, Runtime, breaches, layers

Convert = Callable[[str, str], Graph]  # a scheme and an interface to the graph of the file that would be written


@dataclass(frozen=True)
class Trial:
    """What would be left of the breaches after converting to a scheme with an interface: `layers` that still break a
    rule; None if the conversion is impossible, `refused` then says why."""

    scheme: str
    interface: str
    layers: int | None
    refused: str | None = None


@dataclass(frozen=True)
class Check:
    """The verdict of a runtime's rules on a model of `layers` layers, and the conversions that were tried."""

    model: str
    runtime: Runtime
    layers: int
    breaches: tuple[Breach, ...]
    trials: tuple[Trial, ...] = ()

    @property
    def broken(self) -> int:
        """How many layers break a rule."""
        return broken(self.breaches)

    @property
    def wanted(self) -> Trial | None:
        """The first trial that leaves the fewest broken layers, if those are not more than now."""
        possible = [(trial.layers, place) for place, trial in enumerate(self.trials) if trial.layers is not None]
        if not possible or min(possible)[0] > self.broken:
            return None
        return self.trials[min(possible)[1]]

    @property
    def best(self) -> Trial | None:
        """The trial that is wanted, if it leaves fewer broken layers than now."""
        return None if self.wanted is None or (self.wanted.layers or 0) >= self.broken else self.wanted


def broken(found: Sequence[Breach]) -> int:
    """How many layers the breaches are of."""
    return len({(breach.index, breach.layer) for breach in found})


def check(graph: Graph, runtime: Runtime, model: str = "model", file: Graph | None = None) -> Check:
    """The breaches of a graph.

    `file` is the same subgraph with every operator as the file has it: those that reading it drops (shapes that are
    known, handles of variables) are asked only whether the runtime knows them and their types.
    """
    found = [*breaches(graph, runtime), *_dropped(graph, runtime, file)]
    count = layers(graph) if file is None else max(layers(graph), len(file.ops))
    return Check(model, runtime, count, tuple(found))


def _dropped(graph: Graph, runtime: Runtime, file: Graph | None) -> list[Breach]:
    if file is None:
        return []
    kept = {name for op in graph.ops for name in op.outputs}
    named = {op.builtin.name for op in graph.ops}
    dropped = [op for op in file.ops if not (kept & set(op.outputs) if op.outputs else op.builtin.name in named)]
    found = []
    for place, op in enumerate(dropped):
        layer = Layer(file, op)
        for rule in runtime.rules:
            if rule.final and (not rule.on or layer.operator in rule.on) and (what := rule.broken(layer)) is not None:
                found.append(Breach(len(graph.ops) + place, op.name, layer.operator, rule, what))
                break
    return found


def tried(runtime: Runtime, convert: Convert, interfaces: Sequence[str] = INTERFACES) -> tuple[Trial, ...]:
    """The runtime's schemes in order, each with every interface, until one leaves no layer that breaks a rule."""
    found: list[Trial] = []
    for scheme in runtime.schemes:
        for interface in interfaces:
            trial = _trial(runtime, convert, scheme, interface)
            found.append(trial)
            if trial.layers == 0:
                return tuple(found)
            if trial.layers is None:
                break  # the interface does not decide what is possible
    return tuple(found)


def _trial(runtime: Runtime, convert: Convert, scheme: str, interface: str) -> Trial:
    try:
        return Trial(scheme, interface, broken(breaches(convert(scheme, interface), runtime)))
    except Tflite2qError as error:
        return Trial(scheme, interface, None, str(error))
