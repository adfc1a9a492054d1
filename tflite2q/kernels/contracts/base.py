"""What all contracts have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
S = TypeVar("S", bound="Contract")


@dataclass(frozen=True)
class Tensor:
    """Shape and dtype of an input or output."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


class Contract:
    """What all contracts answer.

    `storable`: int8 inputs and output may be stored as uint8 (`tflite2q.kernels.storage`), each by itself or, if
    `stored_alike`, only all of them.
    """

    storable: ClassVar[bool] = True
    stored_alike: ClassVar[bool] = False

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    @property
    def output(self) -> Tensor:
        raise NotImplementedError

    @property
    def copies(self) -> bool:
        """Whether the output has the bytes of the only input, and there is nothing to compute."""
        return False

    def stored(self: S, inputs: Sequence[bool], output: bool) -> S:
        """The same numbers with the marked int8 inputs, and the int8 output if marked, stored as uint8.

        Raises ValueError if the contract is not `storable`, or `stored_alike` and asked for a mixture.
        """
        if not any(inputs) and not output:
            return self
        if not self.storable:
            raise ValueError(f"{type(self).__name__} takes and gives int8 as it is")
        if self.stored_alike and any(mark != output for mark in inputs):
            raise ValueError(f"inputs and output of {type(self).__name__} are stored alike")
        return self._stored(inputs, output)

    def _stored(self: S, inputs: Sequence[bool], output: bool) -> S:
        raise NotImplementedError

    def clamped(self, low: float, high: float) -> Contract | None:
        """The same with its codes, or its real numbers, clamped to [low, high] as well; None where kernels would
        not clamp."""
        return None
