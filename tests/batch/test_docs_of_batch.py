"""What docs/batch.md and action.yml say is run: commands, workflows, the action's steps."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


@pytest.fixture
def text(root: Path) -> str:
    return (root / "docs" / "batch.md").read_text(encoding="utf-8")


def block(text: str, kind: str) -> str:
    match = re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)
    assert match is not None
    return match[1]


@pytest.fixture
def place(root: Path, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the commands of the page can run: models, manifest, gates, and tflite2q on the path."""
    where = tmp_path / "place"
    (where / "my models").mkdir(parents=True)
    (where / "bin").mkdir()
    (where / "models").symlink_to(root / "models")
    shutil.copy(root / "models" / "digits_uint8.tflite", where / "my models" / "a model.tflite")
    (where / "gates.toml").write_text(block(text, "toml gates"), encoding="utf-8")
    (where / "batch.toml").write_text(block(text, "toml manifest"), encoding="utf-8")
    program = where / "bin" / "tflite2q"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tflite2q "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{where / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.chdir(where)
    return where


@pytest.mark.slow
def test_the_commands_of_batch_md(place: Path, text: str, cli: Callable[..., Any]) -> None:
    lines = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
    assert len(lines) >= 5
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "tflite2q"
        outcome = cli(*arguments)
        assert outcome.code == 0, (line, outcome.err)
        assert ("taken from the cache" in outcome.out) == ("from the cache" in line)
    assert (place / "converted" / "digits_uint8.int8.tflite").exists()
    assert (place / "several" / "index.html").exists() and (place / "gated.xml").exists()
    assert (place / "listed" / "digits" / "digits_uint8.symmetric-int8.tflite").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_the_make_of_batch_md(place: Path, root: Path, text: str) -> None:
    for stamp in ("bin/python", ".python", ".user"):
        path = place / stamp
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
        path.chmod(0o755)
    shutil.copy(root / "Makefile", place)
    for name in ("setup.cfg", "pyproject.toml"):
        (place / name).touch()
        os.utime(place / name, (1, 1))
    command = block(text, "sh make").strip()
    done = subprocess.run([*shlex.split(command), f"VENV={place}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (place / "my conversions" / "a model.int8.tflite").exists()
    assert (place / "my conversions" / "digits_uint8.int8.tflite").exists()


def action(root: Path, given: dict[str, str], folder: Path) -> tuple[int, str, dict[str, str]]:
    """Run the steps of action.yml as the runner does, but for the installation; code, job summary, outputs."""
    document = yaml.safe_load((root / "action.yml").read_text(encoding="utf-8"))
    assert set(given) <= set(document["inputs"])
    inputs = {name: str(facts["default"]) for name, facts in document["inputs"].items()} | given
    summary, outputs = folder / "summary.md", folder / "outputs"
    for path in (summary, outputs):
        path.touch()
    (step,) = [step for step in document["runs"]["steps"] if step.get("id") == "batch"]
    assert "${{" not in step["run"], "values come by the environment"

    def value(match: re.Match[str]) -> str:
        return inputs[match[1].removeprefix("inputs.")]

    named = {name: EXPRESSION.sub(value, text) for name, text in step["env"].items()}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]], check=False,
        env={**os.environ, **named, "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(outputs)},
    )  # fmt: skip
    found = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
    assert set(found) == set(document["outputs"])
    return done.returncode, summary.read_text(), found


def test_the_action(place: Path, root: Path, tmp_path: Path) -> None:
    given = {"sources": "models\nmy models\n", "scheme": "int8", "output": "my out", "arguments": "--jobs\n2\n"}
    code, summary, outputs = action(root, given, tmp_path)
    assert code == 0
    assert "3 conversions: 3 converted" in summary
    assert json.loads(Path(outputs["json"]).read_text())["counts"] == {"converted": 3}
    assert Path(outputs["junit"]).exists()
    assert (place / "my out" / "a model.int8.tflite").exists()


def test_the_action_fails_as_the_batch_does_and_still_shows_why(place: Path, root: Path, tmp_path: Path) -> None:
    (place / "my models" / "$(touch owned).tflite").write_bytes(b"damaged")
    code, summary, _ = action(root, {"sources": "my models", "scheme": "int8"}, tmp_path)
    assert code == 3
    assert "1 refused" in summary and "not a .tflite" in summary
    assert not (place / "owned").exists()
    (tmp_path / "summary.md").unlink()
    (tmp_path / "outputs").unlink()
    code, summary, _ = action(root, {"sources": "models", "scheme": "int9"}, tmp_path)
    assert code == 2 and "    tflite2q: scheme 'int9' does not exist" in summary


def test_the_action_says_that_there_are_no_models(place: Path, root: Path, tmp_path: Path) -> None:
    (place / "no models").mkdir()
    code, summary, _ = action(root, {"sources": "no models", "scheme": "int8"}, tmp_path)
    assert code == 2
    assert summary == (
        "## tflite2q batch\n\n    tflite2q: no models: there is no .tflite file in this folder; give another\n"
    )


def test_the_action_shows_the_beginning_of_a_summary_that_is_too_long(place: Path, root: Path, tmp_path: Path) -> None:
    """As one of 20,000 models; GitHub would show nothing of it."""
    program = "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ $1 != --markdown ] || cp long.md $2; shift; done\nexit 1\n"
    (place / "bin" / "tflite2q").write_text(program, encoding="utf-8")
    (place / "long.md").write_text("".join(f"| {number} of a batch's models |\n" for number in range(60_000)))
    code, summary, _ = action(root, {"sources": "models", "scheme": "int8"}, tmp_path)
    lines = summary.splitlines()
    assert code == 1 and 900_000 < len(summary) < 1 << 20
    assert lines[-3] == f"| {len(lines) - 3} of a batch's models |" and "too long" in lines[-1]


def test_the_workflow_uses_inputs_that_the_action_has(text: str, root: Path) -> None:
    document = yaml.safe_load(block(text, "yaml github"))
    known = yaml.safe_load((root / "action.yml").read_text(encoding="utf-8"))["inputs"]
    assert document[True] == ["push"]  # YAML 1.1 reads `on` as a truth value
    (used,) = [step for step in document["jobs"]["convert"]["steps"] if step.get("uses") == "./"]
    assert set(used["with"]) <= set(known)


@pytest.mark.slow
def test_the_steps_of_the_workflow(text: str, place: Path, root: Path, tmp_path: Path) -> None:
    steps = yaml.safe_load(block(text, "yaml github"))["jobs"]["convert"]["steps"]
    (used,) = [step for step in steps if step.get("uses") == "./"]
    code, summary, _ = action(root, used["with"], tmp_path)
    assert code == 0 and "1 conversion: 1 converted" in summary


def test_the_steps_of_the_pipeline(text: str, place: Path) -> None:
    job = yaml.safe_load(block(text, "yaml gitlab"))["convert"]
    environment = {**os.environ, "CI_PROJECT_DIR": str(place)}
    environment |= {name: value.replace("$CI_PROJECT_DIR", str(place)) for name, value in job["variables"].items()}
    for line in job["script"]:
        done = subprocess.run(["bash", "-e", "-c", line], check=False, env=environment)
        assert done.returncode == 0
    for path in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"], *job["cache"]["paths"]):
        assert (place / path).exists(), path


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not installed")
def test_actionlint_finds_nothing(text: str, root: Path, tmp_path: Path) -> None:
    """In the workflow, the inputs that it gives to the action beside it, and the action's steps as a job."""
    workflows = tmp_path / ".github" / "workflows"
    workflows.mkdir(parents=True)
    shutil.copy(root / "action.yml", tmp_path)
    (workflows / "models.yml").write_text(block(text, "yaml github"), encoding="utf-8")
    document = yaml.safe_load((root / "action.yml").read_text(encoding="utf-8"))
    called = {"workflow_call": {"inputs": {name: {"type": "string"} for name in document["inputs"]}}}
    jobs = {"steps": {"runs-on": "ubuntu-latest", "steps": document["runs"]["steps"]}}
    (workflows / "steps.yml").write_text(yaml.safe_dump({"on": called, "jobs": jobs}), encoding="utf-8")
    (tmp_path / ".git").mkdir()  # what it takes for the root of a project
    done = subprocess.run(["actionlint", "-color=false"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def scale(root: Path) -> str:
    return (root / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["python slurm", "python kubernetes"])
def test_the_recipes_of_scale_md_ask_for_what_tflite2q_has(scale: str, kind: str) -> None:
    """They compile; the command in them has options that there are."""
    import ast

    from tflite2q.cli.batch import batch

    lists = [node for node in ast.walk(ast.parse(block(scale, kind))) if isinstance(node, ast.List)]
    words = [part.value for node in lists for part in node.elts if isinstance(part, ast.Constant)]
    assert {"tflite2q", "batch", "--dask"} <= set(words)
    known = {name for parameter in batch.params for name in parameter.opts}
    assert {word for word in words if word.startswith("-")} - {"--nthreads"} <= known


@pytest.mark.slow
def test_the_job_script_of_scale_md(scale: str, place: Path, tmp_path: Path) -> None:
    """With an srun that starts two workers here, as Slurm would on its nodes."""
    pytest.importorskip("distributed")
    script = block(scale, "sh slurm").replace("128", "2")
    (place / "bin" / "srun").write_text(
        '#!/bin/sh\n[ "$1 $2" = "--overlap --ntasks=2" ] || exit 1\nshift 2\n"$@" & "$@" & wait\n', encoding="utf-8"
    )
    for name, module in (("dask", "dask"), ("python3", "")):
        command = f"-m {module} " if module else ""
        (place / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command}"$@"\n', encoding="utf-8")
    for program in (place / "bin").iterdir():
        program.chmod(0o755)
    environment = {**os.environ, "SLURM_JOB_ID": "7", "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(["bash", "-c", script], env=environment, start_new_session=True)
    try:
        assert process.wait(240) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (place / "converted" / "digits_uint8.int8.tflite").exists()
