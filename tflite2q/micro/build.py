"""C to an archive of relocatable objects for a microcontroller, by zig from the Python package ziglang."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

from tflite2q import files
from tflite2q.errors import TargetError
from tflite2q.lower.link import ZIG
from tflite2q.lower.targets import Micro

# Sections of their own let linkers drop what is not called.  Objects must link with code of either float ABI, so they
# say that they pass no floats (tag 28) and no enums (tag 26).
FLAGS = (
    "-std=c99", "-O3", "-c", "-ffreestanding", "-ffunction-sections", "-fdata-sections", "-fomit-frame-pointer",
    "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-ffp-contract=off", "-fno-sanitize=all", "-g0",
    "-fno-stack-protector", "-fno-vectorize", "-fno-slp-vectorize", "-fno-unroll-loops",
)  # fmt: skip
ANY_ABI = '\n#if defined(__arm__)\n__asm__(".eabi_attribute 28, 3\\n.eabi_attribute 26, 0");\n#endif\n'


def archive(text: str, header: str, stem: str, target: Micro) -> bytes:
    """The archive's bytes.  Raises TargetError if there is no compiler, or no target of that kind in it."""
    if target.zig is None:
        raise TargetError(f"there is C for {target.name}, but no compiler here: name the library NAME.c")
    if importlib.util.find_spec("ziglang") is None:
        raise TargetError(
            f"no compiler for {target.name} is installed; install one: pip install 'tflite2q[cross]', "
            "or name the library NAME.c and compile it yourself"
        )
    with files.temporary_folder() as folder:
        (folder / "code.c").write_text(text + ANY_ABI)
        (folder / f"{stem}.h").write_text(header)
        compiled = [*ZIG, "cc", "-target", target.zig, f"-mcpu={target.mcpu}", *FLAGS, "code.c", "-o", "code.o"]
        _run(compiled, folder, target)
        _run([*ZIG, "ar", "rcsD", "code.a", "code.o"], folder, target)
        return (folder / "code.a").read_bytes()


def _run(command: list[str], folder: Path, target: Micro) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-200:])
        raise TargetError(f"compiling for {target.name} with zig failed: {why}")
