"""StableHLO's sums of products: `dot_general` and `convolution`, on float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops.hlo import WITHOUT_KERNEL, Hlo, check_kinds
from tflite2q.dialect.types import Value
from tflite2q.dialect.window import MOST_GROWTH, SMALL

T = TypeVar("T")

Numbers = tuple[int, ...]

MOST_STRIDE = 1 << 15


@dataclass(frozen=True, kw_only=True)
class HloDot(Hlo):
    """Products of a and b summed over the contracting axes, for each place on the batch axes."""

    batch_a: tuple[int, ...] = attribute("LhsBatchingDimensions", ())
    batch_b: tuple[int, ...] = attribute("RhsBatchingDimensions", ())
    contract_a: tuple[int, ...] = attribute("LhsContractingDimensions", ())
    contract_b: tuple[int, ...] = attribute("RhsContractingDimensions", ())
    precision: tuple[int, ...] = attribute("PrecisionConfig", ())

    mnemonic: ClassVar[str] = "q.hlo_dot"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("STABLEHLO_DOT_GENERAL", "StablehloDotGeneralOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("a", "fixed"), Operand("b", "fixed"))
    deviation: ClassVar[str] = WITHOUT_KERNEL

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_kinds(("float32",), ins["a"], ins["b"], outs[0])

    def free(self, shape: Shape, *named: Numbers) -> list[int]:
        """The axes that are neither of the batch nor contracted."""
        return [axis for axis in range(len(shape)) if not any(axis in axes for axes in named)]

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        a, b = ins["a"].type.shape, ins["b"].type.shape
        for shape, axes in ((a, self.batch_a + self.contract_a), (b, self.batch_b + self.contract_b)):
            inside = all(0 <= axis < len(shape) for axis in axes) and len(set(axes)) == len(axes)
            require(inside, f"axes {list(axes)} of {list(shape)}")
        for one, other in ((self.batch_a, self.batch_b), (self.contract_a, self.contract_b)):
            equal = [a[axis] for axis in one] == [b[axis] for axis in other]
            require(equal, f"axes {list(one)} of {list(a)} and {list(other)} of {list(b)}")
        rest_a = (a[axis] for axis in self.free(a, self.batch_a, self.contract_a))
        rest_b = (b[axis] for axis in self.free(b, self.batch_b, self.contract_b))
        return ((*(a[axis] for axis in self.batch_a), *rest_a, *rest_b),)

    def macs(self, ins: Values, outs: Sequence[Value]) -> int:
        return outs[0].type.size * math.prod(ins["a"].type.shape[axis] for axis in self.contract_a)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        a, b = ins["a"], ins["b"]
        rest_a = self.free(a.type.shape, self.batch_a, self.contract_a)
        rest_b = self.free(b.type.shape, self.batch_b, self.contract_b)
        batch = math.prod(a.type.shape[axis] for axis in self.batch_a)
        depth = math.prod(a.type.shape[axis] for axis in self.contract_a)
        rows = math.prod(a.type.shape[axis] for axis in rest_a)
        columns = math.prod(b.type.shape[axis] for axis in rest_b)
        left = core.permute_dims(a.data, (*self.batch_a, *rest_a, *self.contract_a))
        right = core.permute_dims(b.data, (*self.batch_b, *self.contract_b, *rest_b))
        left, right = core.reshape(left, (batch, rows, depth)), core.reshape(right, (batch, depth, columns))
        return (core.reshape(core.matmul(left, right, "float32"), outs[0].type.shape),)


@dataclass(frozen=True, kw_only=True)
class HloConvolution(Hlo):
    """A convolution whose axes lie anywhere, over one or two spatial ones."""

    strides: tuple[int, ...] = attribute("WindowStrides", ())
    padding: tuple[int, ...] = attribute("Padding", ())
    spread: tuple[int, ...] = attribute("LhsDilation", ())
    dilation: tuple[int, ...] = attribute("RhsDilation", ())
    reversal: tuple[bool, ...] = attribute("WindowReversal", ())
    batch: int = attribute("InputBatchDimension", 0)
    feature: int = attribute("InputFeatureDimension", 0)
    spatial: tuple[int, ...] = attribute("InputSpatialDimensions", ())
    kernel_feature: int = attribute("KernelInputFeatureDimension", 0)
    kernel_filter: int = attribute("KernelOutputFeatureDimension", 0)
    kernel_spatial: tuple[int, ...] = attribute("KernelSpatialDimensions", ())
    out_batch: int = attribute("OutputBatchDimension", 0)
    out_feature: int = attribute("OutputFeatureDimension", 0)
    out_spatial: tuple[int, ...] = attribute("OutputSpatialDimensions", ())
    groups: int = attribute("FeatureGroupCount", 0)
    batch_groups: int = attribute("BatchGroupCount", 0)
    precision: tuple[int, ...] = attribute("PrecisionConfig", ())

    mnemonic: ClassVar[str] = "q.hlo_convolution"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("STABLEHLO_CONVOLUTION", "StablehloConvolutionOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"), Operand("weights", "fixed"))
    deviation: ClassVar[str] = WITHOUT_KERNEL

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_kinds(("float32",), ins["x"], ins["weights"], outs[0])
        count = len(self.spatial)
        supported(count in (1, 2), f"{count} spatial axes; 1 or 2 are possible")
        supported(self.batch_groups in (0, 1), f"{self.batch_groups} groups of batches")
        rank = count + 2
        for axes in (
            (self.batch, self.feature, *self.spatial),
            (self.kernel_feature, self.kernel_filter, *self.kernel_spatial),
            (self.out_batch, self.out_feature, *self.out_spatial),
        ):
            require(sorted(axes) == list(range(rank)), f"axes {list(axes)} are not all {rank}")
        require(len(ins["x"].type.shape) == len(ins["weights"].type.shape) == rank, f"operands do not have {rank} axes")
        for numbers in (self.strides, self.spread, self.dilation):
            require(len(numbers) in (0, count) and min(numbers, default=1) > 0, f"{list(numbers)} for {count} axes")
            supported(max(numbers, default=1) <= MOST_STRIDE, f"steps {list(numbers)}; {MOST_STRIDE} are possible")
        require(len(self.padding) in (0, 2 * count) and len(self.reversal) in (0, count), "margins or reversals")
        supported(min(self.padding, default=0) >= 0, "a negative padding")

    def steps(self, numbers: Numbers) -> Numbers:
        return numbers or (1,) * len(self.spatial)

    def margins(self) -> list[tuple[int, int]]:
        """Elements added before and behind each spatial axis."""
        flat = self.padding or (0,) * (2 * len(self.spatial))
        return list(zip(flat[0::2], flat[1::2], strict=True))

    def extents(self, x: Shape) -> list[int]:
        """The sizes of the spatial axes of x, spread out and padded."""
        wide = [(x[axis] - 1) * s + 1 for axis, s in zip(self.spatial, self.steps(self.spread), strict=True)]
        return [n + before + after for n, (before, after) in zip(wide, self.margins(), strict=True)]

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        x, weights, groups = ins["x"].type.shape, ins["weights"].type.shape, max(self.groups, 1)
        filters, channels = weights[self.kernel_filter], x[self.feature]
        fits = min(*x, *weights) > 0 and channels == weights[self.kernel_feature] * groups and filters % groups == 0
        require(fits, f"{channels} channels and weights {list(weights)} in {groups} groups")
        extents = self.extents(x)
        supported(math.prod(extents) <= MOST_GROWTH * math.prod(x) + SMALL, "needs padding far larger than the input")
        shape = [0] * len(x)
        shape[self.out_batch], shape[self.out_feature] = x[self.batch], filters
        steps = zip(self.steps(self.strides), self.steps(self.dilation), self.kernel_spatial, strict=True)
        for place, extent, (stride, dilation, axis) in zip(self.out_spatial, extents, steps, strict=True):
            reach = (weights[axis] - 1) * dilation + 1
            require(extent >= reach, f"a window of {reach} does not fit an extent of {extent}")
            shape[place] = (extent - reach) // stride + 1
        return (tuple(shape),)

    def macs(self, ins: Values, outs: Sequence[Value]) -> int:
        weights = ins["weights"].type
        return outs[0].type.size * weights.size // weights.shape[self.kernel_filter]

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, weights = ins["x"], ins["weights"]
        image = core.permute_dims(x.data, (self.batch, *self.spatial, self.feature))
        filters = core.permute_dims(weights.data, (*self.kernel_spatial, self.kernel_feature, self.kernel_filter))
        flipped = [axis for axis, backwards in enumerate(self.reversal) if backwards]
        if flipped:
            last = [weights.type.shape[self.kernel_spatial[axis]] - 1 for axis in flipped]
            filters = core.strided_slice(filters, flipped, last, [-1] * len(flipped), [-1] * len(flipped))
        sizes = [x.type.shape[axis] for axis in self.spatial]
        image = self.spread_out(core, image, x.type.shape, sizes)
        missing = 2 - len(sizes)  # one spatial axis is an image of one row
        n, c = x.type.shape[self.batch], x.type.shape[self.feature]
        image = core.reshape(image, (n, *(1,) * missing, *self.extents(x.type.shape), c))
        kernel = [weights.type.shape[axis] for axis in (*self.kernel_spatial, self.kernel_feature, self.kernel_filter)]
        filters = core.reshape(filters, ((1,) * missing + tuple(kernel)))
        strides, dilation = ((1,) * missing + self.steps(numbers) for numbers in (self.strides, self.dilation))
        steps = (strides[0], strides[1]), (dilation[0], dilation[1])
        y = core.conv2d(image, filters, *steps, max(self.groups, 1), "float32")
        shape = outs[0].type.shape
        y = core.reshape(
            y, (shape[self.out_batch], *(shape[axis] for axis in self.out_spatial), shape[self.out_feature])
        )
        places = (self.out_batch, *self.out_spatial, self.out_feature)
        return (core.permute_dims(y, [places.index(axis) for axis in range(len(shape))]),)

    def spread_out(self, core: Core[T], image: T, x: Shape, sizes: Sequence[int]) -> T:
        """The image [N, spatial, C] with zeros from one element to the next and around it."""
        shape = [x[self.batch], *sizes, x[self.feature]]
        for axis, step in enumerate(self.steps(self.spread), 1):
            if step == 1 or shape[axis] == 1:
                continue
            apart = core.reshape(image, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
            behind = [0] * (len(shape) + 1)
            behind[axis + 1] = step - 1
            apart = core.pad(apart, [0] * len(behind), behind, 0)
            end = (shape[axis] - 1) * step + 1
            whole = core.reshape(apart, (*shape[:axis], shape[axis] * step, *shape[axis + 1 :]))
            image = core.strided_slice(whole, (axis,), (0,), (end,), (1,))
            shape[axis] = end
        before, after = zip(*self.margins(), strict=True)
        return core.pad(image, (0, *before, 0), (0, *after, 0), 0)
