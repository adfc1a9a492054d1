"""Libraries are loaded for what their files hold, where they run, and by names that systems take; else one line says
why not."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Net

from tflite2q.dialect.graph import Graph
from tflite2q.errors import DataError, TargetError, UsageError
from tflite2q.execution import manifest, reference, runtime
from tflite2q.lower import targets

X = np.random.default_rng(5).integers(0, 256, (1, 4, 4, 3), np.uint8)
KINDS = (".so", ".tar")
Write = Callable[[int, Path], Path]


def model(seed: int) -> Graph:
    net = Net(seed=seed)
    return net.graph(net.conv(net.input("x", (1, 4, 4, 3), (0.02, 120)), "c", 4, (0.3, 128)))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Puts the library of `model(seed)` in a place, as another file than was there."""
    made: dict[tuple[int, str], Path] = {}

    def put(seed: int, place: Path) -> Path:
        key = seed, place.suffix
        if key not in made:
            made[key] = tmp_path_factory.mktemp("made") / f"model{place.suffix}"
            runtime.compile(model(seed)).save(made[key])
        new = place.with_name("new")
        shutil.copyfile(made[key], new)
        new.replace(place)
        return place

    return put


def right(library: runtime.Executable, seed: int) -> bool:
    return bool(np.array_equal(library.run(X)[0], reference.run(model(seed), X)[0]))


def one_line(raised: pytest.ExceptionInfo[Any]) -> str:
    message = str(raised.value)
    assert "\n" not in message and len(message) < 300
    return message


@pytest.mark.parametrize("ending", KINDS)
def test_a_library_that_replaced_another_is_the_one_that_is_loaded(ending: str, written: Write, tmp_path: Path) -> None:
    """Under a name that the process has loaded, and while it runs what was there."""
    path = tmp_path / f"model{ending}"
    first = runtime.load_library(written(1, path))
    assert right(first, 1)
    second = runtime.load_library(written(2, path))
    assert right(second, 2)
    assert right(first, 1)
    assert right(runtime.load_library(written(1, path)), 1)
    assert list(tmp_path.iterdir()) == [path], "a file was left beside it"


def test_a_library_that_was_touched_is_loaded_again(written: Write, tmp_path: Path) -> None:
    path = written(1, tmp_path / "model.so")
    assert right(runtime.load_library(path), 1)
    os.utime(path, (1, 1))
    assert right(runtime.load_library(path), 1)
    link = tmp_path / "other.so"
    os.link(path, link)
    assert right(runtime.load_library(link), 1)


@pytest.mark.parametrize("ending", KINDS)
def test_a_library_that_is_replaced_before_its_first_run_is_not_run(
    ending: str, written: Write, tmp_path: Path
) -> None:
    """Its shapes may be others, and its code may be damaged: only what was read was checked."""
    path = written(1, tmp_path / f"model{ending}")
    opened = runtime.load_library(path)
    written(2, path)
    with pytest.raises(DataError) as raised:
        opened.run(X)
    assert one_line(raised) == f"{path}: was replaced after it was opened; open it again"
    path.unlink()
    with pytest.raises(DataError) as raised:
        opened.run(X)
    assert "cannot be loaded: No such file" in one_line(raised)


def test_an_archive_that_is_cut_short_or_changed(written: Write, tmp_path: Path) -> None:
    path = written(1, tmp_path / "model.tar")
    whole = path.read_bytes()
    assert len(whole) % manifest.RECORD == 0
    for size in np.linspace(0, len(whole) - 1, 20).astype(int).tolist():
        path.write_bytes(whole[:size])
        with pytest.raises(DataError) as raised:
            runtime.load_library(path)
        assert one_line(raised).startswith(f"{path}: ")
    for place in np.linspace(0, len(whole) - 1, 30).astype(int).tolist():
        changed = bytearray(whole)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(DataError) as raised:
            runtime.load_library(path)
        assert one_line(raised).startswith(f"{path}: ")


ELSEWHERE = {"Windows": "pc-windows-msvc", "macOS": "apple-darwin", "FreeBSD": "unknown-freebsd"}


@pytest.mark.skipif(platform.system() != "Linux", reason="these are systems other than Linux")
@pytest.mark.parametrize("system", ELSEWHERE)
def test_code_for_another_system_is_not_run(system: str, tmp_path: Path) -> None:
    """It calls functions in another way: running it ends the process."""
    here = targets.architecture(platform.machine())
    made = runtime.compile(model(1), f"llvm -mtriple={here}-{ELSEWHERE[system]}")
    why = f"but this system (Linux) cannot run code for {system}; load it there, or compile for native"
    with pytest.raises(TargetError) as raised:
        made.run(X)
    assert why in one_line(raised)
    made.save(tmp_path / "model.tar")
    with pytest.raises(TargetError) as raised:
        runtime.load_library(tmp_path / "model.tar")
    assert why in one_line(raised)


def test_systems_by_their_names() -> None:
    names = {
        "Linux": ("Linux", "x86_64-conda-linux-gnu", "aarch64-linux-android", "riscv64-unknown-linux-musl"),
        "macOS": ("Darwin", "arm64-apple-macos", "x86_64-apple-darwin23.1.0"),
        "Windows": ("Windows", "x86_64-pc-windows-msvc", "x86_64-w64-mingw32"),
        "": ("", "x86_64", "wasm32-unknown-unknown-wasm", "Java"),
    }
    for system, known in names.items():
        assert {targets.system(name) for name in known} == {system}


def test_native_code_says_for_which_machine_it_is(tmp_path: Path) -> None:
    """Such a library may be copied to another one."""
    path = tmp_path / "model.so"
    runtime.compile(model(1)).save(path)
    triple = manifest.read(path).spec["mtriple"]
    assert targets.architecture(triple) == targets.architecture(platform.machine())
    assert targets.system(triple) == targets.system(platform.system())


def test_names_that_say_what_is_not_written(tmp_path: Path) -> None:
    """Objects for WebAssembly, which no loader takes for a library."""
    for ending in (".wasm", ".o", ".SO", ""):
        with pytest.raises(UsageError) as raised:
            runtime.compile(model(1)).save(tmp_path / f"model{ending}")
        assert "for native, a library's name ends in .so, .dylib, .dll, .tar; name it so" in one_line(raised)
    assert not list(tmp_path.iterdir())


def test_a_library_under_a_name_that_no_loader_takes(written: Write, tmp_path: Path) -> None:
    path = written(1, tmp_path / "model.so")
    for ending in (".o", ".bin", ""):
        other = path.rename(tmp_path / f"model{ending}")
        with pytest.raises(DataError) as raised:
            runtime.load_library(other)
        assert one_line(raised).endswith("a library is loaded by a name in .so, .dylib, .dll, .tar; rename it")
        assert list(tmp_path.iterdir()) == [other]
        path = other
