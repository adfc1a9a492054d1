"""The examples of docs/deploy.md run compiled models without tflite2q, and give its results."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming import streaming, walk

import tflite2q
from tflite2q.execution import reference

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    path = tmp_path_factory.mktemp("deploy") / "model.so"
    tflite2q.compile(digits).save(path)
    return path


@pytest.fixture(scope="module")
def image(digits: Path) -> Any:
    graph = tflite2q.load(digits)
    return np.random.default_rng(9).integers(0, 256, graph[graph.inputs[0]].type.shape, np.uint8)


def test_python_with_the_runtime_alone(library: Path, image: Any, digits: Path, root: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", image)
    # A module of that name that cannot be imported stands before the real one.
    (tmp_path / "tflite2q.py").write_text("raise ImportError('the example must not need tflite2q')")
    arguments = [root / "examples" / "run_model.py", library, tmp_path / "x.npy", "--output", tmp_path / "y.npz"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "digits for native" in done.stdout
    with np.load(tmp_path / "y.npz") as outputs:
        np.testing.assert_array_equal(outputs["arr_0"], reference.run(tflite2q.load(digits), image)[0])


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of a model with state."""
    path = tmp_path_factory.mktemp("stream") / "model.so"
    tflite2q.compile(streaming()).save(path)
    return path


def test_python_with_the_runtime_alone_streams(streamed: Path, root: Path, tmp_path: Path) -> None:
    frames = walk(streaming(), 20)
    np.save(tmp_path / "x.npy", frames)
    (tmp_path / "tflite2q.py").write_text("raise ImportError('the example must not need tflite2q')")
    arguments = [root / "examples" / "run_model.py", streamed, tmp_path / "x.npy", "--output", tmp_path / "y.npz"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, *arguments, "--stream"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    stream = tflite2q.reference_stream(streaming())
    expected = [np.stack(column) for column in zip(*(stream.step(x) for x in frames), strict=True)]
    with np.load(tmp_path / "y.npz") as outputs:
        for index, array in enumerate(expected):
            np.testing.assert_array_equal(outputs[f"arr_{index}"], array)


def test_cpp_says_that_it_keeps_no_state(program: Path, streamed: Path, tmp_path: Path) -> None:
    arguments = [program, streamed, tmp_path / "x.bin", tmp_path / "y.bin"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and done.stderr.startswith("run_model: the model keeps state")


@pytest.fixture(scope="module")
def program(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ example, built by the very commands of the document."""
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    text = (root / "docs" / "deploy.md").read_text("utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    block = next(block for block in blocks if "g++" in block)
    commands = block.replace("\\\n", " ").splitlines()[:2]
    folder = tmp_path_factory.mktemp("cc")
    (folder / "examples").symlink_to(root / "examples")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        ["sh", "-ec", "\n".join(commands)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "run_model"


def test_cpp_with_the_runtime_alone(program: Path, library: Path, image: Any, digits: Path, tmp_path: Path) -> None:
    image.tofile(tmp_path / "x.bin")
    arguments = [program, library, tmp_path / "x.bin", tmp_path / "y.bin"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "digits for native" in done.stdout
    expected = reference.run(tflite2q.load(digits), image)[0]
    assert (tmp_path / "y.bin").read_bytes() == expected.tobytes()


def test_cpp_takes_names_without_a_folder(program: Path, library: Path, image: Any, tmp_path: Path) -> None:
    """As the page calls it."""
    image.tofile(tmp_path / "input.bin")
    arguments = [program, library.name, "input.bin", "output.bin"]
    (tmp_path / library.name).symlink_to(library)
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output.bin").stat().st_size == 10


@pytest.mark.parametrize(
    ("given", "written", "what"),
    [
        ("short.bin", "y.bin", "has 3 bytes, the input takes 64"),
        ("absent.bin", "y.bin", "absent.bin: cannot be read"),
        ("good.bin", "absent/y.bin", "absent/y.bin: cannot be written"),
        ("good.bin", "/dev/full", "/dev/full: cannot be written"),
    ],
)
def test_cpp_says_what_is_wrong(
    program: Path, library: Path, tmp_path: Path, given: str, written: str, what: str
) -> None:
    (tmp_path / "short.bin").write_bytes(b"123")
    (tmp_path / "good.bin").write_bytes(bytes(64))
    arguments = [program, library, given, written]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert what in done.stderr


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["absent.npy"], "absent.npy"),
        (["wide.npy"], "wide.npy: is uint8[1, 9, 8, 1], input input is uint8[1, 8, 8, 1]"),
        (["several.npz"], "several.npz: holds several arrays"),
        (["good.npy", "good.npy"], "the model takes 1 input; give one file for each"),
    ],
)
def test_python_says_what_is_wrong(library: Path, root: Path, tmp_path: Path, given: list[str], what: str) -> None:
    np.save(tmp_path / "good.npy", np.zeros((1, 8, 8, 1), np.uint8))
    np.save(tmp_path / "wide.npy", np.zeros((1, 9, 8, 1), np.uint8))
    np.savez(tmp_path / "several.npz", a=np.zeros(3), b=np.zeros(3))
    arguments = [sys.executable, root / "examples" / "run_model.py", library, *given]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("run_model: ") and what in line
