"""Memory over many rounds; see reliability/endurance.py for the full numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from surroundings import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.mark.slow
def test_memory_stays_flat() -> None:
    command = [sys.executable, "-m", "reliability.endurance", "0.1"]
    done = subprocess.run(command, cwd=Path(ROOT, "tests"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
