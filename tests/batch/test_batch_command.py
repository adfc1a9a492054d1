"""`tflite2q batch`: one bad model harms no other, and what is done is not done again."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import pytest
from batch.faults import site

import tflite2q
from tflite2q import pipeline
from tflite2q.batch import cache, plan
from tflite2q.cli.batch import batch
from tflite2q.evaluation.models import opened

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.VARIABLE, raising=False)


def outputs(out: Path) -> list[str]:
    """The files of an output folder, without the cache."""
    found = (path.relative_to(out) for path in out.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != cache.FOLDER)


def jobs(outcome: Any) -> dict[str, dict[str, Any]]:
    """The jobs in printed JSON by model and scheme."""
    return {f"{job['model']} {job['scheme']}": job for job in json.loads(outcome.out)["jobs"]}


@pytest.mark.parametrize("most", [13_000, 1000])
def test_what_cannot_be_written_is_said_and_tried_again(cli: Cli, digits: Path, tmp_path: Path, most: int) -> None:
    """A limit of the size of files, which the model itself or only its larger conversion breaks, is as a full disk."""
    tflite2q.convert(digits, "int8").save(tmp_path / "alone.tflite")
    assert digits.stat().st_size < 13_000 < (tmp_path / "alone.tflite").stat().st_size
    command = [sys.executable, "-m", "tflite2q", "batch", str(digits), "--scheme", "int8", "-o", "out"]

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    # Python would write what it compiles as far as the limit, and believe in it afterwards.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, preexec_fn=bounded, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "1 not written" in done.stdout
    assert "cannot be written: File too large" in done.stdout
    assert outputs(tmp_path / "out") == []
    assert cli("batch", digits, "--scheme", "int8", "-o", tmp_path / "out").code == 0


def test_one_bad_model_harms_no_other(cli: Cli, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, out = tmp_path / "some models", tmp_path / "out"
    (models / "deep").mkdir(parents=True)
    for name in ("good", "hangs", "greedy", "dies", "bug", "deep/leaves"):
        shutil.copy(digits, models / f"{name}.tflite")
    (models / "broken.tflite").write_bytes(digits.read_bytes()[:1000])
    (models / "empty.tflite").touch()
    (models / "gone.tflite").symlink_to("nowhere")
    os.mkfifo(models / "pipe.tflite")
    (models / "notes.txt").touch()
    tflite2q.convert(digits, "int8").save(models / "already.tflite")
    monkeypatch.setenv("PYTHONPATH", site(tmp_path / "site"))

    limits = ("--time", "8", "--memory", "0.6", "--jobs", "3")
    done = cli("batch", models, "--scheme", "int8", "-o", out, *limits, "--json", "-")
    assert done.code == 3
    found = {name.removesuffix(" int8"): (job["state"], job["reason"]) for name, job in jobs(done).items()}
    expected = {
        "good.tflite": ("converted", ""),
        "already.tflite": ("unchanged", "already follows"),
        "deep/leaves.tflite": ("converted", ""),
        "hangs.tflite": ("time limit", "more than 8 s"),
        "greedy.tflite": ("memory limit", "more than 0.6 GB"),
        "dies.tflite": ("died", "SIGSEGV"),
        "bug.tflite": ("internal error", "ZeroDivisionError: by nothing"),
        "broken.tflite": ("refused", "broken.tflite: "),
        "empty.tflite": ("refused", "empty.tflite: "),
        "gone.tflite": ("refused", "No such file"),
        "pipe.tflite": ("refused", "is not a file"),
    }
    assert set(found) == set(expected)
    for name, (state, reason) in expected.items():
        assert found[name][0] == state and reason in found[name][1], (name, found[name])
    stems = ("already", "deep/leaves", "good")
    assert outputs(out) == [f"{stem}.int8.{ending}" for stem in stems for ending in ("json", "tflite")]
    assert (out / "good.int8.tflite").read_bytes() == (models / "already.tflite").read_bytes()
    assert (out / "already.int8.tflite").read_bytes() == (models / "already.tflite").read_bytes()
    assert not list((out / cache.FOLDER / "staging").iterdir())
    left = subprocess.run(["pgrep", "-f", "left [b]ehind"], capture_output=True, check=False) if _pgrep() else None
    assert left is None or left.returncode == 1
    assert "11/11" in done.err

    monkeypatch.delenv("PYTHONPATH")
    again = cli("batch", models, "--scheme", "int8", "-o", out, "--json", "-")
    states = {name: (job["state"], job["cached"]) for name, job in jobs(again).items()}
    assert states["hangs.tflite int8"] == ("converted", False), "what broke a limit is tried again"
    assert states["good.tflite int8"] == ("converted", True)
    assert states["broken.tflite int8"] == ("refused", True)


def _pgrep() -> bool:
    return shutil.which("pgrep") is not None


def test_only_what_changed_is_done_again(cli: Cli, digits: Path, tmp_path: Path) -> None:
    models, out = tmp_path / "models", tmp_path / "out"
    models.mkdir()
    for name in ("a", "b"):
        shutil.copy(digits, models / f"{name}.tflite")
    arguments = ("batch", models, "--scheme", "int8", "-o", out, "--json", "-")
    assert cli(*arguments).code == 0
    first = {name: (out / name).read_bytes() for name in outputs(out)}

    def cached(*more: object) -> list[bool]:
        done = cli(*arguments, *more)
        return [job["cached"] for job in jobs(done).values()]

    stamp = (out / "a.int8.tflite").stat().st_mtime_ns
    assert cached() == [True, True]
    assert (out / "a.int8.tflite").stat().st_mtime_ns == stamp, "what is right is left alone"
    (out / "a.int8.tflite").unlink()
    assert cached() == [True, True] and (out / "a.int8.tflite").read_bytes() == first["a.int8.tflite"]
    (models / "b.tflite").unlink()
    tflite2q.convert(digits, "symmetric-int8").save(models / "b.tflite")
    assert cached() == [True, False]
    assert cached("--interface", "scheme") == [False, False]
    assert cached() == [True, True]
    # A model that breaks takes its old outputs with it: they would pass for its own.
    (models / "b.tflite").write_bytes(b"damaged")
    assert cached() == [True, False]
    assert outputs(out) == ["a.int8.json", "a.int8.tflite"]


def test_a_damaged_cache_costs_time_and_no_result(cli: Cli, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("batch", digits, "--scheme", "int8", "-o", out, "--json", "-")
    assert cli(*arguments).code == 0
    right = (out / "digits_uint8.int8.tflite").read_bytes()
    for path in (out / cache.FOLDER / "content").iterdir():
        path.write_bytes(b"damaged")
    (out / "digits_uint8.int8.tflite").unlink()
    (out / "digits_uint8.int8.json").unlink()
    done = cli(*arguments)
    assert done.code == 0 and not jobs(done)["digits_uint8.tflite int8"]["cached"]
    assert (out / "digits_uint8.int8.tflite").read_bytes() == right
    for path in (out / cache.FOLDER / "entries").iterdir():
        path.write_bytes(b"{}")
    assert not jobs(cli(*arguments))["digits_uint8.tflite int8"]["cached"]


def test_a_cache_may_be_shared(cli: Cli, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kept"))
    for name, cached in (("one", False), ("two", True)):
        done = cli("batch", digits, "--scheme", "int8", "-o", tmp_path / name, "--json", "-")
        assert jobs(done)["digits_uint8.tflite int8"]["cached"] is cached
        assert outputs(tmp_path / name) == ["digits_uint8.int8.json", "digits_uint8.int8.tflite"]
        assert not (tmp_path / name / cache.FOLDER).exists()


@pytest.mark.parametrize(("how", "code", "written"), [("copy", 0, 2), ("skip", 0, 1), ("fail", 3, 0)])
def test_unchanged_models(cli: Cli, digits: Path, tmp_path: Path, how: str, code: int, written: int) -> None:
    out = tmp_path / "out"
    done = cli("batch", digits, "--scheme", "asymmetric-uint8", "-o", out, "--unchanged", how, "--json", "-")
    assert done.code == code
    assert len(outputs(out)) == written
    (job,) = jobs(done).values()
    assert job["state"] == ("refused" if how == "fail" else "unchanged") and "already follows" in job["reason"]


def test_gates_reports_and_exit_codes(cli: Cli, digits: Path, digits_data: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text("min_agreement = 0.9\nmax_size_ratio = 1.1\n", encoding="utf-8")
    data, labels = digits_data
    reports = [f"--{kind}={tmp_path / name}" for kind, name in
               (("markdown", "r.md"), ("junit", "r.xml"), ("html", "r & r.html"), ("json", "r.json"))]  # fmt: skip
    done = cli(
        "batch", digits, "--scheme", "int8", "-o", tmp_path / "out", "--data", data, "--labels", labels,
        "--gates", tmp_path / "gates.toml", "--limit", "20", *reports,
    )  # fmt: skip
    assert done.code == 1, done.err
    assert "max_size_ratio" in done.out and "1 conversion: " in done.out and "gates failed" in done.out
    document = json.loads((tmp_path / "r.json").read_text())
    failed = {job["scheme"]: [g["name"] for g in job["gates"] if not g["passed"]] for job in document["jobs"]}
    assert failed["int8"] == ["max_size_ratio"]
    assert all(len(job["outputs"]) == 4 and all(map(os.path.exists, job["outputs"])) for job in document["jobs"])
    tree = ElementTree.parse(tmp_path / "r.xml")
    suite = tree.getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == (
        "3", "1", "0",
    )  # fmt: skip
    assert "top-1" in (tmp_path / "r.md").read_text()
    page = (tmp_path / "r & r.html").read_text()
    links = re.findall(r'href="([^"]+)"', page)
    assert len(links) == 5 and all((tmp_path / link).exists() for link in links)
    assert links[0].endswith(".int8.html") and f'<a href="{links[0]}">digits_uint8.tflite</a>' in page
    assert "digits_uint8.int8.html" in (tmp_path / "r.md").read_text().replace("\\", "")
    (report,) = [job["report"] for job in document["jobs"]]
    assert report in document["jobs"][0]["outputs"] and "top-1" in Path(report).read_text()
    assert "digits_uint8.tflite" in (tmp_path / "out" / "digits_uint8.int8.md").read_text().replace("\\", "")


@pytest.mark.slow
def test_libraries_for_targets(cli: Cli, digits: Path, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        done = cli("batch", digits, "--scheme", "int8", "-o", tmp_path / name, "--target", "native")
        assert done.code == 0, done.err
        contents.append((tmp_path / name / "digits_uint8.int8.native.so").read_bytes())
    assert contents[0] == contents[1], "equal inputs give equal bytes"
    assert cli("run", tmp_path / "one" / "digits_uint8.int8.native.so").code in (0, 2)


def test_a_report_is_no_output(cli: Cli, digits: Path, tmp_path: Path) -> None:
    done = cli("batch", digits, "--scheme", "int8", "-o", tmp_path, "--json", tmp_path / "digits_uint8.int8.json")
    assert done.code == 2 and "is what" in done.err
    model = shutil.copy(digits, tmp_path / "model")
    done = cli("batch", model, "--scheme", "int8", "-o", tmp_path / "out", "--json", model)
    assert done.code == 2 and "is the input" in done.err
    done = cli("batch", model, "--scheme", "int8", "-o", tmp_path / "out", "--junit", "memory://b/victim.tflite")
    assert done.code == 2 and "ends in .tflite" in done.err


def test_foreign_files_are_not_replaced(cli: Cli, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "digits_uint8.int8.tflite").write_bytes(b"precious")
    done = cli("batch", digits, "--scheme", "int8", "-o", out)
    assert done.code == 2 and "--force" in done.err
    assert (out / "digits_uint8.int8.tflite").read_bytes() == b"precious"
    assert cli("batch", digits, "--scheme", "int8", "-o", out, "--force").code == 0
    assert (out / "digits_uint8.int8.tflite").read_bytes() != b"precious"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_an_interruption_ends_jobs_and_keeps_what_is_done(digits: Path, tmp_path: Path) -> None:
    models, out = tmp_path / "models", tmp_path / "out"
    models.mkdir()
    for name in ("a", "z_hangs"):
        shutil.copy(digits, models / f"{name}.tflite")
    command = [
        sys.executable,
        "-m",
        "tflite2q",
        "batch",
        str(models),
        "--scheme",
        "int8",
        "-o",
        str(out),
        "--jobs",
        "2",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([site(tmp_path / "site"), *sys.path])}
    # Whoever runs the tests may ignore the signal, which children inherit.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heed)
    try:
        for _ in range(600):
            if (out / "a.int8.tflite").exists():
                break
            time.sleep(0.1)
        process.send_signal(2)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "1 of 2 are done and kept" in errors and errors.endswith("tflite2q: interrupted\n")
    assert not list((out / cache.FOLDER / "staging").iterdir())


def test_reports_of_an_earlier_model_do_not_pass_for_those_of_a_later_one(
    cli: Cli, digits: Path, tmp_path: Path
) -> None:
    """Options of the later run do not ask for reports; another model's and other people's files stay."""
    models, out = tmp_path / "models", tmp_path / "out"
    models.mkdir()
    shutil.copy(digits, models / "a.tflite")
    shutil.copy(digits, models / "a.int8.b.tflite")
    command = ("batch", models, "--scheme", "int8", "-o", out)
    assert cli(*command, "--limit", "2").code == 0
    (out / "a.int8.mine.so").write_bytes(b"of somebody else")
    every = outputs(out)
    assert cli(*command).code == 0
    assert outputs(out) == every, "they are those of the same result"
    tflite2q.convert(digits, "symmetric-int8").save(tmp_path / "other.tflite")
    (tmp_path / "other.tflite").replace(models / "a.tflite")
    assert cli(*command).code == 0
    gone = ["a.int8.html", "a.int8.md"]
    assert outputs(out) == [name for name in every if name not in gone]
    assert cli(*command, "--limit", "2").code == 0
    assert outputs(out) == every
    (models / "a.tflite").write_bytes(b"damaged")
    assert cli(*command).code == 3
    assert outputs(out) == [name for name in every if not name.startswith("a.int8.") or "b." in name or "mine" in name]


def test_a_report_that_cannot_be_written_hides_no_other(cli: Cli, digits: Path, tmp_path: Path) -> None:
    done = cli(
        "batch", digits, "--scheme", "int8", "-o", tmp_path / "out", "--markdown", "/dev/full", "--junit", "/dev/full",
        "--json", tmp_path / "s.json", "--html", tmp_path / "s.html",
    )  # fmt: skip
    assert done.code == 2
    assert "1 conversion: 1 converted" in done.out
    assert done.err.endswith("/dev/full: cannot be written: No space left on device; give another place\n")
    assert json.loads((tmp_path / "s.json").read_text())["exit_code"] == 0
    assert "digits_uint8.tflite" in (tmp_path / "s.html").read_text()


@pytest.mark.parametrize("name", ["a\nb", "non\uffffcharacter\ufffe", "\udcff", "a]]>&amp;<b", "$x$ ~~y~~ &lt;"])
def test_a_file_of_any_name_is_in_every_report(cli: Cli, digits: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"{name}.tflite").write_bytes(b"damaged")
    shutil.copy(digits, tmp_path / "in" / f"good {name}.tflite")
    reports = [f"--{kind}={tmp_path / kind}" for kind in ("markdown", "junit", "html", "json")]
    done = cli("batch", tmp_path / "in", "--scheme", "int8", "-o", tmp_path / "out", *reports)
    assert done.code == 3
    assert len(done.err.splitlines()) == 2, done.err
    suite = ElementTree.parse(tmp_path / "junit").getroot()[0]
    assert (suite.get("tests"), suite.get("errors")) == ("2", "1")
    assert len(json.loads((tmp_path / "json").read_text())["jobs"]) == 2
    page = (tmp_path / "html").read_text(encoding="utf-8")
    links = [unquote_to_bytes(unescape(link)) for link in re.findall(r'href="([^"]+)"', page)]
    assert len(links) == 2 and all((tmp_path / os.fsdecode(link)).exists() for link in links)
    table = (tmp_path / "markdown").read_text(encoding="utf-8")
    assert len([line for line in table.splitlines() if line.startswith("| ")]) == 3 + 4  # two heads, rules and rows
    assert not re.search(r"(?<!\\)[$~&]", table)


def test_every_option_that_says_how_is_said_to_imply_a_comparison(cli: Cli, digits: Path, tmp_path: Path) -> None:
    options = {option.name: option for option in batch.params}
    said = options["compare"].help
    assert said is not None
    for key in (*plan.COMPARING, "gates"):
        assert options[key].opts[0] in said
    done = cli("batch", digits, "--scheme", "int8", "-o", tmp_path / "out", "--speed", "--jobs", "2")
    assert done.code == 2 and "--speed needs --jobs 1" in done.err


def test_a_summary_is_the_same_from_the_cache(
    cli: Cli, digits: Path, digits_data: tuple[Path, Path], tmp_path: Path
) -> None:
    data, labels = digits_data
    asked = ("--data", data, "--labels", labels, "--limit", "4")
    command = ("batch", digits, "--scheme", "int8", "-o", tmp_path, *asked)
    made, kept = (cli(*command), cli(*command))
    heads = [re.split(r"  +", done.out.splitlines()[0].strip()) for done in (made, kept)]
    assert heads[0] == heads[1]
    assert heads[0][3:6] == ["size", "change", "changed layers"] and heads[0][-2:] == ["equal answers", "s"]
    (job,) = jobs(cli(*command, "--json", "-")).values()
    assert list(job["figures"]) == heads[0][3:-1]


@pytest.mark.parametrize("options", [(), ("--limit", "2")])
def test_an_unchanged_model_counts_its_layers(cli: Cli, digits: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    model = tmp_path / "m.tflite"
    assert cli("convert", digits, "--scheme", "int8", "-o", model).code == 0
    layers = len(pipeline.inspect(opened(model)).layers)
    (job,) = jobs(cli("batch", model, "--scheme", "int8", "-o", tmp_path / "out", *options, "--json", "-")).values()
    assert job["state"] == "unchanged" and job["figures"]["changed layers"] == f"0 of {layers}"
