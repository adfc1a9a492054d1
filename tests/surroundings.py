"""Where tests find things, and what a command line leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
EMULATE = "TFLITE2Q_EMULATE"  # environment: set by `pytest --emulate`
KEPT = "TFLITE2Q_TESTS_KEPT"  # the folder of what one run of the tests shares
SHARED = ROOT.parent / "shared"


class Outcome(NamedTuple):
    """Exit code and what was printed."""

    code: int
    out: str
    err: str
