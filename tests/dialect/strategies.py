"""Arbitrary graphs for Hypothesis: every field of every class takes any value, whether or not the graph makes sense."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tflite2q.dialect.graph import Graph, Signature
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops import OPS
from tflite2q.dialect.parser import NOT_ATTRIBUTES
from tflite2q.dialect.types import PAIRS, STORAGE, Constant, Quantization, TensorType, Value

# What file names look like, what must be quoted, and bytes that are no UTF-8 (read as lone surrogates).
NAMES = st.one_of(
    st.sampled_from(["x", "conv/weights", "a;b:0", "", "%", "\udcff", "_", "0", "a//b", 'q"\\', "new\nline", "ä☃𝄞"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
FLOATS = st.floats(allow_nan=False)


def quantizations(shape: tuple[int, ...]) -> st.SearchStrategy[Quantization | None]:
    scale = st.floats(2.0**-126, 2.0**100, width=32)
    zero_point = st.integers(-(2**31), 2**31 - 1)
    single = st.builds(lambda s, z: Quantization((s,), (z,)), scale, zero_point)
    choices: list[st.SearchStrategy[Quantization | None]] = [st.none(), single]
    for axis, size in enumerate(shape):
        if size > 0:
            lists = st.lists(scale, min_size=size, max_size=size), st.lists(zero_point, min_size=size, max_size=size)
            choices.append(st.builds(lambda s, z, a=axis: Quantization(tuple(s), tuple(z), a), *lists))
    return st.one_of(choices)


@st.composite
def constants(draw: st.DrawFn, dtype: str, shape: tuple[int, ...]) -> Constant:
    """Bits of any kind: signed zeros, infinities and every NaN payload among them."""
    storage = np.dtype(STORAGE[dtype])
    count = int(np.prod(shape, dtype=np.int64))
    data = draw(st.binary(min_size=count * storage.itemsize, max_size=count * storage.itemsize))
    if storage.kind == "b":
        return Constant((np.frombuffer(data, np.uint8) & 1).astype(bool).reshape(shape))
    return Constant(np.frombuffer(data, storage).reshape(shape))


@st.composite
def values(draw: st.DrawFn, name: str) -> Value:
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    dtype = draw(st.sampled_from(sorted(STORAGE)))
    kind = TensorType(shape, dtype, draw(quantizations(shape)))
    # There are no constants of pairs: complex numbers stand between operators only.
    constant = None if dtype in PAIRS else draw(st.one_of(st.none(), constants(dtype, shape)))
    signature = draw(st.one_of(st.none(), st.lists(st.integers(-1, 9), max_size=3).map(tuple)))
    return Value(name, kind, constant, draw(st.booleans()), signature)


def attribute_values(field: Field[Any]) -> st.SearchStrategy[Any]:
    """Values of the type of the attribute's default, and the default itself."""
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    numbers = st.integers(-(2**31), 2**31 - 1)
    by_type: dict[type, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: numbers,
        float: FLOATS,
        str: NAMES,
        bytes: st.binary(max_size=20),
        tuple: st.recursive(
            st.one_of(numbers, NAMES, FLOATS, st.booleans()), lambda items: st.lists(items, max_size=3).map(tuple)
        ).filter(lambda value: isinstance(value, tuple)),
    }
    anything = st.one_of(*by_type.values())
    return st.one_of(st.just(default), by_type.get(type(default), anything))


@st.composite
def regions(draw: st.DrawFn) -> Graph:
    """Graphs without ops: what an op's text holds."""
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    some = st.lists(st.sampled_from(names), max_size=2).map(tuple)
    return Graph(draw(some), draw(some), tuple(draw(values(name)) for name in names), (), name=draw(NAMES))


@st.composite
def ops(draw: st.DrawFn, cls: type[Op], names: list[str]) -> Op:
    name = st.sampled_from(names)
    attributes = {f.name: draw(attribute_values(f)) for f in fields(cls) if f.name not in NOT_ATTRIBUTES}
    return cls(
        inputs=tuple(draw(st.lists(st.one_of(st.none(), name), max_size=4))),
        outputs=tuple(draw(st.lists(name, min_size=1, max_size=3))),
        version=draw(st.integers(1, 9)),
        intermediates=tuple(draw(st.lists(NAMES.flatmap(values), max_size=2))),
        regions=tuple(draw(st.lists(regions(), max_size=2))) if cls.subgraphs else (),
        **attributes,
    )


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    name = st.sampled_from(names)
    pairs = st.lists(st.tuples(NAMES, name), max_size=2).map(tuple)
    named_bytes = st.lists(st.tuples(NAMES, st.binary(max_size=40)), max_size=2).map(tuple)
    some_ops = st.lists(st.sampled_from(OPS).flatmap(lambda cls: ops(cls, names)), max_size=3)
    return Graph(
        inputs=tuple(draw(st.lists(name, max_size=2))),
        outputs=tuple(draw(st.lists(name, max_size=2))),
        values=tuple(draw(values(n)) for n in names),
        ops=tuple(draw(some_ops)),
        name=draw(NAMES),
        description=draw(NAMES),
        signatures=tuple(draw(st.lists(st.builds(Signature, NAMES, pairs, pairs), max_size=2))),
        metadata=draw(named_bytes),
        files=draw(named_bytes),
    )
