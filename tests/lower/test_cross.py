"""Libraries for other machines are linked here and have the form that those machines expect."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import tflite2q
from tflite2q.errors import TargetError
from tflite2q.execution import manifest, runtime
from tflite2q.lower import link

EM_AARCH64, EM_RISCV = 183, 243
ET_DYN = 3
CPU_TYPE_ARM64, MH_DYLIB = 0x0100000C, 6


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Callable[[str], Path]:
    pytest.importorskip("ziglang")

    def build(target: str) -> Path:
        path = tmp_path_factory.mktemp(target) / "model.so"
        tflite2q.compile(digits, target=target).save(path)
        return path

    return build


def elf_symbols(content: bytes) -> dict[str, bool]:
    """Names in the dynamic symbol table of a 64-bit little-endian ELF file, and whether each is defined."""
    offset, entry, count = *struct.unpack_from("<Q", content, 40), *struct.unpack_from("<HH", content, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", content, offset + i * entry) for i in range(count)]
    table = next(s for s in sections if s[1] == 11)  # SHT_DYNSYM
    strings = sections[table[6]]
    found = {}
    for at in range(table[4], table[4] + table[5], table[9]):
        name, _, _, section, _, _ = struct.unpack_from("<IBBHQQ", content, at)
        start = strings[4] + name
        found[content[start : content.index(b"\0", start)].decode()] = section != 0
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "machine"),
    [("aarch64-dotprod", EM_AARCH64), ("graviton3", EM_AARCH64), ("pixel-8", EM_AARCH64), ("riscv64", EM_RISCV)],
)
def test_elf_libraries(built: Callable[[str], Path], target: str, machine: int) -> None:
    content = built(target).read_bytes()
    assert content[:6] == b"\x7fELF\x02\x01", "64 bits, little-endian"
    assert struct.unpack_from("<HH", content, 16) == (ET_DYN, machine)
    symbols = elf_symbols(content)
    assert any(name.startswith("__tvm_ffi_") and defined for name, defined in symbols.items()), "functions for TVM"
    undefined = {name for name, defined in symbols.items() if name and not defined}
    assert not {name for name in undefined if "conv" in name}, "no kernel is missing"


def leb128(content: bytes, at: int) -> tuple[int, int]:
    """An unsigned number of WebAssembly's, and where it ends."""
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


@pytest.mark.slow
def test_webassembly_object(built: Callable[[str], Path]) -> None:
    content = built("wasm32").read_bytes()
    assert content[:8] == b"\0asm\x01\0\0\0"
    at, sections = 8, []
    while at < len(content):
        kind, size_at = content[at], at + 1
        size, start = leb128(content, size_at)
        sections.append(kind)
        at = start + size
    assert at == len(content), "sections fill the file exactly"
    code, custom = 10, 0
    assert code in sections and custom in sections, "code, and the sections that make it an object file"
    assert b"__tvm_ffi_" in content


@pytest.mark.slow
def test_macos_library(built: Callable[[str], Path]) -> None:
    magic, cpu, _, kind = struct.unpack_from("<4I", built("apple-m1").read_bytes())
    assert (magic, cpu, kind) == (0xFEEDFACF, CPU_TYPE_ARM64, MH_DYLIB)


@pytest.mark.slow
def test_the_manifest_says_what_the_library_is(built: Callable[[str], Path], digits: Path) -> None:
    path = built("cortex-a72")
    description, graph = manifest.read(path), tflite2q.load(digits)
    assert (description.target, description.spec["mcpu"]) == ("cortex-a72", "cortex-a72")
    assert description.inputs[0].type == graph[graph.inputs[0]].type
    assert description.outputs[0].type.quantization == graph[graph.outputs[0]].type.quantization
    with pytest.raises(TargetError, match=r"cortex-a72.*aarch64.*compile for native"):
        runtime.load_library(path)


@pytest.mark.parametrize(
    ("triple", "expected"),
    [
        (None, True),
        ("x86_64-unknown-linux-gnu", True),
        ("x86_64-linux-musl", False),
        ("aarch64-unknown-linux-gnu", False),
        ("x86_64-linux-android", False),
        ("x86_64-apple-macos", False),
    ],
)
def test_which_triples_the_host_links(triple: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link.platform, "system", lambda: "Linux")
    monkeypatch.setattr(link.platform, "machine", lambda: "x86_64")
    assert link.is_host(triple) is expected


@pytest.mark.parametrize("triple", ["aarch64-unknown-linux-gnu", "wasm32-unknown-unknown-wasm"])
def test_cross_linking_without_zig_says_what_to_install(triple: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(link.platform, "machine", lambda: "x86_64")
    with pytest.raises(TargetError, match=rf"{triple}.*pip install 'tflite2q\[cross\]'.*\.tar"):
        link.linker(triple)


def test_a_linker_that_fails_in_silence_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.raises(TargetError, match="false failed: it ended with 1 and said nothing"):
        link.link(str(tmp_path / "x.so"), [], None)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_a_place_that_cannot_be_written_is_what_the_message_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gcc ends with a line that its linker failed; the linker's own line says why."""
    monkeypatch.setenv("CC", "gcc")
    (tmp_path / "x.c").write_text("int x;\n")
    subprocess.run(["gcc", "-fPIC", "-c", "x.c"], cwd=tmp_path, check=True)
    place = str(tmp_path / "none" / "x.so")
    with pytest.raises(TargetError) as error:
        link.link(place, [str(tmp_path / "x.o")], None)
    assert place in str(error.value)
    assert "\n" not in str(error.value)
