"""Programs for emulated microcontrollers: a model's code linked with what starts it on a board of QEMU's.

Arm's boards need Debian's gcc-arm-none-eabi and qemu-system-arm.  Code for RISC-V becomes a Linux program, which zig
links and qemu-user runs.  QEMU counts an instruction of a board as a nanosecond, and the boards' timers tick every 40
of them (25 MHz; 32 MHz on the M55's), so a run's instructions are known within one tick.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from tflite2q.errors import TargetError
from tflite2q.lower.link import ZIG
from tflite2q.micro import build, source
from tflite2q.micro.library import Library

GUARD = 64


@dataclass(frozen=True)
class Board:
    """A machine of QEMU: where memory is, nanoseconds of a tick of its timer, options of GCC that its processor has."""

    machine: str
    code: int
    constants: int | None  # None: behind the code
    ram: int
    arena: int
    tick: float
    flags: tuple[str, ...]


_M3 = Board("mps2-an385", 0, None, 0x20000000, 0x20100000, 40, ("-mcpu=cortex-m3",))
_M4 = Board(
    "mps2-an386", 0, None, 0x20000000, 0x20100000, 40, ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
)
_M7 = Board(
    "mps2-an500", 0, None, 0x20000000, 0x60000000, 40, ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-d16")
)
_M33 = Board("mps2-an505", 0x10000000, None, 0x38000000, 0x80000000, 50, ("-mcpu=cortex-m33+nofp", "-mfloat-abi=soft"))
_M55 = Board("mps3-an547", 0, 0x60000000, 0x20000000, 0x61000000, 31.25, ("-mcpu=cortex-m55", "-mfloat-abi=hard"))

BOARDS: Mapping[str, Board] = {
    "cortex-m0plus": _M3,  # which runs what an M0+ does
    "cortex-m3": _M3,
    "cortex-m4": _M4,
    "cortex-m7": _M7,
    "cortex-m33": _M33,
    "cortex-m55": _M55,
}
PROGRAMS = ("riscv32imac", "esp32c3")  # targets whose code runs as a Linux program, which counts nothing
EMULATED = (*BOARDS, *PROGRAMS)


@dataclass(frozen=True)
class Image:
    """A program, the command that runs it in its folder, bytes of the model's code and constants in it (None: not
    counted), and how many instructions a tick of its clock is (0: it has none)."""

    command: tuple[str, ...]
    code: int | None
    constants: int | None
    tick: float


def missing(target: str = "cortex-m4") -> str | None:
    """What is not installed for emulating a target, as a sentence; None if it is possible."""
    if target in PROGRAMS:
        if _qemu_user() is None:
            return "qemu-riscv32-static is not installed (Debian: apt install qemu-user-static)"
        if importlib.util.find_spec("ziglang") is None:
            return "zig is not installed: pip install 'tflite2q[cross]'"
        return None
    for program, package in (("arm-none-eabi-gcc", "gcc-arm-none-eabi"), ("qemu-system-arm", "qemu-system-arm")):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: apt install {package})"
    return None


def require(target: str) -> None:
    """Raise TargetError where there is no emulator of `target`, or a tool is missing."""
    if target not in EMULATED:
        raise TargetError(f"there is no emulated board for {target!r}; there are {', '.join(EMULATED)}")
    if (lacking := missing(target)) is not None:
        raise TargetError(f"{target} cannot be emulated: {lacking}")


def image(made: Library, folder: Path, by: str, stream: bool) -> Image:
    """The program that runs a model, in `folder`.

    `by` is "a" for the archive that `convert` writes, "c" for its C compiled by GCC; code for RISC-V is always C.
    Raises TargetError where there is no board, a tool is missing or fails.
    """
    target = made.target.name
    require(target)
    (folder / "model.h").write_text(source.header(made.program, made.plan))
    (folder / "model.c").write_text(source.source(made.program, made.plan))
    (folder / "run.h").write_text(glue(made, stream))
    for place in (resources.files("tflite2q.micro") / "board").iterdir():
        (folder / place.name).write_text(place.read_text())
    if target in PROGRAMS:
        linked = ["-target", "riscv32-linux-musl", "-O2", "-static", "-fno-sanitize=all", "-ffp-contract=off"]
        _do([*ZIG, "cc", *linked, "linux.c", "main.c", "model.c", "-o", "image.elf"], folder)
        return Image((str(_qemu_user()), "./image.elf"), None, None, 0)
    return _on_board(made, BOARDS[target], folder, by)


def _qemu_user() -> str | None:
    return shutil.which("qemu-riscv32-static") or shutil.which("qemu-riscv32")


def _on_board(made: Library, board: Board, folder: Path, by: str) -> Image:
    gcc = ["arm-none-eabi-gcc", *board.flags, "-mthumb", "-O3", "-std=gnu99", "-ffunction-sections", "-fdata-sections"]
    if by == "a":
        text, header = ((folder / name).read_text() for name in ("model.c", "model.h"))
        (folder / "model.a").write_bytes(build.archive(text, header, "model", made.target))
        model = "model.a"
    else:
        model = "model.o"
        exact = ["-std=c99", "-ffp-contract=off", *made.target.gcc[:1], *board.flags[1:]]
        _do([*gcc, *exact, "-c", "model.c", "-o", model], folder)
    places = {"CODE_ORIGIN": board.code, "RAM_ORIGIN": board.ram, "ARENA_ORIGIN": board.arena}
    symbols = [f"-Wl,--defsym={name}={value:#x}" for name, value in places.items()]
    script = (folder / "link.ld").read_text()
    constants = "" if board.constants is None else hex(board.constants)
    (folder / "link.ld").write_text(script.replace("CONST_ORIGIN", constants))
    linked = ["-nostartfiles", "--specs=nano.specs", "--specs=nosys.specs", "-Wl,-T,link.ld", "-Wl,--gc-sections",
              "-Wl,--no-warn-rwx-segments", "startup.c", "main.c", model, "-o", "image.elf"]  # fmt: skip
    _do([*gcc, *symbols, *linked], folder)
    sizes = [line.split() for line in _do(["arm-none-eabi-size", "-A", model], folder).splitlines() if line]
    code, data = (sum(int(line[1]) for line in sizes if line[0].startswith(kind)) for kind in (".text", ".rodata"))
    command = ("qemu-system-arm", "-M", board.machine, "-nographic", "-monitor", "none", "-serial", "none", "-icount",
               "shift=0", "-semihosting-config", "enable=on,target=native", "-kernel", "image.elf")  # fmt: skip
    return Image(command, code, data, board.tick)


def glue(made: Library, stream: bool = True) -> str:
    """run.h: what main.c has to know of the model; `stream`: whether a run starts from what the last one left."""
    program = made.program
    name, kept = program.name, bool(program.states)
    lines = ['#include "model.h"', f"#define ARENA_BYTES {made.plan.bytes}",
             f"#define STATE_BYTES {program.state_bytes}", f"#define STREAM {int(stream)}",
             f"#define INVOKE(from, to, arena, state) {name}_invoke(from, to, arena{', state' if kept else ''})",
             f"#define RESET(state) {f'{name}_reset(state)' if kept else '(void)(state)'}"]  # fmt: skip
    for kind, ports in (("INPUT", program.inputs), ("OUTPUT", program.outputs)):
        sizes = [port.bytes for port in ports]
        room = sum(-(-size // 16) * 16 + GUARD for size in sizes) + GUARD
        lines += [f"#define {kind}S {len(ports)}", f"#define {kind}_BYTES {{{', '.join(map(str, sizes)) or '0'}}}",
                  f"#define {kind}_TOTAL {room}"]  # fmt: skip
    return "\n".join(lines) + "\n"


def _do(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-300:])
        raise TargetError(f"building for the emulated board failed: {why}")
    return done.stdout
