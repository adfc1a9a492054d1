"""The cache of compiled libraries: what is taken from it is what would be compiled, and it harms nobody."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Net, everything

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.text import digest
from tflite2q.dialect.types import Constant
from tflite2q.errors import DataError, UsageError
from tflite2q.execution import libraries, reference, runtime


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache that is empty."""
    monkeypatch.setenv("TFLITE2Q_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "libraries"


@pytest.fixture(scope="module")
def graph() -> Graph:
    """A small one: what a library holds is nothing to the cache."""
    net = Net(seed=5)
    x = net.input("x", (1, 6, 6, 3), (0.02, 120))
    return net.graph(net.conv(x, "only", 4, (6 / 255, 0), size=3))


@pytest.fixture(scope="module")
def image() -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).integers(0, 256, (1, 6, 6, 3), np.uint8)


def run(graph: Graph, image: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return runtime.compile(graph).run(image)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows with each graph that is compiled."""
    from tflite2q.lower import build

    made: list[None] = []
    real = build.build

    def counted(*arguments: Any) -> Any:
        made.append(None)
        return real(*arguments)

    monkeypatch.setattr(build, "build", counted)
    return made


def test_the_second_time_nothing_is_compiled(
    kept: Path, graph: Graph, image: np.ndarray[Any, Any], compiling: list[None], tmp_path: Path
) -> None:
    wanted = reference.run(graph, image)
    for _ in range(2):
        executable = runtime.compile(graph)
        assert all(map(np.array_equal, executable.run(image), wanted))
        assert {choice.op for choice in executable.choices} == {name for name, _ in executable.manifest.kernels}
    executable.save(tmp_path / "again.so")
    assert all(map(np.array_equal, runtime.load_library(tmp_path / "again.so").run(image), wanted))
    assert len(compiling) == 1
    assert executable.profile(image)  # needs the module: compiled for its own sake
    [name] = names(kept)
    assert name.endswith(".so")
    assert kept.stat().st_mode & 0o777 == 0o700


def test_what_is_saved_is_kept_as_well(
    kept: Path, graph: Graph, image: np.ndarray[Any, Any], compiling: list[None], tmp_path: Path
) -> None:
    runtime.compile(graph).save(tmp_path / "one.so")
    run(graph, image)
    assert len(compiling) == 1
    assert (kept / names(kept)[0]).read_bytes() == (tmp_path / "one.so").read_bytes()


@pytest.mark.parametrize("damage", [b"", b"\x7fELF", None], ids=["empty", "cut", "changed"])
def test_a_damaged_library_is_compiled_again(
    kept: Path, graph: Graph, image: np.ndarray[Any, Any], compiling: list[None], damage: bytes | None
) -> None:
    run(graph, image)
    path = kept / names(kept)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # this process has it mapped: written in place it would end the process
    path.write_bytes(content if damage is None else damage)
    assert all(map(np.array_equal, run(graph, image), reference.run(graph, image)))
    assert len(compiling) == 2


def test_a_library_that_is_removed_before_the_first_run_is_compiled_again(
    kept: Path, graph: Graph, image: np.ndarray[Any, Any]
) -> None:
    """By another process, which keeps the cache within its size."""
    run(graph, image)
    found = runtime.compile(graph)
    for name in names(kept):
        (kept / name).unlink()
    assert all(map(np.array_equal, found.run(image), reference.run(graph, image)))


def test_a_library_that_the_system_does_not_load_is_not_needed(
    kept: Path, graph: Graph, image: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder that was mounted without the right to run what is in it."""

    def refused(path: str) -> None:
        raise DataError(f"{path}: cannot be loaded: failed to map segment from shared object")

    monkeypatch.setattr("tflite2q.lower.loading.load", refused)
    for _ in range(2):
        assert all(map(np.array_equal, run(graph, image), reference.run(graph, image)))


def test_a_folder_that_can_only_be_read_is_used(
    kept: Path, graph: Graph, image: np.ndarray[Any, Any], compiling: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of a container's image; a damaged library in it is left."""
    wanted = run(graph, image)

    def refused(*_: Any, **__: Any) -> None:
        raise OSError("Read-only file system")

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    assert all(map(np.array_equal, run(graph, image), wanted))
    assert len(compiling) == 1
    [library] = kept.iterdir()
    (kept / "new").write_bytes(b"damaged")
    (kept / "new").replace(library)
    assert all(map(np.array_equal, runtime.compile(graph).run(image), wanted))


def test_a_user_without_a_home_has_no_cache(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> None:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("TFLITE2Q_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert libraries.folder() is None and libraries.find("0") is None


def test_off(
    kept: Path, graph: Graph, image: np.ndarray[Any, Any], compiling: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFLITE2Q_CACHE", "off")
    run(graph, image)
    run(graph, image)
    assert len(compiling) == 2
    assert names(kept) == []


def test_a_folder_that_others_write_to_is_not_used(
    kept: Path, graph: Graph, image: np.ndarray[Any, Any], compiling: list[None]
) -> None:
    run(graph, image)
    kept.chmod(0o777)
    run(graph, image)
    assert len(compiling) == 2


def test_a_full_disk_is_not_filled(
    kept: Path, graph: Graph, image: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "_free", lambda where: 1 << 20)
    assert all(map(np.array_equal, run(graph, image), reference.run(graph, image)))
    assert names(kept) == []


def test_the_libraries_used_longest_ago_go_first(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFLITE2Q_CACHE_MB", "1")
    for index in range(6):
        path = libraries.keep(str(index), lambda path: path.write_bytes(bytes(300_000)) and None)
        assert path is not None
        os.utime(path, (index, index))
    assert names(kept) == ["3.so", "4.so", "5.so"]


@pytest.mark.parametrize("given", ["abc", "-1", "1.5", "9" * 5000])
def test_a_size_that_is_no_number_is_refused(kept: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("TFLITE2Q_CACHE_MB", given)
    with pytest.raises(UsageError, match=f"CACHE_MB is {given}, which must be a number of megabytes"):
        libraries.keep("x", lambda path: path.write_bytes(b"x") and None)


def test_every_fact_is_in_the_key(graph: Graph) -> None:
    """A change of one code, one scale or one attribute is another graph."""
    value = next(v for v in graph.values if v.constant is not None and v.type.dtype == "uint8")
    data = value.data.copy()
    data.reshape(-1)[0] ^= 1
    scaled = value.type.quantization
    assert scaled is not None
    nearby = float(np.nextafter(np.float32(scaled.scale[0]), np.float32(1)))
    others = [
        dataclasses.replace(value, constant=Constant(data)),
        dataclasses.replace(value, type=value.type.with_(quantization=dataclasses.replace(scaled, scale=(nearby,)))),
    ]
    graphs = [
        dataclasses.replace(graph, values=tuple(other if v is value else v for v in graph.values)) for other in others
    ]
    conv = graph.ops[0]
    changed = dataclasses.replace(conv, activation="RELU")
    graphs.append(dataclasses.replace(graph, ops=(changed, *graph.ops[1:])))
    assert len({digest(each) for each in (graph, *graphs)}) == 4
    assert digest(graph) == digest(dataclasses.replace(graph))
    assert len({libraries.key(facts) for facts in ({"a": 1}, {"a": 2}, {"b": 1})}) == 3


def test_drawn_graphs_have_keys_of_their_own() -> None:
    assert len({digest(everything(seed)) for seed in range(40)}) == 40


@pytest.mark.slow
def test_processes_share_it(kept: Path, digits: Path, digits_data: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "tflite2q", "run", str(digits), "--input", str(digits_data[0]), "--limit", "2"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    said = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert len(said) == 1
    assert len(names(kept)) == 1
