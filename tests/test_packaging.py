"""The installed package is the checkout: same files, same schemes, same behaviour."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import types
import venv
import zipfile
from pathlib import Path

import pytest

import tflite2q


@pytest.fixture(scope="module")
def config(root: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(root / "setup.cfg")
    return parser


def test_every_package_is_listed(root: Path, config: configparser.ConfigParser) -> None:
    listed = set(config["options"]["packages"].split())
    found = {".".join(path.parent.relative_to(root).parts) for path in (root / "tflite2q").rglob("__init__.py")}
    assert listed == found | {"tflite2q.schemes"}


def test_tvm_is_pinned_to_the_minor_version_we_know(config: configparser.ConfigParser) -> None:
    assert "apache-tvm==0.27.*" in config["options"]["install_requires"].split()


@pytest.mark.parametrize("name", [name for name in tflite2q.__all__ if not name.startswith("_")])
def test_public_names_are_functions_that_no_submodule_hides(name: str) -> None:
    import tflite2q.pipeline  # imports every submodule there is

    assert isinstance(getattr(tflite2q, name), types.FunctionType)
    assert getattr(tflite2q, name).__doc__


def test_importing_the_package_loads_nothing_but_its_errors() -> None:
    script = """
import sys, tflite2q
tflite2q.errors.Tflite2qError
assert not {"numpy", "tvm", "tflite", "click"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        tflite2q.quantise  # noqa: B018


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python of a new environment into which the wheel, and nothing else of ours, was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, so that no build folder of an earlier day finds its way into the wheel
    for part in ("tflite2q", "schemes"):
        shutil.copytree(root / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(root / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    # Dependencies come from this environment: downloading TVM once more would take minutes.
    site = next(path for path in sys.path if path.endswith("site-packages"))
    (next((folder / "env" / "lib").iterdir()) / "site-packages" / "dependencies.pth").write_text(f"{site}\n")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    return python


# One test of the wheel: two would each build and install it, in processes of their own.
def test_the_wheel_has_every_file_and_works(root: Path, digits: Path, installed: Path, tmp_path: Path) -> None:
    assert_every_file(root, installed)
    assert_works(digits, installed, tmp_path)


def assert_every_file(root: Path, installed: Path) -> None:
    (wheel,) = installed.parents[2].glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {str(p.relative_to(root)) for p in (root / "tflite2q").rglob("*.py")} | {"tflite2q/py.typed"}
    schemes = {f"tflite2q/schemes/{p.name}" for p in (root / "schemes").iterdir() if p.suffix in (".py", ".toml")}
    assert ours | schemes <= names
    assert not [name for name in names if name.startswith(("tests/", "models/", "benchmarks/"))]


def assert_works(digits: Path, installed: Path, tmp_path: Path) -> None:
    command = installed.parent / "tflite2q"
    environment = {**os.environ, "PYTHONPATH": ""}

    def call(*arguments: str | Path) -> str:
        done = subprocess.run(
            [command, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [installed, "-c", "import tflite2q; print(tflite2q.__file__)"],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=environment,
    ).stdout  # fmt: skip
    assert str(installed.parents[1]) in where
    schemes = json.loads(call("schemes", "--json", "-"))["schemes"]
    assert {"asymmetric-uint8", "int8", "symmetric-int8"} <= {scheme["name"] for scheme in schemes}
    call("convert", digits, "--scheme", "int8", "-o", tmp_path / "wheel.tflite")
    tflite2q.convert(digits, "int8").save(tmp_path / "checkout.tflite")
    assert (tmp_path / "wheel.tflite").read_bytes() == (tmp_path / "checkout.tflite").read_bytes()
    assert "4 samples" in call("compare", digits, tmp_path / "wheel.tflite", "--no-speed", "--limit", "4")
