"""Pictures as samples: found, decoded ahead of the models in threads, and laid into the input."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from tflite2q.errors import DataError
from tflite2q.evaluation.geometry import Fit, Frame, frame

if TYPE_CHECKING:
    from PIL import Image

Array = npt.NDArray[Any]
T = TypeVar("T")

LONGEST_SIDE = 64  # times the longer side of the input: bounds the memory of resizing an image
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
DECODERS = 2  # threads; Pillow decodes and resizes without the interpreter's lock
AHEAD = 8  # pictures that may wait, decoded


@dataclass(frozen=True)
class Pictures:
    """Image files for an input of [1, height, width, channels]."""

    files: tuple[Path, ...]
    shape: tuple[int, ...]
    fit: Fit

    def codes(self, index: int) -> Array:
        """A picture as uint8 of the input's shape.  Raises DataError."""
        file, (_, height, width, channels) = self.files[index], self.shape
        with opened(file) as found:
            picture = eight_bits(found, file).convert("L" if channels == 1 else "RGB")
        return laid(picture, frame(picture.size, (width, height), self.fit), file).reshape(self.shape)

    def frame(self, index: int) -> Frame:
        """How a picture lies in the input; reads its header only."""
        with opened(self.files[index]) as found:
            return frame(found.size, (self.shape[2], self.shape[1]), self.fit)


@contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """The open image file.  Raises DataError if it cannot be read, in the block too."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DataError("reading images needs Pillow: pip install 'tflite2q[images]'") from error
    try:
        with Image.open(file) as found:
            yield found
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{file}: not a readable image; remove it from the data or repair it") from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{file}: claims more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; scale it down"
        ) from error


def laid(picture: Image.Image, place: Frame, file: Path) -> Array:
    """The picture resized (bilinear) and laid into the input; what it does not cover is black."""
    from PIL import Image

    if max(place.resized) > LONGEST_SIDE * max(place.input_height, place.input_width):
        raise DataError(
            f"{file}: {picture.width}x{picture.height} is too long and narrow for an input of "
            f"{place.input_width}x{place.input_height}"
        )
    if place.resized != picture.size:
        picture = picture.resize(place.resized, Image.Resampling.BILINEAR)
    box = (-place.left, -place.top, place.input_width - place.left, place.input_height - place.top)
    return np.asarray(picture.crop(box), np.uint8)


def eight_bits(picture: Image.Image, file: Path) -> Image.Image:
    """`picture` itself, or its 16-bit greys rounded to 8 bits (65535 is 257 times 255).

    Pillow opens a 16-bit grey PNG in a mode "I;16" or, in older versions, "I", and cuts instead of scaling when it
    converts those.  Raises DataError for 32-bit and floating-point pixels, whose range nothing states.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        from PIL import Image

        return Image.fromarray(((np.asarray(picture).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise DataError(f"{file}: 32-bit pixels have no stated range; save the image with 8 or 16 bits a channel")
    return picture


def ahead(make: Callable[[int], T], count: int) -> Iterator[T]:
    """make(0), make(1), ... computed in threads, a few ahead of their use."""
    with ThreadPoolExecutor(DECODERS, thread_name_prefix="decode") as pool:
        waiting: deque[Future[T]] = deque(pool.submit(make, index) for index in range(min(AHEAD, count)))
        try:
            for index in range(count):
                found = waiting.popleft().result()
                if index + AHEAD < count:
                    waiting.append(pool.submit(make, index + AHEAD))
                yield found
        finally:
            for future in waiting:
                future.cancel()
