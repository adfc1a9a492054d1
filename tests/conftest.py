"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from surroundings import EMULATE, KEPT, ROOT, SHARED, Outcome

pytest_plugins = ["levels"]

# The same examples in every run; `--hypothesis-profile=default` draws new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

_MADE = pytest.StashKey[str]()
LONG = ("test_docs.py", "test_packaging.py", "test_python.py")
COMPILE_THE_SAME = {"batch", "benchmarks", "cli", "e2e", "evaluation", "report", "runtimes", "search", *LONG}

HEADROOM = 1 << 30  # bytes that a small damaged model may take


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew, compare nothing")
    parser.addoption(
        "--emulate", action="store_true", help="run tests of x86 instructions that this machine lacks, slowly"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--emulate"):
        os.environ[EMULATE] = "1"  # read by workers, too
    # Hundreds of commands are started: each would compile all modules again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if KEPT not in os.environ:  # workers share the folder
        os.environ[KEPT] = config.stash[_MADE] = tempfile.mkdtemp(prefix="tflite2q-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if _MADE in config.stash:
        shutil.rmtree(config.stash[_MADE], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests come first, so that no worker is left with one at the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True)
def compiled_libraries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of commands share what they compile, in a cache of their own; the others compile what they test."""
    if request.path.relative_to(ROOT / "tests").parts[0] in COMPILE_THE_SAME:
        fonts = Path(os.environ.get("MPLCONFIGDIR") or Path.home() / ".cache" / "matplotlib")
        monkeypatch.delenv("TFLITE2Q_CACHE", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", os.environ[KEPT])
        monkeypatch.setenv("MPLCONFIGDIR", str(fonts))  # Matplotlib takes seconds to find fonts anew
    else:
        monkeypatch.setenv("TFLITE2Q_CACHE", "off")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with the file of that name in tests/golden; with --update-golden writes the file instead."""

    def check(name: str, text: str) -> None:
        path = ROOT / "tests" / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def digits() -> Path:
    """The project's own uint8 model."""
    return ROOT / "models" / "digits_uint8.tflite"


@pytest.fixture(scope="session")
def digits_data() -> tuple[Path, Path]:
    """Held-out images and labels of the digits model."""
    return ROOT / "models" / "digits_test.npz", ROOT / "models" / "digits_labels.csv"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Models and photos that lie beside the checkout; tests that need them are skipped where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder of shared models is not here")
    return SHARED


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the command line in this process."""
    from tflite2q.cli import run

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        return Outcome(code, *capfd.readouterr())

    return call


@pytest.fixture
def little_memory() -> Iterator[None]:
    """An allocation far beyond what the file explains fails instead of taking the machine with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
