"""`convert --lib` for microcontrollers, as a user types it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
from click.testing import CliRunner, Result
from micro import host

import tflite2q
from tflite2q.cli import options
from tflite2q.cli import tflite2q as command
from tflite2q.errors import LimitError, Tflite2qError, UnsupportedError, UsageError
from tflite2q.flatbuffer import writer
from tflite2q.lower.targets import MICROS
from tflite2q.micro import steps

ROOT = Path(__file__).parent.parent.parent
DIGITS = ROOT / "models" / "digits_uint8.tflite"
NEEDS_GCC = pytest.mark.skipif(host.compiler() is None, reason="gcc is not installed")


def convert(folder: Path, name: str, *options: str, target: str = "cortex-m4", scheme: str = "int8") -> Result:
    where = ["-o", str(folder / "out.tflite"), "--lib", f"{folder}/{name}", "--target", target]
    return CliRunner().invoke(command, ["convert", str(DIGITS), "--scheme", scheme, *where, *options])


def refusal(result: Result) -> Tflite2qError:
    assert isinstance(result.exception, Tflite2qError), result.output
    return result.exception


@NEEDS_GCC
def test_c_and_header_compile_as_c_and_as_cpp(tmp_path: Path) -> None:
    result = convert(tmp_path, "my-digits.c")
    assert result.exit_code == 0, result.output
    header = (tmp_path / "my-digits.h").read_text()
    for macro in ("MY_DIGITS_ARENA_BYTES", "MY_DIGITS_INPUTS 1", "MY_DIGITS_OUTPUTS 1", "MY_DIGITS_INPUT_0_BYTES",
                  "MY_DIGITS_INPUT_0_SCALE", "MY_DIGITS_INPUT_0_ZERO_POINT", "MY_DIGITS_OUTPUT_0_SHAPE"):  # fmt: skip
        assert f"#define {macro}" in header
    (tmp_path / "use.cc").write_text('#include "my-digits.h"\nMY_DIGITS_INPUT_0_TYPE x;\nauto f = my_digits_invoke;\n')
    subprocess.run(["gcc", *host.STRICT, "-c", "my-digits.c", "-o", "c.o"], cwd=tmp_path, check=True)
    subprocess.run(["g++", "-Wall", "-Werror", "-c", "use.cc", "-o", "use.o"], cwd=tmp_path, check=True)


def test_an_archive_needs_only_what_every_program_has(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    result = convert(tmp_path, "digits.a")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "digits.a").read_bytes()[:8] == b"!<arch>\n" and (tmp_path / "digits.h").exists()
    if shutil.which("nm") is None:
        return
    lines = subprocess.run(["nm", "digits.a"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    symbols = [line.split() for line in lines.splitlines() if line.strip() and not line.endswith(":")]
    assert {s[-1] for s in symbols if s[-2] == "U"} <= {"memcpy", "memset"}
    assert [s[-1] for s in symbols if s[-2] == "T"] == ["digits_invoke"]
    assert not [s for s in symbols if s[-2] in "bBdDC"], "state or data that is not constant"


@NEEDS_GCC
def test_the_package_builds_the_example(tmp_path: Path) -> None:
    result = convert(tmp_path, "digits.zip")
    assert result.exit_code == 0, result.output
    with zipfile.ZipFile(tmp_path / "digits.zip") as packed:
        packed.extractall(tmp_path)
    names = {str(p.relative_to(tmp_path / "digits")) for p in (tmp_path / "digits").rglob("*") if p.is_file()}
    assert names == {"CMakeLists.txt", "zephyr/module.yml", "library.properties", "src/digits.c", "src/digits.h"}
    example = ROOT / "examples" / "micro" / "main.c"
    command = ["gcc", "-O1", "-Idigits/src", str(example), "digits/src/digits.c", "-o", "example"]
    subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run(["./example"], cwd=tmp_path, check=True)
    if shutil.which("cmake"):
        for name in ("main.c", "CMakeLists.txt"):
            shutil.copy(ROOT / "examples" / "micro" / name, tmp_path)
        subprocess.run(["cmake", "-B", "build", "."], cwd=tmp_path, check=True)
        subprocess.run(["cmake", "--build", "build"], cwd=tmp_path, check=True)


@NEEDS_GCC
def test_the_call_of_the_page_compiles(tmp_path: Path) -> None:
    """The block of docs/micro.md that calls a model, as it stands there."""
    assert convert(tmp_path, "vww.c").exit_code == 0
    (block,) = re.findall(r"^```c\n(#include .*?)^```", (ROOT / "docs" / "micro.md").read_text("utf-8"), re.M | re.S)
    (tmp_path / "use.c").write_text(block)
    subprocess.run(["gcc", *host.STRICT, "-c", "use.c", "-o", "use.o"], cwd=tmp_path, check=True)


@NEEDS_GCC
def test_the_arduino_sketch_prints_what_the_scores_mean(tmp_path: Path) -> None:
    """Codes above 127 are large scores, not negative ones: the sketch is built against a stand-in for Arduino."""
    assert convert(tmp_path, "digits.c").exit_code == 0
    sketch = (ROOT / "examples" / "micro" / "arduino" / "arduino.ino").read_text("utf-8")
    with np.load(ROOT / "models" / "digits_test.npz") as samples:
        digit = ", ".join(map(str, samples["input"][0].ravel()))  # a 3
    (tmp_path / "sketch.cc").write_text(
        "#include <cstdio>\n"
        'struct { void begin(int) {} void println(double x) { std::printf("%g\\n", x); } } Serial;\n'
        f"void delay(int) {{}}\n{sketch}\nint main() {{\n  setup();\n"
        f"  const uint8_t digit[] = {{{digit}}};\n  __builtin_memcpy(image, digit, sizeof digit);\n  loop();\n}}\n"
    )
    subprocess.run(["gcc", "-O1", "-c", "digits.c"], cwd=tmp_path, check=True)
    subprocess.run(["g++", "-I.", "sketch.cc", "digits.o", "-o", "sketch"], cwd=tmp_path, check=True)
    printed = subprocess.run(["./sketch"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    scores = [float(line) for line in printed]
    assert len(scores) == 10 and scores[3] > 0.9 and min(scores) >= 0


@NEEDS_GCC
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_packages_with_strange_names_build(tmp_path: Path) -> None:
    assert convert(tmp_path, "my model (1).zip").exit_code == 0
    with zipfile.ZipFile(tmp_path / "my model (1).zip") as packed:
        packed.extractall(tmp_path)
    (tmp_path / "my model (1)").rename(tmp_path / "package")
    (tmp_path / "main.c").write_text(
        '#include "my model (1).h"\n'
        "static uint8_t arena[MY_MODEL__1__ARENA_BYTES];\nint main(void) { return sizeof arena < 9; }\n"
    )
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(app C)\nadd_subdirectory(package)\nadd_executable(app main.c)\n"
        "target_link_libraries(app my_model__1_)\n"
    )
    subprocess.run(["cmake", "-B", "build", "."], cwd=tmp_path, check=True)
    subprocess.run(["cmake", "--build", "build"], cwd=tmp_path, check=True)


def test_names_that_builds_cannot_take_are_refused(tmp_path: Path) -> None:
    for name in ('a"b.c', "a\\b.zip", "a\nb.c", "a;b.zip", "$a.zip"):
        error = refusal(convert(tmp_path, name))
        assert isinstance(error, UsageError) and "choose another one" in str(error)


def test_a_folder_holds_what_the_package_does(tmp_path: Path) -> None:
    assert convert(tmp_path, "digits.zip").exit_code == 0
    (tmp_path / "out.tflite").unlink()
    result = convert(tmp_path, "digits/")
    assert result.exit_code == 0, result.output
    with zipfile.ZipFile(tmp_path / "digits.zip") as packed:
        for name in packed.namelist():
            assert (tmp_path / name).read_bytes() == packed.read(name)
    (tmp_path / "out.tflite").unlink()
    again = refusal(convert(tmp_path, "digits"))  # it exists, and so do its files
    assert isinstance(again, UsageError) and "exists already" in str(again)
    assert convert(tmp_path, "digits", "--force").exit_code == 0
    (tmp_path / "empty.d").mkdir()
    assert convert(tmp_path, "empty.d", "--force").exit_code == 0
    assert (tmp_path / "empty.d" / "src" / "empty.d.c").exists()
    nowhere = refusal(convert(tmp_path, "no/where/", "--force"))
    assert isinstance(nowhere, UsageError) and "there is no folder" in str(nowhere)


def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path: Path) -> None:
    error = refusal(convert(tmp_path, "digits.c", "--max-arena", "100"))
    assert isinstance(error, LimitError) and error.exit_code == 1 and "q." in str(error)
    assert not list(tmp_path.iterdir())


def test_what_has_no_kernel_is_refused_by_name(tmp_path: Path) -> None:
    error = refusal(convert(tmp_path, "digits.c", scheme="float32"))
    assert isinstance(error, UnsupportedError) and "q.conv2d" in str(error)
    assert not list(tmp_path.iterdir())


def test_a_model_that_fits_and_one_that_does_not(cli: Callable[..., Any], tmp_path: Path) -> None:
    refused = next(case for case in cases.cases("CONCATENATION-uint8", 4, seed=5) if steps.refused(case.graph, "dsp"))
    (tmp_path / "parts.tflite").write_bytes(writer.write(refused.graph))
    code, out, _ = cli("check", tmp_path / "parts.tflite", "--for", "cortex-m4", "--max-arena", "64kB")
    assert code == 1 and "CONCATENATION" in out and "have no kernel for cortex-m4" in out
    assert "converted to int8 it fits: tflite2q convert" in out
    assert cli("check", DIGITS, "--for", "cortex-m4", "--max-arena", "64kB").code == 0
    assert convert(tmp_path, "digits.c").exit_code == 0
    check = ("check", tmp_path / "out.tflite", "--for", "cortex-m4")
    code, out, _ = cli(*check, "--max-arena", "64kB", "--max-flash", "1MB")
    assert code == 0 and "fits cortex-m4, with an arena of" in out
    code, out, _ = cli(*check, "--max-arena", "1k", "--max-flash", "1 KiB", "--json", "-")
    found = json.loads(out)
    assert code == 1 and not found["fits"] and (found["max_arena"], found["max_flash"]) == (1024, 1024)
    assert len(found["excess"]) == 2 and all("q." in sentence for sentence in found["excess"])
    for wrong in ("64qB", "kB", "-1", "1.5kB"):
        assert cli(*check, "--max-arena", wrong).code == 2
    assert cli("check", tmp_path / "out.tflite", "--for", "xnnpack", "--max-arena", "9").code == 2


def test_python_says_what_the_command_says(cli: Callable[..., Any]) -> None:
    for most in (None, 65536, 1000):
        limits = () if most is None else ("--max-arena", most)
        code, out, _ = cli("check", DIGITS, "--for", "cortex-m4", *limits, "--json", "-")
        found = tflite2q.fits(DIGITS, "cortex-m4", max_arena=most)
        said = json.loads(out)
        assert (code == 0) == found.fits == said["fits"] == (most != 1000)
        assert found.needs is not None and found.needs.arena == said["needs"]["arena"]
        assert list(found.excess) == said["excess"]
    with pytest.raises(UsageError, match="did you mean 'cortex-m4'"):
        tflite2q.fits(DIGITS, "cortex-m44")
    with pytest.raises(UsageError, match="max_arena = -1 is not a whole number"):
        tflite2q.fits(DIGITS, "cortex-m4", max_arena=-1)
    with pytest.raises(UsageError, match=r"cortex-m4 is a microcontroller; `tflite2q\.fits`"):
        tflite2q.check(DIGITS, "cortex-m4")


def test_the_options_name_the_microcontrollers() -> None:
    assert tuple(target.name for target in MICROS) == options.MICROS


def test_wrong_usage(tmp_path: Path) -> None:
    ending = refusal(convert(tmp_path, "digits.so"))
    assert isinstance(ending, UsageError) and "ends in .a, .c, .zip" in str(ending)
    limit = refusal(convert(tmp_path, "digits.so", "--max-arena", "9", target="native"))
    assert isinstance(limit, UsageError) and "are for --lib with a microcontroller" in str(limit)
