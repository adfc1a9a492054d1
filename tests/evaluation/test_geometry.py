"""How pictures are laid into inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tflite2q.evaluation import data, geometry
from tflite2q.evaluation.images import ahead

SHAPE = (1, 20, 30, 3)


@pytest.mark.parametrize("fit", geometry.FITS)
@pytest.mark.parametrize("picture", [(64, 48), (48, 64), (30, 20), (7, 500)])
def test_points_go_to_the_input_and_back(fit: geometry.Fit, picture: tuple[int, int]) -> None:
    place = geometry.frame(picture, (30, 20), fit)
    points = np.random.default_rng(0).uniform(0, 40, (5, 2))
    assert place.to_picture(place.to_input(points)) == pytest.approx(points)


def test_corners_of_a_padded_picture() -> None:
    place = geometry.frame((60, 20), (30, 20), "pad")  # halved, five rows of black above and below
    assert (place.resized, place.left, place.top) == ((30, 10), 0, 5)
    assert place.to_input(np.array([[0, 0], [20, 60]])) == pytest.approx(np.array([[0.25, 0], [0.75, 1]]))


def test_stretching_maps_the_whole_picture() -> None:
    place = geometry.frame((123, 45), (30, 20), "stretch")
    assert place.to_picture(np.array([[0, 0], [1, 1]])) == pytest.approx(np.array([[0, 0], [45, 123]]))


def test_a_bright_spot_lands_where_the_frame_says(tmp_path: Path) -> None:
    pixels = np.zeros((90, 60, 3), np.uint8)
    pixels[48:54, 30:36] = 255
    Image.fromarray(pixels).save(tmp_path / "spot.png")
    value = data_value()
    for fit in geometry.FITS:
        found = data.load(tmp_path, [value], fit=fit)
        assert found.pictures is not None
        (codes,) = found.make(0)
        rows, columns = np.nonzero(codes[0, :, :, 0] > 60)
        expected = found.frame(0, SHAPE).to_input(np.array([51.0, 33.0]))
        assert (np.mean(rows) + 0.5) / 20 == pytest.approx(expected[0], abs=0.04)
        assert (np.mean(columns) + 0.5) / 30 == pytest.approx(expected[1], abs=0.04)


def data_value() -> data.Value:
    from tflite2q.dialect.types import Quantization, TensorType, Value

    return Value("x", TensorType(SHAPE, "uint8", Quantization.per_tensor(1 / 128, 128)))


def test_samples_come_in_order_and_errors_in_their_place() -> None:
    def make(index: int) -> int:
        if index == 12:
            raise ValueError("twelve")
        return index

    seen = []
    with pytest.raises(ValueError, match="twelve"):
        for found in ahead(make, 40):
            seen.append(found)
    assert seen == list(range(12))
    assert list(ahead(lambda k: k, 3)) == [0, 1, 2]
