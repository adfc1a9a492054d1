"""Rounding under a Hessian: never worse than what it starts from, on the grid, and as good as trying everything."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tflite2q.reconstruction.grid import Grid
from tflite2q.reconstruction.rounding import Rounded, rounded, with_error

GRIDS = {
    "int4": Grid(-8, 7),
    "int3": Grid(-4, 3),
    "int2": Grid(-2, 1),
    "int8": Grid(-127, 127),
    "uint8, zero point 100": Grid(-100, 155, per_channel=False),
    "one scale": Grid(-7, 7, per_channel=False),
    "powers of two": Grid(-7, 7, powers=True),
    "powers of two, one scale": Grid(-127, 127, per_channel=False, powers=True),
    "halves": Grid(-7, 7, halves=True),
}
SHAPES = [(1, 24, 6, 1), (7, 9, 1, 1), (2, 40, 3, 1), (1, 1, 4, 1), (1, 64, 5, 4), (2, 12, 3, 6)]


def problem(seed: int, groups: int, inputs: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and the Hessian of inputs that go together, as those of convolutions do."""
    random = np.random.default_rng(seed)
    weights = random.normal(0, 0.1, (groups, inputs, channels))
    rows = random.normal(0, 1, (groups, 4 * inputs, inputs)) + 2 * random.normal(0, 1, (groups, 4 * inputs, 1))
    hessian = rows.swapaxes(1, 2) @ rows / rows.shape[1]
    return weights, hessian + 0.01 * np.eye(inputs)


def nearest(weights: np.ndarray, grid: Grid, parts: int = 1) -> Rounded:
    """Each weight by itself, on the scale that covers the largest."""
    groups, inputs, channels = weights.shape
    scales = np.abs(weights).reshape(groups, parts, -1, channels).max(axis=2) / grid.high
    if not grid.per_channel:
        scales = np.full_like(scales, scales.max())
    if grid.powers:
        scales = 2.0 ** np.ceil(np.log2(scales))
    narrow = scales.astype(np.float16 if grid.halves else np.float32).astype(np.float32)
    codes = grid.codes(weights.astype(np.float32), narrow.repeat(inputs // parts, axis=1))
    return Rounded(codes, narrow, np.empty(0))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_error_is_never_larger_than_that_of_rounding_to_nearest(
    grid: Grid, shape: tuple[int, int, int, int]
) -> None:
    for seed in range(3):
        weights, hessian = problem(seed, *shape[:3])
        start = nearest(weights, grid, shape[3])
        found = rounded(weights, hessian, grid, start)
        assert found.scales.shape == (shape[0], shape[3], shape[2])
        reals = [r.codes.astype(float) * r.scales.repeat(shape[1] // shape[3], axis=1) for r in (start, found)]
        errors = [np.einsum("gic,gij,gjc->gc", e, hessian, e) for e in (real - weights for real in reals)]
        np.testing.assert_allclose(found.error, errors[1], rtol=1e-6, atol=1e-12)
        if grid.per_channel:
            assert (errors[1] <= errors[0] * (1 + 1e-9)).all()
        assert errors[1].sum() <= errors[0].sum() * (1 + 1e-9)
        if shape[1] > 8 and grid.high - grid.low < 16:
            assert errors[1].sum() < 0.7 * errors[0].sum(), "inputs go together: their errors can cancel"


@pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
def test_what_is_found_lies_on_the_grid(grid: Grid) -> None:
    weights, hessian = problem(5, 3, 12, 4)
    found = rounded(weights, hessian, grid, nearest(weights, grid, 3 if grid.per_channel else 1))
    assert (found.codes == np.rint(found.codes)).all()
    assert grid.low <= found.codes.min()
    assert found.codes.max() <= grid.high
    assert (found.scales > 0).all()
    if not grid.per_channel:
        assert len(np.unique(found.scales)) == 1
    if grid.powers:
        assert (np.frexp(found.scales)[0] == 0.5).all()
    if grid.halves:
        assert (found.scales == found.scales.astype(np.float16)).all()


def test_few_weights_are_rounded_as_well_as_by_trying_all_codes() -> None:
    grid = Grid(-2, 2, powers=True)
    worst = 1.0
    for seed in range(20):
        weights, hessian = problem(seed, 1, 4, 1)
        found = rounded(weights, hessian, grid, nearest(weights, grid))
        codes = np.array(list(product(range(-2, 3), repeat=4)), float)
        e = codes * found.scales[0, 0, 0] - weights[0, :, 0]
        best = np.einsum("ni,ij,nj->n", e, hessian[0], e).min()
        worst = max(worst, float(found.error[0, 0] / best))
    assert worst < 1.5


def test_inputs_that_never_vary_do_no_harm() -> None:
    weights, hessian = problem(1, 1, 8, 2)
    hessian[0, 3] = hessian[0, :, 3] = 0.0
    hessian[0, 3, 3] = 1e-30
    found = rounded(weights, hessian, Grid(-7, 7), nearest(weights, Grid(-7, 7)))
    assert np.isfinite(found.error).all()


def test_errors_are_those_of_the_results() -> None:
    """e H e^T is the mean squared error of X (V - W)."""
    random = np.random.default_rng(0)
    rows, weights = random.normal(size=(50, 6)), random.normal(size=(1, 6, 3))
    start = nearest(weights, Grid(-7, 7))
    error = with_error(start, weights, (rows.T @ rows / 50)[None]).error[0]
    np.testing.assert_allclose(error, ((rows @ (start.weights - weights)[0]) ** 2).mean(axis=0))
