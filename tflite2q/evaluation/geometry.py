"""How a picture is fitted to a model's input, and how coordinates are mapped back.

- `crop`: the central 87.5 % of the shorter side covers the input, the usual preprocessing of ImageNet classifiers;
- `pad`: the whole picture, its proportions kept, in the middle of the input; the rest is black;
- `stretch`: the whole picture, whatever its proportions, as SSD detectors are trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Fit = Literal["crop", "pad", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)

CENTRAL_FRACTION = 0.875


@dataclass(frozen=True)
class Frame:
    """A picture of `width` x `height` resized to `resized` (width, height) and laid with its corner at (`left`, `top`)
    of an input of `input_width` x `input_height`; negative corners are cut off."""

    width: int
    height: int
    input_width: int
    input_height: int
    resized: tuple[int, int]
    left: int
    top: int

    def to_picture(self, points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Points (y, x) in parts of the input, [..., 2], as pixels of the picture."""
        scale = np.array([self.height / self.resized[1], self.width / self.resized[0]])
        pixels = np.asarray(points, np.float64) * (self.input_height, self.input_width)
        return np.asarray((pixels - (self.top, self.left)) * scale)

    def to_input(self, points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Points (y, x) in pixels of the picture, [..., 2], as parts of the input: the inverse of `to_picture`."""
        scale = np.array([self.resized[1] / self.height, self.resized[0] / self.width])
        return np.asarray(np.asarray(points, np.float64) * scale + (self.top, self.left)) / (
            self.input_height,
            self.input_width,
        )


def frame(picture: tuple[int, int], target: tuple[int, int], fit: Fit) -> Frame:
    """The frame of a picture (width, height) in an input (width, height)."""
    (width, height), (across, down) = picture, target
    if fit == "stretch":
        resized = target
    elif fit == "pad":
        scale = min(across / width, down / height)
        resized = min(max(round(width * scale), 1), across), min(max(round(height * scale), 1), down)
    else:
        scale = max(down / height, across / width) / CENTRAL_FRACTION
        resized = max(round(width * scale), across), max(round(height * scale), down)
    # Floors of what is cut off, not of the (negative) corner.
    left, top = (-((a - b) // 2) if a >= b else (b - a) // 2 for a, b in zip(resized, target, strict=True))
    return Frame(width, height, across, down, resized, left, top)


def whole(width: int, height: int) -> Frame:
    """The frame of an array that is an input already."""
    return Frame(width, height, width, height, (width, height), 0, 0)
