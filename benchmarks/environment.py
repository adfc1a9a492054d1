"""Where and with what something was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.models import ROOT

PACKAGES = ("apache-tvm", "ai-edge-litert", "numpy")


@dataclass(frozen=True)
class Environment:
    """`load`: busy processes, averaged over a minute, when measuring began; above 1, others disturbed it."""

    date: str
    processor: str
    cores: int
    system: str
    python: str
    versions: dict[str, str]
    commit: str
    load: float

    def sentence(self) -> str:
        packages = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"{self.processor}, {self.cores} cores, {self.system}, Python {self.python}, {packages}; "
            f"commit {self.commit}, {self.date}."
        )


def here() -> Environment:
    return Environment(
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        system=platform.system(),
        python=platform.python_version(),
        versions={name: found for name in PACKAGES if (found := _version(name))},
        commit=_commit(),
        load=round(os.getloadavg()[0], 2),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name and those of its features that decide about integer kernels."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(named.get("flags", "").split())
    features = [name for name in ("avx2", "avx_vnni", "avx512_vnni", "amx_int8") if name in flags]
    name = named.get("model name", platform.processor() or platform.machine())
    return f"{name} ({', '.join(features)})" if features else name


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=10"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
