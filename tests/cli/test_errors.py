"""What cannot be done is one line on stderr and an exit code, never a traceback, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tflite2q.cli.kinds import NO_REPORTS
from tflite2q.evaluation.images import IMAGE_SUFFIXES
from tflite2q.evaluation.models import TEXT_SUFFIX
from tflite2q.execution import origin
from tflite2q.micro import library

Cli = Callable[..., "tuple[int, str, str]"]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A folder of files that are no models."""
    folder = tmp_path_factory.mktemp("broken")
    content = digits.read_bytes()
    (folder / "empty.tflite").touch()
    (folder / "truncated.tflite").write_bytes(content[: len(content) // 2])
    (folder / "header.tflite").write_bytes(content[:16])
    (folder / "noise.tflite").write_bytes(np.random.default_rng(0).bytes(4000))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "picture.png")
    (folder / "folder.tflite").mkdir()
    return folder


def check_line(err: str) -> None:
    assert err.startswith("tflite2q: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err


COMMANDS = {
    "inspect": [],
    "convert": ["--scheme", "int8"],
    "run": ["--input", "x.npy"],
    "compare": ["--scheme", "int8"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["empty.tflite", "truncated.tflite", "header.tflite", "noise.tflite", "picture.png"])
def test_what_is_no_model(cli: Cli, broken: Path, command: str, name: str) -> None:
    before = sorted(broken.iterdir())
    code, out, err = cli(command, broken / name, *COMMANDS[command])
    assert code == 3
    assert out == ""
    check_line(err)
    assert name in err
    assert sorted(broken.iterdir()) == before


@pytest.mark.parametrize("name", ["missing.tflite", "folder.tflite"])
def test_what_is_no_file(cli: Cli, broken: Path, name: str) -> None:
    code, _, err = cli("inspect", broken / name)
    assert code in (2, 3)
    check_line(err)
    assert name in err


@pytest.mark.parametrize(
    ("model", "operator"),
    [
        ("unknown_custom_op.tflite", "fake-op-double"),
        ("posenet_mobilenet_v1_075_353_481_16_quant_decoder.tflite", "PosenetDecoderOp"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_unsupported_operators_are_named(cli: Cli, shared: Path, command: str, model: str, operator: str) -> None:
    code, out, err = cli(command, shared / "models" / model, *COMMANDS[command])
    assert code == 3
    assert out == ""
    check_line(err)
    assert model in err
    assert operator in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["inspect"], "Missing argument 'MODEL'"),
        (["convert", "MODEL"], "give --scheme"),
        (["convert", "MODEL", "--scheme", "imt8"], "did you mean 'int8'"),
        (["convert", "MODEL", "--scheme", "int8", "--until", "never"], "'never'"),
        (
            ["convert", "MODEL", "--scheme", "int8", "--lib", "x.so", "--target", "hexagno"],
            "target 'hexagno' is not known",
        ),
        (["convert", "MODEL", "--scheme", "int8", "-o", "x.tflite", "--target", "foo"], "target 'foo' is not known"),
        (["convert", "MODEL", "--scheme", "int8", "--lib", "m.c", "--target", "cortex-m44"], "did you mean cortex-m4"),
        (["convert", "MODEL", "--scheme", "int8", "--lib", "m.c"], "--target is native; give one of cortex-m0plus, "),
        (["convert", "MODEL", "--scheme", "int8", "--lib", "m/"], "--target is native; give one of cortex-m0plus, "),
        (["search", "MODEL", "--data", "x.npy", "-o", "x.toml", "--target", "foo"], "target 'foo' is not known"),
        (["compare", "MODEL", "--scheme", "int8", "--target", "foo"], "target 'foo' is not known"),
        (["run", "MODEL", "--input", "x.npy", "--target", "foo"], "target 'foo' is not known"),
        (["run", "lib.so", "--input", "x.npy", "--target", "x86-64"], "runs on the target that it was compiled for"),
        (
            ["convert", "MODEL", "--scheme", "int8", "--until", "convert", "--json", "x.json"],
            "--json is for conversions",
        ),
        (["compare", "MODEL"], "give either a second model or --scheme"),
        (["compare", "MODEL", "MODEL", "--scheme", "int8"], "give either a second model or --scheme"),
        (["compare", "MODEL", "--scheme", "int8", "--labels", "x.csv"], "--labels needs --data"),
        (["compare", "MODEL", "--scheme", "int8", "--threads", "0"], "--threads"),
        (["convert", "MODEL", "--scheme", "int8", "--scheme", "int16x8"], "--scheme is given more than once"),
        (["convert", "MODEL", "--scheme", "int8", "-o", "x.tflite", "--output", "y.tflite"], "given more than once"),
        (
            ["compare", "MODEL", "--scheme", "int8", "--label-offset", "one"],
            "'one' is neither 'auto' nor a whole number",
        ),
        (["run", "MODEL"], "--input"),
        (["run", "MODEL", "--input", "x.npy", "--output", "x.txt"], ".npy or .npz"),
    ],
)
def test_wrong_usage(
    cli: Cli, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(*(str(digits) if argument == "MODEL" else argument for argument in arguments))
    assert code == 2
    assert out == ""
    check_line(err)
    assert expected in err
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_stays(cli: Cli, digits: Path, tmp_path: Path) -> None:
    kept = tmp_path / "x.tflite"
    kept.write_text("precious")
    code, _, err = cli("convert", digits, "--scheme", "int8", "-o", kept)
    assert code == 2
    check_line(err)
    assert "--force" in err
    assert kept.read_text() == "precious"
    assert cli("convert", digits, "--scheme", "int8", "-o", kept, "--force").code == 0
    assert kept.read_bytes()[4:8] == b"TFL3"


@pytest.mark.parametrize("output", ["/dev/full", "nowhere/x.tflite", "."])
def test_an_output_that_cannot_be_written(cli: Cli, digits: Path, tmp_path: Path, output: str) -> None:
    code, _, err = cli("convert", digits, "--scheme", "int8", "-o", tmp_path / output)
    assert code == 2
    check_line(err)
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written(cli: Cli, digits: Path) -> None:
    code, _, err = cli("inspect", digits, "--json", "/dev/full")
    assert code == 2
    check_line(err)
    assert "No space left" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [["inspect", "MODEL"], ["inspect", "MODEL", "--json", "-"], ["convert", "MODEL", "--scheme", "int8", "-o", "-"]],
)
def test_a_stdout_that_cannot_be_written_is_named(digits: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "tflite2q", *(str(digits) if each == "MODEL" else each for each in arguments)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    check_line(done.stderr)
    assert done.stderr.startswith("tflite2q: stdout: cannot be written: No space left on device; ")


def test_a_full_disk_leaves_no_part_of_a_file(
    cli: Cli, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = Path.write_bytes

    def half(self: Path, data: bytes) -> int:
        real_write(self, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    code, _, err = cli("convert", digits, "--scheme", "int8", "-o", tmp_path / "x.tflite")
    assert code == 2
    check_line(err)
    assert "No space left on device" in err
    assert list(tmp_path.iterdir()) == []


def test_data_that_does_not_fit(cli: Cli, digits: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 7), np.uint8))
    for arguments in (["compare", digits, "--scheme", "int8", "--data"], ["run", digits, "--input"]):
        code, _, err = cli(*arguments, tmp_path / "x.npy")
        assert code == 3
        check_line(err)
        assert "x.npy" in err


@pytest.mark.parametrize("option", ["--labels", "--gates", "--label-names"])
def test_a_list_that_does_not_exist_is_called_missing(
    cli: Cli, digits: Path, digits_data: tuple[Path, Path], tmp_path: Path, option: str
) -> None:
    missing = tmp_path / "none.txt"
    code, _, err = cli("compare", digits, digits, "--data", digits_data[0], option, missing)
    assert code == (2 if option == "--gates" else 3)
    assert err == f"tflite2q: {missing}: cannot be read: No such file or directory; check the path\n"


def test_models_of_other_shapes_are_not_compared(cli: Cli, digits: Path, shared: Path) -> None:
    code, _, err = cli("compare", digits, shared / "models" / "kws_ref_model.tflite")
    assert code == 3
    check_line(err)


def test_a_reader_that_has_enough(digits: Path) -> None:
    command = f"{sys.executable} -m tflite2q inspect {digits} | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stdout.splitlines()[-1] in ("0", "141")


def test_interrupted(cli: Cli, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tflite2q.evaluation import inspection

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inspection, "inspect", interrupt)
    code, _, err = cli("inspect", digits)
    assert code == 130
    assert "Traceback" not in err


def test_interrupted_by_a_signal(digits: Path, tmp_path: Path) -> None:
    # A pipe as input: once the program has opened it, it waits for data until the signal comes.
    pipe = tmp_path / "never.npy"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "tflite2q", "inspect", str(pipe)]
    # Where the tests run in the background, children would inherit that the signal is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        signal.signal(signal.SIGINT, before)
        try:
            writer = _opened_for_writing(pipe, 60)
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=60)
            os.close(writer)
        finally:
            child.kill()
    assert child.returncode == 130
    assert "Traceback" not in err


def _opened_for_writing(pipe: Path, seconds: float) -> int:
    """The descriptor of a pipe, as soon as somebody has opened it for reading."""
    end = time.monotonic() + seconds
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert time.monotonic() < end, "nobody reads the pipe"
            time.sleep(0.05)


SCHEME = 'summary = "x"\nwhen = "y"\n[activations]\ndtype = "int8"\n[weights]\ndtype = "int8"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = " + "[" * 100_000, "nested too deeply"),
        (SCHEME + "percentile = " + "9" * 5000, "is not valid TOML"),
        ("summary = 3\n" + SCHEME.partition("\n")[2], "summary"),
        ("when = [1]\n", "activations"),
    ],
)
def test_scheme_files_that_strain_the_reader(cli: Cli, digits: Path, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    code, _, err = cli("convert", digits, "--scheme", tmp_path / "s.toml", "-o", tmp_path / "out.tflite")
    assert code == 2
    check_line(err)
    assert says in err


def test_a_scheme_file_may_begin_with_a_byte_order_mark(cli: Cli, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes(b"\xef\xbb\xbf" + SCHEME.encode())
    assert cli("convert", digits, "--scheme", tmp_path / "s.toml", "-o", tmp_path / "out.tflite")[0] == 0


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1"])
def test_time_limits_are_finite(cli: Cli, digits: Path, value: str) -> None:
    code, _, err = cli("run", digits, "--input", "x", "--rpc", "127.0.0.1:9", "--timeout", value)
    assert code == 2
    check_line(err)
    assert "--timeout" in err


def test_a_feature_that_llvm_does_not_know(cli: Cli, digits: Path, tmp_path: Path) -> None:
    target = '{"kind": "llvm", "mattr": ["+nosuch", "+also-not"]}'
    code, _, err = cli("convert", digits, "--scheme", "int8", "-o", tmp_path / "x.tflite", "--lib", tmp_path / "x.so",
                       "--target", target)  # fmt: skip
    assert code == 2
    check_line(err)
    assert "LLVM knows no feature also-not, nosuch" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="closes a descriptor")
@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_closed_outputs(digits: Path, closed: str) -> None:
    command = f"'{sys.executable}' -m tflite2q inspect '{digits}' {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="this system has no such file")
def test_a_file_without_an_end(cli: Cli) -> None:
    code, _, err = cli("inspect", "/dev/zero")
    assert code == 3
    check_line(err)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-o", "model.tflite"], "is the input"),
        (["--lib", "model.tflite"], "is the input"),
        (["--lib", "x.tflite", "-o", "x.tflite"], "names the same file"),
        (["--json", "x.json", "-o", "x.json"], "names the same file"),
        (["--lib", "x.txt"], "a library's name ends in"),
    ],
)
def test_outputs_that_would_destroy_something(
    cli: Cli, digits: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    (tmp_path / "model.tflite").write_bytes(digits.read_bytes())
    placed = [tmp_path / each if "." in each else each for each in options]
    code, _, err = cli("convert", tmp_path / "model.tflite", "--scheme", "int8", *placed, "--force")
    assert code == 2
    check_line(err)
    assert says in err
    assert (tmp_path / "model.tflite").read_bytes() == digits.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]


REPORTS = {
    "inspect": ("json",),
    "convert": ("json",),
    "run": ("json",),
    "compare": ("json", "html", "markdown", "junit", "model-explorer"),
}


@pytest.mark.parametrize(("command", "report"), [(name, kind) for name, kinds in REPORTS.items() for kind in kinds])
@pytest.mark.parametrize("name", ["victim.tflite", "victim.TOML", "victim.q.txt"])
def test_a_report_does_not_replace_what_is_none(
    cli: Cli, digits: Path, tmp_path: Path, command: str, report: str, name: str
) -> None:
    victim = tmp_path / name
    victim.write_bytes(b"precious")
    code, out, err = cli(command, digits, *COMMANDS[command], f"--{report}", victim)
    assert (code, out) == (2, "")
    check_line(err)
    assert f"--{report}" in err and name in err and "give it another name" in err
    assert victim.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_report_replaces_a_report(cli: Cli, digits: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text("old")
    assert cli("inspect", digits, "--json", report)[0] == 0
    assert report.read_text().startswith("{")


def test_reports_refuse_the_endings_of_all_that_is_read_and_written() -> None:
    assert {*origin.ENDINGS, *library.ENDINGS, *IMAGE_SUFFIXES, TEXT_SUFFIX} <= set(NO_REPORTS)


@pytest.mark.parametrize("command", [["inspect"], ["check", "--for", "xnnpack"], ["compare", "--scheme", "int8"]])
def test_a_report_does_not_replace_the_model(cli: Cli, digits: Path, tmp_path: Path, command: list[str]) -> None:
    model = tmp_path / "model"
    model.write_bytes(digits.read_bytes())
    code, _, err = cli(command[0], model, *command[1:], "--json", model)
    assert code == 2
    check_line(err)
    assert "is the input" in err
    assert model.read_bytes() == digits.read_bytes()


def test_a_file_that_ends_too_early_is_no_interruption(cli: Cli, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """click takes every EOFError for an interruption by the user."""

    def short(*arguments: object) -> None:
        raise EOFError("marshal data too short")

    monkeypatch.setattr("tflite2q.evaluation.models.load", short)
    with pytest.raises(EOFError, match="too short"):
        cli("inspect", digits)
