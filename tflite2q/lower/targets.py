"""Named targets: what a name on the command line compiles for.  Data only; TVM's target objects are made in `lower`."""

from __future__ import annotations

import difflib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tflite2q.errors import TargetError


@dataclass(frozen=True)
class Target:
    """A processor to compile for: LLVM's triple, CPU and feature switches ("+name" or "-name").

    `options` are further options of TVM's target kind llvm, as they were given.
    """

    name: str
    sentence: str
    mtriple: str = ""
    mcpu: str = ""
    mattr: tuple[str, ...] = ()
    kind: str = "llvm"
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def spec(self) -> dict[str, Any]:
        """As TVM's target constructor takes it.  `native` is only complete after `native_target`."""
        chosen = {"mtriple": self.mtriple, "mcpu": self.mcpu, "mattr": list(self.mattr)}
        return {"kind": self.kind, **{key: value for key, value in chosen.items() if value}, **dict(self.options)}


_ARM = "aarch64-unknown-linux-gnu"
_X86 = "x86_64-unknown-linux-gnu"

NATIVE = Target("native", "this machine, with every feature its processor and operating system offer")

TARGETS: tuple[Target, ...] = (
    NATIVE,
    Target("x86-64", "any 64-bit x86 (SSE2)", _X86, "x86-64"),
    Target("x86-64-v3", "x86 with AVX2, since Haswell and Zen 1", _X86, "x86-64-v3"),
    Target("x86-64-v4", "x86 with AVX-512, no integer dot products", _X86, "x86-64-v4"),
    Target("x86-64-vnni", "x86 with AVX-512 VNNI, since Ice Lake and Zen 4", _X86, "x86-64-v4", ("+avx512vnni",)),
    Target("x86-64-amx", "x86 with AMX matrix products on Linux, since Sapphire Rapids", _X86, "x86-64-v4", (
        "+avx512vnni", "+amx-tile", "+amx-int8",
    )),
    Target("x86-64-avxvnni", "x86 with 256-bit AVX-VNNI, since Alder Lake", _X86, "x86-64-v3", ("+avxvnni",)),
    Target("aarch64", "any 64-bit Arm (NEON)", _ARM, "", ("+neon",)),
    Target("aarch64-dotprod", "64-bit Arm v8.2 with dot products", _ARM, "", ("+v8.2a", "+dotprod")),
    Target("aarch64-i8mm", "64-bit Arm v8.6 with 8-bit matrix products", _ARM, "", ("+v8.6a", "+dotprod", "+i8mm")),
    Target("cortex-a53", "Arm Cortex-A53 (NEON)", _ARM, "cortex-a53"),
    Target("cortex-a72", "Arm Cortex-A72 (NEON)", _ARM, "cortex-a72"),
    Target("cortex-a76", "Arm Cortex-A76 (dot products)", _ARM, "cortex-a76"),
    Target("raspberry-pi-3", "Raspberry Pi 3 and Zero 2, 64-bit system (Cortex-A53)", _ARM, "cortex-a53"),
    Target("raspberry-pi-4", "Raspberry Pi 4, 64-bit system (Cortex-A72)", _ARM, "cortex-a72"),
    Target("raspberry-pi-5", "Raspberry Pi 5 (Cortex-A76, dot products)", _ARM, "cortex-a76"),
    Target("pixel-8", "phones with Arm Cortex-X3/A715 (8-bit matrix products)", "aarch64-linux-android", "cortex-a715"),
    Target("graviton2", "AWS Graviton 2 (Neoverse N1, dot products)", _ARM, "neoverse-n1"),
    Target("graviton3", "AWS Graviton 3 (Neoverse V1, 8-bit matrix products)", _ARM, "neoverse-v1"),
    Target("apple-m1", "Apple M1, macOS (dot products)", "arm64-apple-macos", "apple-m1"),
    Target("apple-m2", "Apple M2 and later, macOS (8-bit matrix products)", "arm64-apple-macos", "apple-m2"),
    Target("riscv64", "64-bit RISC-V, base and compressed instructions", "riscv64-unknown-linux-gnu", "generic-rv64", (
        "+m", "+a", "+f", "+d", "+c",
    )),
    Target("wasm32", "WebAssembly with 128-bit vectors, as an object file", "wasm32-unknown-unknown-wasm", "", (
        "+simd128",
    ), options=(("vector-width", 128),)),
)  # fmt: skip


@dataclass(frozen=True)
class Micro:
    """A microcontroller: which kernels it gets (`plain`, `dsp`, `mve`), and how compilers name it.

    `zig` is zig's target and `mcpu` its name of the processor; None: there is C for it, which its own compiler takes.
    `gcc` are the flags of a GCC for bare metal.
    """

    name: str
    sentence: str
    family: str
    zig: str | None = None
    mcpu: str = ""
    gcc: tuple[str, ...] = ()


_THUMB = "thumb-freestanding-gnueabi"


def _cortex(name: str, sentence: str, family: str, features: str = "") -> Micro:
    mcpu = f"cortex_{name}{features}"
    return Micro(f"cortex-{name}", sentence, family, _THUMB, mcpu, (f"-mcpu=cortex-{name}", "-mthumb"))


MICROS: tuple[Micro, ...] = (
    _cortex("m0plus", "Arm Cortex-M0+", "plain"),
    _cortex("m3", "Arm Cortex-M3", "plain"),
    _cortex("m4", "Arm Cortex-M4 (two 16-bit products at once)", "dsp"),
    _cortex("m7", "Arm Cortex-M7 (two 16-bit products at once)", "dsp"),
    _cortex("m33", "Arm Cortex-M33 (two 16-bit products at once)", "dsp"),
    _cortex("m55", "Arm Cortex-M55 (Helium)", "mve", "+mve"),
    _cortex("m85", "Arm Cortex-M85 (Helium)", "mve", "+mve"),
    Micro("riscv32imac", "32-bit RISC-V with multiplication", "plain", "riscv32-freestanding-none",
          "generic_rv32+m+a+c", ("-march=rv32imac", "-mabi=ilp32")),
    Micro("esp32c3", "Espressif ESP32-C3 (32-bit RISC-V)", "plain", "riscv32-freestanding-none", "generic_rv32+m+c",
          ("-march=rv32imc", "-mabi=ilp32")),
    Micro("esp32s3", "Espressif ESP32-S3, as C for Espressif's compiler", "plain"),
)  # fmt: skip


def micro(name: str) -> Micro | None:
    """The microcontroller called `name`, if there is one."""
    return next((each for each in MICROS if each.name == name), None)


# Features by which people tell processors apart, in the order in which processors got them.
_NOTABLE = (
    "sse2", "ssse3", "sse4.1", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vnni", "avxvnni", "amx-int8",
    "neon", "dotprod", "i8mm", "sve", "c", "v", "simd128",
)  # fmt: skip

SHOWN = 100  # characters of a target in a message
MOST_DIGITS = 10  # of a number

# Options of TVM's kind llvm that do not change what is computed ("fast-math" does, for instance).
_OPTIONS = ("num-cores", "mfloat-abi", "mabi", "opt-level", "vector-width", "device", "model", "keys")

# Features of the kernel interface (/proc/cpuinfo) under LLVM's names, where the program makes use of them.
_X86_FLAGS: Mapping[str, str] = {
    "ssse3": "ssse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "popcnt": "popcnt", "avx": "avx", "avx2": "avx2",
    "fma": "fma", "f16c": "f16c", "bmi1": "bmi", "bmi2": "bmi2", "abm": "lzcnt", "avx512f": "avx512f",
    "avx512bw": "avx512bw", "avx512dq": "avx512dq", "avx512vl": "avx512vl", "avx512cd": "avx512cd",
    "avx512ifma": "avx512ifma", "avx512vbmi": "avx512vbmi", "avx512_vbmi2": "avx512vbmi2",
    "avx512_vnni": "avx512vnni", "avx512_bitalg": "avx512bitalg", "avx512_vpopcntdq": "avx512vpopcntdq",
    "avx512_bf16": "avx512bf16", "avx512_fp16": "avx512fp16", "avx_vnni": "avxvnni", "gfni": "gfni", "vaes": "vaes",
    "vpclmulqdq": "vpclmulqdq", "amx_tile": "amx-tile", "amx_int8": "amx-int8", "amx_bf16": "amx-bf16",
}  # fmt: skip
# Operating systems by how their names begin.  Android runs Linux's code where that needs nothing of a C library.
_SYSTEMS: Mapping[str, str] = {
    "linux": "Linux", "android": "Linux", "darwin": "macOS", "macos": "macOS", "ios": "iOS", "windows": "Windows",
    "mingw": "Windows", "win32": "Windows", "freebsd": "FreeBSD", "netbsd": "NetBSD", "openbsd": "OpenBSD",
}  # fmt: skip
MATRIX_FEATURES = frozenset({"amx-tile", "amx-int8", "amx-bf16"})  # what Linux grants to processes that ask
_ARM_FLAGS: Mapping[str, str] = {"asimddp": "dotprod", "i8mm": "i8mm", "asimdhp": "fullfp16", "sve": "sve"}


def find(name: str) -> Target:
    """The target called `name`, or one given in TVM's terms: JSON, or "llvm -mcpu=NAME ...".

    Raises TargetError naming the nearest known one.  TVM's own names of targets are known only to `lower.target`.
    """
    for target in TARGETS:
        if target.name == name:
            return target
    if micro(name) is not None:
        raise TargetError(
            f"target {name!r} is a microcontroller, for which there are no shared libraries and no TVM runtime; "
            f"`tflite2q convert --lib NAME.a --target {name}` (or NAME.c) writes code for it"
        )
    if name.lstrip().startswith("{"):
        return _from_json(name)
    if name.split()[:1] == ["llvm"]:
        return from_spec(name, {"kind": "llvm", **dict(_option(word, name) for word in name.split()[1:])})
    near = difflib.get_close_matches(name, [*(t.name for t in TARGETS), *(m.name for m in MICROS)], 1, 0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise TargetError(f"target {name!r} is not known{hint} (`tflite2q targets` lists them; TVM's JSON works too)")


def _from_json(text: str) -> Target:
    try:
        spec = json.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers with more digits than Python reads
        raise TargetError(f"target {text[:SHOWN]!r} is not valid JSON: {error}") from error
    return from_spec(text, spec)


def from_spec(name: str, spec: Mapping[str, Any]) -> Target:
    """The target that a specification in TVM's terms means.  Raises TargetError for what the program cannot use."""
    if spec.get("kind") != "llvm":
        raise TargetError(
            f"target {name!r}: kind {spec.get('kind')!r} is not supported; models run on CPUs, by kind llvm"
        )
    unknown = sorted(set(spec) - {"kind", "mtriple", "mcpu", "mattr", *_OPTIONS})
    if unknown:
        known = ", ".join(("mtriple", "mcpu", "mattr", *_OPTIONS))
        raise TargetError(f"target {name!r}: key {unknown[0]!r} is not supported; there are {known}")
    for key in ("mtriple", "mcpu"):
        if not isinstance(spec.get(key, ""), str) or "\0" in spec.get(key, ""):
            raise TargetError(f"target {name[:SHOWN]!r}: {key} must be a string, such as x86_64-linux-gnu or skylake")
    switches = spec.get("mattr", [])
    listed = switches.split(",") if isinstance(switches, str) else switches
    if not isinstance(listed, list | tuple) or not all(isinstance(s, str) and "\0" not in s for s in listed):
        raise TargetError(f'target {name[:SHOWN]!r}: mattr must be a list of features, such as ["+avx2"]')
    options = tuple((key, spec[key]) for key in _OPTIONS if key in spec)
    return Target(name, "as given", spec.get("mtriple", ""), spec.get("mcpu", ""), tuple(listed), options=options)


def _option(word: str, text: str) -> tuple[str, Any]:
    """(key, value) of a word like -mcpu=NAME."""
    key, equals, value = word.lstrip("-").partition("=")
    if not word.startswith("-") or not equals or not value:
        raise TargetError(f"target {text!r}: {word!r} is not of the form -key=value")
    return key, int(value) if value.isdigit() and len(value) < MOST_DIGITS else value


def native_target(mcpu: str, implied: frozenset[str], withheld: frozenset[str] = frozenset()) -> Target:
    """`native`, given LLVM's name for this processor and the features LLVM believes that name implies.

    `withheld`: features that the processor has, but that the system does not let this process use.

    A virtual machine or the operating system may hide features of the processor it names, and offer others; what the
    running kernel reports decides.  Where it reports nothing (not Linux), LLVM's belief stands.
    """
    offered = reported_features()
    if not offered:
        return Target(NATIVE.name, NATIVE.sentence, "", mcpu)
    flags = _ARM_FLAGS if platform.machine() in ("aarch64", "arm64") else _X86_FLAGS
    present = {llvm for flag, llvm in flags.items() if flag in offered} - withheld
    hidden = set(flags.values()) & implied - present
    switches = (*(f"+{name}" for name in sorted(present - implied)), *(f"-{name}" for name in sorted(hidden)))
    return Target(NATIVE.name, NATIVE.sentence, "", mcpu, switches)


def notable_features(features: Iterable[str]) -> tuple[str, ...]:
    """Those of `features` (LLVM's names) that make a difference to compiled models, weakest first."""
    found = set(features)
    return tuple(name for name in _NOTABLE if name in found)


def instruction_features() -> frozenset[str]:
    """LLVM's names of the features that decide whether code runs or meets an illegal instruction."""
    return frozenset((*_X86_FLAGS.values(), *_ARM_FLAGS.values()))


def missing_features(needed: Iterable[str]) -> list[str]:
    """Those of `needed` (LLVM's names) that this machine reports not to have; none where it reports nothing."""
    offered = reported_features()
    here = {llvm for flag, llvm in (*_X86_FLAGS.items(), *_ARM_FLAGS.items()) if flag in offered}
    return sorted(set(needed) - here) if offered else []


def architecture(triple: str) -> str:
    """The processor family of an LLVM triple or of Python's `platform.machine()`, under LLVM's name."""
    first = triple.split("-")[0].lower()
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(first, first)


def system(name: str) -> str:
    """The operating system of an LLVM triple or of Python's `platform.system()`; "" if it names none that is known."""
    parts = name.lower().split("-")
    return next((system for part in parts for begin, system in _SYSTEMS.items() if part.startswith(begin)), "")


def reported_features(path: str = "/proc/cpuinfo") -> frozenset[str]:
    """The processor features Linux reports, under its own names; empty where there is no such report."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return frozenset()
    found = (line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features")) and ":" in line)
    return frozenset(next(found, ()))
