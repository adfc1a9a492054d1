"""`python -m compatibility` on folders: its lines, its files and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from networks import Net

from compatibility import __main__ as command
from compatibility import page, table
from compatibility.examine import ROOT, Settings
from compatibility.records import CRASH, OK, REFUSED, UNMEASURED, WRONG, Check, Row
from tflite2q.flatbuffer import writer


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "compatibility", *map(str, arguments)]
    return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder outside the project that nobody may write to, with a space in its name."""
    inner = tmp_path / "some models" / "deep er"
    inner.mkdir(parents=True)
    net = Net("int8")
    graph = net.graph(net.dense(net.input("x", (1, 4), (0.1, 3)), "y", 3, (0.1, -20)))
    (inner / "good one.tflite").write_bytes(writer.write(graph))
    (inner / "bad.tflite").write_bytes(b"\x1c\0\0\0TFL3 and then nothing")
    (inner / "nothing.tflite").symlink_to("nowhere")
    (inner / "other.txt").write_text("no model")
    inner.chmod(0o555)
    return inner.parent


def test_a_folder(folder: Path, tmp_path: Path) -> None:
    results, written = tmp_path / "out" / "results.json", tmp_path / "page.md"
    chosen = ("--level", "native", "--scheme", "int8-w4", "--time", 300)
    done = run("--files", folder, *chosen, "--json", results, "--page", written)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    named = {name: [line for line in lines if f"/{name}.tflite (" in line] for name in ("good one", "bad", "nothing")}
    assert {name: len(found) for name, found in named.items()} == {"good one": 1, "bad": 1, "nothing": 1}
    assert named["good one"][0].startswith("ok")
    assert named["bad"][0].startswith("refused") and "ModelError" in named["bad"][0]
    counts = "3 files: 1 ok, 0 wrong, 0 crashed, 2 refused (0 of these LiteRT runs), 0 incomplete"
    assert f"{counts}: not all was measured" in lines
    found = json.loads(results.read_text())
    assert [file["name"] for file in found["files"]] == [
        f"some models/deep er/{name}.tflite" for name in ("bad", "good one", "nothing")
    ]
    for text in (done.stdout, results.read_text(), written.read_text()):
        assert str(tmp_path) not in text


def test_nothing_to_do_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = str(tmp_path)
    assert command.main([given]) == 2
    assert "no .tflite file in" in capsys.readouterr().err
    for arguments in ([], [f"{given}/absent"], [given, "--time", "0"], [given, "--jobs", "0"]):
        with pytest.raises(SystemExit) as ended:
            command.main(arguments)
        assert ended.value.code == 2
        assert capsys.readouterr().err


def test_paths_may_hold_spaces_or_be_several(tmp_path: Path) -> None:
    whole = tmp_path / "a b"
    whole.mkdir()
    assert command.paths(str(whole)) == [whole]
    assert command.paths(f"x '{whole}'") == [Path("x"), whole]
    assert command.paths(" ") == []


def rows(state: str) -> list[Row]:
    load = Check("load", "file", REFUSED if state == REFUSED else OK, "ModelError: m.tflite: it is damaged")
    checks = {OK: (), WRONG: (Check("scheme/int8", "likeness", WRONG, "0.0 dB"),), REFUSED: (),
              CRASH: (Check("compiled/native", "run", CRASH, "died: SIGFPE"),),
              UNMEASURED: (Check("compiled/native", "run", UNMEASURED, "time"),)}[state]  # fmt: skip
    return [Row("folder/m.tflite", 3, (load, *checks), 1.0)]


@pytest.mark.parametrize(("state", "code"), [(OK, 0), (REFUSED, 0), (UNMEASURED, 0), (WRONG, 1), (CRASH, 1)])
def test_exit_codes(
    state: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.tflite").write_bytes(b"")
    monkeypatch.setattr(command, "_examine_all", lambda *_: rows(state))
    found = command.main([str(tmp_path), "--level", "native", "--json", str(tmp_path / "r.json")])
    assert found == code
    said = capsys.readouterr().out
    assert (f"1 {state}" if state != UNMEASURED else "1 incomplete") in said


def test_what_was_not_measured_is_in_the_line_of_the_file() -> None:
    assert table.line(rows(UNMEASURED)[0]).endswith("; 1 not measured")


def test_the_page_lists_what_is_wrong() -> None:
    text = page.render(rows(WRONG), Settings(schemes=("int8",)), [Path("../folder")])
    assert "| folder/m.tflite | scheme/int8 likeness | wrong | 0.0 dB |" in text
    assert 'FILES="../folder"' in text


def test_rows_of_an_earlier_run_are_kept(tmp_path: Path) -> None:
    settings = Settings(300.0, 1 << 30, ("native",), ("int8",), None)
    rows = [Row(f"models/{name}.tflite", 7, (Check("load", "file", OK, "", {"db": 3.0}),), 1.5) for name in "abc"]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(page.record(rows, settings, [tmp_path])))
    kept = page.kept(path, settings)
    assert kept == rows
    new = [Row(f"models/{name}.tflite", 7, (Check("load", "file", WRONG),), 2.5) for name in "bd"]
    assert command.joined(kept, new) == [rows[0], new[0], rows[2], new[1]]
    with pytest.raises(SystemExit, match=r"is of seconds 300.0, not 5.0; examine every file again"):
        page.kept(path, replace(settings, seconds=5.0))
