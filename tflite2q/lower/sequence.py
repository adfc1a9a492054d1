"""What a planned Relax function does, if it does nothing but call compiled functions: which, and on what memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.ir import GenericConst

from tflite2q.lower.entry import ALIGNMENT, aligned

WORKSPACE, SMALL = "workspace", "small"
# A constant of so many bytes is an argument by itself; smaller ones lie one after the other in one argument.
LARGE = 1 << 18

ALLOC_STORAGE, ALLOC_TENSOR, RESHAPE = "relax.memory.alloc_storage", "relax.memory.alloc_tensor", "relax.reshape"


@dataclass(frozen=True)
class Place:
    """Where a tensor is: so many bytes behind the start of a buffer."""

    buffer: str
    offset: int = 0


@dataclass(frozen=True)
class Plan:
    """A function's calls, in order, each with the places of its arguments.

    Buffers are the inputs and results, of the given relax types, a workspace and constants.  `copies` are what no call
    writes: results that are inputs, constants, or other results as well.
    """

    inputs: Mapping[str, Any]
    results: Mapping[str, Any]
    workspace: int  # bytes
    constants: Mapping[str, Any]  # relax expressions
    calls: Sequence[tuple[str, Sequence[Place]]]
    copies: Sequence[tuple[Place, str]]

    def buffers(self) -> dict[str, Any]:
        """The relax types of all buffers."""
        made = {WORKSPACE: relax.TensorType((self.workspace,), "uint8")} if self.workspace else {}
        return {**self.inputs, **self.results, **made, **{name: each.ty for name, each in self.constants.items()}}


def size(kind: Any) -> int:
    """The bytes of a tensor of a relax type."""
    dtype = str(kind.dtype)
    return int(prod(map(int, kind.shape))) * (1 if dtype == "bool" else np.dtype(dtype).itemsize)


def plan(module: Any, function: Any) -> Plan | None:
    """What a Relax function of a planned module does; None if it is anything but calls of compiled functions."""
    layout = _Layout(function)
    result = layout.values.get(function.body.body)
    if not isinstance(result, relax.Tuple) or not all(isinstance(x, relax.Var | GenericConst) for x in result.fields):
        return None
    results = {f"out{index}": field for index, field in enumerate(result.fields)}
    copies = layout.place_results(results)
    calls = []
    for variable, value in layout.values.items():
        if calls_function(module, value):
            places = [place for place in map(layout.place, value.args) if place is not None]
            if len(places) < len(value.args):
                return None
            calls.append((value.op.name_hint, places))
        elif value is not result and not layout.bind(variable, value):
            return None
    if not calls:
        return None
    # Before the constants are laid out, for a result may be one that no call takes.
    copied = [(place, name) for name in copies for place in [layout.place(results[name])] if place is not None]
    return Plan(
        {f"in{index}": parameter.ty for index, parameter in enumerate(function.params)},
        {name: field.ty for name, field in results.items()},
        layout.workspace,
        layout.constants(),
        calls,
        copied,
    )


def calls_function(module: Any, value: Any) -> bool:
    """Whether an expression is a call of a compiled function."""
    called = isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar)
    return called and isinstance(module[value.op], tirx.PrimFunc)


class _Layout:
    """The places of a function's tensors, found binding by binding."""

    def __init__(self, function: Any) -> None:
        bindings = [binding for block in function.body.blocks for binding in block.bindings]
        self.values: dict[Any, Any] = {binding.var: binding.value for binding in bindings}
        self.workspace = 0
        self._places = {parameter: Place(f"in{index}") for index, parameter in enumerate(function.params)}
        self._storages: dict[Any, Place] = {}
        self._rooms: dict[Any, int] = {}  # bytes of storages of the workspace
        self._large: dict[str, Any] = {}
        self._small: list[tuple[int, Any]] = []
        self._small_size = 0

    def place_results(self, results: Mapping[str, Any]) -> list[str]:
        """Let storages that hold one result and nothing else be that result; gives the names of the others."""
        tensors = Counter(value.args[0] for value in self.values.values() if _is(value, ALLOC_TENSOR))
        others = []
        for name, field in results.items():
            made: Any = self.values.get(self._root(field))
            storage = made.args[0] if _is(made, ALLOC_TENSOR) else None
            if storage is None or tensors[storage] > 1 or storage in self._storages:
                others.append(name)
            else:
                self._storages[storage] = Place(name)
        return others

    def _root(self, expression: Any) -> Any:
        """What an expression is another name or another shape of."""
        value: Any = self.values.get(expression)
        if _is(value, RESHAPE):
            return self._root(value.args[0])
        return self._root(value) if isinstance(value, relax.Var) else expression

    def bind(self, variable: Any, value: Any) -> bool:
        """Place what a binding names; False if that is not known."""
        if _is(value, ALLOC_STORAGE):
            if variable not in self._storages:
                self._storages[variable] = Place(WORKSPACE, self.workspace)
                self._rooms[variable] = aligned(prod(map(int, value.args[0])))
                self.workspace += self._rooms[variable]
            return True
        if _is(value, ALLOC_TENSOR):
            assert int(value.args[1].value) == 0  # TVM's planner puts one tensor at a time into a storage
            self._places[variable] = self._centred(value.args[0], aligned(size(variable.ty)))
            return True
        place = self.place(value.args[0] if _is(value, RESHAPE) else value)
        if place is not None:
            self._places[variable] = place
        return place is not None

    def _centred(self, storage: Any, taken: int) -> Place:
        """The place of a tensor of so many bytes, which for some time is the only one of its storage.

        Its middle is that of the storage.  Two threads that share a layer write a half each, so each writes the same
        half of all tensors that come to lie there: where the other one wrote last, a line comes from its cache.
        """
        start = self._storages[storage]
        before = (self._rooms.get(storage, taken) - taken) // 2 // ALIGNMENT * ALIGNMENT
        return Place(start.buffer, start.offset + before)

    def place(self, expression: Any) -> Place | None:
        """Where a tensor is; None for what is none."""
        if isinstance(expression, GenericConst) and expression not in self._places:
            self._places[expression] = self._put(expression)
        return self._places.get(expression)

    def _put(self, constant: Any) -> Place:
        if size(constant.ty) >= LARGE:
            name = f"large{len(self._large)}"
            self._large[name] = constant
            return Place(name)
        place = Place(SMALL, self._small_size)
        self._small.append((place.offset, constant.value.numpy()))
        self._small_size += aligned(size(constant.ty))
        return place

    def constants(self) -> dict[str, Any]:
        """The constants' buffers."""
        if not self._small:
            return self._large
        joined = np.zeros(self._small_size, np.uint8)
        for offset, array in self._small:
            joined[offset : offset + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
        return {**self._large, SMALL: relax.const(joined)}


def _is(value: Any, name: str) -> bool:
    """Whether an expression is a call of one of Relax's own operations."""
    return isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op) and value.op.name == name
