"""Answers as pictures: boxes, keypoints, masks and classes drawn on the photo, and masks as files of their own."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tflite2q.errors import DataError, UsageError
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.geometry import Frame
from tflite2q.evaluation.images import decoded, require_pillow
from tflite2q.evaluation.tasks.base import Task
from tflite2q.evaluation.tasks.detection import SHOWN, Boxes
from tflite2q.evaluation.tasks.keypoints import SHOWN as SHOWN_POINT
from tflite2q.evaluation.tasks.keypoints import Points
from tflite2q.evaluation.tasks.segmentation import Mask

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

    Palette = Callable[[int], tuple[int, int, int]]

Array = npt.NDArray[Any]

MASK_OPACITY = 0.55
BACKGROUND = 0  # the class of a mask that is not painted over the photo


def colour(number: int) -> tuple[int, int, int]:
    """A colour for each class, as Pascal VOC's palette has them: bits of the number spread over red, green and blue."""
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (number & 1) << shift
        green |= (number >> 1 & 1) << shift
        blue |= (number >> 2 & 1) << shift
        number >>= 3
    return red, green, blue


def mask_png(answer: Mask) -> bytes:
    """A mask as an 8-bit PNG whose pixels are class numbers, with a palette to look at.

    Raises DataError for classes beyond 255.
    """
    require_pillow()
    from PIL import Image

    if answer.classes.min() < 0 or answer.classes.max() > 255:
        raise DataError(f"the mask has class {answer.classes.max()}; a PNG holds classes up to 255, write a .npy")
    picture = Image.fromarray(answer.classes.astype(np.uint8))
    picture.putpalette([part for number in range(256) for part in colour(number)])
    return _png(picture)


def drawn(task: Task[Any], answer: Any, samples: Dataset, index: int) -> bytes:
    """The answer on the sample's photo, as a PNG.  Raises UsageError if the sample is no photo."""
    require_pillow()
    from PIL import ImageDraw

    if samples.pictures is None:
        raise UsageError("an answer is drawn on a photo; give one as the input, not an array")
    file = samples.pictures.files[index]
    picture = decoded(file, "RGB")
    place = samples.pictures.frame(index)
    if isinstance(answer, Mask):
        picture = _painted(picture, answer, place)
    pen = ImageDraw.Draw(picture)
    width = max(round(max(picture.size) / 300), 1)
    if isinstance(answer, Boxes):
        _boxes(pen, task, answer.from_score(SHOWN), place, width)
    elif isinstance(answer, Points):
        _points(pen, answer, place, width)
    else:
        _label(pen, (width, width), task.says(answer), (0, 0, 0))
    return _png(picture)


def _painted(picture: Image.Image, answer: Mask, place: Frame) -> Image.Image:
    """The photo with the classes of a mask painted over it; the mask is taken back through the frame."""
    from PIL import Image

    layer = Image.fromarray(answer.classes.astype(np.int32)).resize(
        (place.input_width, place.input_height), Image.Resampling.NEAREST
    )
    rows, columns = np.arange(picture.height) + 0.5, np.arange(picture.width) + 0.5
    down = np.floor(rows * place.resized[1] / place.height + place.top).astype(int)
    across = np.floor(columns * place.resized[0] / place.width + place.left).astype(int)
    seen = (down[:, None] >= 0) & (down[:, None] < place.input_height)
    seen = seen & (across[None, :] >= 0) & (across[None, :] < place.input_width)
    codes = np.asarray(layer)[
        np.clip(down, 0, place.input_height - 1)[:, None], np.clip(across, 0, place.input_width - 1)[None, :]
    ]
    photo = np.asarray(picture, np.float64)
    paint = np.array([colour(k) for k in range(256)])[codes % 256]
    mixed = photo * (1 - MASK_OPACITY) + paint * MASK_OPACITY
    painted = np.where((seen & (codes != BACKGROUND))[..., None], mixed, photo)
    return Image.fromarray(np.rint(painted).astype(np.uint8))


def _boxes(pen: ImageDraw.ImageDraw, task: Task[Any], answer: Boxes, place: Frame, width: int) -> None:
    corners = place.to_picture(answer.corners.reshape(-1, 2, 2))
    for (low, high), number, score in zip(corners, answer.classes, answer.scores, strict=True):
        left, top, right, bottom = low[1], low[0], max(high[1], low[1]), max(high[0], low[0])
        ink = colour(int(number) + 1)
        pen.rectangle((left, top, right, bottom), outline=ink, width=width)
        _label(pen, (max(left, 0), max(top, 0)), f"{task.called(int(number))} {score:.2f}", ink)


def _points(pen: ImageDraw.ImageDraw, answer: Points, place: Frame, width: int) -> None:
    for number, (y, x) in enumerate(place.to_picture(answer.places)):
        if answer.scores[number] >= SHOWN_POINT:
            reach = 2 * width
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour(number + 1), outline="white")


def _label(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, ink: tuple[int, int, int]) -> None:
    pen.rectangle(pen.textbbox(place, text), fill=ink)
    pen.text(place, text, fill="white" if sum(ink) < 384 else "black")


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
