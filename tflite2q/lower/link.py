"""Object files to a shared library: by a C compiler for this machine, by zig for any other.

zig, from the Python package ziglang, is a linker for every system, and the C library of many; nothing else is needed to
link for a processor and a system that are not here.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tflite2q.errors import TargetError
from tflite2q.lower.targets import architecture

COMPILERS = ("cc", "gcc", "clang", "g++", "c++", "clang++")
ZIG = (sys.executable, "-m", "ziglang")

LONGEST = 300  # characters of what a linker says

HOW = {
    "host": "install a C compiler (Debian: apt install gcc) or run: pip install 'tflite2q[cross]'",
    "cross": "install one: pip install 'tflite2q[cross]'",
}


def link(output: str, objects: Sequence[str], triple: str | None, folder: Path | None = None) -> None:
    """Link `objects` into the shared library `output`, for LLVM's `triple` (None: this machine).

    The linker's own temporary files are made in `folder`.

    For WebAssembly, which has no shared libraries that TVM loads, `output` is one object file instead.  Raises
    TargetError if no linker for the triple is installed, or if it fails.
    """
    command = [*linker(triple), *options(triple), "-o", output, *objects]
    place = {} if folder is None else {"TMPDIR": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **place})
    if done.returncode != 0:
        name = "zig" if command[0] == sys.executable else command[0]
        lines = done.stderr.strip().splitlines()
        # The linker says what went wrong in a line of its own, and the compiler that the linker failed.
        lines = [line for line in lines if not line.startswith("collect2:")] or lines
        causes = [line for mark in ("No space", "error") for line in lines if mark in line]
        silent = f"it ended with {done.returncode} and said nothing; check that it is a C compiler"
        why = (*causes, *lines[-1:], silent)[0][-LONGEST:]
        raise TargetError(f"linking for {triple or 'this machine'} with {name} failed: {why}")


def linker(triple: str | None) -> list[str]:
    """The command that links for `triple` (None: this machine).  Raises TargetError saying what to install."""
    if is_host(triple):
        for name in (os.environ.get("CC"), *COMPILERS):
            if name and (found := shutil.which(name)):
                return [found]
    if importlib.util.find_spec("ziglang") is None:
        kind = "host" if is_host(triple) else "cross"
        raise TargetError(
            f"no linker for {triple or 'this machine'} is installed; {HOW[kind]}, "
            "or name the library with the ending .tar to get its object files"
        )
    if triple is not None and architecture(triple) == "wasm32":
        return [*ZIG, "wasm-ld"]
    return [*ZIG, "cc", *([] if triple is None else ["-target", zig_target(triple)])]


def options(triple: str | None) -> list[str]:
    """Options of the linker, by kind of system.  Functions of TVM's runtime are found when the library is loaded."""
    if triple is not None and architecture(triple) == "wasm32":
        return ["-r"]
    if triple is not None and "android" in triple:
        # zig lacks Android's C library.  What the code takes from it, the process has.
        return ["-shared", "-fPIC", "-nostdlib"]
    if triple is not None and ("apple" in triple or "macos" in triple):
        return ["-shared", "-fPIC", "-Wl,-undefined,dynamic_lookup"]
    return ["-shared", "-fPIC", "-Wl,-Bsymbolic", "-lm"]


def is_host(triple: str | None) -> bool:
    """Whether this machine's own C compiler links for `triple`."""
    if triple is None:
        return True
    here = platform.system() == "Linux" and "linux" in triple and "android" not in triple and "musl" not in triple
    return here and architecture(triple) == architecture(platform.machine())


def zig_target(triple: str) -> str:
    """zig's name of an LLVM triple: architecture-system-abi, without the vendor."""
    name, *rest = triple.split("-")
    known = [part for part in rest if part not in ("unknown", "pc", "apple", "conda")]
    if "apple" in rest:
        return f"{architecture(name)}-macos"
    if "android" in rest:
        known = ["linux", "gnu"]
    return "-".join([architecture(name), *known])
