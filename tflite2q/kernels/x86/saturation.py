"""Weights split so that an instruction multiplies them exactly.

What the instruction can take of a weight stays in its place; the rest, where there is any, goes into extra steps of the
block, each of which names the step whose inputs it multiplies.

vpmaddubsw adds two products of an unsigned byte and a signed one in 16 bits, saturated: weights of one sign in a pair
whose sum is at most `PAIR_LIMIT` cannot saturate (`unsaturated`).  Dot products do not saturate, but take eight bits,
which do not hold all weights without their zero point (`in_eight_bits`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tflite2q.kernels.contracts import Array
from tflite2q.kernels.x86.isa import PAIR_LIMIT

# Extra steps in proportion to all, beyond which two instructions on 16 bits, or sums of the inputs, are as fast.
MOST_EXTRA = 0.2
MOST_EXTRA_DOTS = 0.4


@dataclass(frozen=True, eq=False)
class SplitWeights:
    """A section's weights: int64 [blocks, steps, vectors, lanes, 4] and extra ones [count, vectors, lanes, 4].

    `steps` [count]: whose inputs the extra weights multiply; block i has those from `starts`[i] to `starts`[i + 1].
    `count` is a power of two, so that layers of equal shape mostly share a function; what is too many is never read.
    """

    weights: Array
    extra: Array
    steps: Array
    starts: Array

    @property
    def share(self) -> float:
        """Extra steps in proportion to all."""
        return float(self.starts[-1] / (self.weights.shape[0] * self.weights.shape[1]))

    @staticmethod
    def of(weights: Array, taken: Callable[[Array], Array]) -> SplitWeights:
        """Split `weights`, of at most nine bits; `taken` is the part of weights that the instruction can take."""
        whole = taken(weights)
        rest = weights - whole
        found: list[list[tuple[int, Array]]] = []
        for block in rest:
            found.append([])
            while block.any():
                part = taken(block)
                found[-1] += [(int(step), part[step]) for step in np.flatnonzero(part.any(axis=(1, 2, 3)))]
                block = block - part
        starts = np.cumsum([0, *map(len, found)], dtype=np.int32)
        count = 1 << max(int(starts[-1]) - 1, 0).bit_length()
        extra, steps = np.zeros((count, *weights.shape[2:]), np.int64), np.zeros(count, np.int32)
        for i, (step, part) in enumerate(itertools.chain(*found)):
            extra[i], steps[i] = part, step
        return SplitWeights(whole, extra, steps, starts)


def in_eight_bits(weights: Array) -> Array:
    """The part of each weight that fits."""
    return np.clip(weights, -128, 127)


def unsaturated(weights: Array) -> Array:
    """The part of each pair that surely does not saturate: all of it, or else up to half the limit of each weight."""
    pairs = weights.reshape(*weights.shape[:-1], 2, 2)
    reach = np.maximum(np.maximum(pairs, 0).sum(axis=-1), -np.minimum(pairs, 0).sum(axis=-1))
    fits = (reach <= PAIR_LIMIT) & (pairs.max(axis=-1) <= 127)
    half = PAIR_LIMIT // 2
    return np.asarray(np.where(fits[..., None], pairs, np.clip(pairs, -half, half)).reshape(weights.shape))
