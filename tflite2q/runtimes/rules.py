"""Rules of runtimes: a sentence with a source, and a predicate over one layer of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from tflite2q.dialect.graph import Graph, inner_name
from tflite2q.dialect.op import Op, Values
from tflite2q.dialect.types import TensorType, Value


@dataclass(frozen=True)
class Layer:
    """An op with what rules ask about it."""

    graph: Graph
    op: Op

    @property
    def operator(self) -> str:
        """The name of the TFLite operator, or the code of a custom one."""
        return self.op.builtin.name

    @property
    def custom(self) -> bool:
        """Whether it is a custom operator."""
        return self.op.builtin.custom

    @cached_property
    def ins(self) -> Values:
        """The operands, None where absent."""
        return self.graph.ins(self.op)

    @cached_property
    def outs(self) -> list[Value]:
        """The results."""
        return self.graph.outs(self.op)

    @cached_property
    def x(self) -> TensorType | None:
        """The type of the main operand: the first of the role activation, else the first operand."""
        main = (self.role("activation") + self.role("fixed"))[:1] or self.tensors[: len(self.op.inputs)]
        return next((value.type for value in main), None)

    @property
    def y(self) -> TensorType | None:
        """The type of the first result."""
        return self.outs[0].type if self.outs else None

    def has(self, slot: str) -> bool:
        """Whether the op declares an operand of that name, and it is present."""
        return slot in (s.name for s in self.op.slots) and self.ins.get(slot) is not None

    def role(self, role: str) -> tuple[Value, ...]:
        """The operands in a role that are present."""
        named = ((self.op.operand(k).role, value) for k, value in enumerate(self.ins))
        return tuple(value for found, value in named if found == role and value is not None)

    @cached_property
    def weights(self) -> Value | None:
        """The first operand in the role of weights."""
        return next(iter(self.role("weights")), None)

    @cached_property
    def bias(self) -> Value | None:
        """The first operand in the role of a bias."""
        return next(iter(self.role("bias")), None)

    @cached_property
    def maps(self) -> tuple[Value, ...]:
        """The feature maps: operands that hold activations, and results; no weights or biases whose types are fixed."""
        fixed = (value for value in self.role("fixed") if value.constant is None)
        return (*self.role("activation"), *fixed, *self.outs)

    @cached_property
    def tensors(self) -> tuple[Value, ...]:
        """All operands and results."""
        return (*(value for value in self.ins if value is not None), *self.outs)

    def option(self, name: str, default: object = None) -> object:
        """An attribute of the op, or the default where it has none of that name."""
        return getattr(self.op, name, default)


Predicate = Callable[[Layer], "str | None"]


@dataclass(frozen=True)
class Rule:
    """What a runtime demands: `says` in a sentence, `source` where that stands.

    `broken` gives what of a layer breaks the rule in a few words, or None.  `on` names the operators that the rule is
    about; empty: all.  After a `final` rule that is broken, later rules are not asked.
    """

    id: str
    says: str
    source: str
    broken: Predicate
    on: frozenset[str] = frozenset()
    final: bool = False


@dataclass(frozen=True)
class Runtime:
    """A runtime or accelerator: its rules in the order in which they are asked, and schemes that fit it.

    `schemes` are those that may mend a model, the least lossy first; `version` says which version of it the rules
    are of, and `checker` names the package on PyPI that tests compare them with.
    """

    name: str
    title: str
    version: str
    rules: tuple[Rule, ...]
    schemes: tuple[str, ...]
    checker: str = ""


@dataclass(frozen=True)
class Breach:
    """A layer that breaks a rule: where, and what of it does."""

    index: int
    layer: str
    operator: str
    rule: Rule
    what: str


def breaches(graph: Graph, runtime: Runtime) -> tuple[Breach, ...]:
    """Every rule of `runtime` that a layer of `graph` breaks, in the order of layers.

    Layers of graphs that an op runs have its index.
    """
    found = []
    for index, op in enumerate(graph.ops):
        found += [Breach(index, op.name, op.builtin.name, *broken) for broken in _broken(Layer(graph, op), runtime)]
        for region in op.regions:
            inner = breaches(region, runtime)
            found += [replace(b, index=index, layer=inner_name(op, region, b.layer)) for b in inner]
    return tuple(found)


def _broken(layer: Layer, runtime: Runtime) -> Iterator[tuple[Rule, str]]:
    for rule in runtime.rules:
        if rule.on and layer.operator not in rule.on:
            continue
        what = rule.broken(layer)
        if what is not None:
            yield rule, what
            if rule.final:
                return


def layers(graph: Graph) -> int:
    """How many layers a graph has, with those of graphs that its ops run."""
    return len(graph.ops) + sum(layers(region) for op in graph.ops for region in op.regions)


def on(operators: str) -> frozenset[str]:
    """The operators of a list in a string."""
    return frozenset(operators.split())


# ------------------------------------------------------------------------------- what several runtimes ask


Kernels = Mapping[str, str]  # operator -> the types it is computed in, see `types`


def known(kernels: Kernels, source: str, where: str, custom: frozenset[str] = frozenset()) -> Rule:
    """Every operator must be one of `kernels`, or a custom one of `custom`."""

    def broken(layer: Layer) -> str | None:
        if layer.operator in (custom if layer.custom else kernels):
            return None
        return f"{'the custom operator ' if layer.custom else ''}{layer.operator} is not among them"

    return Rule("operator", f"Operators are those that {where}.", source, broken, final=True)


def types(kernels: Kernels, source: str) -> Rule:
    """Types of operators: each entry of `kernels` lists `x`, `x*w` or `x>y`, where x is the type of the main
    operand, w that of the weights (or the second activation) and y that of the result; `any` stands for every type."""
    table = {name: tuple(_parts(entry) for entry in text.split()) for name, text in kernels.items()}

    def broken(layer: Layer) -> str | None:
        entries = table.get(layer.operator, ())
        if not entries or layer.x is None or any(_fits(entry, layer) for entry in entries):
            return None
        return f"computes {_said(layer)}; it takes {', '.join(kernels[layer.operator].split())}"

    return Rule("types", "An operator is computed in the types that it has a kernel for.", source, broken, final=True)


def _parts(entry: str) -> tuple[str, str, str]:
    left, _, result = entry.partition(">")
    x, _, weights = left.partition("*")
    return x, weights, result


def _second(layer: Layer) -> str:
    """The type of the weights, or of the second activation or operand of a fixed type."""
    if layer.weights is not None:
        return layer.weights.type.dtype
    activations = layer.role("activation") + layer.role("fixed")
    return activations[1].type.dtype if len(activations) > 1 else ""


def _fits(entry: tuple[str, str, str], layer: Layer) -> bool:
    x, weights, result = entry
    if layer.x is None or x not in ("any", layer.x.dtype):
        return False
    if weights and weights != _second(layer):
        return False
    return not result or layer.y is None or result == layer.y.dtype


def _said(layer: Layer) -> str:
    x = "nothing" if layer.x is None else layer.x.dtype
    weights = "" if layer.weights is None else f" with {layer.weights.type.dtype} weights"
    result = "" if layer.y is None or layer.y.dtype == x else f" to {layer.y.dtype}"
    return f"{x}{weights}{result}"


def constant(layer: Layer, slots: str) -> str | None:
    """Which of the operands of those names is not constant."""
    for slot in slots.split():
        if layer.has(slot) and layer.ins[slot].constant is None:
            return f"{slot} is computed when the model runs"
    return None
