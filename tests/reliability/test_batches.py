"""Batches that are killed and resumed; see reliability/batches.py."""

from __future__ import annotations

import sys

import pytest
from reliability.batches import campaign

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sends signals, looks at /proc")


@pytest.mark.slow
def test_two_kills_of_a_small_batch() -> None:
    found = campaign(5, 2)
    assert not found.wrong
    assert found.met


@pytest.mark.slow
def test_ten_kills_of_sixty_models() -> None:
    found = campaign(60, 10, seed=1)
    assert not found.wrong
    assert found.met >= 5
