"""Models on emulated microcontrollers: QEMU's boards, with a program that runs samples and watches memory.

Needs Debian's gcc-arm-none-eabi and qemu-system-arm.  QEMU counts an instruction as a nanosecond, and the boards'
timers tick every 40 of them (25 MHz; 32 MHz on the M55's), so a run's instructions are known within one tick.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q import files
from tflite2q.dialect.graph import Graph
from tflite2q.errors import TargetError
from tflite2q.lower import targets
from tflite2q.lower.targets import Micro
from tflite2q.micro import build, library, source
from tflite2q.micro.library import Library
from tflite2q.micro.program import Port

Array = npt.NDArray[Any]

GUARD = 64
TIMEOUT = 600.0


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


@dataclass(frozen=True)
class Ran:
    """Outputs of each sample; instructions and bytes of stack of the longest and deepest run; bytes of code and of
    constants in the image, without the board's own."""

    outputs: tuple[tuple[Array, ...], ...]
    instructions: int
    stack: int
    code: int
    constants: int


def missing() -> str | None:
    """What is not installed, as a sentence; None if emulation is possible."""
    for program, package in (("arm-none-eabi-gcc", "gcc-arm-none-eabi"), ("qemu-system-arm", "qemu-system-arm")):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: apt install {package})"
    return None


def run(graph: Graph, target: str, samples: Sequence[Sequence[Array]], by: str = "a", stream: bool = False) -> Ran:
    """`graph` on the board of `target` for each sample (an array for each input); with `stream`, samples are steps of
    one, else each starts from the initial state.

    `by` is "a" for the archive that `convert` writes, "c" for its C compiled by GCC.  Raises TargetError where the
    tools are missing, or the program fails, writes outside its memory or does not end.
    """
    found, board = targets.micro(target), BOARDS.get(target)
    if found is None or board is None:
        raise TargetError(f"there is no emulated board for {target!r}; there are {', '.join(BOARDS)}")
    if (lacking := missing()) is not None:
        raise TargetError(lacking)
    made = library.make(graph, "model", found)
    with files.temporary_folder() as folder:
        image, code, constants = _image(made, found, board, folder, by, stream)
        content = b"".join(np.ascontiguousarray(array).tobytes() for sample in samples for array in sample)
        (folder / "in.bin").write_bytes(content)
        said = _emulated(board, image, folder)
        found_outputs = outputs(made.program.outputs, (folder / "out.bin").read_bytes(), len(samples))
    if said.get("failed") or said.get("runs") != len(samples):
        raise TargetError(f"on the emulated {target}: the model failed or wrote outside its memory ({said})")
    return Ran(found_outputs, round(said["ticks"] * board.tick), said["stack"], code, constants)


def _image(made: Library, target: Micro, board: Board, folder: Path, by: str, stream: bool) -> tuple[Path, int, int]:
    """The program in memory's form, bytes of the model's code and of its constants."""
    header = source.header(made.program, made.plan)
    (folder / "model.h").write_text(header)
    (folder / "run.h").write_text(glue(made, stream))
    for name in ("startup.c", "main.c", "link.ld"):
        (folder / name).write_text((resources.files("tflite2q.micro") / "board" / name).read_text())
    text = source.source(made.program, made.plan)
    gcc = ["arm-none-eabi-gcc", *board.flags, "-mthumb", "-O3", "-std=gnu99", "-ffunction-sections", "-fdata-sections"]
    if by == "a":
        (folder / "model.a").write_bytes(build.archive(text, header, "model", target))
        model = "model.a"
    else:
        (folder / "model.c").write_text(text)
        model = "model.o"
        _do(
            [*gcc, "-std=c99", "-ffp-contract=off", *target.gcc[:1], *board.flags[1:], "-c", "model.c", "-o", model],
            folder,
        )
    places = {"CODE_ORIGIN": board.code, "RAM_ORIGIN": board.ram, "ARENA_ORIGIN": board.arena}
    symbols = [f"-Wl,--defsym={name}={value:#x}" for name, value in places.items()]
    constants = "ADDR(.init)+SIZEOF(.init)" if board.constants is None else hex(board.constants)
    script = (folder / "link.ld").read_text().replace("CONST_ORIGIN", "" if board.constants is None else constants)
    (folder / "link.ld").write_text(script)
    linked = ["-nostartfiles", "--specs=nano.specs", "--specs=nosys.specs", "-Wl,-T,link.ld", "-Wl,--gc-sections",
              "-Wl,--no-warn-rwx-segments", "startup.c", "main.c", model, "-o", "image.elf"]  # fmt: skip
    _do([*gcc, *symbols, *linked], folder)
    sizes = _do(["arm-none-eabi-size", "-A", model], folder).splitlines()
    code = sum(int(line.split()[1]) for line in sizes if line.startswith(".text"))
    data = sum(int(line.split()[1]) for line in sizes if line.startswith(".rodata"))
    return folder / "image.elf", code, data


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


def _emulated(board: Board, image: Path, folder: Path) -> dict[str, int]:
    """What the program said."""
    command = ["qemu-system-arm", "-M", board.machine, "-nographic", "-monitor", "none", "-serial", "none", "-icount",
               "shift=0", "-semihosting-config", "enable=on,target=native", "-kernel", str(image)]  # fmt: skip
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"the emulated {board.machine} did not end within {TIMEOUT:g} s") from error
    words = [line.split() for line in (done.stderr + done.stdout).splitlines()]
    said = {line[0]: int(line[1]) for line in words if len(line) == 2 and line[1].isdigit()}
    if not {"runs", "failed", "ticks", "stack"} <= set(said):
        raise TargetError(f"the program on the emulated {board.machine} failed: {(done.stderr + done.stdout).strip()}")
    return said


def outputs(ports: Sequence[Port], content: bytes, samples: int) -> tuple[tuple[Array, ...], ...]:
    step = sum(port.bytes for port in ports)
    if len(content) != step * samples:
        raise TargetError(f"the emulated program wrote {len(content)} bytes, not {step * samples}")
    found = []
    for number in range(samples):
        at, arrays = number * step, []
        for port in ports:
            arrays.append(np.frombuffer(content[at : at + port.bytes], port.dtype).reshape(port.shape))
            at += port.bytes
        found.append(tuple(arrays))
    return tuple(found)


def _do(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-300:])
        raise TargetError(f"building for the emulated board failed: {why}")
    return done.stdout
