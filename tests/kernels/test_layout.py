"""Bounds of accumulators against the inputs that reach them."""

from __future__ import annotations

from typing import Any

import made
import numpy as np
import pytest

from tflite2q.kernels import layout


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("seed", range(12))  # most have weights of both signs
@pytest.mark.parametrize("depthwise", [False, True])
def test_the_largest_sum_is_that_of_some_codes(dtype: str, seed: int, depthwise: bool) -> None:
    """The inputs at one end of their range where weights are positive, and at the other where they are negative."""
    facts: dict[str, Any] = {"dtype": dtype, "weights": dtype, "per_channel": seed % 2 == 0 and dtype == "int8"}
    channels = 9 if depthwise else 1 + seed % 3
    contract = made.conv(seed, (4, 5, channels), 9, (2, 2), depthwise=depthwise, **facts)
    ends = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max]) - contract.x_zero_point
    zero = np.resize(np.asarray(contract.weight_zero_points, np.int64), contract.out_c)
    by_channel = np.moveaxis(contract.weights.astype(np.int64), contract.channel_axis, 0).reshape(contract.out_c, -1)
    for channel, bound in enumerate(layout.largest_sum_of_codes(contract)):
        weights = (by_channel[channel] - zero[channel]).tolist()
        bias = 0 if contract.bias is None else int(contract.bias[channel])
        sums = [bias + sum(pick(w * int(end) for end in ends) for w in weights) for pick in (max, min)]
        assert bound == max(abs(each) for each in sums)
        assert bound <= layout.accumulator_bound(contract)[channel]
