"""How many bits a layer's sums of products need, and how the rescale starts from that.

8-bit layers have 32-bit accumulators, which wrap around as the reference kernels' do.  Those of 16-bit activations have
64 bits, which a kernel should not pay for: `Sums` proves from the constant weights that 32 bits hold every sum, or says
that the layer's sums are `wide`.  Then kernels cut them into `layout.pieces` whose sums do fit, and add up those in 64
bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.contracts import Array, ConvolutionContract
from tflite2q.kernels.epilogue import Epilogue
from tflite2q.kernels.split_rescale import SplitEpilogue, SplitRescale, prove


@dataclass(frozen=True, eq=False)
class Sums:
    """accumulator = start + sum x * weights over raw input codes x (padding filled with the input zero point).

    `weights`: int64, in the contract's layout, zero points subtracted; `start`: [out_c] of `dtype`, in which the sums
    are complete; `split`: the proof that the rescale fits 32 bits, if there is one; `pack`: the constants of `epilogue`
    as an index array of channels arranges them; `proven`: no part of a sum, or of a piece of it, leaves 32 bits, and
    nothing wraps around.
    """

    weights: Array
    start: Array
    split: SplitRescale | None
    epilogue: Epilogue | SplitEpilogue
    pack: Callable[[Array], dict[str, Array]]
    proven: bool = True

    @staticmethod
    def of(contract: ConvolutionContract) -> Sums:
        weights, rescale = layout.centered_weights(contract), contract.rescale
        bias = layout.wide_bias(contract, contract.x_zero_point)
        sums = layout.weight_sums(contract, absolute=True) * float(layout.code_reach(contract))
        bound = sums + np.abs(bias)
        if contract.accumulator == "int32":
            start = layout.folded_bias(contract, contract.x_zero_point)
            epilogue = Epilogue.of(rescale, layout.accumulator_bound(contract))
            pack = functools.partial(epilogue.pack, rescale)
            return Sums(weights, start, None, epilogue, pack, proven=bool(bound.max() < 2**31))
        by_channel = np.moveaxis(weights, contract.channel_axis, 0).reshape(contract.out_c, -1)
        split = prove(rescale, sums, np.abs(by_channel).max(axis=1), bias)
        if split is not None:
            doubled = weights << contract.along_channels(split.double)
            halves = SplitEpilogue.of(rescale, split)
            start, pack = split.start.astype(np.int32), functools.partial(halves.pack, split)
            return Sums(doubled, start, split, halves, pack)
        dtype = "int32" if bound.max() < 2**31 else "int64"
        epilogue = Epilogue.of(rescale, bound, dtype)
        return Sums(weights, bias.astype(dtype), None, epilogue, functools.partial(epilogue.pack, rescale))

    @property
    def dtype(self) -> str:
        """The type of accumulators once all products are in."""
        return str(self.start.dtype)

    @property
    def wide(self) -> bool:
        return self.dtype == "int64"
