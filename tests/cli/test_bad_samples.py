"""What commands say of samples that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures of which one is damaged, with labels of two of them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / name)
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:60])
    (folder / "labels.csv").write_text("a.png,1\nb.png,2\nc.png,x\n")
    return folder


def test_compare_leaves_them_out_and_says_so(cli: Callable[..., Any], digits: Path, photos: Path) -> None:
    quick = ("compare", digits, "--scheme", "int8", "--data", photos, "--no-speed", "--layer-samples", 0)
    refused = cli(*quick, "--labels", photos / "labels.csv")
    assert (refused.code, refused.err.count("\n")) == (3, 1)
    assert "label 3 is 'x', not a whole number" in refused.err
    found = cli(*quick, "--labels", photos / "labels.csv", "--skip-bad")
    assert found.code == 0
    text = " ".join(found.out.split())
    assert "1 of 3 pictures are left out" in text
    assert "1 of 2 samples have no usable label and are left out: c.png" in text
    mentioned = cli(*quick, "--skip-bad")
    assert f"--labels {photos / 'labels.csv'} measures correctness" in "".join(mentioned.out.split("\n")).replace(
        "  ", " "
    )


def test_pictures_beyond_the_limit_are_refused(cli: Callable[..., Any], digits: Path, photos: Path) -> None:
    found = cli("run", digits, "--input", photos / "a.png", "--max-pixels", 63)
    assert (found.code, found.err.count("\n")) == (3, 1)
    assert "8x8 pixels are more than the 63 allowed; scale it down, or see --max-pixels" in found.err
    assert cli("run", digits, "--input", photos / "a.png").code == 0
