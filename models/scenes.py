"""Scenes: pictures of 32x32 grey pixels in which a handwritten digit stands on a cluttered background.

The digit is enlarged, turned, somewhere, and more or less bright; behind it lie a gradient and pieces of other digits,
over all of it noise.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

SIZE = 32
GLYPH = 8  # pixels of a digit as it was written

# Few grey levels, so that scenes compress well; a level is the middle of the codes that it stands for.
LEVELS = 32
CODES_PER_LEVEL = 256 // LEVELS

GROUND = (0.05, 0.4)  # of black to white, as all that follows
SLOPE = 0.12
DIGIT_SIZE = (17.0, 24.0)  # pixels of a side
DIGIT_TURN = 0.25  # radians, either way
DIGIT_INK = (0.35, 0.6)  # brighter than the ground
PIECES = (1, 4)
PIECE_CELLS = (3, 5)  # pixels of a digit as it was written
PIECE_INK = (-0.25, 0.15)
NOISE = (0.01, 0.04)


def scene(glyph: Floats, others: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the digit `glyph` [8, 8] of 0 to 1 on pieces of `others` [n, 8, 8]; return codes [32, 32, 1]."""
    ground = rng.uniform(*GROUND)
    picture = ground + _gradient(rng)
    for _ in range(rng.integers(*PIECES, endpoint=True)):
        piece = _piece(others[rng.integers(len(others))], rng)
        size, ink = rng.uniform(*DIGIT_SIZE), ground + rng.uniform(*PIECE_INK)
        _draw(picture, piece, rng.uniform(0, SIZE, 2), size, rng.uniform(-np.pi, np.pi), ink)
    size, ink = rng.uniform(*DIGIT_SIZE), ground + rng.uniform(*DIGIT_INK)
    centre = rng.uniform(size / 2, SIZE - size / 2, 2)
    _draw(picture, glyph, centre, size, rng.uniform(-DIGIT_TURN, DIGIT_TURN), ink)
    picture += rng.uniform(*NOISE) * rng.standard_normal(picture.shape)
    levels = np.clip(np.floor(picture * LEVELS), 0, LEVELS - 1)
    return (levels * CODES_PER_LEVEL + CODES_PER_LEVEL // 2).astype(np.uint8)[..., np.newaxis]


def _gradient(rng: np.random.Generator) -> Floats:
    """A slope across the picture in a random direction."""
    along = np.linspace(-1, 1, SIZE)
    down, right = rng.uniform(-SLOPE, SLOPE, 2)
    return np.asarray(down * along[:, np.newaxis] + right * along)


def _piece(glyph: Floats, rng: np.random.Generator) -> Floats:
    """A few rows and columns of a digit, the rest blank."""
    height, width = rng.integers(*PIECE_CELLS, size=2, endpoint=True)
    top, left = rng.integers(0, GLYPH - height + 1), rng.integers(0, GLYPH - width + 1)
    piece = np.zeros_like(glyph)
    piece[top : top + height, left : left + width] = glyph[top : top + height, left : left + width]
    return piece


def _draw(picture: Floats, glyph: Floats, centre: Floats, size: float, turn: float, ink: float) -> None:
    """Blend the glyph, `size` pixels wide around `centre` and turned, into the picture (bilinear)."""
    reach = size / 2 * (abs(np.cos(turn)) + abs(np.sin(turn)))
    top, left = np.maximum(np.floor(centre - reach), 0).astype(int)
    bottom, right = np.minimum(np.ceil(centre + reach), SIZE).astype(int)
    down = np.arange(top, bottom)[:, np.newaxis] + 0.5 - centre[0]
    across = np.arange(left, right) + 0.5 - centre[1]
    # Where a pixel lies in the glyph, whose pixels have whole coordinates; a blank frame of one pixel is around it.
    row = (down * np.cos(turn) - across * np.sin(turn)) * (GLYPH / size) + (GLYPH + 1) / 2
    column = (down * np.sin(turn) + across * np.cos(turn)) * (GLYPH / size) + (GLYPH + 1) / 2
    opacity = _sampled(np.pad(glyph, 1), row, column)
    # Steeper than the interpolation, so that strokes have edges.
    opacity = np.clip(1.6 * opacity - 0.3, 0, 1)
    inside = picture[top:bottom, left:right]
    inside += opacity * (ink - inside)


def _sampled(framed: Floats, row: Floats, column: Floats) -> Floats:
    """Bilinear samples; beyond the frame it goes on as at its edge, which is blank."""
    last = len(framed) - 1
    row, column = np.clip(row, 0, last - 1e-6), np.clip(column, 0, last - 1e-6)
    top, left = row.astype(int), column.astype(int)
    down, right = row - top, column - left
    upper = framed[top, left] * (1 - right) + framed[top, left + 1] * right
    lower = framed[top + 1, left] * (1 - right) + framed[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)
