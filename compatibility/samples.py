"""What models are run on: random codes over the whole range, and photos where an input is an image.

Random codes reach every clamp and every end of a range; photos are what the ranges of image models were made for, and
the only thing by which a conversion is judged there: on noise, a network's outputs say little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Value
from tflite2q.evaluation import calibration, data

Array = npt.NDArray[Any]

RANDOM_SAMPLES = 2
PHOTOS = 8  # at first; more where so few cannot decide
STEPS = 100  # of a stream, for models with state
LOUDNESS = (1, 4, 16)  # what random codes of a stream are divided by, in turns
PICTURES_JUDGED = 2  # of them are compared tensor by tensor with other engines


@dataclass(frozen=True)
class Samples:
    """`exact` is what engines are compared on, `likely` what conversions are judged on, `source` what those are.

    `further` makes more likely ones, for when those do not decide.  `steps` are those of a stream, on which engines are
    compared too if the model has state; else it is empty.
    """

    exact: tuple[list[Array], ...]
    likely: tuple[list[Array], ...]
    source: str
    steps: tuple[list[Array], ...] = ()
    further: tuple[Callable[[], list[Array]], ...] = ()


def is_image(graph: Graph) -> bool:
    """Whether the model takes one picture: [1, height, width, 1 or 3], in no less than 8 by 8 pixels."""
    if len(graph.inputs) != 1:
        return False
    kind = graph[graph.inputs[0]].type
    shape = kind.shape
    codes = kind.dtype in ("uint8", "int8", "int16") or kind.dtype.startswith("float")
    return codes and len(shape) == 4 and shape[0] == 1 and shape[3] in (1, 3) and min(shape[1:3]) >= 8


def samples(graph: Graph, photos: Path | None) -> Samples:
    """Samples for a model; noise with the spectrum of photos stands in where there are none.

    Raises DataError where an input has a type that numbers cannot be made for.
    """
    values = [graph[name] for name in graph.inputs]
    random = list(data.synthetic(values, RANDOM_SAMPLES))
    if graph.states:
        return Samples(tuple(random), tuple(_stream(values, 1)), "steps of random inputs", tuple(_stream(values, 2)))
    if not is_image(graph):
        return Samples(tuple(random), tuple(data.synthetic(values, PHOTOS, seed=1)), "random inputs")
    if photos is None:
        noise = calibration.noise_images(graph)[:PHOTOS]
        return Samples((*random, *noise[:PICTURES_JUDGED]), tuple(noise), "noise with the spectrum of photos")
    found = data.load(photos, [graph[name] for name in graph.inputs])
    order = _spread(len(found))
    pictures = tuple(found.make(index) for index in order[:PHOTOS])
    further = tuple(partial(found.make, index) for index in order[PHOTOS:])
    return Samples((*random, *pictures[:PICTURES_JUDGED]), pictures, "photos", further=further)


def _spread(count: int) -> list[int]:
    """The order in which photos are taken: first a few from all over the folder; neighbours are alike."""
    every = max(1, count // PHOTOS)
    return [index for start in range(every) for index in range(start, count, every)]


def _stream(values: Sequence[Value], seed: int) -> Iterator[list[Array]]:
    """Steps of random inputs that are now loud, now soft: what a model remembers differs from time to time."""
    for index, arrays in enumerate(data.synthetic(values, STEPS, seed)):
        divisor = LOUDNESS[index // 10 % len(LOUDNESS)]
        yield [_softened(array, value, divisor) for array, value in zip(arrays, values, strict=True)]


def _softened(array: Array, value: Value, divisor: int) -> Array:
    """`array` with its distance from real 0 divided."""
    if not value.type.quantized:
        return array if value.type.dtype != "float32" else (array / divisor).astype(array.dtype)
    zero = value.type.zero_point
    return (zero + (array.astype(np.int64) - zero) // divisor).astype(array.dtype)
