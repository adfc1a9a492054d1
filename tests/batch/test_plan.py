"""Which models a batch converts, under which names, and what is refused before any work."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tflite2q.batch import plan
from tflite2q.batch.plan import Asked
from tflite2q.errors import SchemeError, TargetError, UsageError

INT8 = Asked(schemes=("int8",))


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def stems(found: list[plan.Job]) -> list[str]:
    return [job.stem for job in found]


def test_folders_are_searched(tmp_path: Path) -> None:
    out = tmp_path / "in" / "out"
    files(
        tmp_path / "in", "b.tflite", "a.tflite", "sub/a.tflite", ".hidden/x.tflite", ".y.tflite", "out/z.tflite", "n.md"
    )
    found = plan.jobs([str(tmp_path / "in")], None, Asked(schemes=("int8", "int16x8")), out)
    assert stems(found) == [f"{n}.{s}" for n in ("a", "b", "sub/a") for s in ("int8", "int16x8")]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    source = files(tmp_path / "in", "a.tflite", "sub/b.tflite", "out/z.tflite")
    files(tmp_path / "elsewhere", "c.tflite", "d/e.tflite")
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "sub" / "whole").symlink_to("..")
    (source / "above").symlink_to(tmp_path)
    (source / "outputs").symlink_to("out")
    (source / "itself").symlink_to("itself")
    (tmp_path / "elsewhere" / "back").symlink_to(source)
    found = plan.jobs([str(source)], None, INT8, source / "out")
    assert stems(found) == [f"{n}.int8" for n in ("a", "linked/c", "linked/d/e", "sub/b")]


@pytest.mark.parametrize("folder", ["deep/", "./deep", "deep/.", "deep"])
def test_a_folder_has_one_name(tmp_path: Path, folder: str) -> None:
    files(tmp_path, "a.tflite")
    (tmp_path / "m.toml").write_text(f"[[models]]\npath = 'a.tflite'\nfolder = '{folder}'\n", encoding="utf-8")
    assert stems(plan.jobs([], str(tmp_path / "m.toml"), INT8, tmp_path / "out")) == ["deep/a.int8"]


def test_the_same_file_twice_is_one_job(tmp_path: Path) -> None:
    files(tmp_path, "in/a.tflite")
    sources = [str(tmp_path / "in"), str(tmp_path / "in" / "a.tflite")]
    assert stems(plan.jobs(sources, None, INT8, tmp_path / "out")) == ["a.int8"]


@pytest.mark.parametrize(
    ("sources", "out", "message"),
    [
        (["x/a.tflite", "y/a.tflite"], "out", "both would become a.int8.tflite"),
        (["x", "y"], "out", "both would become a.int8.tflite"),
        (["x/a.tflite", "x/a.b"], "out", None),
        (["x"], "x", "is the output folder too"),
        (["link"], "x", "is the output folder too"),
        (["z/a.tflite"], "z", "is the input .*z/a.int8.tflite; give another"),
        (["missing"], "out", "missing: does not exist"),
        (["empty"], "out", "there is no .tflite file"),
        ([], "out", "give models"),
        (["q/a.tflite", "q/a.q.txt"], "out", "both would become a.int8"),
    ],
)
def test_names(tmp_path: Path, sources: list[str], out: str, message: str | None) -> None:
    files(tmp_path, "x/a.tflite", "y/a.tflite", "x/a.b", "z/a.tflite", "z/a.int8.tflite", "q/a.tflite", "q/a.q.txt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("x")
    asked = [str(tmp_path / source) for source in sources]
    if sources == ["z/a.tflite"]:
        asked.append(str(tmp_path / "z" / "a.int8.tflite"))
    if message is None:
        with pytest.raises(UsageError, match="both would become"):  # a.tflite and a.b have one stem
            plan.jobs(asked, None, INT8, tmp_path / out)
        return
    with pytest.raises(UsageError, match=message):
        plan.jobs(asked, None, INT8, tmp_path / out)


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["soft", "hard"])
def test_an_output_that_leads_to_a_source_is_refused(tmp_path: Path, link: Callable[..., Any]) -> None:
    files(tmp_path, "in/a.tflite", "out/other")
    link(tmp_path / "in" / "a.tflite", tmp_path / "out" / "a.int8.tflite")
    with pytest.raises(UsageError, match="is the input"):
        plan.jobs([str(tmp_path / "in")], None, INT8, tmp_path / "out")


def test_outputs_of_different_kinds_do_not_collide(tmp_path: Path) -> None:
    files(tmp_path, "in/a.tflite", "in/a.int8.tflite")
    (tmp_path / "in" / "native.toml").write_text('[activations]\ndtype = "int8"\n[weights]\ndtype = "int8"\n')
    asked = Asked(
        schemes=("int8", str(tmp_path / "in" / "native.toml")), targets=('{"kind": "llvm"}', '{"kind" :"llvm"}')
    )
    with pytest.raises(UsageError, match="both would write"):
        plan.jobs([str(tmp_path / "in")], None, asked, tmp_path / "out")


def test_a_manifest_says_what_is_asked_for_each_model(tmp_path: Path) -> None:
    files(tmp_path, "in/a.tflite", "in/b.tflite", "d.npy", "l.csv")
    manifest = tmp_path / "batch.toml"
    manifest.write_text(
        """
[defaults]
scheme = "int8"
unchanged = "skip"

[[models]]
path = "in/a.tflite"
schemes = ["int16x8", "int8"]
targets = ["native"]

[[models]]
path = "in/b.tflite"
folder = "deep"
data = "d.npy"
labels = "l.csv"
gates = { min_agreement = 0.5 }
""",
        encoding="utf-8",
    )
    found = plan.jobs([], str(manifest), Asked(schemes=("float32",), threads=7), tmp_path / "out")
    assert stems(found) == ["a.int16x8", "a.int8", "deep/b.int8"]
    assert found[0].settings.targets == ("native",) and found[0].settings.compare is None
    assert found[2].settings.unchanged == "skip"
    compare = found[2].settings.compare
    assert compare is not None
    assert compare["data"] == str(tmp_path / "d.npy") and compare["threads"] == 7
    assert compare["gates"] == {"min_agreement": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models", "is not TOML"),
        ("", "lists no models"),
        ("[[model]]", "model is unknown; did you mean 'models'"),
        ("[[models]]\nscheme = 'int8'", r"models\[0\]: needs path"),
        ("[[models]]\npath = 'a.tflite'\nschema = 'int8'", "schema is unknown; did you mean 'scheme"),
        ("[[models]]\npath = 'a.tflite'\nscheme = 3", "not a name or a list of names"),
        ("[[models]]\npath = 'a.tflite'\nscheme = 'int8'\nschemes = ['int8']", "either scheme or schemes"),
        ("[[models]]\npath = 'a.tflite'\nlimit = true", "limit: is True, not int"),
        ("[[models]]\npath = 'a.tflite'\nfolder = '../x'", "must lie inside the output folder"),
        ("[[models]]\npath = 'a.tflite'\nunchanged = 'x'", "unchanged is 'x'"),
        ("[[models]]\npath = 'a.tflite'\nlabels = 'x'", "labels need data"),
        ("[[models]]\npath = 'a.tflite'\ndata = 'x'", "x: does not exist"),
        ("[[models]]\npath = 'a.tflite'\ngates = { min_speedup = 2 }", "not measured without --speed"),
        ("[[models]]\npath = 'a.tflite'\ngates = { min_speed = 2 }", "there is no gate 'min_speed'"),
        ("[[models]]\npath = 'b.tflite'", "b.tflite: does not exist"),
        ("[[models]]\npath = 'a.tflite'\ntarget = 'nativ'", "target 'nativ' is not known; did you mean native"),
        ("[[models]]\npath = 'a.tflite'\nthreads = 0", "threads must be 1 to 4096, got 0"),
        ("[[models]]\npath = 'a.tflite'\nlimit = 0", "limit = 0 is not a whole number of at least 1"),
        ("[[models]]\npath = 'a.tflite'\nmean = inf", "mean = inf"),
        ("[[models]]\npath = 'a.tflite'\nstd = nan", "std = nan"),
        ("[[models]]\npath = 'a.tflite'\ntask = 'x'", "task is 'x', not one of auto, detection"),
        ("[[models]]\npath = 'a.tflite'\nfit = 'x'", "fit is 'x', not one of auto, crop"),
        ("[[models]]\npath = 'a.tflite'\nfolder = \"a\\u0000b\"", "must lie inside the output folder"),
    ],
)
def test_manifests_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    files(tmp_path, "a.tflite")
    (tmp_path / "m.toml").write_text(text, encoding="utf-8")
    with pytest.raises((UsageError, TargetError), match=message):
        plan.jobs([], str(tmp_path / "m.toml"), INT8, tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("schemes = ['int9']", "models[0].schemes: "),
        ("scheme = 'none.toml'", "models[0].scheme: "),
        ("interface = 'x'", "models[0].interface: "),
        ("target = 'nativ'", "models[0].target: "),
        ("unchanged = 'x'", "models[0].unchanged: "),
        ("task = 'x'", "models[0].task: "),
        ("fit = 'x'", "models[0].fit: "),
        ("mean = inf", "models[0].mean: "),
        ("std = nan", "models[0].std: "),
        ("limit = 0", "models[0].limit: "),
        ("threads = 0", "models[0].threads: "),
        ("labels = 'a.tflite'", "models[0].labels: "),
        ("data = 'none'", "models[0].data: "),
        ("label_names = 'none'", "models[0].label_names: "),
        ("calibrate = 'none'", "models[0].calibrate: "),
        ("gates = 'none.toml'", "models[0].gates: "),
        ("gates = 'gates.toml'", "models[0].gates: {folder}/gates.toml: gates: there is no gate 'min_speed'"),
        ("gates = { min_miou = true }", "models[0].gates: the bound of min_miou"),
        ("gates = { min_speedup = 2 }", "models[0].gates: "),
        ("folder = '/x'", "models[0].folder: "),
        ("compare = 1", "models[0].compare: "),
        ("schema = 'int8'", "models[0].schema is unknown"),
        ("[[models]]\npath = 'none'", "models[1].path: {folder}/none: does not exist"),
        ("[[models]]\npath = 'empty'", "models[1].path: "),
        ("[[models]]\npath = 'other/a.tflite'", "models[1].path: "),
        ("[[models]]\npath = 3", "models[1]: needs path"),
        ("[defaults]\nscheme = 'int9'", "defaults.scheme: "),
        ("[defaults]\nlimit = 0", "defaults.limit: "),
    ],
)
def test_errors_name_their_place_in_a_manifest(tmp_path: Path, given: str, place: str) -> None:
    files(tmp_path, "a.tflite", "other/a.tflite", "empty/x")
    (tmp_path / "gates.toml").write_text("[gates]\nmin_speed = 2\n", encoding="utf-8")
    manifest = tmp_path / "m.toml"
    manifest.write_text(f"[[models]]\npath = 'a.tflite'\n{given}\n", encoding="utf-8")
    with pytest.raises((UsageError, TargetError, SchemeError)) as raised:
        plan.jobs([], str(manifest), INT8, tmp_path / "out")
    assert str(raised.value).startswith(f"{manifest}: {place.format(folder=tmp_path)}")


@pytest.mark.parametrize("asked", [replace(INT8, limit=0), replace(INT8, data="none"), Asked(schemes=("int9",))])
def test_what_the_command_line_gave_is_not_laid_to_the_manifest(tmp_path: Path, asked: Asked) -> None:
    files(tmp_path, "a.tflite")
    manifest = tmp_path / "m.toml"
    manifest.write_text("[[models]]\npath = 'a.tflite'\nthreads = 2\n", encoding="utf-8")
    with pytest.raises((UsageError, SchemeError)) as raised:
        plan.jobs([], str(manifest), asked, tmp_path / "out")
    assert "m.toml" not in str(raised.value)


def test_a_manifest_that_asks_for_no_scheme_names_the_model(tmp_path: Path) -> None:
    files(tmp_path, "a.tflite")
    manifest = tmp_path / "m.toml"
    manifest.write_text("[[models]]\npath = 'a.tflite'\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"m\.toml: models\[0\]: give a scheme"):
        plan.jobs([], str(manifest), Asked(), tmp_path / "out")


def test_a_manifest_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read: No such file or directory; check the path"):
        plan.jobs([], str(tmp_path / "none.toml"), Asked(schemes=("int8",)), tmp_path / "out")


def test_schemes_are_checked_before_any_work(tmp_path: Path) -> None:
    files(tmp_path, "a.tflite")
    with pytest.raises(SchemeError, match="int9"):
        plan.jobs([str(tmp_path / "a.tflite")], None, Asked(schemes=("int9",)), tmp_path / "out")
    with pytest.raises(UsageError, match="give a scheme"):
        plan.jobs([str(tmp_path / "a.tflite")], None, Asked(), tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data", "d.npy"), ("label_names", "d.npy"), ("limit", 5), ("skip_bad", True), ("speed", True), ("mean", 0.0),
        ("std", 1.0), ("task", "regression"), ("fit", "pad"),
    ],
)  # fmt: skip
def test_what_only_a_comparison_uses_asks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: object
) -> None:
    files(tmp_path, "a.tflite", "d.npy")
    monkeypatch.chdir(tmp_path)
    (job,) = plan.jobs(["a.tflite"], None, replace(INT8, **{key: value}), "out")
    assert job.settings.compare is not None
    expected = os.path.abspath(value) if isinstance(value, str) and value.endswith(".npy") else value
    assert job.settings.compare[key] == expected


def test_what_is_left_open_asks_for_no_comparison(tmp_path: Path) -> None:
    files(tmp_path, "a.tflite")
    (job,) = plan.jobs([str(tmp_path / "a.tflite")], None, replace(INT8, task="auto", fit="auto"), tmp_path / "out")
    assert job.settings.compare is None


def test_the_command_line_asks_for_comparisons_of_a_manifest_too(tmp_path: Path) -> None:
    files(tmp_path, "a.tflite")
    manifest = tmp_path / "batch.toml"
    manifest.write_text("[[models]]\npath = 'a.tflite'\n", encoding="utf-8")
    (job,) = plan.jobs([], str(manifest), replace(INT8, limit=7), tmp_path / "out")
    assert job.settings.compare is not None and job.settings.compare["limit"] == 7
