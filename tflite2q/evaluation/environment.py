"""Where figures were measured: processor, system, versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from tflite2q.evaluation.results import Environment
from tflite2q.version import __version__

PACKAGES = ("apache-tvm", "ai-edge-litert", "numpy")


def environment() -> Environment:
    """The machine and the versions of what computes on it."""
    versions = [("tflite2q", __version__)]
    for package in PACKAGES:
        try:
            versions.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    system = f"{platform.system()} {platform.machine()}"
    return Environment(_processor(), _cores(), system, platform.python_version(), tuple(versions))


def _cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """The processor's name, as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    parts = [line.partition(":") for line in lines if ":" in line]
    named = {key.strip(): text.strip() for key, _, text in parts}
    return named.get("model name") or named.get("Model") or platform.processor() or platform.machine()
