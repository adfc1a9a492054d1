"""An emulated 64-bit Arm machine: Debian's Python with TVM's runtime, under qemu's user mode, on any Linux.

The root is made once, in a cache outside the checkout, from Debian's arm64 packages and the aarch64 wheels of the TVM
that is installed here.  Packages are only unpacked, never configured: the emulator runs single programs, not a system.
Making it takes minutes, some 600 MB, and the rights of root (debootstrap asks for them).
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SUITE = "bookworm"
PYTHON = "3.11"  # the one that the suite has
DEBIAN = ("python3", "libstdc++6", "libgomp1", "libatomic1", "zlib1g", "libzstd1", "libxml2")
LITERT = ("ai-edge-litert",)  # what benchmarks compare with
WHEELS = ("numpy", "ml_dtypes", "typing_extensions", "tornado", "psutil", "cloudpickle")
SAME_VERSION = ("apache-tvm", "apache-tvm-ffi")
GLIBC = ("2_34", "2_28", "2_27", "2_17")
PLATFORMS = (*(f"manylinux_{version}_aarch64" for version in GLIBC), "manylinux2014_aarch64")
QEMU = "qemu-aarch64-static"
CPUS = ("cortex-a53", "cortex-a76", "max")  # NEON; with dot products; with 8-bit matrix products too


class Unavailable(Exception):
    """The emulated machine cannot be made here; the message says what is missing."""


@dataclass(frozen=True)
class Emulator:
    """One emulated processor (`cpu` in qemu's words) on the shared root, or on another one that stands for it."""

    folder: Path
    cpu: str
    root: Path | None = None

    def command(self, *arguments: str | Path, path: Sequence[Path] = ()) -> list[str]:
        """The command line that runs the emulated Python with `arguments`; `path` goes before its own packages."""
        root = self.folder / "root"
        search = ":".join(str(p) for p in (*path, self.folder / "packages"))
        python = root / "usr" / "bin" / f"python{PYTHON}"
        environment = [f"PYTHONPATH={search}", f"PYTHONHOME={root / 'usr'}", "PYTHONDONTWRITEBYTECODE=1"]
        options = [part for setting in environment for part in ("-E", setting)]
        machine = [QEMU, "-cpu", self.cpu, "-L", str(self.root or root)]
        return [*machine, *options, str(python), *(str(a) for a in arguments)]

    def run(self, *arguments: str | Path, timeout: float = 900) -> str:
        """Run the emulated Python to its end and return what it printed.  Fails the caller if it fails."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise AssertionError(f"emulated {self.cpu} left with {done.returncode}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def wrapper(self, folder: Path) -> Path:
        """A program in `folder` that is the emulated Python, for programs that start their interpreter again."""
        script = folder / f"python-{self.cpu}"
        command = " ".join(f"'{part}'" for part in self.command())
        script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        script.chmod(0o755)
        return script


def cache_folder() -> Path:
    """Where the root lies; outside any checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tflite2q" / f"aarch64-{SUITE}"


def prepared() -> Path:
    """The folder of a complete root, made now if it is not there, by one process at a time.  Raises Unavailable."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _prepared(folder)


def _prepared(folder: Path) -> Path:
    done = folder / "complete"
    versions = _pinned(SAME_VERSION)
    if done.is_file() and done.read_text() == versions:
        _require(QEMU)
        return folder
    _require(QEMU, "debootstrap", "dpkg")
    if os.geteuid() != 0:
        raise Unavailable("making the emulated root needs the rights of root: run `make test-aarch64` once as root")
    if not (folder / "root" / "unpacked").is_file():
        _make_root(folder / "root")
    _make_packages(folder / "packages", [*WHEELS, *versions.split()])
    done.write_text(versions)
    return folder


def litert() -> Path:
    """A folder with LiteRT's package for 64-bit Arm, of the version that is installed here.  Raises Unavailable."""
    folder = prepared() / "litert"
    with open(folder.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        versions = _pinned(LITERT)
        done = folder / "complete"
        if not done.is_file() or done.read_text() != versions:
            _make_packages(folder, versions.split())
            done.write_text(versions)
    return folder


def _pinned(packages: Sequence[str]) -> str:
    return " ".join(f"{name}=={importlib.metadata.version(name)}" for name in packages)


def _require(*programs: str) -> None:
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        raise Unavailable(f"{', '.join(missing)} missing: apt install qemu-user-static debootstrap")


def _make_root(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    include = ",".join(DEBIAN)
    _call("debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", f"--include={include}", SUITE, str(root))
    for package in sorted((root / "var" / "cache" / "apt" / "archives").glob("*.deb")):
        _call("dpkg", "-x", str(package), str(root))
        package.unlink()
    (root / "unpacked").touch()


def _make_packages(folder: Path, wanted: Sequence[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version", PYTHON, "--target", str(folder)]
    _call(sys.executable, "-m", "pip", "install", *options, *platforms, *wanted)


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-500:]}")


if __name__ == "__main__":
    try:
        print(f"emulated machine: {prepared()}")
    except Unavailable as error:
        sys.exit(f"no emulated machine: {error}")
