"""Object files to a shared library: by a C compiler for this machine, by zig for any other."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from tflite2q.errors import TargetError

COMPILERS = ("cc", "gcc", "clang", "g++", "c++", "clang++")

HOW = {
    "host": "install a C compiler (Debian: apt install gcc) or run: pip install 'tflite2q[cross]'",
    "cross": "install one: pip install 'tflite2q[cross]'",
}


def link(output: str, objects: Sequence[str], triple: str | None) -> None:
    """Link `objects` into the shared library `output`, for LLVM's `triple` (None: this machine).

    Raises TargetError if no linker for it is installed, or if it fails.
    """
    command = [*linker(triple), "-shared", "-fPIC", "-o", output, *objects]
    if triple is None or "linux" in triple:
        command.append("-lm")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-200:])
        raise TargetError(f"linking with {command[0]} failed: {why}")


def linker(triple: str | None) -> list[str]:
    """The command that links for `triple` (None: this machine).  Raises TargetError saying what to install."""
    if triple is None:
        for name in (os.environ.get("CC"), *COMPILERS):
            if name and (found := shutil.which(name)):
                return [found]
    if importlib.util.find_spec("ziglang") is None:
        kind = "host" if triple is None else "cross"
        raise TargetError(f"no linker for {triple or 'this machine'} is installed; {HOW[kind]}")
    return [sys.executable, "-m", "ziglang", "cc", *([] if triple is None else ["-target", zig_target(triple)])]


def zig_target(triple: str) -> str:
    """zig's name of an LLVM triple: architecture-system-abi, without the vendor."""
    architecture, *rest = triple.split("-")
    architecture = {"arm64": "aarch64"}.get(architecture, architecture)
    known = [part for part in rest if part not in ("unknown", "pc", "apple", "conda")]
    if "apple" in rest:
        return f"{architecture}-macos"
    return "-".join([architecture, *known])
