"""The emulated processors."""

from __future__ import annotations

import pytest

from benchmarks.emulator import CPUS, Emulator, Unavailable, prepared


@pytest.fixture(scope="session", params=CPUS)
def emulator(request: pytest.FixtureRequest) -> Emulator:
    """Each level of instructions on the least processor that has it; without an emulator, tests are skipped."""
    try:
        return Emulator(prepared(), request.param)
    except Unavailable as error:
        pytest.skip(str(error))
