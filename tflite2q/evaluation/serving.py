"""Compiled models, with preprocessing of data to codes and dequantization of results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.errors import DataError
from tflite2q.evaluation import coding, data, tasks
from tflite2q.evaluation.coding import Normalization
from tflite2q.evaluation.data import Source
from tflite2q.evaluation.geometry import Fit
from tflite2q.execution.runtime import Executable

Array = npt.NDArray[Any]


class Served(Executable):
    """A compiled model that also takes photos and real numbers, and says what its codes stand for."""

    def preprocess(
        self, sample: Source, mean: float | None = None, std: float | None = None, fit: Fit | None = None
    ) -> list[Array]:
        """The arrays that `run` takes, one for each input, of one sample: an image file, a .npy, a .npz, an array, or a
        mapping of arrays by the inputs' names.

        Pictures and numbers become codes as `evaluation/coding.py` says, and as `compare` and `run` do it: `mean` and
        `std` normalize pixels, `fit` is "crop", "pad" or "stretch" (None: as the model's task does).  Raises DataError
        for what cannot be read, does not fit, or is more than one sample.
        """
        chosen = fit or tasks.choose(self.inputs, self.outputs)[0].fit
        found = data.load(sample, self.inputs, pixels=Normalization.of(mean, std), fit=chosen)
        if len(found) != 1:
            raise DataError(f"{found.source}: holds {len(found)} samples; preprocess one at a time")
        return found.make(0)

    def dequantize(self, outputs: Sequence[npt.ArrayLike]) -> list[Array]:
        """The real numbers, float32, that the outputs of `run` stand for; outputs without codes are only cast.

        Raises DataError unless there is an array of the right shape for each output.
        """
        arrays = [np.asarray(output) for output in outputs]
        shapes, wanted = [array.shape for array in arrays], [value.type.shape for value in self.outputs]
        if shapes != wanted:
            raise DataError(f"the model's outputs are {list(map(list, wanted))}, got {list(map(list, shapes))}")
        return [coding.real(array, value) for array, value in zip(arrays, self.outputs, strict=True)]
