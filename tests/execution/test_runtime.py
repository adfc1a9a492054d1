"""Compiled models: running, checking, timing, saving, loading, and refusing with one clear line."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tflite2q.dialect.text import parse_graph
from tflite2q.errors import DataError, TargetError, Tflite2qError, UsageError
from tflite2q.execution import manifest, reference, runtime
from tflite2q.execution.runtime import Executable
from tflite2q.execution.times import Stats
from tflite2q.flatbuffer import reader
from tflite2q.lower import link, machine, targets


@pytest.fixture(scope="module")
def compiled(digits: Path) -> Executable:
    return runtime.compile(reader.load(digits))


@pytest.fixture(scope="module")
def library(compiled: Executable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("library") / "digits.so"
    compiled.save(path)
    return path


@pytest.fixture
def image(digits_data: tuple[Path, Path], compiled: Executable) -> np.ndarray[Any, Any]:
    kind = compiled.inputs[0].type
    return np.random.default_rng(1).integers(*kind.range, kind.shape, kind.dtype, endpoint=True)


def one_line(error: pytest.ExceptionInfo[Tflite2qError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_importing_the_package_does_not_import_tvm() -> None:
    modules = "tflite2q, tflite2q.execution.runtime, tflite2q.execution.manifest, tflite2q.lower.targets"
    code = f"import sys, {modules}; print('tvm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_outputs_are_independent_of_the_next_run(compiled: Executable, image: np.ndarray[Any, Any]) -> None:
    first = compiled.run(image)
    before = [array.copy() for array in first]
    compiled.run(np.zeros_like(image))
    assert all(np.array_equal(a, b) for a, b in zip(first, before, strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: [], "takes 1 input, got 0"),
        (lambda x: [x, x], "takes 1 input, got 2"),
        (lambda x: [x[0]], "got uint8"),
        (lambda x: [x.astype("int8")], "got int8"),
        (lambda x: [x.astype("float32")], "got float32"),
    ],
)
def test_wrong_inputs(compiled: Executable, image: np.ndarray[Any, Any], change: Any, says: str) -> None:
    with pytest.raises(DataError) as error:
        compiled.run(*change(image))
    assert says in one_line(error)


def test_inputs_need_not_be_contiguous(compiled: Executable, image: np.ndarray[Any, Any]) -> None:
    strided = np.repeat(image, 2, axis=1)[:, ::2]
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(compiled.run(strided)[0], compiled.run(image)[0])


def test_statistics() -> None:
    stats = Stats(tuple(float(ms) for ms in range(1, 102)))
    assert (stats.p10_ms, stats.median_ms, stats.p90_ms) == (11.0, 51.0, 91.0)


def test_benchmark(compiled: Executable) -> None:
    stats = compiled.benchmark(repeat=7, warmup=1)
    assert len(stats.times_ms) == 7
    assert 0 < stats.p10_ms <= stats.median_ms <= stats.p90_ms
    with pytest.raises(UsageError):
        compiled.benchmark(repeat=0)
    with pytest.raises(UsageError, match="at least 0, got -1"):
        compiled.times(-1)


def test_profile_accounts_for_every_op(compiled: Executable, digits: Path, image: np.ndarray[Any, Any]) -> None:
    graph = reader.load(digits)
    found = compiled.profile(image, repeat=3)
    assert [each.op for each in found] == [op.name for op in graph.ops]
    assert sum(each.share for each in found) == pytest.approx(1)
    busy = {each.mnemonic: each for each in found if each.gmacs}
    assert "q.conv2d" in busy
    conv = busy["q.conv2d"]
    op = next(op for op in graph.ops if op.name == conv.op)
    macs = op.macs(graph.ins(op), graph.outs(op))
    assert conv.gmacs == pytest.approx(macs / conv.ms / 1e6)


def test_threads_must_be_positive(digits: Path) -> None:
    with pytest.raises(UsageError):
        runtime.compile(reader.load(digits), threads=0)


@pytest.mark.skipif(machine.processors() < 2, reason="one processor has no second thread")
@pytest.mark.parametrize("limit, threads", [(None, 2), ("1", 1)])
def test_as_many_threads_as_asked_for(limit: str | None, threads: int) -> None:
    """TVM alone would take half of the processors for all, and of two leave one."""
    script = "import tvm; from tflite2q.lower import machine; machine.use_threads(2); "
    script += "print(tvm.get_global_func('runtime.NumThreads')())"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment |= {"TVM_NUM_THREADS": limit} if limit else {}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(threads)]


@pytest.mark.parametrize("exec_mode", ["compiled", "bytecode"])
def test_saved_and_loaded(
    digits: Path, tmp_path: Path, image: np.ndarray[Any, Any], exec_mode: str, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = reader.load(digits)
    executable = runtime.compile(graph, exec_mode=exec_mode)
    path = tmp_path / "digits.so"
    executable.save(path)
    loaded = runtime.load_library(path, threads=2)
    expected = reference.run(graph, image)
    for each in (executable, loaded):
        np.testing.assert_array_equal(each.run(image)[0], expected[0])
    assert [(v.name, v.type) for v in loaded.inputs] == [(n, graph[n].type) for n in graph.inputs]
    assert [(v.name, v.type) for v in loaded.outputs] == [(n, graph[n].type) for n in graph.outputs]
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert [file.name for file in tmp_path.iterdir()] == ["digits.so"]


EMPTY = """
graph "empty" {
  inputs (%x) outputs (%y, %z)
  values {
    %x : int8[2, 0, 3] <0.5:1> %y : int8[2, 0, 3] <0.25:0> %z : int8[2, 2, 3] <0.5:1>
    %some : int8[2, 2, 3] <0.5:1> = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
  }
  ops {
    %y = q.add(%x, %x)
    %z = q.concat(%x, %some) {axis = 1}
  }
}
"""


def test_tensors_without_elements(tmp_path: Path) -> None:
    made = runtime.compile(parse_graph(EMPTY))
    made.save(tmp_path / "empty.so")
    for each in (made, runtime.load_library(tmp_path / "empty.so")):
        y, z = each.run(np.zeros((2, 0, 3), np.int8))
        assert y.shape == (2, 0, 3) and z.tolist() == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]


def test_manifest_is_read_without_loading(library: Path, compiled: Executable) -> None:
    found = manifest.read(library)
    assert found == compiled.manifest
    assert found.target == "native"
    assert dict(found.kernels).keys() == {choice.op for choice in compiled.choices}


def test_a_library_runs_with_tvm_alone(library: Path, image: np.ndarray[Any, Any], tmp_path: Path) -> None:
    """And TVM's own runtime finds the same manifest."""
    np.save(tmp_path / "x.npy", image)
    code = (
        "import sys, numpy, tvm; from tvm import relax\n"
        "vm = relax.VirtualMachine(tvm.runtime.load_module(sys.argv[1]), tvm.cpu())\n"
        "numpy.save(sys.argv[3], vm['main'](tvm.runtime.tensor(numpy.load(sys.argv[2])))[0].numpy())\n"
        "assert b'tflite2q-manifest' in bytes(vm['manifest']().numpy())\n"
        "assert not any(name.startswith('tflite2q') for name in sys.modules)"
    )
    arguments = [str(library), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-I", "-c", code, *arguments], check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), runtime.load_library(library).run(image)[0])


def test_saving_does_not_overwrite(compiled: Executable, library: Path) -> None:
    before = library.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        compiled.save(library)
    assert library.read_bytes() == before
    compiled.save(library, force=True)


def test_a_loaded_library_has_no_source(library: Path, tmp_path: Path) -> None:
    loaded = runtime.load_library(library)
    for action in (loaded.profile, lambda: loaded.save(tmp_path / "again.so")):
        with pytest.raises(UsageError) as error:
            action()
        one_line(error)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n", b"\x7fELF" + bytes(1000), None, "truncated", "damaged"])
def test_files_that_are_no_library(library: Path, tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "bad.so"
    whole = library.read_bytes()
    if content == "truncated":
        path.write_bytes(whole[: whole.index(manifest.MARK) + 100])
    elif content == "damaged":
        path.write_bytes(whole.replace(b'"schema_version":1', b'"schema_version":9'))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        runtime.load_library(path)
    assert str(path) in one_line(error)


def test_a_library_that_the_system_refuses(library: Path, tmp_path: Path, image: np.ndarray[Any, Any]) -> None:
    path = tmp_path / "headless.so"
    path.write_bytes(bytes(64) + library.read_bytes()[64:])
    with pytest.raises(DataError) as error:
        runtime.load_library(path).run(image)
    assert str(path) in one_line(error)


def test_a_library_for_another_architecture(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = manifest.read(library)
    other = manifest.Manifest(**{**vars(found), "target": "there", "spec": {"kind": "llvm", "mtriple": "sparc-linux"}})
    path = tmp_path / "other.so"
    path.write_bytes(other.encode())
    with pytest.raises(TargetError) as error:
        runtime.load_library(path)
    assert "sparc" in one_line(error)


def test_a_library_that_needs_more_of_the_processor(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "reported_features", lambda: frozenset({"sse2", "asimd"}))
    if not manifest.read(library).features:
        pytest.skip("native code of this machine needs nothing special")
    with pytest.raises(TargetError) as error:
        runtime.load_library(library)
    assert "lacks" in one_line(error)


def test_without_any_linker(compiled: Executable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link.shutil, "which", lambda name: None)
    monkeypatch.setattr(link.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TargetError) as error:
        compiled.save(tmp_path / "x.so")
    assert "pip install" in one_line(error)
    assert not list(tmp_path.iterdir())


def test_a_linker_that_fails(compiled: Executable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.raises(TargetError) as error:
        compiled.save(tmp_path / "x.so")
    assert "linking" in one_line(error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("triple", "expected"),
    [
        ("aarch64-unknown-linux-gnu", "aarch64-linux-gnu"),
        ("x86_64-unknown-linux-gnu", "x86_64-linux-gnu"),
        ("riscv64-unknown-linux-gnu", "riscv64-linux-gnu"),
        ("arm64-apple-macos", "aarch64-macos"),
        ("aarch64-linux-android", "aarch64-linux-gnu"),
    ],
)
def test_names_of_targets_for_zig(triple: str, expected: str) -> None:
    assert link.zig_target(triple) == expected


@pytest.mark.slow
def test_cross_compiled_library(digits: Path, tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    executable = runtime.compile(reader.load(digits), target="aarch64-dotprod")
    path = tmp_path / "arm.so"
    executable.save(path)
    content = path.read_bytes()
    assert content[:4] == b"\x7fELF"
    assert int.from_bytes(content[18:20], "little") == 183, "EM_AARCH64"
    assert manifest.read(path).target == "aarch64-dotprod"
    if targets.architecture(runtime.platform.machine()) != "aarch64":
        with pytest.raises(TargetError, match="aarch64"):
            runtime.load_library(path)
        with pytest.raises(TargetError, match="aarch64"):
            executable.benchmark()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "magic"), [("wasm32", b"\0asm"), ("riscv64", b"\x7fELF"), ("apple-m1", b"\xcf\xfa\xed\xfe")]
)
def test_object_files(digits: Path, tmp_path: Path, target: str, magic: bytes) -> None:
    path = tmp_path / "objects.tar"
    executable = runtime.compile(reader.load(digits), target=target)
    executable.save(path)
    with tarfile.open(path) as archive:
        members = [archive.extractfile(member) for member in archive.getmembers() if member.isfile()]
        contents = [member.read() for member in members if member is not None]
    assert contents and all(content.startswith(magic) for content in contents)
    assert manifest.read(path) == executable.manifest
