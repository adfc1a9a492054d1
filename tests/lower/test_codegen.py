"""Which compiled functions check the tensors that they get, and how code is spread over object files."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops import Div
from tflite2q.dialect.types import TensorType, Value
from tflite2q.errors import DataError
from tflite2q.execution import reference
from tflite2q.lower import codegen, demand
from tflite2q.lower.build import build
from tflite2q.lower.export import export
from tflite2q.lower.graph import lower
from tflite2q.lower.target import resolve, tvm_target


@pytest.fixture(scope="module")
def built(digits: Path) -> Any:
    target = tvm_target(resolve("native"))
    return build(lower(tflite2q.load(digits), target).module, target).executable


def test_what_a_caller_gives_is_checked(built: Any, digits: Path) -> None:
    main = relax.VirtualMachine(built, tvm.cpu())["main"]
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1) % 16
    expected = reference.run(tflite2q.load(digits), pixels)[0]
    np.testing.assert_array_equal(np.from_dlpack(main(tvm.runtime.tensor(pixels))[0]), expected)
    for wrong in (pixels[:, :7], pixels.astype(np.float32), pixels[0]):
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            main(tvm.runtime.tensor(wrong))


def test_rows_that_lie_apart_are_refused(built: Any) -> None:
    main = relax.VirtualMachine(built, tvm.cpu())["main"]
    memory = np.from_dlpack(tvm.runtime.tensor(np.zeros((1, 8, 16, 1), np.uint8)))
    with pytest.raises((RuntimeError, ValueError)):
        main(tvm.runtime.from_dlpack(memory[:, :, ::2]))


def test_only_what_a_caller_gives_is_checked(built: Any) -> None:
    (code,) = built.mod.imports
    text = code.inspect_source("ll")
    found = re.finditer(r"^define [^\n]*@(\w+)\((.*?)^}", text, re.MULTILINE | re.DOTALL)
    checks = {match[1]: "@__tvm_set_raised" in match[2] for match in found}
    assert len([name for name in checks if name.startswith("tflite2q_") and "conv2d" in name]) > 1
    # A run of kernels on the matrix unit checks that the system grants it.
    asks = {"tflite2q_main_model_compute"} if any("__amx" in name for name in checks) else set()
    assert {name for name, checked in checks.items() if checked} == {"__tvm_ffi_main_call"} | asks
    assert set(re.findall(r'c"(\w+)\.(?:byte_offset|shape\[0\])', text)) == {"in0"}  # of what errors are left
    assert ".strides on argument" in text


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of libraries, so that code is made as object files."""
    monkeypatch.setenv("TFLITE2Q_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_object_files_compute_what_code_in_memory_does(digits: Path, kept: Path) -> None:
    graph = tflite2q.convert(digits, "int8").graph
    exe = tflite2q.compile(graph)
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1) % 16
    np.testing.assert_array_equal(exe.run(pixels)[0], reference.run(graph, pixels)[0])
    exe.save(kept / "digits.tar")
    with tarfile.open(kept / "digits.tar") as archive:
        assert len([name for name in archive.getnames() if name.startswith("lib")]) > 2


def test_the_bytes_do_not_depend_on_the_number_of_threads(
    digits: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(codegen, "processors", lambda threads=threads: threads)
        monkeypatch.setenv("TFLITE2Q_CACHE", str(kept / str(threads)))
        tflite2q.compile(digits).save(kept / f"{threads}.so")
        found.append((kept / f"{threads}.so").read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("change", ["nothing", "body", "name"])
def test_kernels_that_are_begun_early_are_used_only_if_they_are_still_the_same(
    change: str, digits: Path, tmp_path: Path
) -> None:
    graph, target = tflite2q.convert(digits, "int8").graph, tvm_target(resolve("native"))
    begun: list[Any] = []
    with codegen.Objects(target) as objects:

        def begin(name: str, function: Any) -> None:
            begun.append(function)
            changed = {"nothing": (name, function), "body": (name, begun[0]), "name": (f"other_{name}", function)}
            objects.add(*changed[change])

        lowered = lower(graph, target, made=begin)
        built = build(lowered.module, target, objects=objects)
    assert len(begun) > 2
    export(built.executable, str(tmp_path / "digits.so"), None)
    main = relax.VirtualMachine(tvm.runtime.load_module(str(tmp_path / "digits.so")), tvm.cpu())["main"]
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1) % 16
    found = np.from_dlpack(main(tvm.runtime.tensor(pixels))[0])
    np.testing.assert_array_equal(found, reference.run(graph, pixels)[0])


def test_each_kernel_is_begun_early_and_compiled_once(
    digits: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, compiled = [], []
    add, made = codegen.Objects.add, codegen.Objects._made

    def adds(self: codegen.Objects, name: str, function: Any) -> None:
        begun.append(codegen.bare(name))
        add(self, name, function)

    def makes(self: codegen.Objects, functions: dict[str, Any]) -> Any:
        compiled.extend(functions)
        return made(self, functions)

    monkeypatch.setattr(codegen.Objects, "add", adds)
    monkeypatch.setattr(codegen.Objects, "_made", makes)
    tflite2q.compile(digits)
    assert len(begun) > 2
    assert sorted(compiled) == sorted({*begun, "main_model"})


@pytest.mark.parametrize("place", ["memory", "library", "object file"])
def test_a_refusal_says_the_same_from_an_object_file(place: str, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "memory":
        monkeypatch.setenv("TFLITE2Q_CACHE", "off")
    if place == "object file":  # as a kernel of AMX refuses, which most machines cannot run
        plain = demand.function
        monkeypatch.setattr(demand, "function", lambda *parts: plain(*parts).with_attr(codegen.KERNEL, True))
    values = tuple(Value(name, TensorType((4,), "int32")) for name in "xyz")
    graph = Graph(("x", "y"), ("z",), values, (Div(inputs=("x", "y"), outputs=("z",)),))
    exe = tflite2q.compile(graph)
    assert exe.run(np.full(4, 7, np.int32), np.full(4, 2, np.int32))[0].tolist() == [3] * 4
    with pytest.raises(DataError, match="a divisor is 0"):
        exe.run(np.ones(4, np.int32), np.array([1, 1, 0, 1], np.int32))
