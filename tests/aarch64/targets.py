"""Which target has the features of which emulated processor."""

from __future__ import annotations

TARGETS = {"cortex-a53": "aarch64", "cortex-a76": "aarch64-dotprod", "max": "aarch64-i8mm"}
