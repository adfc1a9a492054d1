"""Models whose op runs graphs: branches, and loops that end after a number of iterations or when a sum is reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from draw import ACTIVATIONS, CODES, Case, Draw, Family, each

from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op, Values
from tflite2q.dialect.types import Quantization, TensorType, Value

COUNT, TRUTH = TensorType((1,), "int32"), TensorType((1,), "bool")


class Part:
    """A region under construction."""

    def __init__(self, d: Draw, kinds: Sequence[TensorType]) -> None:
        self.d = Draw(d.rng)
        self.ops: list[Op] = []
        self.inputs = [self.d.input(kind) for kind in kinds]

    def op(self, cls: type[Op], operands: Sequence[str], *kinds: TensorType, **attributes: Any) -> list[str]:
        """Results of one more op; their shapes are inferred."""
        outputs = tuple(f"r{len(self.d.values)}_{index}" for index in range(len(kinds)))
        op = cls(inputs=tuple(operands), outputs=outputs, **attributes)
        by_name = {value.name: value for value in self.d.values}
        ins = Values(op, [by_name[name] for name in operands])
        versions = [op.builtin.versions.get(by_name[name].type.dtype, 1) for name in operands]
        results = [Value(name, kind) for name, kind in zip(outputs, kinds, strict=True)]
        shapes = op.infer(ins, results)
        self.d.values += [r.with_(type=r.type.with_(shape=s)) for r, s in zip(results, shapes, strict=True)]
        self.ops.append(op.with_(version=max(versions)))
        return list(outputs)

    def graph(self, name: str, *outputs: str) -> Graph:
        return Graph(tuple(self.inputs), outputs, tuple(self.d.values), tuple(self.ops), name=name)

    def layer(self, x: str, other: str, y: TensorType) -> str:
        """Something of two tensors of the shape and dtype of `y`."""
        kind = next(value.type for value in self.d.values if value.name == x)
        activation = self.d.pick(ACTIVATIONS)
        which = self.d.pick(("add", "mul", "dense"))
        if which == "dense" and y.dtype != "int16":
            units = y.shape[-1]
            weights = TensorType((units, units), y.dtype)
            if y.dtype != "float32":
                zero = 0 if y.dtype == "int8" else self.d.number(100, 150)
                weights = self.d.kind((units, units), y.dtype, 0.3 * y.scale / kind.scale / units**0.5 / 70, zero)
            return self.op(ops.Dense, (x, self.d.constant(self.d.data(weights, 0.3), weights)), y)[0]
        if which == "mul" and y.dtype != "int16":
            return self.op(ops.Mul, (x, other), y, activation=activation)[0]
        return self.op(ops.Add, (x, other), y, activation=activation, pot_scale_int16=False)[0]


def _alike(d: Draw, dtype: str) -> TensorType:
    """A type of codes whose products stay in range, or of real numbers."""
    shape = (d.number(1, 3), d.number(1, 8))
    return d.kind(shape, dtype, d.scale(0.02, 0.2) if dtype in CODES else None)


def _near(d: Draw, kind: TensorType) -> TensorType:
    """The same type with a somewhat larger step and another zero point."""
    if kind.quantization is None:
        return kind
    scale = float(np.float32(kind.scale * np.exp(d.rng.uniform(0, 0.7))))
    return kind.with_(quantization=Quantization.per_tensor(scale, d.zero_point(kind.dtype)))


def _branch(d: Draw, kind: TensorType, y: TensorType, name: str, deep: bool = False) -> Graph:
    part = Part(d, (kind, kind))
    a, b = part.inputs
    if deep:  # one more condition inside
        inner = tuple(_branch(d, kind, y, f"{name}{index}") for index in range(2))
        go = part.d.constant(np.array([d.chance(0.5)]))
        return part.graph(name, *part.op(ops.If, (go, a, b), y, regions=inner))
    for _ in range(d.number(0, 2)):
        a = part.layer(a, b, kind)
    return part.graph(name, part.layer(a, b, y))


def _if(d: Draw, dtype: str) -> Case:
    kind = _alike(d, dtype)
    y = _near(d, kind)
    condition = d.input(TensorType(d.pick(((), (1,))), "bool"))
    regions = (_branch(d, kind, y, "then", d.chance(0.2)), _branch(d, kind, y, "else"))
    return d.case(ops.If, (condition, d.input(kind), d.input(kind)), y.with_(shape=()), regions=regions)


def _while(d: Draw, dtype: str) -> Case:
    """A counter and two tensors, which the body may swap; the bound is a constant or carried."""
    kind = _alike(d, dtype)
    carried = d.chance(0.5)
    kinds = (COUNT, kind, kind, *((COUNT,) if carried else ()))
    test = Part(d, kinds)
    bound = test.inputs[3] if carried else test.d.ints(d.number(0, 9))
    condition = test.graph("condition", *test.op(ops.Compare, (test.inputs[0], bound), TRUTH, relation="LESS"))
    body = Part(d, kinds)
    step = body.d.ints(d.number(1, 3))
    (count,) = body.op(ops.Add, (body.inputs[0], step), COUNT, pot_scale_int16=False)
    a, b = body.inputs[1], body.inputs[2]
    a = body.layer(body.layer(a, b, _near(d, kind)), b, kind) if d.chance(0.5) else body.layer(a, b, kind)
    if d.chance(0.3):
        inner = (_branch(d, kind, kind, "one"), _branch(d, kind, kind, "other"))
        go = body.d.ints(d.number(0, 9))
        (late,) = body.op(ops.Compare, (count, go), TRUTH, relation="LESS")
        (a,) = body.op(ops.If, (late, a, b), kind, regions=inner)
    rest = (body.inputs[3],) if carried else ()
    a, b = (b, a) if d.chance(0.5) else (a, b)
    regions = (condition, body.graph("body", count, a, b, *rest))
    limit = (d.input(COUNT, np.array([d.number(0, 9)], np.int32)),) if carried else ()
    start = d.input(COUNT, np.array([d.number(0, 9)], np.int32))
    operands = (start, d.input(kind), d.input(kind), *limit)
    return d.case(ops.While, operands, *kinds, regions=regions)


FAMILIES: Mapping[str, Family] = {
    **each("IF", (*CODES, "float32"), _if),
    **each("WHILE", (*CODES, "float32"), _while),
}
