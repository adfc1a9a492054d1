"""Large models are converted in a few times their size; see reliability/large.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from reliability.large import chain, conversion, external

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8", "symmetric-int8"])
@pytest.mark.parametrize("outside", [False, True])
def test_memory_of_a_conversion(scheme: str, outside: bool, tmp_path: Path) -> None:
    path = tmp_path / "large.tflite"
    path.write_bytes(external(chain(150)) if outside else chain(150))
    cost = conversion(path, scheme)
    assert cost.memory <= 4 * cost.size
    assert len(cost.steps) >= 3  # reading, converting, writing
