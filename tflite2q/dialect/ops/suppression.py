"""Non-maximum suppression of boxes as an operator of its own: NON_MAX_SUPPRESSION_V4 and V5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops.common import float32, integer
from tflite2q.dialect.ops.detection import intersection_over_union
from tflite2q.dialect.types import Value

T = TypeVar("T")

MOST_BOXES = 500  # that are selected: each one is a step of its own
LEAST = float(np.finfo(np.float32).min)


@dataclass(frozen=True, kw_only=True)
class NonMaxSuppression(Op):
    """The best box above the score threshold, then the best of those left, and so on.

    A box whose overlap with a chosen one reaches the threshold is dropped.  With a sigma (V5), the scores of the others
    fall by exp(-overlap^2 / (2 sigma)).  Results behind the number of chosen boxes are 0.
    """

    soft: bool = attribute(None, False)

    mnemonic: ClassVar[str] = "q.non_max_suppression"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("NON_MAX_SUPPRESSION_V4", "NonMaxSuppressionV4Options", {}, {"soft": False}),
        Builtin("NON_MAX_SUPPRESSION_V5", "NonMaxSuppressionV5Options", {}, {"soft": True}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("boxes", "fixed"),
        Operand("scores", "fixed"),
        Operand("count", "plain"),
        Operand("overlap", "plain"),
        Operand("threshold", "plain"),
        Operand("sigma", "plain", optional=True),
    )
    dtypes: ClassVar[tuple[str, ...]] = ()
    deviation: ClassVar[str] = (
        "of equal scores the first wins, which TFLite leaves to its queue; softened scores within 1e-5"
    )

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        boxes, scores = ins["boxes"].type, ins["scores"].type
        for name in ("boxes", "scores", "overlap", "threshold"):
            supported(ins[name].type.dtype == "float32", f"{name} are {ins[name].type.dtype}, not float32")
        require(len(boxes.shape) == 2 and boxes.shape[1] == 4, f"boxes have shape {list(boxes.shape)}")
        require(scores.shape == boxes.shape[:1] and boxes.shape[0] > 0, f"scores {list(scores.shape)} of the boxes")
        singles = [ins[name] for name in ("overlap", "threshold")] + ins.every("sigma")
        require(all(value.type.size == 1 for value in singles), "a threshold is more than one number")
        require((ins.get("sigma") is not None) == self.soft, "a sigma is missing or out of place")
        dtypes = ("int32", "float32", "int32") if self.soft else ("int32", "int32")
        require(tuple(y.type.dtype for y in outs) == dtypes, f"results must be {' and '.join(dtypes)}")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        most = integer(ins["count"])
        require(most >= 0, f"selects {most} boxes")
        supported(most <= MOST_BOXES, f"selects {most} boxes; {MOST_BOXES} are possible")
        return ((most,), (most,), ()) if self.soft else ((most,), ())

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        number, most = ins["boxes"].type.shape[0], outs[0].type.shape[0]
        boxes, none = ins["boxes"].data, core.const(float32(LEAST))
        limit, overlap = (core.reshape(ins[name].data, (1,)) for name in ("threshold", "overlap"))
        scores = core.where(core.less(limit, ins["scores"].data), ins["scores"].data, none)
        lines = corners(core, boxes, number)
        indices, values = [], []
        for _ in range(min(most, number)):
            best = core.reshape(core.astype(core.argmax(scores, 0), "int32"), (1,))
            indices.append(best)
            values.append(core.take(scores, best, 0))
            chosen = corners(core, core.take(boxes, best, 0), 1)
            common = intersection_over_union(core, lines, chosen)
            if self.soft:
                scores = self.softened(core, scores, common, core.reshape(ins["sigma"].data, (1,)), limit)
            scores = core.where(core.less_equal(overlap, common), none, scores)
        return self.filled(core, indices, values, none, most)

    def softened(self, core: Core[T], scores: T, common: T, sigma: T, limit: T) -> T:
        """The scores after a box that has so much in common with each was chosen."""
        zero, none = core.const(float32(0)), core.const(float32(LEAST))
        some = core.less(zero, sigma)
        scale = core.divide(core.const(float32(-0.5)), core.where(some, sigma, core.const(float32(1))))
        weight = core.exp(core.multiply(core.multiply(core.where(some, scale, zero), common), common))
        kept = core.less(none, scores)
        lowered = core.where(kept, core.multiply(core.where(kept, scores, zero), weight), none)
        return core.where(core.less(limit, lowered), lowered, none)

    def filled(self, core: Core[T], indices: list[T], values: list[T], none: T, most: int) -> tuple[T, ...]:
        if not indices:
            empty = core.const(np.zeros(most, np.int32)), core.const(np.zeros(most, np.float32))
            return (*empty[: 2 if self.soft else 1], core.const(np.zeros(1, np.int32)))
        index, value = core.concat(indices, 0), core.concat(values, 0)
        valid = core.less(none, value)
        spare = (most - len(indices),)
        index = core.pad(core.where(valid, index, core.const(np.zeros(1, np.int32))), (0,), spare, 0)
        value = core.pad(core.where(valid, value, core.const(float32(0))), (0,), spare, 0)
        count = core.sum(core.astype(valid, "int32"), (0,), keepdims=True)
        return (index, value, count) if self.soft else (index, count)


def corners(core: Core[T], boxes: T, count: int) -> list[T]:
    """(ymin, xmin, ymax, xmax) of boxes [count,4] given by any two opposite corners, each [count]."""
    columns = [core.reshape(core.strided_slice(boxes, (1,), (i,), (i + 1,), (1,)), (count,)) for i in range(4)]
    low = [core.minimum(columns[i], columns[i + 2]) for i in range(2)]
    high = [core.maximum(columns[i], columns[i + 2]) for i in range(2)]
    return [*low, *high]
