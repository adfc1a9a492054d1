"""Depthwise convolutions: what every kernel that unrolls their taps leaves to the generic one."""

from __future__ import annotations

from collections.abc import Collection

from tflite2q.kernels.base import DepthwiseConv2D


def refusal(contract: DepthwiseConv2D, dtypes: Collection[str], narrowest: int, most_taps: int) -> str | None:
    """Why a kernel of depth multiplier 1 does not take `contract`: types, channels or taps."""
    if not {contract.x_dtype, contract.rescale.dtype} <= set(dtypes):
        return f"{contract.x_dtype} to {contract.rescale.dtype}"
    if contract.depth_multiplier != 1:
        return f"depth multiplier {contract.depth_multiplier}"
    if contract.kernel[0] * contract.kernel[1] > most_taps:
        return f"a {contract.kernel[0]}x{contract.kernel[1]} kernel would unroll too far"
    if contract.out_c < narrowest:
        return f"{contract.out_c} channels are fewer than {narrowest}"
    return None
