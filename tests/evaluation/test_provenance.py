"""What a report says of its inputs, against `hashlib` on what the test wrote, and thumbnails against Pillow."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tflite2q
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.evaluation import data, thumbnails
from tflite2q.evaluation.figures import Change

IMAGE = Value("x", TensorType((1, 300, 200, 3), "uint8", Quantization.per_tensor(1.0, 0)))


def test_models_data_and_scheme_are_named_with_their_hashes(digits: Path, digits_data: tuple[Path, Path]) -> None:
    samples, labels = digits_data
    converted = tflite2q.convert(digits, "int8")
    found = tflite2q.compare(
        digits, converted, data=samples, labels=labels, limit=2, speed=False, layer_samples=0
    ).provenance
    assert found is not None and found.scheme is not None
    assert 'dtype = "int8"' in found.scheme
    by_role = {source.role: source for source in found.sources}
    assert list(by_role) == ["original", "converted", "data", "labels"]
    for role, path in (("original", digits), ("data", samples), ("labels", labels)):
        content = path.read_bytes()
        assert by_role[role].sha256 == hashlib.sha256(content).hexdigest()
        assert by_role[role].bytes == len(content)


def test_pictures_are_hashed_as_sha256sum_lists_them(tmp_path: Path) -> None:
    for k in range(3):
        Image.new("RGB", (40, 30), (k, 0, 0)).save(tmp_path / f"{k}.png")
    from tflite2q.evaluation.provenance import _source

    samples = data.load(tmp_path, [IMAGE], limit=2)
    (found,) = _source("data", tmp_path, samples)
    lines = "".join(f"{hashlib.sha256((tmp_path / n).read_bytes()).hexdigest()}  {n}\n" for n in ("0.png", "1.png"))
    assert found.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert found.name == f"2 pictures of {tmp_path}"


@pytest.mark.parametrize("channels", [1, 3])
def test_a_thumbnail_is_a_png_of_the_pixels(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, channels)).astype(np.uint8)
    read = np.asarray(Image.open(io.BytesIO(thumbnails.png(pixels))))
    np.testing.assert_array_equal(read.reshape(pixels.shape), pixels)


def test_large_samples_are_reduced_by_means() -> None:
    pixels = np.repeat(np.repeat(np.arange(100, dtype=np.uint8)[:, None, None], 3, 0), 200, 1)
    small = thumbnails.reduced(pixels)
    assert small.shape == (100, 66, 1)
    assert small[:, 0, 0].tolist() == list(range(100))


def test_samples_that_are_no_pictures_have_none() -> None:
    change = Change(0, "s", "a", "b")
    numbers = data.load(np.zeros((1, 4), np.uint8), [Value("x", TensorType((1, 4), "uint8"))])
    assert thumbnails.pictured([change], numbers, [Value("x", TensorType((1, 4), "uint8"))])[0].picture is None
    photo = data.load(np.zeros((1, 300, 200, 3), np.uint8), [IMAGE])
    assert thumbnails.pictured([change], photo, [IMAGE])[0].picture is not None
    assert thumbnails.pictured([change], data.synthetic([IMAGE]), [IMAGE])[0].picture is None
