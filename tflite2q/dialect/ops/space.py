"""Movement between height, width, channels and batch, and padding by reflection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import INT8_VERSION_2, Builtin, Named, Operand, Operands, Shape, Values, attribute, require
from tflite2q.dialect.ops.common import gather_constant, integers
from tflite2q.dialect.ops.shape import Movement
from tflite2q.dialect.spans import Span, union
from tflite2q.dialect.types import Value

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SpaceDepth(Movement):
    """Blocks of block x block pixels become channels (SPACE_TO_DEPTH), or channels become blocks."""

    to_depth: bool = attribute(None, True)
    block: int = attribute("BlockSize", 1)

    mnemonic: ClassVar[str] = "q.space_depth"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("SPACE_TO_DEPTH", "SpaceToDepthOptions", INT8_VERSION_2, {"to_depth": True}),
        # LiteRT's reference kernels have no version 2, and take codes in version 1.
        Builtin("DEPTH_TO_SPACE", "DepthToSpaceOptions", {}, {"to_depth": False}, stated={"int8": 2}),
    )
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape, block = ins["x"].type.shape, self.block
        require(len(shape) == 4 and block > 0, f"block {block} of shape {list(shape)}")
        n, h, w, c = shape
        if self.to_depth:
            require(h % block == 0 and w % block == 0, f"{h} x {w} does not split into blocks of {block}")
            return ((n, h // block, w // block, c * block * block),)
        require(c % (block * block) == 0, f"{c} channels are no blocks of {block} x {block}")
        return ((n, h * block, w * block, c // (block * block)),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        (n, h, w, c), b, shape = ins["x"].type.shape, self.block, outs[0].type.shape
        if self.to_depth:
            split, order = (n, h // b, b, w // b, b, c), (0, 1, 3, 2, 4, 5)
        else:
            split, order = (n, h, w, b, b, c // (b * b)), (0, 1, 3, 2, 4, 5)
        return (core.reshape(core.permute_dims(core.reshape(ins["x"].data, split), order), shape),)


@dataclass(frozen=True, kw_only=True)
class SpaceBatch(Movement):
    """The axes behind the first, padded and cut into blocks, become images of their own, or back, cropped."""

    to_batch: bool = attribute(None, True)

    mnemonic: ClassVar[str] = "q.space_batch"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("SPACE_TO_BATCH_ND", "SpaceToBatchNDOptions", INT8_VERSION_2, {"to_batch": True}),
        Builtin("BATCH_TO_SPACE_ND", "BatchToSpaceNDOptions", INT8_VERSION_2, {"to_batch": False}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("block", "plain"), Operand("margins", "plain"))

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return union(spans["x"], (0.0, 0.0)) if self.to_batch else spans["x"]

    def geometry(self, ins: Values) -> tuple[list[int], list[int], list[int]]:
        """Block sizes, and margins (padding or crops) before and after, one per spatial axis."""
        block, margins = integers(ins["block"]), integers(ins["margins"])
        rank = len(ins["x"].type.shape)
        fits = 1 <= len(block) < rank and len(margins) == 2 * len(block) and min(block) > 0 and min(margins) >= 0
        require(fits, f"blocks {block} and margins {margins} do not fit {rank} axes")
        return block, margins[0::2], margins[1::2]

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape = ins["x"].type.shape
        block, before, after = self.geometry(ins)
        spatial = list(shape[1 : 1 + len(block)])
        blocks = int(np.prod(block))
        if self.to_batch:
            padded = [b + n + a for n, b, a in zip(spatial, before, after, strict=True)]
            whole = all(n % b == 0 for n, b in zip(padded, block, strict=True))
            require(whole, f"{padded} does not split into blocks {block}")
            batch, spatial = shape[0] * blocks, [n // b for n, b in zip(padded, block, strict=True)]
        else:
            require(shape[0] % blocks == 0, f"{shape[0]} images do not split into {blocks}")
            batch = shape[0] // blocks
            spatial = [n * k - b - a for n, k, b, a in zip(spatial, block, before, after, strict=True)]
            require(min(spatial) >= 0, "crops exceed the image")
        return ((batch, *spatial, *shape[1 + len(block) :]),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        block, before, after = self.geometry(ins.values)
        shape, y = ins["x"].type.shape, outs[0].type
        count, rest = len(block), shape[1 + len(block) :]
        if self.to_batch:
            behind = (0,) * len(rest)
            fill = float(y.zero_point) if y.quantization is not None else 0.0
            x = core.pad(ins["x"].data, (0, *before, *behind), (0, *after, *behind), fill)
            pairs = [(n * b // b, b) for n, b in zip(y.shape[1 : 1 + count], block, strict=True)]
            split = (shape[0], *(entry for pair in pairs for entry in pair), *rest)
            order = (
                *range(2, 2 * count + 1, 2),
                0,
                *range(1, 2 * count + 1, 2),
                *range(2 * count + 1, 2 * count + 1 + len(rest)),
            )
            return (core.reshape(core.permute_dims(core.reshape(x, split), order), y.shape),)
        spatial = shape[1 : 1 + count]
        split = (*block, y.shape[0], *spatial, *rest)
        pairs_order = (axis for i in range(count) for axis in (count + 1 + i, i))
        order = (count, *pairs_order, *range(2 * count + 1, 2 * count + 1 + len(rest)))
        whole = core.permute_dims(core.reshape(ins["x"].data, split), order)
        whole = core.reshape(whole, (y.shape[0], *(n * b for n, b in zip(spatial, block, strict=True)), *rest))
        end = [b + n for b, n in zip(before, y.shape[1 : 1 + count], strict=True)]
        return (core.strided_slice(whole, range(1, 1 + count), before, end, [1] * count),)


@dataclass(frozen=True, kw_only=True)
class MirrorPad(Movement):
    """Padding by reflection about the border element (REFLECT) or the border itself (SYMMETRIC)."""

    mode: str = attribute("Mode", "REFLECT", enum="MirrorPadMode")

    mnemonic: ClassVar[str] = "q.mirror_pad"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("MIRROR_PAD", "MirrorPadOptions", {"int8": 2, "int16": 3}),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("paddings", "plain"))

    def margins(self, ins: Values) -> list[tuple[int, int]]:
        """Elements added before and behind, per axis."""
        shape, margins = ins["x"].type.shape, integers(ins["paddings"])
        require(len(margins) == 2 * len(shape), f"{len(margins) // 2} pairs of paddings for {len(shape)} axes")
        pairs = list(zip(margins[0::2], margins[1::2], strict=True))
        for extent, (before, after) in zip(shape, pairs, strict=True):
            most = extent - self.edge
            require(0 <= before <= most and 0 <= after <= most, f"padding {before}, {after} of {extent} elements")
        return pairs

    @property
    def edge(self) -> int:
        """Elements at the border that are not repeated."""
        return 1 if self.mode == "REFLECT" else 0

    def indices(self, ins: Values) -> list[list[int]]:
        """The elements taken on each axis."""
        edge, taken = self.edge, []
        for extent, (before, after) in zip(ins["x"].type.shape, self.margins(ins), strict=True):
            front = range(before - 1 + edge, edge - 1, -1)
            back = range(extent - 1 - edge, extent - 1 - edge - after, -1)
            taken.append([*front, *range(extent), *back])
        return taken

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        pairs = zip(ins["x"].type.shape, self.margins(ins), strict=True)
        return (tuple(before + extent + after for extent, (before, after) in pairs),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x = ins["x"].data
        for axis, taken in enumerate(self.indices(ins.values)):
            if len(taken) != ins["x"].type.shape[axis]:
                x = gather_constant(core, x, taken, axis)
        return (x,)
