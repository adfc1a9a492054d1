"""A dialect graph as a Relax module: each op by a kernel where one takes its contract, by core operations otherwise."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tvm import relax
from tvm.relax import transform

from tflite2q.dialect.fold import folded
from tflite2q.dialect.graph import Graph, inner_name
from tflite2q.dialect.op import Op, Operands, Tensor
from tflite2q.dialect.ops.opaque import check_runnable
from tflite2q.dialect.ops.shape import Reshape
from tflite2q.dialect.types import STORAGE, TensorType
from tflite2q.kernels.contracts import Contract
from tflite2q.kernels.contracts import Tensor as ContractTensor
from tflite2q.kernels.frame import Built
from tflite2q.kernels.refusals import Refusal
from tflite2q.kernels.registry import select
from tflite2q.lower import control, stored
from tflite2q.lower.codegen import KERNEL, OPAQUE
from tflite2q.lower.contracts import activations
from tflite2q.lower.relax_core import RelaxCore, shape_of

CORE_OPERATIONS = "core operations"
NOTHING = "nothing to compute: the same bytes"

Made = Callable[[str, Any], None]  # takes the name and the function (a tvm.tirx.PrimFunc) of a kernel


@dataclass(frozen=True)
class Choice:
    """How one op is computed: the kernel's name, and why each better one refused it.

    `inner` ops are those of graphs that ops run.
    """

    op: str
    mnemonic: str
    kernel: str
    refusals: tuple[tuple[str, Refusal], ...] = ()
    macs: int = 0
    inner: bool = False


@dataclass(frozen=True)
class Lowered:
    """A tvm.IRModule whose function `main` takes the graph's inputs and states and returns its outputs and the new
    states as one tuple."""

    module: Any
    choices: tuple[Choice, ...]


@dataclass
class _Module:
    """What all functions of a module share."""

    target: Any
    builder: Any
    use_kernels: bool
    made: Made | None
    functions: dict[Hashable, Any] = field(default_factory=dict)


@dataclass
class _State:
    """What is known while ops are lowered one after another.

    `inner` are the choices in the graphs that they run, `parts` the values that threads make, each a part.
    """

    graph: Graph
    module: _Module
    values: dict[str, Any]
    inner: list[Choice] = field(default_factory=list)
    parts: set[str] = field(default_factory=set)


def lower(graph: Graph, target: Any, use_kernels: bool = True, made: Made | None = None) -> Lowered:
    """`graph` for `target` (a tvm.target.Target); without kernels, every op is its own definition over core operations.

    `made` is called with each kernel of a graph without branches and loops, as soon as its function is there.
    Numbers that follow from the shapes are computed now.  Variables that no op updates are constants.
    """
    check_runnable(graph)
    graph = folded(graph)
    branches = any(op.regions for op in graph.ops)
    module = _Module(target, relax.BlockBuilder(), use_kernels, None if branches else made)
    if not branches:
        with module.builder.function("main", parameters := _parameters(graph)):
            with module.builder.dataflow():
                choices, results = _body(graph, module, parameters)
                outputs = module.builder.emit_output(relax.Tuple(results))
            module.builder.emit_func_output(outputs)
        return Lowered(module.builder.get(), tuple(choices))
    _, choices = _function(graph, module, "main")
    return Lowered(transform.ConvertToDataflow()(module.builder.get()), tuple(choices))


def _function(graph: Graph, module: _Module, name: str) -> tuple[Any, list[Choice]]:
    """The global variable of a folded graph as a function, and how it is computed."""
    choices: list[Choice] = []
    parameters = _parameters(graph)

    def results() -> list[Any]:
        found, outputs = _body(graph, module, parameters)
        choices.extend(found)
        return outputs

    return control.defined(module.builder, name, parameters, results), choices


def _parameters(graph: Graph) -> list[Any]:
    inputs = [relax.Var(f"input{i}", _relax_type(graph[name].type)) for i, name in enumerate(graph.inputs)]
    return inputs + [relax.Var(f"state{i}", _relax_type(value.type)) for i, value in enumerate(graph.states)]


def _body(graph: Graph, module: _Module, parameters: Sequence[Any]) -> tuple[list[Choice], list[Any]]:
    """The ops of a folded graph, into the builder's current block: how each is computed, and the graph's outputs and
    new states."""
    states = [value.name for value in graph.states]
    state = _State(graph, module, dict(zip((*graph.inputs, *states), parameters, strict=True)))
    for value in graph.values:
        if value.constant is not None:
            state.values[value.name] = value.constant.array
        elif value.variable and value.name not in state.values:
            state.values[value.name] = value.initial
    contracts = stored.contracts(graph, module.target) if module.use_kernels else {}
    choices = [_lower_op(state, op, contracts.get(index), f"op{index}_") for index, op in enumerate(graph.ops)]
    core = RelaxCore(module.builder)
    return choices + state.inner, [core.expr(state.values[name]) for name in (*graph.outputs, *states)]


def _region(state: _State, op: Op, hint: str, region: Graph) -> Any:
    """The function of a graph that `op` runs."""
    function, choices = _function(folded(region), state.module, _identifier(f"{hint}{region.name}"))
    state.inner += [replace(choice, op=inner_name(op, region, choice.op), inner=True) for choice in choices]
    return function


def _lower_op(state: _State, op: Op, contract: Contract | None, hint: str) -> Choice:
    graph = state.graph
    ins, outs = graph.ins(op), graph.outs(op)
    core = RelaxCore(state.module.builder, hint, partial(_region, state, op, hint))
    macs = op.macs(ins, outs)
    read: Sequence[str] = () if contract is None else activations(op, contract)
    parts = not state.parts.isdisjoint(read)
    if contract is not None and contract.copies:
        state.values[op.outputs[0]] = state.values[read[0]]
        state.parts.update(op.outputs if parts else ())
        return Choice(op.name, op.mnemonic, NOTHING, (), macs)
    if contract is not None:
        selection = select(contract, state.module.target)
        built = selection.plan.build(parts)
        result = _call(state.module, core, built, [state.values[name] for name in read])
        state.parts.update(op.outputs if built.parts else ())
        state.values[op.outputs[0]] = core.reshape(result, outs[0].type.shape)
        return Choice(op.name, op.mnemonic, built.name, selection.refusals, macs)
    operands = Operands(op, [None if n is None else Tensor(graph[n], state.values[n]) for n in op.inputs])
    results = op.compute(core, operands, outs)
    state.values.update(zip(op.written, results, strict=True))
    moved = all(any(x is not None and result is x.data for x in operands) for result in results)
    if isinstance(op, Reshape) and op.inputs[0] in state.parts:
        state.parts.update(op.outputs)
    return Choice(op.name, op.mnemonic, NOTHING if moved else CORE_OPERATIONS, (), macs)


def _call(module: _Module, core: RelaxCore, built: Built, operands: Sequence[Any]) -> Any:
    """The result of a kernel; kernels with equal keys are one function."""
    if built.key not in module.functions:
        function = built.func.with_attr(KERNEL, True).with_attr("op_pattern", OPAQUE)
        variable = module.functions[built.key] = module.builder.add_func(function, _identifier(built.name))
        if module.made:
            module.made(variable.name_hint, function)
    inputs = [_shaped(core, x, tensor) for x, tensor in zip(operands, built.inputs, strict=True)]
    constants = [core.expr(array) for array in built.constants]
    output = relax.TensorType(built.output.shape, built.output.dtype)
    return core.emit(relax.call_tir(module.functions[built.key], [*inputs, *constants], output))


def _shaped(core: RelaxCore, x: Any, tensor: ContractTensor) -> Any:
    """`x` as a relax expression of the shape a kernel wants; a different view, never a copy."""
    return core.expr(x if shape_of(x) == tensor.shape else core.reshape(x, tensor.shape))


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() or c == "_" else "_" for c in name)


def _relax_type(kind: TensorType) -> Any:
    return relax.TensorType(kind.shape, STORAGE[kind.dtype])
