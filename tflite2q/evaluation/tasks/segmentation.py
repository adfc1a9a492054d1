"""Segmentation: a class for each pixel."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tflite2q.dialect.types import Value
from tflite2q.errors import DataError
from tflite2q.evaluation import arrays, statistics
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.figures import Change, ClassLine, Difference, Figure
from tflite2q.evaluation.geometry import Fit
from tflite2q.evaluation.images import IMAGE_SUFFIXES, opened, require_pillow
from tflite2q.evaluation.tasks.base import MOST_CHANGES, Array, Grade, Graded, Interface, Likeness, Tally, Task, Truth
from tflite2q.evaluation.tasks.classification import SURE

IGNORED = 255  # the class of pixels that do not count, as in Pascal VOC
COARSEST = 16  # how much smaller than the input a map of classes may be
MOST_CLASSES = 256


@dataclass(frozen=True, eq=False)
class Mask:
    """The class of each pixel: [height, width] integers."""

    classes: Array


class Segmentation(Task[Mask]):
    """An output [1, height, width] of class numbers, [1, height, width, classes] of scores, or one sigmoid per
    pixel."""

    name: ClassVar[str] = "segmentation"
    fit: ClassVar[Fit] = "pad"
    measure: ClassVar[str] = "pixels of the same class"

    def __init__(self, model: Interface) -> None:
        super().__init__(model)
        self.index = next((k for k, v in enumerate(model.outputs) if _form(model, v)), 0)
        self.form = _form(model, model.outputs[self.index]) or "scores"
        shape = model.outputs[self.index].type.shape
        self.size = (shape[1], shape[2])
        self.classes = {"scores": shape[-1], "sigmoid": 2}.get(self.form)

    @property
    def numeric(self) -> tuple[int, ...]:
        return tuple(k for k in super().numeric if k != self.index or self.form != "numbers")

    @classmethod
    def guess(cls, model: Interface) -> str | None:
        if model.image is None or len(model.outputs) != 1:
            return None
        value = model.outputs[0]
        form, shape = _form(model, value), value.type.shape
        if form is None or shape[1] * COARSEST < model.image[0] or shape[2] * COARSEST < model.image[1]:
            return None
        op, _ = model.maker(value)
        made_by = op.mnemonic if op is not None else ""
        if form == "scores" and made_by != "q.softmax":
            named = model.names is not None and len(model.names) == shape[-1]
            picture = shape[-1] == model.inputs[0].type.shape[-1]
            if (picture or shape[-1] > MOST_CLASSES) and not named:
                return None
        if form == "sigmoid" and made_by != "q.lookup":
            return None
        return f"output {value.name!r} has a class for each of {shape[1]}x{shape[2]} pixels"

    @classmethod
    def obstacle(cls, model: Interface) -> str | None:
        if any(_form(model, value) for value in model.outputs):
            return None
        shapes = ", ".join(str(list(v.type.shape)) for v in model.outputs)
        return (
            f"a segmentation has an output of [1, height, width] or [1, height, width, classes], this model's: {shapes}"
        )

    @property
    def told(self) -> tuple[int, ...]:
        return (self.index,)

    def decode(self, arrays: Sequence[Array], values: Sequence[Value]) -> Mask:
        if self.form == "numbers":
            return Mask(arrays[self.index].reshape(self.size).astype(np.int64))
        if self.form == "sigmoid":
            return Mask((self.real(arrays, values, self.index).reshape(self.size) >= SURE).astype(np.int64))
        return Mask(arrays[self.index][0].argmax(-1))  # codes of one scale are ordered as the real numbers

    def agreement(self, before: Mask, after: Mask) -> tuple[float, float]:
        return float(np.sum(before.classes == after.classes)), before.classes.size

    def tally(self) -> Tally[Mask]:
        return _Tally(self)

    def truth(self, samples: Dataset, labels: Any, label_offset: int | None) -> Truth[Mask, Any] | None:
        return None if labels is None else _Truth(self, samples, labels, label_offset or 0)

    def says(self, answer: Mask) -> str:
        shares = self._shares(answer)
        text = ", ".join(f"{self.called(k)} {share:.1%}".replace("%", " %") for k, share in shares[:4])
        return text + (f" and {len(shares) - 4} more" if len(shares) > 4 else "")

    def _shares(self, answer: Mask) -> list[tuple[int, float]]:
        numbers, counts = np.unique(answer.classes, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(int(numbers[k]), float(counts[k] / answer.classes.size)) for k in order]

    def document(self, answer: Mask) -> Mapping[str, Any]:
        rows = [{"class": k, "name": self.class_name(k), "share": share} for k, share in self._shares(answer)]
        return {"mask": {"height": self.size[0], "width": self.size[1], "classes": rows}}


def _form(model: Interface, value: Value) -> str | None:
    """How an output says the class of each pixel: "numbers", "scores" or "sigmoid"; None if it does not."""
    shape, kind = value.type.shape, value.type
    if len(shape) not in (3, 4) or shape[0] != 1 or min(shape[1:3]) < 2:
        return None
    flat = len(shape) == 3 or shape[3] == 1
    integer = not kind.quantized and not kind.dtype.startswith(("float", "bool"))
    if flat and (model.is_index(value) or integer):
        return "numbers"
    if flat:
        return "sigmoid" if len(shape) == 4 else None
    return "scores"


def confusion(truth: Array, answer: Array, classes: int) -> Array:
    """[classes, classes] counts of pixels by true class (rows) and answered class; ignored pixels are left out."""
    counted = (truth != IGNORED) & (truth >= 0) & (truth < classes)
    flat = truth[counted].astype(np.int64) * classes + np.clip(answer[counted], 0, classes - 1)
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def mean_iou(parts: Array) -> float:
    """The mean over classes of both / (true + answered - both), from [..., 3, classes] counts of the three, summed;
    classes that neither has do not count.  NaN if there are none."""
    both, true, answered = parts.reshape(-1, *parts.shape[-2:]).sum(0)
    union = true + answered - both
    return float(np.mean(both[union > 0] / union[union > 0])) if (union > 0).any() else float("nan")


class _Pixels:
    """Counts of pixels by class for each sample, as `mean_iou` takes them; grows with the classes that occur."""

    def __init__(self) -> None:
        self.each: list[Array] = []
        self.right = self.all = 0

    def add(self, truth: Array, answer: Array) -> Array:
        seen = truth[truth != IGNORED]
        classes = int(max(seen.max(initial=0), answer.max(initial=0))) + 1
        matrix = confusion(truth, answer, classes)
        self.right, self.all = self.right + int(np.trace(matrix)), self.all + int(matrix.sum())
        self.each.append(np.stack([np.diag(matrix), matrix.sum(1), matrix.sum(0)]))
        return self.each[-1]

    def parts(self, classes: int = 0) -> Array:
        """[samples, 3, classes]"""
        most = max([classes, *(part.shape[1] for part in self.each)])
        return np.stack([np.pad(part, ((0, 0), (0, most - part.shape[1]))) for part in self.each])


class _Tally(Tally[Mask]):
    def __init__(self, task: Segmentation) -> None:
        self.task, self.pixels = task, _Pixels()
        self.changes: list[Change] = []

    def add(self, index: int, sample: str, before: Mask, after: Mask, truth: str | None = None) -> None:
        both, *_ = self.pixels.add(before.classes, after.classes)
        if both.sum() < before.classes.size:
            self.changes.append(Change(index, sample, self.task.says(before), self.task.says(after), truth))

    def result(self) -> Likeness:
        parts = self.pixels.parts()
        total = parts.sum(0)
        share = self.pixels.right / max(self.pixels.all, 1)
        union = total[1] + total[2] - total[0]
        lines = tuple(
            ClassLine(k, self.task.class_name(k), int(total[1, k]), None, float(total[0, k] / union[k]))
            for k in np.flatnonzero(union).tolist()
        )
        figures = (
            Figure("agreement", "pixels of the same class", share, "share"),
            Figure("mean_iou_original", "mean IoU with the original's masks", mean_iou(parts), "share"),
        )
        return Likeness(share, figures, lines, tuple(self.changes[:MOST_CHANGES]), len(self.changes))


class _Truth(Truth[Mask, "_Grade"]):
    """Masks in a folder, one image file for each sample (of the same stem), or an array [samples, height, width] of the
    output's size.  Class 255 does not count."""

    def __init__(self, task: Segmentation, samples: Dataset, labels: Any, offset: int) -> None:
        self.task, self.samples, self.offset = task, samples, offset
        self._last: tuple[int, Array] | None = None  # every engine asks for the same mask
        self.array: Array | None = None
        self.files: list[Path] = []
        if isinstance(labels, str | os.PathLike) and Path(labels).is_dir():
            self.files = _mask_files(Path(labels), samples)
        else:
            self.array = _mask_array(labels, len(samples), task.size)

    def mask(self, index: int) -> Array:
        """The true class of each pixel of the output."""
        if self._last is None or self._last[0] != index:
            self._last = index, self._shifted(index)
        return self._last[1]

    def _shifted(self, index: int) -> Array:
        found = self.array[index] if self.array is not None else self._file(index)
        shifted = found.astype(np.int64)
        return np.where(shifted == IGNORED, IGNORED, shifted + self.offset)

    def _file(self, index: int) -> Array:
        """A mask file laid into the input as its picture is, then taken to the output's size, by nearest pixels."""
        require_pillow()
        from PIL import Image

        place = self.samples.frame(index, self.task.model.inputs[0].type.shape)
        with opened(self.files[index]) as found:
            if found.mode not in ("P", "L", "1", "I", "I;16"):
                raise DataError(f"{self.files[index]}: a mask has class numbers as grey or palette, not {found.mode}")
            numbers = np.asarray(found)
            if numbers.max(initial=0) > IGNORED or numbers.min(initial=0) < 0:
                raise DataError(f"{self.files[index]}: class {numbers.max()} is more than the 255 that a mask may hold")
            codes = numbers.astype(np.uint8)
        if codes.shape != (place.height, place.width):
            raise DataError(
                f"{self.files[index]}: the mask is {codes.shape[1]}x{codes.shape[0]}, its picture "
                f"{place.width}x{place.height}; make them equal"
            )
        resized = Image.fromarray(codes).resize(place.resized, Image.Resampling.NEAREST)
        canvas = Image.new("L", (place.input_width, place.input_height), IGNORED)
        canvas.paste(resized, (place.left, place.top))
        height, width = self.task.size
        return np.asarray(canvas.resize((width, height), Image.Resampling.NEAREST))

    def grade(self) -> _Grade:
        return _Grade(self)

    def paired(self, score: str, before: Array, after: Array) -> Difference | None:
        measure = _share if score == "pixel_accuracy" else mean_iou
        return statistics.resampled(len(before), lambda k: measure(after[k]) - measure(before[k]))

    def classes(self, before: _Grade, after: _Grade) -> tuple[ClassLine, ...]:
        first, second = (grade.pixels.parts() for grade in (before, after))
        most = max(first.shape[-1], second.shape[-1])
        (a, b) = (np.pad(x.sum(0), ((0, 0), (0, most - x.shape[-1]))) for x in (first, second))
        ious = [part[0] / np.maximum(part[1] + part[2] - part[0], 1) for part in (a, b)]
        return tuple(
            ClassLine(k, self.task.class_name(k), int(a[1, k]), float(ious[0][k]), float(ious[1][k]))
            for k in np.flatnonzero(a[1] + a[2] + b[2]).tolist()
        )


class _Grade(Grade[Mask]):
    def __init__(self, truth: _Truth) -> None:
        self.truth, self.pixels = truth, _Pixels()

    def add(self, index: int, answer: Mask) -> None:
        self.pixels.add(self.truth.mask(index), answer.classes)

    def scores(self) -> tuple[Graded, ...]:
        parts = self.pixels.parts()
        return (
            Graded("mean_iou", "mean IoU", mean_iou(parts), parts),
            Graded("pixel_accuracy", "right pixels", _share(parts), parts),
        )


def _share(parts: Array) -> float:
    """The share of right pixels."""
    both, true, _ = parts.sum(axis=(0, 2))
    return float(both / max(true, 1))


def _mask_files(folder: Path, samples: Dataset) -> list[Path]:
    by_stem = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES}
    missing = [name for name in samples.names if Path(name).stem not in by_stem]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(f"{folder}: no mask for {missing[0]}{more}; a mask is an image file of the same stem")
    return [by_stem[Path(name).stem] for name in samples.names]


def _mask_array(labels: Any, samples: int, size: tuple[int, int]) -> Array:
    where = "the given masks"
    if isinstance(labels, str | os.PathLike):
        where = os.fspath(labels)
        try:
            labels = next(iter(arrays.load(labels).values()))
        except StopIteration as error:
            raise DataError(f"{where}: masks are a folder of images, a .npy or a .npz of class numbers") from error
    array = arrays.as_array(labels, where)
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3 or len(array) < samples or array.shape[1:] != size or array.dtype.kind not in "iu":
        raise DataError(
            f"{where}: {samples} masks of {size[0]}x{size[1]} integers are needed, found "
            f"{array.dtype.name}{list(array.shape)}"
        )
    return array
