"""Refining the codes of a layer, activation included: single steps, each the best of its channel (eq. R7).

The Hessian measures errors of sums.  But sums that the activation cuts off may have any error, so a layer with RELU
can be rounded better: here the results after the activation count.
Related: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020, which learns the same
choice by gradients.  From the Hessian's good start, trying single steps gets further in the same time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tflite2q.reconstruction.grid import Floats, Grid, Reals
from tflite2q.reconstruction.rounding import Rounded

STEPS = 64  # of each channel
PATIENCE = 4  # steps of a channel in a row that did not help
SETTLING = 8  # corrections of a bias


@dataclass(frozen=True)
class Task:
    """Rows of inputs [groups, rows, inputs], wanted sums [groups, rows, channels], and where results are cut off."""

    x: Reals
    t: Reals
    low: float
    high: float

    def errors(self, sums: Reals) -> Reals:
        """The losses of the results after the activation."""
        return np.asarray(np.clip(sums, self.low, self.high) - np.clip(self.t, self.low, self.high))

    def losses(self, weights: Floats, bias: Floats) -> Floats:
        """The mean squared error of each channel's results."""
        errors = self.errors(self.x @ weights.astype(np.float32) + bias.astype(np.float32)[:, None, :])
        return np.asarray((errors * errors).mean(axis=1, dtype=np.float64))


def refined(task: Task, start: Rounded, bias: Floats, grid: Grid, biased: bool) -> tuple[Rounded, Floats]:
    """Codes one step from those of `start`, or a few, and the bias [groups, channels], for which the losses of `task`
    are smaller; the bias stays where there is none."""
    scales, codes = start.steps, start.codes.copy()
    middle = task.x.mean(axis=1, keepdims=True) if biased else np.float32(0)  # the bias keeps means where they are
    x = task.x - middle
    columns = np.ascontiguousarray(x.swapaxes(1, 2))
    squares = columns * columns
    sums = task.x @ (codes * scales) + bias.astype(np.float32)[:, None, :]
    errors = task.errors(sums)
    losses = (errors * errors).mean(axis=1)
    barred = np.zeros(codes.shape, bool)
    failures = np.zeros(losses.shape, np.int64)
    for _ in range(STEPS):
        counts = ((sums > task.low) & (sums < task.high)) | (errors != 0)
        up, gain = _best(codes, columns @ errors, squares @ counts.astype(np.float32), scales, grid, barred)
        at = gain.argmax(axis=1)[:, None, :]
        step = np.where(np.take_along_axis(up, at, 1), np.float32(1), np.float32(-1))
        step *= (np.take_along_axis(gain, at, 1) > 0) & (failures < PATIENCE)[:, None, :]
        if not step.any():
            break
        moved = sums + np.take_along_axis(x, at, 2) * (step * np.take_along_axis(scales, at, 1))
        after = task.errors(moved)
        now = (after * after).mean(axis=1)
        better = (now < losses) & (step[:, 0] != 0)
        failures = np.where(better, 0, failures + 1)
        np.put_along_axis(barred, at, (~better)[:, None, :], 1)
        took = np.take_along_axis(codes, at, 1) + step * better[:, None, :]
        np.put_along_axis(codes, at, took, 1)
        sums, errors = (np.where(better[:, None, :], b, a) for a, b in ((sums, moved), (errors, after)))
        losses = np.where(better, now, losses)
    found = Rounded(codes, start.scales, start.error)
    return found, settled(task, found, bias) if biased else bias


def _best(
    codes: Reals, slope: Reals, curvature: Reals, scales: Reals, grid: Grid, barred: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], Reals]:
    """For each weight whether a step goes up, and by how much that lowers the loss; less than 0 where it may not."""
    up = slope < 0
    gain = np.abs(slope) * scales * 2 - curvature * scales * scales
    free = np.where(up, codes < grid.high, codes > grid.low) & ~barred
    return up, np.where(free, gain, np.float32(-1)).astype(np.float32)


def settled(task: Task, found: Rounded, bias: Floats) -> Floats:
    """The bias with which the mean error of each channel's results, as far as they are not cut off, is 0."""
    sums = task.x @ found.weights.astype(np.float32)
    for _ in range(SETTLING):
        y = sums + bias.astype(np.float32)[:, None, :]
        inside = ((y > task.low) & (y < task.high)).mean(axis=1)
        bias = bias - task.errors(y).mean(axis=1) / np.maximum(inside, 0.1)
    return np.asarray(bias, np.float64)
