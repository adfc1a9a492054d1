"""Kills spread over whole commands; see reliability/kills.py for many."""

from __future__ import annotations

import os

import pytest
from reliability import interrupts
from reliability.kills import COMMANDS, kills

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")


def test_a_few_kills() -> None:
    found = kills(["convert"], 3)
    assert not found.wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_kills_at_any_moment(name: str) -> None:
    found = kills([name], 60, seed=1)
    assert not found.wrong
    assert any(line.endswith("new") for line in found.ended)
    assert any(line.endswith(("old", "absent")) for line in found.ended)


@pytest.mark.slow
@pytest.mark.parametrize("name", interrupts.COMMANDS)
def test_interrupts_at_any_moment(name: str) -> None:
    """Their time is measured and not tested: it is that of the machine, too."""
    found = interrupts.interrupts(name, 9)
    assert not found.wrong
    assert set(found.codes) & set(interrupts.ENDS.values())
