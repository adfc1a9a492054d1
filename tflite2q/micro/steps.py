"""A graph as a program: each op becomes a call of a kernel, nothing, or the one line that says why it cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tflite2q.dialect.fold import folded
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op, Values
from tflite2q.dialect.ops.dense import BatchMatmul
from tflite2q.dialect.ops.eltwise import Add
from tflite2q.dialect.ops.lookup import Lookup
from tflite2q.dialect.ops.movement import Gather, GatherNd
from tflite2q.dialect.ops.recurrent import Lstm, Svdf
from tflite2q.dialect.ops.reduce import ArgExtremum, ReduceExtremum, Sum
from tflite2q.dialect.ops.resize import ResizeBilinear
from tflite2q.dialect.ops.shape import Movement
from tflite2q.dialect.ops.softmax import Softmax
from tflite2q.dialect.ops.state import AssignVariable
from tflite2q.dialect.ops.transpose_conv import TransposeConv
from tflite2q.dialect.types import STORAGE, Value
from tflite2q.errors import UnsupportedError
from tflite2q.kernels import contracts as kinds
from tflite2q.kernels.contracts import Contract
from tflite2q.lower import clamps, pads
from tflite2q.lower.contracts import activations, contract_of
from tflite2q.micro import elements, gather, lookup16, maps, matmul, movement, products, recurrent, states, transposed
from tflite2q.micro.calls import Call
from tflite2q.micro.elements import Function
from tflite2q.micro.program import ALIGNMENT, Buffer, Port, Program, State, Step, Table

WIDE = ("int64", "float64")
HINT = "`tflite2q convert` without a microcontroller as its target writes it for larger processors"


def program(graph: Graph, stem: str, family: str = "plain") -> Program:
    """The program of a graph whose files are called `stem`, and whose C functions begin with it as an identifier.

    Raises UnsupportedError that names the layer, its op and why, for the first op that no kernel computes.
    """
    maker = _Maker(folded(graph), identifier(stem), stem, family)
    for found in maker.add_all():
        raise UnsupportedError(f"{found.mnemonic} {found.layer!r}: {found.why} ({HINT})")
    return maker.program()


def outline(graph: Graph) -> Program:
    """The program of a graph as far as memory is concerned: ops without a kernel read and write, and nothing more."""
    maker = _Maker(folded(graph), "model", "model", "plain", opaque=True)
    for _ in maker.add_all():
        pass
    return maker.program()


@dataclass(frozen=True)
class Refused:
    """A layer for which there is no kernel, and why."""

    layer: str
    mnemonic: str
    operator: str
    why: str


def refused(graph: Graph, family: str) -> tuple[Refused, ...]:
    """Every layer of a graph for which there is no kernel."""
    return tuple(_Maker(folded(graph), "model", "model", family).add_all())


def _contract(graph: Graph, op: Op) -> Contract | None:
    if op.regions or isinstance(op, TransposeConv | BatchMatmul):  # which have no kernels by contract
        return None
    try:
        return contract_of(op, graph.ins(op), graph.outs(op))
    except (ValueError, UnsupportedError):
        return None


@dataclass
class _Maker:
    graph: Graph
    name: str
    stem: str
    family: str
    opaque: bool = False  # whether ops without a kernel become steps that say what they read and write
    steps: list[Step] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    constants: dict[str, Table] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)  # values that have the bytes of another
    clamped: set[str] = field(default_factory=set)  # ops that do the work of a MAXIMUM or MINIMUM after them, too
    views: dict[str, str] = field(default_factory=dict)  # what was read of a variable, by name: which one

    @cached_property
    def states(self) -> dict[str, State]:
        """The variables that runs update, one behind the other."""
        return states.placed(self.graph, self.name)

    def add_all(self) -> Iterator[Refused]:
        """Add the step of each op; yields those that no kernel computes."""
        graph = self.graph
        own = {i: contract for i, op in enumerate(graph.ops) if (contract := _contract(graph, op)) is not None}
        found = clamps.merged(graph, pads.merged(graph, own))
        self.clamped = {graph.ops[i].name for i, contract in found.items() if own.get(i) is not contract}
        for index, op in enumerate(graph.ops):
            try:
                self.add(index, op, found.get(index))
            except UnsupportedError as error:
                if self.opaque:
                    self._opaque(op)
                yield Refused(op.name, op.mnemonic, op.builtin.name, str(error))

    def _opaque(self, op: Op) -> None:
        reads = [v.name for v in self.graph.ins(op) if v is not None and v.constant is None]
        self._step(op, Call("", (), "", (), 0, None), reads)

    def add(self, index: int, op: Op, contract: Contract | None) -> None:
        """The step of an op."""
        ins, outs = self.graph.ins(op), self.graph.outs(op)
        if op.regions:
            raise UnsupportedError("runs graphs, for which there is no kernel")
        if any(name not in self.states for name in op.written[len(op.outputs) :]):
            raise UnsupportedError("updates a variable that is an input of the model")
        if any(0 in v.type.shape for v in (*ins, *outs) if v):
            raise UnsupportedError("has a tensor without elements")
        if contract is not None and contract.copies:
            self._same(op, outs[0], activations(op, contract)[0])
            return
        symbol = f"{self.name}_{index}"
        if contract is not None and (call := self._by_contract(symbol, op, contract, ins)) is not None:
            self._step(op, call, activations(op, contract))
        elif isinstance(op, AssignVariable):
            self._assign(op, ins["x"])
        elif (found := self._by_op(symbol, op, ins, outs[0])) is not None:
            self._step(op, *found)
        elif isinstance(op, Softmax):
            self._softmax(symbol, op, ins, outs[0])
        elif isinstance(op, Movement):
            self._moved(symbol, op, ins, outs)
        elif isinstance(op, Sum | ReduceExtremum) and (made := _reduced(symbol, op, ins, outs[0])) is not None:
            self._function(symbol, op, [ins["x"].name], made)
        else:
            self._elementwise(symbol, op, contract, ins, outs)

    def _by_op(self, symbol: str, op: Op, ins: Values, y: Value) -> tuple[Call, list[str]] | None:
        """The call of an op for which there is a kernel, and what it reads."""
        if isinstance(op, BatchMatmul):
            return matmul.matmul(symbol, op, ins, y), [ins["a"].name, ins["b"].name]
        if isinstance(op, Gather | GatherNd) and ins["indices"].constant is None:
            return gather.gather(symbol, op, ins), [ins["x"].name, ins["indices"].name]
        if isinstance(op, Lookup) and ins["x"].type.dtype == "int16":
            call = lookup16.lookup(symbol, op, ins["x"], y)
        elif isinstance(op, TransposeConv):
            call = transposed.transposed(symbol, op, ins, y)
        elif isinstance(op, ResizeBilinear):
            call = maps.resize(symbol, op, ins["x"], y)
        elif isinstance(op, ArgExtremum):
            call = maps.argmax(op, ins, y)
        elif isinstance(op, Lstm):
            call = recurrent.lstm(symbol, op, ins)
        elif isinstance(op, Svdf):
            call = recurrent.svdf(symbol, op, ins, y)
        else:
            return None
        return call, [ins["x"].name]

    def _by_contract(self, symbol: str, op: Op, contract: Contract, ins: Values) -> Call | None:
        if isinstance(contract, products.Convolution | kinds.DenseContract):
            weights = ins["weights"].type.dtype
            return products.product(symbol, contract, weights, self.family)
        if isinstance(contract, kinds.PoolContract):
            return maps.pool(symbol, contract)
        if isinstance(contract, kinds.LookupContract):
            return maps.lookup(symbol, contract)
        return None

    def _softmax(self, symbol: str, op: Softmax, ins: Values, y: Value) -> None:
        x = ins["x"]
        if not x.type.quantized or not x.type.shape:
            raise UnsupportedError(f"of {x.type.dtype}, for which there is no kernel")
        classes = x.type.shape[-1]
        rows = x.type.size // classes
        if x.type.dtype == "int16":
            from tflite2q.arithmetic import rounding

            m, shift = rounding.quantize_multiplier(np.float64(x.type.scale) * np.float64(op.beta) / (10.0 / 65535.0))
            call = maps.softmax16(rows, classes, int(m), int(shift))
        else:
            call = maps.softmax(symbol, op.exponentials(x.type.scale), rows, classes, x.type.dtype, y.type.dtype)
        self._step(op, call, [x.name])

    def _moved(self, symbol: str, op: Op, ins: Values, outs: Sequence[Value]) -> None:
        moved = {
            i: v for i, v in enumerate(ins)
            if v is not None and op.operand(i).role in ("activation", "fixed") and (v.constant is None or op.variadic)
        }  # fmt: skip
        if not moved:
            raise UnsupportedError("moves constants only")
        found = movement.positions(op, ins, outs, list(moved))
        dtype = STORAGE[outs[0].type.dtype]
        if found is None:
            raise UnsupportedError(f"does more than move its {dtype} operands")
        operands = list(moved.values())
        names = [value.name for value in operands]
        for result, place in zip(outs, found, strict=True):
            if movement.identity(place) and operands[0].type.size == place.size:
                self._same(op, result, names[0])
                continue
            if (
                dtype not in ("int8", "uint8", "int16", "int32", "int64", "bool")
                and (place < movement.FIRST >> 1).any()
            ):
                raise UnsupportedError(f"fills with {dtype}")
            label = symbol if len(outs) == 1 else f"{symbol}_{outs.index(result)}"
            text = movement.function(label, place, len(names), dtype)
            call = f"{label}({', '.join(f'{{x{k}}}' for k in range(len(names)))}, {{y0}});"
            self._step(op, Call(call, (), "\0" + text, (), 0, None), names, outs=[result])

    def _elementwise(self, symbol: str, op: Op, contract: Contract | None, ins: Values, outs: Sequence[Value]) -> None:
        operands = [value for value in ins if value is not None]
        names = [value.name for value in operands]
        if isinstance(op, Add) and op.name not in self.clamped:
            call = maps.add(symbol, op, operands[0], operands[1], outs[0])
            if call is not None:
                self._step(op, call, names)
                return
        if not isinstance(contract, kinds.EltwiseContract):
            contract = _general(op, operands, outs)
        made = elements.eltwise(symbol, contract)
        self._function(symbol, op, names, made)

    def _function(self, symbol: str, op: Op, names: Sequence[str], made: Function) -> None:
        taken = [*(f"{{x{k}}}" for k in range(len(names))), "{y0}", *(["&failed"] if made.fails else [])]
        call = f"{symbol}({', '.join(taken)});"
        self._step(op, Call(call, (), "\0" + made.text, made.tables, 0, None), names, made.gaps)

    def _same(self, op: Op, result: Value, source: str) -> None:
        """`result` has the bytes of `source`; of a variable, those that it has now."""
        root = self.root(self.known(source))
        if root not in self.states:
            self.same[result.name] = root
            return
        self.views[result.name] = root
        copy = f"q_copy({{y0}}, {{x0}}, {self.states[root].bytes});"
        self._step(op, Call(copy, (), "", (), 0, None), [source], outs=[result])

    def _assign(self, op: Op, x: Value) -> None:
        variable = op.written[0]
        if self.root(x.name) == variable:
            return
        copy = f"q_copy({{y0}}, {{x0}}, {self.states[variable].bytes});"
        self._step(op, Call(copy, (), "", (), 0, None), [x.name])

    def _step(
        self,
        op: Op,
        call: Call,
        names: Sequence[str],
        gaps: Sequence[int | None] | None = None,
        outs: Sequence[Value] | None = None,
    ) -> None:
        """A call that reads `names` and writes the results of `op` (or `outs`), and the variables it updates."""
        results = self.graph.outs(op) if outs is None else outs
        for value in results:
            width = np.dtype(STORAGE[value.type.dtype]).itemsize
            self.buffers.append(Buffer(value.name, value.type.size * width, max(ALIGNMENT, width)))
        updated = op.written[len(op.outputs) :] if outs is None else ()
        step = Step(
            op.name, op.mnemonic, call.call, tuple(self.root(self.known(name)) for name in names),
            (*(value.name for value in results), *updated), call.scratch,
            (call.gap,) * len(names) if gaps is None else tuple(gaps), call.kernels, call.text, call.tables,
            op.macs(self.graph.ins(op), self.graph.outs(op)), call.pointers,
        )  # fmt: skip
        self.steps.append(step)

    def root(self, name: str) -> str:
        return self.same.get(name, name)

    def known(self, name: str) -> str:
        """The name of what a step reads; a constant becomes a table, and so does a variable that nothing updates."""
        value = self.graph[name]
        fixed = value.constant is not None or (value.variable and name not in self.states)
        if fixed and name not in self.graph.inputs and name not in self.constants:
            data = value.initial if value.constant is None else value.data
            self.constants[name] = Table(f"{self.name}_c{len(self.constants)}", data, True)
        return name

    def program(self) -> Program:
        """What has been added, with the model's inputs and outputs."""
        ends = {self.root(name) for name in self.graph.outputs}
        steps, same = states.settled(self.steps, self.views, ends)
        self.same = {name: same.get(root, root) for name, root in self.same.items()}
        self.same.update(same)
        inputs, outputs = (
            tuple(self._port(self.graph[name]) for name in names) for names in (self.graph.inputs, self.graph.outputs)
        )
        return Program(
            self.name, self.stem, self.family, steps, tuple(b for b in self.buffers if b.name not in same),
            inputs, outputs, tuple(self.constants.values()),
            {name: table.name for name, table in self.constants.items()}, tuple(self.states.values()),
        )  # fmt: skip

    def _port(self, value: Value) -> Port:
        kind = value.type
        single = kind.quantized and kind.parameters.axis is None
        self.known(value.name)
        return Port(
            value.name, STORAGE[kind.dtype], kind.shape, kind.size * np.dtype(STORAGE[kind.dtype]).itemsize,
            kind.scale if single else None, kind.zero_point if single else None, self.root(value.name),
        )  # fmt: skip


def _reduced(symbol: str, op: Sum | ReduceExtremum, ins: Values, y: Value) -> Function | None:
    x = ins["x"]
    if isinstance(op, ReduceExtremum):
        return elements.extremum(symbol, op, op.axes(ins), x) if STORAGE[x.type.dtype] in maps.INTEGERS else None
    if x.type.dtype in ("int8", "uint8", "int16") and y.type.quantized:
        return elements.reduction(symbol, op, op.axes(ins), x, y)
    return None


def _general(op: Op, operands: Sequence[Value], outs: Sequence[Value]) -> kinds.EltwiseContract:
    """An op without a contract of its own, as one of broadcasting operands.

    Its meaning has only element-wise operations where it can be written as such, which is found out by writing it.
    Raises UnsupportedError where the shape of its result is not that of its operands together.
    """
    from tflite2q.dialect.op import Operands, Tensor

    if len(outs) != 1 or not operands or op.updates:
        raise UnsupportedError("there is no kernel for it on microcontrollers")
    y = outs[0].type
    try:
        whole = np.broadcast_shapes(*(value.type.shape for value in operands))
    except ValueError:
        whole = None
    if whole != y.shape:
        raise UnsupportedError("there is no kernel for it on microcontrollers")

    def meaning(core: object, *data: object) -> object:
        tensors = [Tensor(value, each) for value, each in zip(operands, data, strict=True)]
        return op.meaning(core, Operands(op, tensors), outs)[0]  # type: ignore[arg-type]

    return kinds.EltwiseContract(
        name=op.mnemonic.removeprefix("q."), key=(), meaning=meaning,
        operands=tuple(kinds.Tensor(v.type.shape, STORAGE[v.type.dtype]) for v in operands),
        result=kinds.Tensor(y.shape, STORAGE[y.dtype]),
    )  # fmt: skip


def identifier(stem: str) -> str:
    """A file's stem as a C identifier."""
    made = re.sub(r"[^0-9A-Za-z_]", "_", stem)
    return f"m{made}" if not made or made[0].isdigit() else made
