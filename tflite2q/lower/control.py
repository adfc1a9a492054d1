"""Branches and loops in Relax: functions that call each other.

A loop of at most 2^n iterations is n + 1 functions without a cycle, so that its calls are never nested deeper than n:

    once(go, x):   x = body(x); go = condition(x)
    twice(go, x):  go, x = once(go, x); if go: go, x = once(go, x)
    ...            each runs the one before it at most twice, and stops as soon as the condition does not hold
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax
from tvm.relax import op as R

from tflite2q.arithmetic.core import MOST_ITERATIONS

LEVELS = MOST_ITERATIONS.bit_length() - 1
Emit = Callable[[Any], Any]  # binds an expression to a variable


def branch(emit: Emit, condition: Any, functions: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
    """The results of one of two functions (global variables), the first where the scalar `condition` holds."""
    then, otherwise = (relax.Call(function, list(operands)) for function in functions)
    return _parts(emit, emit(relax.If(condition, then, otherwise)))


def loop(builder: Any, hint: str, condition: Any, body: Any, operands: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Whether the loop has not ended after MOST_ITERATIONS, and what it carries then; `condition` and `body` are
    functions of `operands`.  `hint` begins the names of all that is made."""
    kinds = [relax.TensorType((), "bool"), *(x.ty for x in operands)]

    def holds(carried: Sequence[Any]) -> Any:
        (go,) = _parts(builder.emit, builder.emit(relax.Call(condition, list(carried))))
        return builder.emit(R.reshape(go, ()))

    def once(_: Any, *carried: Any) -> list[Any]:
        new = _parts(builder.emit, builder.emit(relax.Call(body, list(carried))))
        return [holds(new), *new]

    function = _defined(builder, f"{hint}once", kinds, once)
    for level in range(LEVELS):

        def twice(go: Any, *carried: Any, before: Any = function) -> list[Any]:
            half = _parts(builder.emit, builder.emit(relax.Call(before, [go, *carried])))
            return _where(builder.emit, before, half)

        function = _defined(builder, f"{hint}twice{level}", kinds, twice)

    def emit(expression: Any) -> Any:
        return builder.emit(expression, name_hint=hint)

    (go,) = _parts(emit, emit(relax.Call(condition, list(operands))))
    endless, *carried = _where(emit, function, [emit(R.reshape(go, ())), *operands])
    return endless, carried


def defined(builder: Any, name: str, parameters: Sequence[Any], results: Callable[[], Sequence[Any]]) -> Any:
    """The global variable of a function that returns `results` as a tuple; they are emitted when called for."""
    with builder.function(name, list(parameters)):
        return builder.emit_func_output(builder.emit(relax.Tuple(list(results()))))


def _defined(builder: Any, name: str, kinds: Sequence[Any], results: Callable[..., Sequence[Any]]) -> Any:
    parameters = [relax.Var(f"x{index}", kind) for index, kind in enumerate(kinds)]
    return defined(builder, name, parameters, lambda: results(*parameters))


def _where(emit: Emit, function: Any, carried: Sequence[Any]) -> list[Any]:
    """`function` of what is carried, where the first of it, a scalar, holds; else the same again."""
    go = carried[0]
    return _parts(emit, emit(relax.If(go, relax.Call(function, list(carried)), relax.Tuple(list(carried)))))


def _parts(emit: Emit, results: Any) -> list[Any]:
    return [emit(relax.TupleGetItem(results, index)) for index in range(len(results.ty.fields))]
