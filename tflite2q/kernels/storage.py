"""Signed codes stored as unsigned ones: a choice of the lowering, invisible outside a compiled model.

The dot product of x86 multiplies unsigned inputs by signed weights, so a signed input has to be shifted by 128 on the
way into every kernel that reads it.  Stored as code + 128 in a uint8, with a zero point larger by 128, the value is the
same and the shift is gone.  `Contract.stored` makes contracts that read or write such tensors; results are the same
numbers, because each of them is computed before the zero point is added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.rescale import Rescale

SHIFT = 128


def shifted(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """int8 codes as they are stored in uint8."""
    return (codes.astype(np.int16) + SHIFT).astype(np.uint8)


def shifted_rescale(rescale: Rescale) -> Rescale:
    """The rescale to int8 codes, stored as uint8."""
    return replace(
        rescale,
        dtype="uint8",
        zero_point=rescale.zero_point + SHIFT,
        low=rescale.low + SHIFT,
        high=rescale.high + SHIFT,
    )


def shifted_meaning(meaning: Callable[..., Any], inputs: Sequence[bool], output: bool) -> Callable[..., Any]:
    """An element-wise `meaning(core, *data)` of int8, over uint8 where an input or the output is marked."""

    def stored(core: Any, *data: Any) -> Any:
        shift = core.const(np.array([SHIFT], np.int32))
        signed = [
            core.astype(core.subtract(core.astype(x, "int32"), shift), "int8") if mark else x
            for x, mark in zip(data, inputs, strict=True)
        ]
        y = meaning(core, *signed)
        return core.astype(core.add(core.astype(y, "int32"), shift), "uint8") if output else y

    return stored
