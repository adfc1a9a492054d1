"""Options that no program expects: numbers of thousands of digits, what never ends, what is empty."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from surroundings import ROOT

import tflite2q
from tflite2q.dialect.text import print_graph
from tflite2q.errors import DataError, UsageError
from tflite2q.evaluation.coding import Normalization
from tflite2q.mixing import Settings

Cli = Callable[..., "tuple[int, str, str]"]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory, reads /proc")

DIGITS = "9" * 5000  # more than Python reads as an integer


def check(told: tuple[int, str, str], code: int, why: str) -> None:
    assert told[0] == code, told
    assert told[2].count("\n") == 1
    assert len(told[2]) < 2100
    assert why in told[2]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["inspect", "MODEL", "--shape", f"x=1x{DIGITS}"], "is not NAME=SIZE"),
        (["convert", "MODEL", "--scheme", "int8", "--max-arena", f"{DIGITS}MB"], "is not a number of bytes"),
        (["batch", "MODEL", "--scheme", "int8", "-o", "out", "--jobs", "1000000"], "--jobs"),
        (["search", "MODEL", "--data", "x", "-o", "m.toml", "--jobs", "1000000"], "--jobs"),
        (["search", "MODEL", "--data", "x", "-o", "m.toml", "--seed", "-1"], "--seed"),
        (["run", "MODEL", "--input", "MODEL", "--rpc", f"host:{DIGITS}"], "is not of the form HOST:PORT"),
        (["run", "MODEL", "--input", ""], "an empty name is not a path"),
        (["run", "", "--input", "x.npy"], "an empty name is not a path"),
        (["compare", "MODEL", "--scheme", "int8", "--data", ""], "an empty name is not a path"),
        (["convert", "MODEL", "--scheme", "int8", "-o", ""], "an empty name is not a path"),
        (["inspect", "MODEL", "--json", ""], "an empty name is not a path"),
    ],
)
def test_values_that_are_none(cli: Cli, digits: Path, arguments: list[str], why: str) -> None:
    check(cli(*(str(digits) if each == "MODEL" else each for each in arguments)), 2, why)


@pytest.mark.parametrize(
    "target",
    [
        '{"kind": "llvm", "mcpu": ' + "[" * 100_000,
        '{"kind": "llvm", "num-cores": ' + DIGITS + "}",
        '{"kind": "llvm", "mattr": 5}',
        '{"kind": "llvm", "mattr": null}',
        '{"kind": "llvm", "mattr": [["+avx2"]]}',
        '{"kind": "llvm", "mtriple": ["a"]}',
        '{"kind": "llvm", "mcpu": "a\\u0000b"}',
        f"llvm -num-cores={DIGITS}",
    ],
)
def test_targets_that_are_none(cli: Cli, digits: Path, tmp_path: Path, target: str) -> None:
    made = ("-o", tmp_path / "o.tflite", "--lib", tmp_path / "o.so")
    check(cli("convert", digits, "--scheme", "int8", *made, "--target", target), 2, "target ")
    assert not list(tmp_path.iterdir())


def test_more_memory_than_there_are_addresses(cli: Cli, digits: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    assert cli("inspect", digits, "--max-memory", "1e300")[0] == 0
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.parametrize("name", ["a.toml", "a.q.txt", "a.tflite"])
def test_what_never_ends_is_not_read_to_its_end(cli: Cli, digits: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/zero")
    if name.endswith(".toml"):
        check(cli("convert", digits, "--scheme", tmp_path / name), 2, "is not a text")
    else:
        check(cli("inspect", tmp_path / name), 3, "a.")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
@pytest.mark.parametrize("what", ["zeros", "model", "closed"])
def test_models_from_stdin_that_never_end(what: str) -> None:
    source = {
        "zeros": "</dev/zero",
        "model": "< <(printf 'xxxxTFL3'; cat /dev/zero)",
        "closed": "<&-",
    }[what]
    limit = "--max-memory 0.05" if what == "model" else ""
    done = subprocess.run(
        ["bash", "-c", f"exec {sys.executable} -m tflite2q inspect - {limit} {source}"],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    told = {"zeros": "not a .tflite model", "model": "see --max-memory", "closed": "stdin is closed"}[what]
    check((done.returncode, done.stdout, done.stderr), 2 if what == "closed" else 3, told)


def test_a_text_takes_the_memory_of_its_size(digits: Path, tmp_path: Path) -> None:
    text = tmp_path / "a.q.txt"
    text.write_text(print_graph(tflite2q.load(digits), "full"))

    def load() -> str:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + (256 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        return repr(tflite2q.load(text))

    assert tflite2q.isolated(load) == repr(tflite2q.load(digits))


def test_more_threads_than_any_machine_has(digits: Path) -> None:
    for threads in (10**30, 0):
        with pytest.raises(UsageError, match="threads must be 1 to 4096"):
            tflite2q.compile(tflite2q.load(digits), threads=threads)


@pytest.mark.parametrize("settings", [{"seed": -1}, {"jobs": 10**6}, {"budget": 0}])
def test_searches_that_make_no_sense(settings: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Settings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("mean", "std"), [(1e300, 1.0), (1.0, 1e-300), (0.0, 0.0), (float("nan"), 1.0)])
def test_pixels_without_values(mean: float, std: float) -> None:
    with pytest.raises(DataError, match="pixels have no values"):
        Normalization(mean, std)
