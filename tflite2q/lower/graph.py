"""A dialect graph as a Relax module: each op by a kernel where one takes its contract, by core operations otherwise."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tvm import relax

from tflite2q.dialect.fold import folded
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op, Operands, Tensor
from tflite2q.dialect.ops.opaque import check_runnable
from tflite2q.dialect.types import STORAGE, TensorType
from tflite2q.kernels.contracts import Contract, FloatConv2DContract
from tflite2q.kernels.contracts import Tensor as ContractTensor
from tflite2q.kernels.frame import Built
from tflite2q.kernels.refusals import Refusal
from tflite2q.kernels.registry import select
from tflite2q.lower import exact_sums, stored
from tflite2q.lower.codegen import KERNEL, OPAQUE
from tflite2q.lower.contracts import activations
from tflite2q.lower.relax_core import RelaxCore, shape_of

CORE_OPERATIONS = "core operations"
NOTHING = "nothing to compute: the same bytes"


@dataclass(frozen=True)
class Choice:
    """How one op is computed: the kernel's name, and why each better one refused it."""

    op: str
    mnemonic: str
    kernel: str
    refusals: tuple[tuple[str, Refusal], ...] = ()
    macs: int = 0


@dataclass(frozen=True)
class Lowered:
    """A tvm.IRModule whose function `main` takes the graph's inputs and states and returns its outputs and the new
    states as one tuple."""

    module: Any
    choices: tuple[Choice, ...]


@dataclass
class _State:
    """What is known while ops are lowered one after another."""

    graph: Graph
    target: Any
    builder: Any
    values: dict[str, Any]
    use_kernels: bool
    functions: dict[Hashable, Any] = field(default_factory=dict)


def lower(graph: Graph, target: Any, use_kernels: bool = True) -> Lowered:
    """`graph` for `target` (a tvm.target.Target); without kernels, every op is its own definition over core operations.

    Numbers that follow from the shapes are computed now.  Variables that no op updates are constants.
    """
    check_runnable(graph)
    graph = folded(graph)
    builder = relax.BlockBuilder()
    states = [value.name for value in graph.states]
    parameters = [relax.Var(f"input{i}", _relax_type(graph[name].type)) for i, name in enumerate(graph.inputs)]
    parameters += [relax.Var(f"state{i}", _relax_type(graph[name].type)) for i, name in enumerate(states)]
    state = _State(graph, target, builder, dict(zip((*graph.inputs, *states), parameters, strict=True)), use_kernels)
    for value in graph.values:
        if value.constant is not None:
            state.values[value.name] = value.constant.array
        elif value.variable and value.name not in state.values:
            state.values[value.name] = value.initial
    contracts = stored.contracts(graph, target) if use_kernels else {}
    choices = []
    with builder.function("main", parameters):
        with builder.dataflow():
            for index, op in enumerate(graph.ops):
                choices.append(_lower_op(state, op, contracts.get(index), f"op{index}_"))
            core = RelaxCore(builder)
            results = [core.expr(state.values[name]) for name in (*graph.outputs, *states)]
            outputs = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(outputs)
    return Lowered(builder.get(), tuple(choices))


def _lower_op(state: _State, op: Op, contract: Contract | None, hint: str) -> Choice:
    graph = state.graph
    ins, outs = graph.ins(op), graph.outs(op)
    core = RelaxCore(state.builder, hint)
    macs = op.macs(ins, outs)
    if contract is not None and contract.copies:
        state.values[op.outputs[0]] = state.values[activations(op, contract)[0]]
        return Choice(op.name, op.mnemonic, NOTHING, (), macs)
    if contract is not None:
        selection = select(contract, state.target)
        built = selection.plan.build()
        result = _call(state, core, built, [state.values[name] for name in activations(op, contract)])
        state.values[op.outputs[0]] = core.reshape(result, outs[0].type.shape)
        return Choice(op.name, op.mnemonic, built.name, selection.refusals, macs)
    operands = Operands(op, [None if n is None else Tensor(graph[n], state.values[n]) for n in op.inputs])
    used: list[Choice] = []
    if state.use_kernels and exact_sums.applies(op, ins):
        core = exact_sums.ExactSums(state.builder, hint, partial(_by_kernel, state, core, used, op, macs))
    results = op.compute(core, operands, outs)
    state.values.update(zip(op.written, results, strict=True))
    moved = all(any(x is not None and result is x.data for x in operands) for result in results)
    return used[0] if used else Choice(op.name, op.mnemonic, NOTHING if moved else CORE_OPERATIONS, (), macs)


def _by_kernel(
    state: _State, core: RelaxCore, used: list[Choice], op: Op, macs: int, contract: FloatConv2DContract, x: Any
) -> Any:
    """The sums of `op` by the kernel that takes `contract`; `used` gets which one that is."""
    selection = select(contract, state.target)
    built = selection.plan.build()
    used.append(Choice(op.name, op.mnemonic, built.name, selection.refusals, macs))
    return core.reshape(_call(state, core, built, [x]), contract.output.shape)


def _call(state: _State, core: RelaxCore, built: Built, operands: Sequence[Any]) -> Any:
    """The result of a kernel; kernels with equal keys are one function."""
    if built.key not in state.functions:
        function = built.func.with_attr(KERNEL, True).with_attr("op_pattern", OPAQUE)
        state.functions[built.key] = state.builder.add_func(function, _identifier(built.name))
    inputs = [_shaped(core, x, tensor) for x, tensor in zip(operands, built.inputs, strict=True)]
    constants = [core.expr(array) for array in built.constants]
    output = relax.TensorType(built.output.shape, built.output.dtype)
    return core.emit(relax.call_tir(state.functions[built.key], [*inputs, *constants], output))


def _shaped(core: RelaxCore, x: Any, tensor: ContractTensor) -> Any:
    """`x` as a relax expression of the shape a kernel wants; a different view, never a copy."""
    return core.expr(x if shape_of(x) == tensor.shape else core.reshape(x, tensor.shape))


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() or c == "_" else "_" for c in name)


def _relax_type(kind: TensorType) -> Any:
    return relax.TensorType(kind.shape, STORAGE[kind.dtype])
