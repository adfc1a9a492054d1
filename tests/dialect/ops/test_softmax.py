"""The table of exponentials is that of exp, also where logits lie so far apart that fixed point would overflow."""

from __future__ import annotations

import numpy as np
import pytest

from tflite2q.dialect.ops.softmax import Softmax


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("scale", [0.003, 0.05, 0.13, 0.9, 3.7, 11.0, 40.0, 250.0])
def test_exponentials(scale: float, beta: float) -> None:
    table = Softmax(inputs=("x",), outputs=("y",), beta=beta).exponentials(scale)
    exact = np.exp(-beta * scale * np.arange(256)) * 2.0**31
    assert table.shape == (256,)
    assert np.abs(table - exact).max() < 2.0**31 * 1e-5
    assert (np.diff(table) <= 0).all()
