"""The resources that the processes of a group use together."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tflite2q import files

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Processor seconds and resident bytes of a process group."""

    seconds: float
    resident: int


def resident(process: int) -> int:
    """Resident bytes of one process; 0 if it has ended."""
    try:
        with open(f"/proc/{process}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return 0


def usage(group: int) -> Usage:
    """What all processes of a group use together, by /proc."""
    seconds, resident = 0.0, 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = files.process_stat(entry)
        except OSError:  # it has ended
            continue
        # Numbered as proc(5) does, less the two fields up to the name and less one for counting from 0.
        if int(fields[5 - 3]) == group:
            seconds += (int(fields[14 - 3]) + int(fields[15 - 3])) / _TICKS
            resident += int(fields[24 - 3]) * _PAGE
    return Usage(seconds, resident)
