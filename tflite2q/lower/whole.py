"""A function's whole sequence of calls as compiled code.

TVM's virtual machine makes the tensors and the calls of a planned function one by one, which takes longer than a small
layer.  Here the sequence becomes one function that calls the compiled functions with bare pointers: into its inputs and
results, into one workspace that holds all that is between them, and into the constants.  The virtual machine calls it
once.  Functions with branches or loops stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.relax.op import memory

from tflite2q.kernels.loops import DEMANDS_FIRST
from tflite2q.lower.codegen import BARE, KERNEL, bare, symbol
from tflite2q.lower.entry import MAIN, MANY, REST, aligned
from tflite2q.lower.sequence import Plan, plan, size

ONE_CALL, MODEL, CALL = "_in_one_call", "_model", "_call"  # endings of names


def whole(module: Any) -> Any:
    """A planned `module` in which each function that only calls compiled functions makes one call."""
    functions = {v.name_hint: f for v, f in module.functions.items() if isinstance(f, relax.Function)}
    plans = {name: found for name, f in functions.items() if (found := plan(module, f)) is not None}
    builder = relax.BlockBuilder(module)
    for name, found in plans.items():
        _emit(builder, name, found, _demands(module, found))
    made = builder.get()
    for name in plans:
        one_call = made.get_global_var(name + ONE_CALL)
        made.update_func(made.get_global_var(name), made[one_call].with_attrs(functions[name].attrs))
        del made[one_call]
    _bare(made, {function for found in plans.values() for function, _ in found.calls})
    return made


def is_one_call(module: Any) -> bool:
    """Whether the function `main` of a module that `whole` made makes one call, and nothing else runs."""
    return any(each.name_hint == REST for each in module.functions)


def _bare(module: Any, names: set[str]) -> None:
    """Copies of compiled functions that take bare pointers; the others go if nothing calls them any more."""
    called = set()

    def visit(expression: Any) -> None:
        if isinstance(expression, tvm.ir.GlobalVar):
            called.add(expression.name_hint)

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    for name in sorted(names):
        module[bare(name)] = module[name].with_attr(BARE, True)
        if name not in called:
            del module[name]


def _demands(module: Any, plan: Plan) -> list[Any]:
    """What the functions that a plan calls demand of the machine, each demand once."""
    found: list[Any] = []
    for name in dict.fromkeys(name for name, _ in plan.calls):
        if DEMANDS_FIRST in module[name].attrs:
            demand = module[name].body.seq[0]
            if not any(tvm_ffi.structural_equal(demand, other) for other in found):
                found.append(demand)
    return found


def _emit(builder: Any, name: str, plan: Plan, demands: Sequence[Any]) -> None:
    """The functions that carry out a plan, and one for the virtual machine that takes the place of `name`."""
    model = builder.add_func(_model(plan, demands), name + MODEL).name_hint
    call = builder.add_func(_call(plan, model), name + CALL)
    parameters = [relax.Var(each, kind) for each, kind in plan.inputs.items()]
    with builder.function(name + ONE_CALL, parameters):
        results = [_new(builder, kind) for kind in plan.results.values()]
        builder.emit(relax.Call(call, [*parameters, *results, *_rest(builder, plan)]))
        builder.emit_func_output(builder.emit(relax.Tuple(results)))
    if name == MAIN:
        builder.add_func(_many(plan, model), MANY)
        with builder.function(REST, []):
            sizes = np.array([size(kind) for kind in (*plan.inputs.values(), *plan.results.values())], np.int64)
            builder.emit_func_output(builder.emit(relax.Tuple([relax.const(sizes), *_rest(builder, plan)])))


def _rest(builder: Any, plan: Plan) -> list[Any]:
    """What a run takes besides inputs and results: a new workspace, and the constants."""
    made = [_new(builder, relax.TensorType((plan.workspace,), "uint8"))] if plan.workspace else []
    return [*made, *plan.constants.values()]


def _new(builder: Any, kind: Any) -> Any:
    storage = builder.emit(memory.alloc_storage(relax.ShapeExpr([size(kind)]), 0, "global", "uint8"))
    return builder.emit(memory.alloc_tensor(storage, 0, kind.shape, str(kind.dtype)))


def _model(plan: Plan, demands: Sequence[Any]) -> Any:
    """One run, as a bare function, which makes the `demands` of those that it calls."""
    buffers = _bytes(plan)
    body = [
        *demands,
        *(
            _checked(bare(name), [tirx.handle_add_byte_offset(buffers[p.buffer].data, p.offset) for p in places])
            for name, places in plan.calls
        ),
    ]
    body += [_copy(buffers[place.buffer], place.offset, buffers[name]) for place, name in plan.copies]
    return _function(list(buffers.values()), body, {BARE: True, "tirx.noalias": True})


def _call(plan: Plan, model: str) -> Any:
    """One run, as a function of tensors."""
    buffers = [tirx.decl_buffer(list(kind.shape), str(kind.dtype), name) for name, kind in plan.buffers().items()]
    return _function(buffers, [_checked(model, [buffer.data for buffer in buffers])])


def _many(plan: Plan, model: str) -> Any:
    """Any number of runs, as `entry` says."""
    sample, count = tirx.Var("sample", "int64"), tirx.Var("count", "int64")
    steps = {name: aligned(size(kind)) for name, kind in (*plan.inputs.items(), *plan.results.items())}
    buffers = _bytes(plan)
    places = [tirx.handle_add_byte_offset(b.data, sample * steps.get(name, 0)) for name, b in buffers.items()]
    loop = tirx.For(sample, tirx.IntImm("int64", 0), count, tirx.ForKind.SERIAL, _checked(model, places))
    return _function([*buffers.values(), count], [loop], {"global_symbol": MANY})


def _function(parameters: Sequence[Any], body: Sequence[Any], attributes: dict[str, Any] | None = None) -> Any:
    function = tirx.PrimFunc(list(parameters), tirx.SeqStmt(list(body)) if len(body) > 1 else body[0])
    return function.with_attrs({KERNEL: True, **(attributes or {})})


def _bytes(plan: Plan) -> dict[str, Any]:
    return {name: tirx.decl_buffer((size(kind),), "uint8", name) for name, kind in plan.buffers().items()}


def _checked(name: str, arguments: Sequence[Any]) -> Any:
    """A call of a bare function; where it fails, the caller ends with the error that it has left."""
    failed = tirx.call_extern("int32", symbol(name), *arguments) != 0
    return tirx.IfThenElse(failed, tirx.Evaluate(tirx.tvm_throw_last_error()), None)


def _copy(source: Any, offset: int, result: Any) -> Any:
    index, (count,) = tirx.Var("index", "int64"), result.shape
    store = tirx.BufferStore(result, tirx.BufferLoad(source, [index + offset]), [index])
    return tirx.For(index, tirx.IntImm("int64", 0), tirx.Cast("int64", count), tirx.ForKind.SERIAL, store)
