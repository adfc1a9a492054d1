"""TFLite_Detection_PostProcess: box decoding and non-maximum suppression of SSD detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Tensor, Values, attribute, require, supported
from tflite2q.dialect.ops.common import float32, is_codes
from tflite2q.dialect.types import Value

T = TypeVar("T")

SUPPRESSED = -3.0e38  # the score of a box that is out of the running


@dataclass(frozen=True, kw_only=True)
class DetectionPostprocess(Op):
    """Boxes [1,n,4+] as (y, x, h, w) relative to anchors [n,4], and scores [1,n,classes], to the best detections.

    Fast mode ranks each box by its best class; regular mode suppresses within each class (eq. 34).  Rows of the results
    behind `num_detections` are 0; TFLite leaves whatever was there.
    """

    max_detections: int = attribute("max_detections", 10)
    max_classes_per_detection: int = attribute("max_classes_per_detection", 1)
    detections_per_class: int = attribute("detections_per_class", 100)
    regular: bool = attribute("use_regular_nms", False)
    score_threshold: float = attribute("nms_score_threshold", 0.0)
    iou_threshold: float = attribute("nms_iou_threshold", 0.6)
    num_classes: int = attribute("num_classes", 90)
    y_scale: float = attribute("y_scale", 10.0)
    x_scale: float = attribute("x_scale", 10.0)
    h_scale: float = attribute("h_scale", 5.0)
    w_scale: float = attribute("w_scale", 5.0)

    mnemonic: ClassVar[str] = "q.detection_postprocess"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("TFLite_Detection_PostProcess", custom=True),)
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("boxes"),
        Operand("scores"),
        Operand("anchors"),
    )
    results: ClassVar[tuple[str, ...]] = ("boxes", "classes", "scores", "count")
    dtypes: ClassVar[tuple[str, ...]] = ("uint8",)
    floats: ClassVar[bool] = True
    deviation: ClassVar[str] = (
        "rows behind the number of detections are 0, TFLite leaves them as they were; of equal scores the first wins, "
        "TFLite leaves that to its sorting routine where there is more than one class a detection, or `use_regular_nms`"
    )

    def computes_in(self, dtype: str) -> str | None:
        """LiteRT takes uint8 codes and real numbers, TFLite Micro real numbers alone."""
        return None if dtype in self.dtypes else "float32"

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        boxes, scores, anchors = (ins[name] for name in ("boxes", "scores", "anchors"))
        for value in (boxes, scores, anchors):
            real = value.type.dtype == "float32"
            codes = value.type.dtype == "uint8" and value.type.quantized
            supported(real or codes, f"{value.name!r} is {value.type.dtype}, not uint8 or float32")
        require(len(outs) == 4 and all(y.type.dtype == "float32" for y in outs), "needs four float32 results")
        require(len(boxes.type.shape) == 3 and boxes.type.shape[0] == 1, f"boxes have shape {list(boxes.type.shape)}")
        count = boxes.type.shape[1]
        require(boxes.type.shape[2] >= 4, "boxes need four coordinates")
        require(anchors.type.shape == (count, 4), f"{count} boxes with anchors {list(anchors.type.shape)}")
        shape = scores.type.shape
        fits = len(shape) == 3 and shape[:2] == (1, count) and shape[2] - self.num_classes in (0, 1)
        require(fits, f"scores {list(scores.type.shape)} for {count} boxes and {self.num_classes} classes")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        rows = self.max_detections * self.max_classes_per_detection
        return (1, rows, 4), (1, rows), (1, rows), (1,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        count, classes = ins["boxes"].type.shape[1], self.num_classes
        boxes = self.corners(core, ins["boxes"], ins["anchors"])
        scores = core.reshape(_real(core, ins["scores"]), (count, ins["scores"].type.shape[2]))
        behind = ins["scores"].type.shape[2]  # without the background class, if there is one
        scores = core.strided_slice(scores, (1,), (behind - classes,), (behind,), (1,))
        found = (self.by_class if self.regular else self.by_box)(core, boxes, scores, count)
        return tuple(core.reshape(part, y.type.shape) for part, y in zip(found, outs, strict=True))

    def corners(self, core: Core[T], boxes: Tensor[T], anchors: Tensor[T]) -> T:
        """Boxes as (ymin, xmin, ymax, xmax) [n,4] in float32; centres and halves are computed in float64."""
        width = boxes.type.shape[2]
        coded = core.astype(core.reshape(_real(core, boxes), (boxes.type.shape[1], width)), "float64")
        anchored = core.astype(_real(core, anchors), "float64")
        columns = [_column(core, coded, index) for index in range(4)]
        anchor = [_column(core, anchored, index) for index in range(4)]
        scaled = []
        for column, scale in zip(columns, (self.y_scale, self.x_scale, self.h_scale, self.w_scale), strict=True):
            scaled.append(core.divide(column, core.const(np.array([np.float32(scale)], np.float64))))
        centres, halves = [], []
        for index in range(2):
            centre = core.add(core.multiply(scaled[index], anchor[2 + index]), anchor[index])
            centres.append(core.astype(centre, "float32"))
            grown = core.multiply(core.const(np.array([0.5])), core.exp(scaled[2 + index]))
            halves.append(core.astype(core.multiply(grown, anchor[2 + index]), "float32"))
        low = [core.subtract(centre, half) for centre, half in zip(centres, halves, strict=True)]
        high = [core.add(centre, half) for centre, half in zip(centres, halves, strict=True)]
        return core.concat([*low, *high], 1)

    def by_box(self, core: Core[T], boxes: T, scores: T, count: int) -> tuple[T, T, T, T]:
        """Each box ranked by its best class; its next best classes follow it."""
        kept = min(self.max_classes_per_detection, self.num_classes)
        best_class = core.reshape(core.max(scores, (1,)), (1, count))
        chosen, valid = self.suppress(core, boxes, best_class, (1, count), self.max_detections)
        chosen, valid = (core.reshape(part, (self.max_detections,)) for part in (chosen, valid))
        rows = core.take(scores, chosen, 0)
        order = core.strided_slice(core.argsort(rows, 1), (1,), (0,), (kept,), (1,))
        offsets = np.arange(self.max_detections, dtype=np.int32)[:, None] * np.int32(self.num_classes)
        flat = core.reshape(rows, (self.max_detections * self.num_classes,))
        best = core.take(flat, core.add(order, core.const(offsets)), 0)
        spare = (0, self.max_classes_per_detection - kept)
        classes, best = (core.pad(core.astype(part, "float32"), (0, 0), spare, 0) for part in (order, best))
        mask = core.reshape(core.astype(valid, "float32"), (self.max_detections, 1))
        places = np.repeat(np.arange(self.max_detections, dtype=np.int32), self.max_classes_per_detection)
        masked = core.multiply(core.take(boxes, chosen, 0), mask)
        number = core.sum(mask, (0, 1))
        return core.take(masked, core.const(places), 0), core.multiply(classes, mask), core.multiply(best, mask), number

    def by_class(self, core: Core[T], boxes: T, scores: T, count: int) -> tuple[T, T, T, T]:
        """Suppression within each class, then the best of all classes."""
        limit = min(self.detections_per_class, self.max_detections)
        per_class = core.permute_dims(scores, (1, 0))
        chosen, valid = self.suppress(core, boxes, per_class, (self.num_classes, count), limit)
        entries = self.num_classes * limit
        rows = np.arange(self.num_classes, dtype=np.int32)[:, None] * np.int32(count)
        flat = core.reshape(per_class, (self.num_classes * count,))
        found = core.take(flat, core.add(chosen, core.const(rows)), 0)
        found = core.reshape(core.where(valid, found, core.const(float32(SUPPRESSED))), (1, entries))
        short = max(self.max_detections - entries, 0)
        found = core.pad(found, (0, 0), (0, short), SUPPRESSED)
        order = core.strided_slice(core.argsort(found, 1), (1,), (0,), (self.max_detections,), (1,))
        order = core.reshape(order, (self.max_detections,))
        best = core.take(core.reshape(found, (entries + short,)), order, 0)
        mask = core.astype(core.less(core.const(float32(SUPPRESSED)), best), "float32")
        class_of = core.const(np.pad(np.repeat(np.arange(self.num_classes, dtype=np.float32), limit), (0, short)))
        box_of = core.pad(core.reshape(chosen, (entries,)), (0,), (short,), 0)
        taken = core.take(boxes, core.take(box_of, order, 0), 0)
        column = core.reshape(mask, (self.max_detections, 1))
        spare = (self.max_classes_per_detection - 1) * self.max_detections
        results = (core.multiply(core.take(class_of, order, 0), mask), core.multiply(best, mask))
        classes, best = (core.pad(part, (0,), (spare,), 0) for part in results)
        return core.pad(core.multiply(taken, column), (0, 0), (spare, 0), 0), classes, best, core.sum(mask, (0,))

    def suppress(self, core: Core[T], boxes: T, scores: T, shape: tuple[int, int], limit: int) -> tuple[T, T]:
        """Greedy suppression in each row of `scores` [k,n] = `shape`.

        Returns box indices [k,limit] in falling order of score, and which of them count.
        """
        rows, count = shape
        suppressed, every = core.const(float32(SUPPRESSED)), core.const(np.arange(count, dtype=np.int32))
        wanted = core.less_equal(core.const(float32(self.score_threshold)), scores)
        scores = core.where(wanted, scores, suppressed)
        lines = [core.reshape(_column(core, boxes, index), (1, count)) for index in range(4)]
        indices, valid = [], []
        for _ in range(limit):
            best = core.astype(core.argmax(scores, 1), "int32")
            valid.append(core.less(suppressed, core.max(scores, (1,), keepdims=True)))
            indices.append(core.reshape(best, (rows, 1)))
            taken = core.take(boxes, best, 0)
            overlap = intersection_over_union(core, lines, [_column(core, taken, index) for index in range(4)])
            close = core.less(core.const(float32(self.iou_threshold)), overlap)
            out = core.where(core.equal(indices[-1], every), core.const(np.ones(1, np.bool_)), close)
            scores = core.where(out, suppressed, scores)
        return core.concat(indices, 1), core.concat(valid, 1)


def _real(core: Core[T], x: Tensor[T]) -> T:
    """Operand x as float32 numbers; codes are centred before they are scaled, both in float32."""
    if not is_codes(x.type):
        return x.data
    centred = core.subtract(core.astype(x.data, "float32"), core.const(float32(x.type.zero_point)))
    return core.multiply(centred, core.const(float32(x.type.scale)))


def _column(core: Core[T], x: T, index: int) -> T:
    """Column `index` of x [n,m] as [n,1]."""
    return core.strided_slice(x, (1,), (index,), (index + 1,), (1,))


def _area(core: Core[T], box: Sequence[T]) -> T:
    low_y, low_x, high_y, high_x = box
    return core.multiply(core.subtract(high_y, low_y), core.subtract(high_x, low_x))


def intersection_over_union(core: Core[T], a: Sequence[T], b: Sequence[T]) -> T:
    """The intersection of boxes over their union; 0 where either has no area.

    A box is four broadcast coordinates: ymin, xmin, ymax, xmax.
    """
    zero = core.const(float32(0))
    sides = []
    for low, high in ((0, 2), (1, 3)):
        side = core.subtract(core.minimum(a[high], b[high]), core.maximum(a[low], b[low]))
        sides.append(core.maximum(side, zero))
    common, area_a, area_b = core.multiply(*sides), _area(core, a), _area(core, b)
    ratio = core.divide(common, core.subtract(core.add(area_b, area_a), common))
    return core.where(core.less(zero, core.minimum(area_a, area_b)), ratio, zero)
