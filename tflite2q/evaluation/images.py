"""Pictures as samples: found, decoded in threads ahead of the models, and fitted to the input.

A picture is what a viewer shows: the first frame, rotated by its EXIF orientation, with 8 bits a channel.
Alpha is dropped, as TensorFlow's decoders do.
"""

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

from tflite2q import limits
from tflite2q.errors import DataError, Tflite2qError, UsageError, hint
from tflite2q.evaluation.geometry import Fit, Frame, frame

if TYPE_CHECKING:
    from PIL import Image

Array = npt.NDArray[Any]
T = TypeVar("T")

LONGEST_SIDE = 64  # times the longer side of the input: bounds the memory of resizing an image
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# What Pillow may take a file for, whatever its name: not EPS, for example, which starts another program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # JPEG opens MPO, too
DECODERS = 2  # threads; Pillow decodes and resizes without the interpreter's lock
AHEAD = 8  # pictures that may wait, decoded
ORIENTATION = 0x0112  # EXIF
TURNED = (5, 6, 7, 8)  # orientations that exchange width and height
BITS_PER_SAMPLE = 258  # TIFF
SKIP = "remove it from the data, or leave such pictures out with --skip-bad"


@dataclass(frozen=True)
class Pictures:
    """Image files for an input of [1, height, width, channels]."""

    files: tuple[Path, ...]
    shape: tuple[int, ...]
    fit: Fit

    def codes(self, index: int) -> Array:
        """A picture as uint8 of the input's shape.  Raises DataError."""
        file, (_, height, width, channels) = self.files[index], self.shape
        picture = decoded(file, "L" if channels == 1 else "RGB")
        return laid(picture, frame(picture.size, (width, height), self.fit), file).reshape(self.shape)

    def frame(self, index: int) -> Frame:
        """How a picture lies in the input; reads little more than its header."""
        with opened(self.files[index]) as found:
            return frame(upright(found), (self.shape[2], self.shape[1]), self.fit)


def require_pillow() -> None:
    """Raise UsageError where the package that reads and writes pictures is not installed."""
    try:
        import PIL  # noqa: F401 - whether it is there
    except ImportError as error:
        raise UsageError("pictures need Pillow: pip install 'tflite2q[images]'") from error


@contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """The open image file.  Raises DataError if it cannot be read, in the block too, or has more pixels than
    `limits.pixels()`, before it is decoded."""
    require_pillow()
    from PIL import Image

    most = limits.pixels()
    if most > (Image.MAX_IMAGE_PIXELS or most):
        Image.MAX_IMAGE_PIXELS = most  # Pillow's own limit, which is lower, and a warning
    try:
        if not file.is_file():  # opening a pipe waits for a writer
            raise DataError(f"{file}: {'is not a file' if file.exists() else 'does not exist'}; {hint(SKIP)}")
        with Image.open(file, formats=FORMATS) as found:
            if found.width * found.height > most:
                raise _too_large(file, f"{found.width}x{found.height} pixels are", most)
            yield found
    except Tflite2qError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(file, "its pixels are", most) from error
    except MemoryError as error:
        raise DataError(f"{file}: too little memory to decode it; scale it down") from error
    except Exception as error:  # decoders raise almost anything for damaged files
        raise DataError(f"{file}: not a readable image; remove it from the data or repair it") from error


def upright(picture: Image.Image) -> tuple[int, int]:
    """Width and height of an opened picture as `decoded` turns it.  Pillow's size of a TIFF is that already."""
    turned = picture.format != "TIFF" and picture.getexif().get(ORIENTATION) in TURNED
    return picture.size[::-1] if turned else picture.size


def _too_large(file: Path, claim: str, most: int) -> DataError:
    return DataError(f"{file}: {claim} more than the {most:,} allowed; {hint('scale it down, or see --max-pixels')}")


def decoded(file: Path, mode: str) -> Image.Image:
    """The picture upright, of 8 bits a channel, in Pillow's `mode` "L" or "RGB".  Raises DataError."""
    require_pillow()
    from PIL import ImageOps

    with opened(file) as found:
        if found.mode == "LAB":
            raise DataError(f"{file}: has colours in LAB; save the image as RGB")
        picture = ImageOps.exif_transpose(eight_bits(found, file))
        if picture.mode in ("P", "PA") and "transparency" in picture.info:
            picture = picture.convert("RGBA")  # else Pillow warns, of transparency that is not asked for
        return picture.convert(mode)


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
    """`picture` itself, or its deeper greys scaled to 8 bits: integers of 9 to 16 bits by the range of these (65535 is
    257 times 255), real numbers by 0 to 1, or by 0 to 255 if one is above 1.

    Pillow cuts instead of scaling when it converts such pixels.  Raises DataError where nothing states their range.
    """
    wide = picture.mode == "I" and picture.format in ("PNG", "PPM")  # 16 bits, of which older versions make 32
    if picture.mode.startswith("I;16") or wide:
        full = (1 << _bits(picture)) - 1
        return _greys(picture, (np.asarray(picture).astype(np.uint32) * 255 + full // 2) // full)
    if picture.mode == "F":
        return _greys(picture, _scaled(np.asarray(picture), file))
    if picture.mode == "I":
        raise DataError(f"{file}: 32-bit pixels have no stated range; save the image with 8 or 16 bits a channel")
    return picture


def _bits(picture: Image.Image) -> int:
    """Bits of a pixel that is stored in 16."""
    stated = getattr(picture, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))
    bits = stated[0] if isinstance(stated, tuple) else stated
    return int(bits) if 9 <= bits <= 16 else 16


def _scaled(reals: Array, file: Path) -> Array:
    bad = int(reals.size - np.isfinite(reals).sum())
    if bad:
        raise DataError(f"{file}: {bad} of its {reals.size} pixels are NaN or infinite; repair the image")
    low, high = float(reals.min(initial=0)), float(reals.max(initial=0))
    if low < 0 or high > 255:
        raise DataError(
            f"{file}: pixels from {low:g} to {high:g}; real numbers are taken from 0 to 1, or from 0 to 255"
        )
    return np.asarray(np.rint(reals * 255 if high <= 1 else reals))


def _greys(picture: Image.Image, codes: Array) -> Image.Image:
    """Codes as an image, with what `picture` says about its orientation."""
    from PIL import Image

    found = Image.fromarray(codes.astype(np.uint8))
    found.getexif()[ORIENTATION] = picture.getexif().get(ORIENTATION, 1)
    return found


def unreadable(pictures: Pictures) -> dict[int, str]:
    """Why pictures cannot be used, by their number; decodes all of them."""

    def tried(index: int) -> str:
        try:
            pictures.codes(index)
        except DataError as error:
            return str(error)
        return ""

    reasons = enumerate(ahead(tried, len(pictures.files)))
    return {index: reason for index, reason in reasons if reason}


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
