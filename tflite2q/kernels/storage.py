"""Signed codes stored as unsigned ones: a choice of the lowering, invisible outside a compiled model.

The dot product of x86 multiplies unsigned inputs by signed weights, so a signed input has to be shifted by 128 on the
way into every kernel that reads it.  Stored as code + 128 in a uint8, with a zero point larger by 128, the value is the
same and the shift is gone.  `unsigned` rewrites a contract to read or write such tensors; results are the same numbers,
because each of them is computed before the zero point is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.kernels.base import (
    Array,
    Concat,
    Contract,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Eltwise,
    Lookup,
    Pool,
    ResizeBilinear,
    Tensor,
)

SHIFT = 128


def unsigned(contract: Contract, inputs: Sequence[bool], output: bool) -> Contract:
    """`contract` with the marked int8 inputs and its int8 output stored as uint8.

    Inputs and output of a pool, a resize and a concatenation are stored alike.
    """
    if isinstance(contract, Conv2D | DepthwiseConv2D | Dense):
        if inputs[0]:
            contract = replace(contract, x_dtype="uint8", x_zero_point=contract.x_zero_point + SHIFT)
        return replace(contract, rescale=_shifted(contract.rescale)) if output else contract
    if isinstance(contract, Pool):
        if inputs[0] != output:
            raise ValueError("a pool's input and output are stored alike")
        if not output:
            return contract
        return replace(
            contract,
            dtype="uint8",
            low=contract.low + SHIFT,
            high=contract.high + SHIFT,
            offset=contract.offset + SHIFT,
        )
    if isinstance(contract, ResizeBilinear):
        if inputs[0] != output or contract.in_float32:
            raise ValueError("a signed resize's input and output are stored alike")
        return replace(contract, dtype="uint8", offset=contract.offset + SHIFT)
    if isinstance(contract, Concat):
        if any(mark != output for mark in inputs):
            raise ValueError("a concatenation's parts and result are stored alike")
        return replace(contract, dtype="uint8") if output else contract
    if isinstance(contract, Lookup):
        if output:
            contract = replace(contract, table=shifted(contract.table))
        return replace(contract, x_dtype="uint8") if inputs[0] else contract
    if not any(inputs) and not output:
        return contract
    if not isinstance(contract, Eltwise):
        raise ValueError(f"{type(contract).__name__} takes and gives int8 as it is")
    return _eltwise(contract, tuple(inputs), output)


def shifted(codes: Array) -> Array:
    """int8 codes as they are stored in uint8."""
    return (codes.astype(np.int16) + SHIFT).astype(np.uint8)


def only_changes_storage(contract: Contract) -> bool:
    """Whether a contract (after `unsigned`) returns its input's bytes unchanged."""
    if not isinstance(contract, Lookup) or str(contract.table.dtype) != contract.x_dtype:
        return False
    return bool((contract.table == np.arange(256) + contract.low).all())


def _shifted(rescale: Rescale) -> Rescale:
    return replace(
        rescale,
        dtype="uint8",
        zero_point=rescale.zero_point + SHIFT,
        low=rescale.low + SHIFT,
        high=rescale.high + SHIFT,
    )


def _eltwise(contract: Eltwise, inputs: tuple[bool, ...], output: bool) -> Eltwise:
    meaning = contract.meaning

    def stored(core: Any, *data: Any) -> Any:
        shift = core.const(np.array([SHIFT], np.int32))
        signed = [
            core.astype(core.subtract(core.astype(x, "int32"), shift), "int8") if mark else x
            for x, mark in zip(data, inputs, strict=True)
        ]
        y = meaning(core, *signed)
        return core.astype(core.add(core.astype(y, "int32"), shift), "uint8") if output else y

    tensors = tuple(
        Tensor(t.shape, "uint8" if mark else t.dtype) for t, mark in zip(contract.inputs, inputs, strict=True)
    )
    result = Tensor(contract.output.shape, "uint8") if output else contract.output
    linear = contract.linear
    if linear is not None:
        *factors, offset = linear
        moved = sum(factor * mark for factor, mark in zip(factors, inputs, strict=True))
        linear = (*factors, offset + SHIFT * (output - moved))
    key = (contract.key, inputs, output)
    return replace(contract, key=key, meaning=stored, inputs=tensors, output=result, linear=linear)
