"""The core vocabulary in Relax.

Values known while compiling stay ndarrays and are computed by `NumpyCore`, so a constant expression of an op's meaning
costs nothing at run time and needs no folding pass.  Everything else is emitted through a block builder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax, te, tirx, topi
from tvm.relax import op as R

from tflite2q.arithmetic.core import ENDLESS
from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.kernels.contracts import Tensor
from tflite2q.lower import control
from tflite2q.lower.codegen import KERNEL, OPAQUE
from tflite2q.lower.demand import demanding
from tflite2q.lower.exponential import exponential
from tflite2q.lower.scatter import scattering

Array = npt.NDArray[Any]
Value = Any  # an ndarray (known now) or a relax expression (known at run time); TVM carries no types

# Widths at which TVM marks additions and products as never overflowing; our integers wrap, so they are computed wider.
_WIDER = {"int32": "int64"}


class RelaxCore:
    """Implements `tflite2q.arithmetic.core.Core`; see there for what each operation means.

    Sums, matrix products and convolutions must not overflow their dtype, and int64 sums and products neither.
    """

    def __init__(
        self, builder: relax.BlockBuilder, name_hint: str = "", function: Callable[[Any], Any] | None = None
    ) -> None:
        """Emits into `builder`'s current block; `name_hint` begins the names of all variables made, and `function`
        gives the function of a graph, for the operations that have graphs."""
        self._builder = builder
        self._function = function or _no_graphs
        self._name_hint = name_hint
        self._known = NumpyCore()

    def emit(self, expression: Any) -> Any:
        """A variable bound to `expression`."""
        return self._builder.emit(expression, name_hint=self._name_hint)

    def expr(self, x: Value) -> Any:
        """`x` as a relax expression; constants are embedded with their exact dtype."""
        if isinstance(x, (np.ndarray, np.generic)):
            array = np.ascontiguousarray(x).reshape(x.shape)
            if not array.size:  # TVM writes such constants into libraries that it cannot load
                return self.emit(R.zeros(array.shape, str(array.dtype)))
            return relax.const(array, dtype=str(array.dtype))
        return x

    def _apply(self, name: str, operands: Sequence[Value], build: Callable[..., Any], *args: Any) -> Value:
        """`name(*operands, *args)`: by NumPy if every operand is known, else `build(*expressions)` emitted."""
        if all(isinstance(x, (np.ndarray, np.generic)) for x in operands):
            return getattr(self._known, name)(*operands, *args)
        return self.emit(build(*(self.expr(x) for x in operands)))

    def _wrapping(self, name: str, a: Value, b: Value, build: Callable[..., Any]) -> Value:
        """Integer arithmetic that wraps at its own width."""
        dtype = dtype_of(a)
        wide = _WIDER.get(dtype)
        if wide is None:
            return self._apply(name, (a, b), build)
        return self.astype(self._apply(name, (self.astype(a, wide), self.astype(b, wide)), build), dtype)

    def const(self, array: npt.NDArray[np.generic]) -> Value:
        return array

    def astype(self, x: Value, dtype: str) -> Value:
        if dtype_of(x) == dtype:
            return x
        return self._apply("astype", (x,), lambda e: R.astype(e, dtype), dtype)

    def add(self, a: Value, b: Value) -> Value:
        return self._wrapping("add", a, b, R.add)

    def subtract(self, a: Value, b: Value) -> Value:
        return self._wrapping("subtract", a, b, R.subtract)

    def multiply(self, a: Value, b: Value) -> Value:
        product = self._wrapping("multiply", a, b, R.multiply)
        if dtype_of(product).startswith("float") and not isinstance(product, np.ndarray):
            return self.emit(self._builder.call_te(_rounded, product))
        return product

    def divide(self, a: Value, b: Value) -> Value:
        return self._apply("divide", (a, b), R.divide)

    def floor_divide(self, a: Value, b: Value) -> Value:
        if dtype_of(a).startswith("float"):
            return self.floor(self.divide(a, b))
        return self._apply("floor_divide", (a, b), R.floor_divide)

    def left_shift(self, a: Value, b: Value) -> Value:
        return self._apply("left_shift", (a, b), R.left_shift)

    def right_shift(self, a: Value, b: Value) -> Value:
        return self._apply("right_shift", (a, b), R.right_shift)

    def bitwise_and(self, a: Value, b: Value) -> Value:
        return self._apply("bitwise_and", (a, b), R.bitwise_and)

    def minimum(self, a: Value, b: Value) -> Value:
        return self._apply("minimum", (a, b), R.minimum)

    def maximum(self, a: Value, b: Value) -> Value:
        return self._apply("maximum", (a, b), R.maximum)

    def clip(self, x: Value, low: float, high: float) -> Value:
        bounds = (np.array([bound]).astype(dtype_of(x)) for bound in (low, high))
        lowest, highest = (bound.reshape((1,) * len(shape_of(x))) for bound in bounds)
        return self.minimum(self.maximum(x, lowest), highest)

    def abs(self, x: Value) -> Value:
        return self._apply("abs", (x,), R.abs)

    def negative(self, x: Value) -> Value:
        return self._apply("negative", (x,), R.negative)

    def floor(self, x: Value) -> Value:
        return self._apply("floor", (x,), R.floor)

    def trunc(self, x: Value) -> Value:
        return self._apply("trunc", (x,), R.trunc)

    def sqrt(self, x: Value) -> Value:
        return self._apply("sqrt", (x,), R.sqrt)

    def exp(self, x: Value) -> Value:
        if dtype_of(x) != "float32":
            return self._in_double("exp", x, R.exp)
        return self._apply("exp", (x,), lambda e: self._builder.call_te(exponential, e))

    def log(self, x: Value) -> Value:
        return self._in_double("log", x, R.log)

    def tanh(self, x: Value) -> Value:
        return self._in_double("tanh", x, lambda e: self._builder.call_te(_libm_tanh, e))

    def libm(self, name: str, *operands: Value) -> Value:
        shape = np.broadcast_shapes(*(shape_of(x) for x in operands))
        wide = [self.astype(x, "float64") for x in operands]
        wide = [x if shape_of(x) == shape else self.broadcast_to(x, shape) for x in wide]

        def elements(*parts: Any) -> Any:
            return te.compute(
                shape, lambda *i: tirx.call_pure_extern("float64", name, *(x(*i) for x in parts)), name=name
            )

        if all(isinstance(x, (np.ndarray, np.generic)) for x in wide):
            found = self._known.libm(name, *wide)
        else:
            found = self.emit(self._builder.call_te(elements, *(self.expr(x) for x in wide)))
        return self.astype(found, dtype_of(operands[0]))

    def _in_double(self, name: str, x: Value, build: Callable[..., Any]) -> Value:
        """A transcendental function evaluated in float64, so that the float32 result does not depend on the libm."""
        return self.astype(self._apply(name, (self.astype(x, "float64"),), build), dtype_of(x))

    def equal(self, a: Value, b: Value) -> Value:
        return self._apply("equal", (a, b), R.equal)

    def less(self, a: Value, b: Value) -> Value:
        return self._apply("less", (a, b), R.less)

    def less_equal(self, a: Value, b: Value) -> Value:
        return self._apply("less_equal", (a, b), R.less_equal)

    def demand(self, x: Value, holds: Value, message: str) -> Value:
        if isinstance(holds, (np.ndarray, np.generic)):
            self._known.demand(np.asarray(holds), np.asarray(holds), message)
            return x
        tensor = Tensor(shape_of(x), dtype_of(x))
        if not tensor.size:
            return x
        function = demanding(tensor, message).with_attr(KERNEL, True).with_attr("op_pattern", OPAQUE)
        # Constants of an op's meaning have an axis, which what is compared with a scalar takes over from them.
        marks = self.astype(self.reshape(holds, tensor.shape), "int8")
        called = self._builder.add_func(function, "demand")
        return self.emit(relax.call_tir(called, [self.expr(x), marks], relax.TensorType(tensor.shape, tensor.dtype)))

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        return self._apply("where", (condition, a, b), R.where)

    def take(self, table: Value, indices: Value, axis: int = 0) -> Value:
        # relax.op.take would do, but warns on stderr each time that indices in range are the caller's business.
        return self._apply("take", (table, indices), lambda t, i: self._builder.call_te(_take, t, i, axis), axis)

    def scatter(self, x: Value, indices: Value, updates: Value, reduction: str) -> Value:
        operands = (x, indices, updates)
        if all(isinstance(operand, (np.ndarray, np.generic)) for operand in operands):
            return self._known.scatter(x, indices, updates, reduction)
        target = Tensor(shape_of(x), dtype_of(x))
        if not target.size or not np.prod(shape_of(updates)):
            return x
        built = scattering(target, Tensor(shape_of(updates), target.dtype), reduction)
        called = self._builder.add_func(built.with_attr(KERNEL, True).with_attr("op_pattern", OPAQUE), "scatter")
        result = relax.TensorType(target.shape, target.dtype)
        return self.emit(relax.call_tir(called, [self.expr(operand) for operand in operands], result))

    def reinterpret(self, x: Value, dtype: str) -> Value:
        if dtype_of(x) == dtype:
            return x
        return self._apply("reinterpret", (x,), lambda e: self._builder.call_te(_reinterpreted, e, dtype), dtype)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        if shape_of(x) == tuple(shape):
            return x
        return self._apply("reshape", (x,), lambda e: R.reshape(e, tuple(shape)), shape)

    def permute_dims(self, x: Value, axes: Sequence[int]) -> Value:
        return self._apply("permute_dims", (x,), lambda e: R.permute_dims(e, list(axes)), axes)

    def broadcast_to(self, x: Value, shape: Sequence[int]) -> Value:
        return self._apply("broadcast_to", (x,), lambda e: R.broadcast_to(e, tuple(shape)), shape)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        if all(isinstance(part, np.ndarray) for part in parts):
            return self._known.concat(parts, axis)
        return self.emit(R.concat([self.expr(part) for part in parts], axis))

    def pad(self, x: Value, before: Sequence[int], after: Sequence[int], value: float) -> Value:
        if not any(before) and not any(after):
            return x
        widths = [int(width) for pair in zip(before, after, strict=True) for width in pair]
        return self._apply("pad", (x,), lambda e: R.nn.pad(e, widths, pad_value=value), before, after, value)

    def strided_slice(
        self, x: Value, axes: Sequence[int], begin: Sequence[int], end: Sequence[int], strides: Sequence[int]
    ) -> Value:
        def build(e: Any) -> Any:
            # Relax counts a negative end from the back; one past the first element is -1 - extent there.
            extents = shape_of(e)
            steps = zip(axes, end, strides, strict=True)
            ends = [-1 - extents[axis] if step < 0 and last < 0 else last for axis, last, step in steps]
            return R.strided_slice(e, list(axes), list(begin), ends, list(strides))

        return self._apply("strided_slice", (x,), build, axes, begin, end, strides)

    def sum(self, x: Value, axis: Sequence[int], keepdims: bool = False) -> Value:
        return self._apply("sum", (x,), lambda e: R.sum(e, list(axis), keepdims), axis, keepdims)

    def max(self, x: Value, axis: Sequence[int], keepdims: bool = False) -> Value:
        return self._apply("max", (x,), lambda e: R.max(e, list(axis), keepdims), axis, keepdims)

    def min(self, x: Value, axis: Sequence[int], keepdims: bool = False) -> Value:
        return self._apply("min", (x,), lambda e: R.min(e, list(axis), keepdims), axis, keepdims)

    def argmax(self, x: Value, axis: int) -> Value:
        # TVM's search starts from the least number at index -1, which no element equal to it replaces.
        return self.maximum(self._apply("argmax", (x,), lambda e: R.argmax(e, axis), axis), np.zeros(1, np.int64))

    def argsort(self, x: Value, axis: int) -> Value:
        def build(e: Any) -> Any:
            return self._builder.call_te(topi.argsort, e, axis=axis, is_ascend=False, dtype="int32")

        if dtype_of(x) in ("int8", "uint8", "int16"):  # widths that the library routine behind topi lacks
            x = self.astype(x, "int32")
        return self._apply("argsort", (x,), build, axis)

    def matmul(self, a: Value, b: Value, out_dtype: str) -> Value:
        a, b = self.astype(a, out_dtype), self.astype(b, out_dtype)
        return self._apply("matmul", (a, b), lambda x, y: R.matmul(x, y, out_dtype), out_dtype)

    def conv2d(
        self,
        x: Value,
        weights: Value,
        strides: tuple[int, int],
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        out_dtype: str = "int32",
    ) -> Value:
        def build(data: Any, kernel: Any) -> Any:
            return R.nn.conv2d(
                data,
                kernel,
                strides=list(strides),
                padding=[0, 0, 0, 0],
                dilation=list(dilation),
                groups=groups,
                data_layout="NHWC",
                kernel_layout="HWIO",
                out_dtype=out_dtype,
            )

        x, weights = self.astype(x, out_dtype), self.astype(weights, out_dtype)
        return self._apply("conv2d", (x, weights), build, strides, dilation, groups, out_dtype)

    def max_pool2d(self, x: Value, window: tuple[int, int], strides: tuple[int, int]) -> Value:
        def build(e: Any) -> Any:
            return R.nn.max_pool2d(e, pool_size=list(window), strides=list(strides), layout="NHWC")

        return self._apply("max_pool2d", (x,), build, window, strides)

    def branch(self, condition: Value, then: Any, otherwise: Any, operands: Sequence[Value]) -> tuple[Value, ...]:
        functions = [self._function(graph) for graph in (then, otherwise)]
        go = self.expr(self.reshape(condition, ()))
        return tuple(control.branch(self.emit, go, functions, [self.expr(x) for x in operands]))

    def loop(self, condition: Any, body: Any, operands: Sequence[Value]) -> tuple[Value, ...]:
        holds, step = self._function(condition), self._function(body)
        start = [self.emit(self.expr(x)) for x in operands]
        endless, carried = control.loop(self._builder, self._name_hint, holds, step, start)
        ended = self.equal(self.astype(endless, "int8"), np.array(0, np.int8))  # TVM cannot compare booleans
        return tuple(self.demand(x, self.broadcast_to(ended, shape_of(x)), ENDLESS) for x in carried)


def _no_graphs(graph: Any) -> Any:
    raise TypeError("graphs become functions by who made a RelaxCore with a function for them")


def _rounded(x: Any) -> Any:
    """The same values, but opaque to code generation, which would fuse a product and a sum into one rounding (FMA).

    Loops over the fence are not vectorized; `llvm.canonicalize` would let them be, but TVM 0.27's LowerIntrin crashes
    on it in some functions.
    """

    def element(*index: Any) -> Any:
        return tirx.call_llvm_pure_intrin(x.dtype, "llvm.arithmetic.fence", x(*index))

    return te.compute(x.shape, element, name="rounded")


def _take(table: Any, indices: Any, axis: int) -> Any:
    axis %= len(table.shape)
    behind = axis + len(indices.shape)
    shape = [*table.shape[:axis], *indices.shape, *table.shape[axis + 1 :]]

    def element(*index: Any) -> Any:
        return table(*index[:axis], indices(*index[axis:behind]), *index[behind:])

    return te.compute(shape, element, name="take")


def _reinterpreted(x: Any, dtype: str) -> Any:
    return te.compute(x.shape, lambda *i: tirx.reinterpret(dtype, x(*i)), name="reinterpret")


def _libm_tanh(x: Any) -> Any:
    """The C library's tanh: TVM's own expansion loses all digits near zero."""
    return te.compute(x.shape, lambda *i: tirx.call_pure_extern(x.dtype, "tanh", x(*i)), name="tanh")


def dtype_of(x: Value) -> str:
    """The dtype of a known or emitted value."""
    return str(x.dtype) if isinstance(x, (np.ndarray, np.generic)) else str(x.ty.dtype)


def shape_of(x: Value) -> tuple[int, ...]:
    """The (static) shape of a known or emitted value."""
    if isinstance(x, (np.ndarray, np.generic)):
        return x.shape
    return tuple(int(extent) for extent in x.ty.shape)
