"""Every program that measures, on a small model with few runs: it runs, and its tables hold what they should.

No figure that depends on time is compared.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import levels
import numpy as np
import pytest
from judge import judge

from benchmarks import __main__ as program
from benchmarks import (
    accuracy,
    batches,
    calls,
    contenders,
    kernels,
    memory,
    micro,
    peak,
    reconstruction,
    recovery,
    sequences,
    start,
    theirs,
)
from benchmarks.models import Labelled, Sampled
from tflite2q.execution import reference
from tflite2q.flatbuffer.writer import write
from tflite2q.lower.target import resolve, tvm_target
from tflite2q.rewrites import scheme


class HereAndNow:
    """A pool of processes that works in this one."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> HereAndNow:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[..., Any], *given: Iterable[Any]) -> Iterable[Any]:
        return map(function, *given)


@pytest.fixture
def folder(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as --shared wants it, whose only model is the project's own one under the name of another."""
    (tmp_path / "models").mkdir()
    shutil.copy(digits, tmp_path / "models" / "ad01_int8.tflite")
    for module in (accuracy, contenders):
        monkeypatch.setattr(module, "ProcessPoolExecutor", HereAndNow)
    measured = partial(memory.measured, sizes=(1 << 14, 1 << 16), most=1 << 18)
    monkeypatch.setattr(memory, "measured", measured)
    medians = contenders.medians
    for place in (contenders, calls):
        monkeypatch.setattr(place, "medians", lambda timed, *_: medians(timed, 1, 1.0))
    return tmp_path


Result = Callable[..., dict[str, Any]]


@pytest.fixture
def result(folder: Path, capsys: pytest.CaptureFixture[str]) -> Result:
    """Measures a table, renders it, and gives its result."""

    def call(what: str, *options: object) -> dict[str, Any]:
        capsys.readouterr()
        code = program.main([what, "--shared", str(folder), *map(str, options), "--json"])
        assert code == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        render = program.TABLES[what].render
        assert render is not None
        table = render(found)
        assert "| ---" in table and all(f"`{row['model']}`" in table for row in found["rows"])
        return found

    return call


def positive(rows: Sequence[dict[str, Any]], *names: str) -> bool:
    return all(row[name] > 0 for row in rows for name in names)


@pytest.mark.isa
def test_roofline(result: Result) -> None:
    if peak.level(tvm_target(resolve("native"))) is None:
        levels.skip("avx2")
    found = result("roofline", "--quick")
    assert {row["model"] for row in found["rows"]} == {"ad01"}
    assert sum(row["layers"] for row in found["rows"]) > 3
    assert [each["name"] for each in found["memories"]] == ["first cache", "second cache", "memory"]
    assert found["peaks"]["vector"] > 0
    assert positive(found["rows"], "ms", "limit_ms")


def test_speed(result: Result) -> None:
    rows = result("speed", "--quick", "--no-frontend")["rows"]
    assert [(row["model"], row["threads"]) for row in rows] == [("ad01", 1), ("ad01", 2)]
    assert positive(rows, "macs", "litert_original_ms", "litert_int8_ms", "ours_original_ms", "ours_int8_ms")
    assert all(row["frontend_ms"] is None for row in rows)


def test_the_frontend_of_tvm_compiles_and_runs(digits: Path, tmp_path: Path) -> None:
    job = contenders.Job(digits, tmp_path / "frontend.so", by_frontend=True)
    assert contenders._build(job) == contenders.Built(job.library)
    assert len(contenders.frontend(job.library, digits, 1)(2)) == 2


def test_what_does_not_compile_says_why(tmp_path: Path) -> None:
    (tmp_path / "none.tflite").write_bytes(b"no model")
    built = contenders._build(contenders.Job(tmp_path / "none.tflite", tmp_path / "none.so"))
    assert built.problem is not None and built.problem.startswith("ModelError: ")


def test_calls(result: Result) -> None:
    (row,) = result("calls", "--quick")["rows"]
    assert row["bytes"] == 64 + 10  # 8 x 8 pixels, 10 classes
    assert positive([row], *(name for name in row if name not in ("model", "bytes")))


def test_real(result: Result) -> None:
    rows = result("real", "--quick", "--scheme", "dynamic-range")["rows"]
    assert ("ad01", "dynamic-range") in [(row["model"], row["scheme"]) for row in rows]
    assert positive(rows, "litert_ms", "ours_ms")


def test_sequences(result: Result) -> None:
    rows = result("sequences", "--quick", "--only", "gru")["rows"]
    assert {("gru", "float32"), ("gru", "int8")} <= {(row["model"], row["scheme"]) for row in rows}
    assert positive(rows, "litert_ms", "ours_ms")


@pytest.mark.parametrize("name", sequences.MADE)
def test_models_of_sequences_compute_what_litert_computes(name: str) -> None:
    graph = sequences.MADE[name]()
    x = np.random.default_rng(3).normal(0, 1, graph["x"].type.shape).astype(np.float32)
    (found,) = reference.run(graph, x)
    ((wanted,),) = judge([(write(graph), [x])])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_start(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(script: str, arguments: Sequence[str], cache: Path) -> float:
        """As in a process of its own, without the seconds that TVM takes there."""
        monkeypatch.setenv("TFLITE2Q_CACHE", str(cache))
        monkeypatch.setattr(sys, "argv", ["-c", *arguments])
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(script, "start", "exec"), {})
        return float(json.loads(printed.getvalue().split()[0]))

    monkeypatch.setattr(start, "_seconds", seconds)
    found = result("start", "--quick")
    (row,) = found["rows"]
    assert row["model"] == "ad01"
    assert row["bytes"] > 1000
    assert found["import_s"] >= 0
    assert positive([row], "cold_s", "cached_s", "load_s")


def test_a_script_of_start_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    assert start._seconds(start.IMPORT, [], tmp_path) > 0


def test_schemes(result: Result) -> None:
    rows = result("schemes", "--quick", "--scheme", "int8", "--scheme", "asymmetric-uint8")["rows"]
    mine = {row["scheme"]: row for row in rows if row["model"] == "digits"}
    assert {"as imported", "int8", "asymmetric-uint8"} <= set(mine)
    assert mine["asymmetric-uint8"]["problem"] == "unchanged"
    assert positive([mine["int8"], mine["as imported"]], "ours_ms", "litert_ms")


def test_accuracy(result: Result) -> None:
    rows = result("accuracy", "--limit", 20, "--scheme", "int8")["rows"]
    (row,) = (row for row in rows if row["scheme"] == "int8" and row["model"] == "digits")
    assert row["samples"] == 20
    assert all(0.8 < share <= 1 for share in (*row["top1"], *row["top5"], row["agreement"]))


def test_recovery(folder: Path, digits: Path, digits_data: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ways = dict(list(recovery.WAYS.items())[:1])
    monkeypatch.setattr(recovery, "WAYS", ways)
    model = Labelled("digits", digits, *digits_data)
    found = recovery.measure([model], ["int8-w4"], 10, lambda line: None)
    (name,) = ways
    options = ["none", name, "all but weights.rounding", "all", "all, with --data"]
    assert [row["option"] for row in found["rows"]] == options
    assert all(row["samples"] == 10 and row["problem"] is None for row in found["rows"])
    render = program.TABLES["recovery"].render
    assert render is not None and name in render(found)


def test_every_way_of_recovery_is_of_keys_that_schemes_have() -> None:
    for name in recovery.SCHEMES:
        variants = recovery.variants_of(scheme.find(name))
        assert len({variant.option for variant in variants}) == len(variants) == 2 * len(recovery.WAYS) + 3


def test_reconstruction(result: Result) -> None:
    rows = result("reconstruction", "--limit", 10, "--scheme", "int8-w4", "--way", "hessian")["rows"]
    (row,) = (row for row in rows if (row["scheme"], row["option"]) == ("int8-w4", "hessian") and row["samples"] == 10)
    assert row["problem"] is None
    assert 0.5 < row["top1"][1] <= 1
    assert row["low"] <= row["top1"][1] - row["top1"][0] <= row["high"]
    assert row["zipped"] < row["size"]
    assert 0.5 < row["original"] <= 1


def test_reconstruction_without_labels_says_how_steady_the_original_is(
    digits: Path, digits_data: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Sampled("digits", digits, digits_data[0], None)
    for moved_one_of, least, most in ((10**9, 1.0, 1.0), (1, 0.5, 1.0)):
        monkeypatch.setattr(reconstruction, "SHAKEN", moved_one_of)
        first, second = reconstruction.measure([model], ["int8"], 20, lambda line: None, ["none"])["rows"]
        assert (first["scheme"], first["agreement"]) == ("as imported", None)
        assert least <= first["original"] <= most
        assert second["top1"] is None and second["original"] is not None and second["agreement"] == 1


# As much of ai-edge-quantizer as theirs.py calls; it writes what it was given.
QUANTIZER = """
import json
class Quantizer:
    need_calibration = True
    def __init__(self, model): self.model = model
    def load_quantization_recipe(self, made): assert made == "a recipe"
    def calibrate(self, data): return data
    def quantize(self, result):
        seen = {key: [{name: array.shape for name, array in sample.items()} for sample in samples]
                for key, samples in result.items()}
        return type("Done", (), {"quantized_model": json.dumps(seen).encode()})
"""


def test_floats(result: Result) -> None:
    rows = result("floats", "--limit", 12, "--only", "digits")["rows"]
    mine = [row for row in rows if row["model"] == "digits"]
    assert [(row["scheme"], row["option"]) for row in mine[:3]] == [
        ("float32", "the model itself"), ("int8", "tflite2q"), ("int8", "ai-edge-quantizer"),
    ]  # fmt: skip
    assert mine[0]["agreement"] == 1 and mine[0]["sqnr"] is None
    assert mine[1]["agreement"] > 0.8 and mine[1]["sqnr"] > 20
    assert mine[2]["problem"] == "not measured"


def test_the_other_quantizer_gets_every_sample_by_the_names_of_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "ai_edge_quantizer"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "quantizer.py").write_text(QUANTIZER)
    (package / "recipe.py").write_text('def mine(): return "a recipe"\n')
    samples = [(np.zeros((1, 4), np.float32), np.zeros((1,), np.float32)) for _ in range(3)]
    np.savez(tmp_path / "s.npz", np.array(["file", "b/c"]), *map(np.stack, zip(*samples, strict=True)))
    command = [sys.executable, theirs.__file__, "model", "mine", str(tmp_path / "s.npz"), str(tmp_path / "out")]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    subprocess.run(command, check=True)
    seen = json.loads((tmp_path / "out").read_text())
    assert seen == {"serving_default": [{"file": [1, 4], "b/c": [1]}] * 3}


def test_kernels(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(kernels, "LAYERS", ((8, 16, 16, 1, 1, False), (8, 16, 16, 3, 1, True)))
    kernels.main([])
    head, *lines = capsys.readouterr().out.splitlines()
    assert "peak" in head
    assert [("conv2d" in line, "depthwise" in line) for line in lines] == [(True, False), (False, True)]


@pytest.mark.parametrize("target", ["nonsense", "cortex-a53", "riscv64"])
def test_kernels_refuse_targets_that_do_not_run_here(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        kernels.main(["--target", target])
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("python -m benchmarks.kernels: error: target ")
    assert "cannot run code for" in lines[-1] or "is not known" in lines[-1]


def test_batches_do_the_same_work_in_one_process_and_as_a_batch(tmp_path: Path, digits: Path) -> None:
    batches.copies(digits, tmp_path / "models", 2)
    paths = sorted((tmp_path / "models").iterdir())
    assert len({path.read_bytes() for path in paths}) == 2
    alone = batches.one_after_another(paths, tmp_path / "alone")
    assert alone.models == 2
    assert (alone + alone).models == 4
    cost = batches.batch("--jobs 1", tmp_path / "models", tmp_path / "out", ("--jobs", "1"))
    assert cost.models == 2
    assert "MB at most" in str(cost)


def test_the_memory_of_a_batch_is_that_of_the_process_that_works() -> None:
    """A command is a process that watches another one, as here."""
    worker = "x = b'1' * (200 << 20); print(flush=True); input()"
    watcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}], check=True)"
    with subprocess.Popen([sys.executable, "-c", watcher], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        assert 200 < batches.resident(process.pid) < 400
        process.stdin.close()
    assert batches.resident(process.pid) == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [(["none.tflite"], "none.tflite: there is no such file"), (["x", "--models", "2"], "3 or more")],
)
def test_batches_refuse_what_they_cannot_measure(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        batches.main(arguments)
    assert why in capsys.readouterr().err.splitlines()[-1]


def test_micro_tables_have_a_row_for_each_board_and_the_means() -> None:
    board = {
        "instructions": 1000, "ratio": 0.5, "arena": 100, "stack": 10, "memory_ratio": 0.9, "code": 5, "weights": 6,
        "tables": 7,
    }  # fmt: skip
    text = micro.text(
        {"rows": [{"model": "m", **dict.fromkeys(micro.BOARDS, board)}], "means": dict.fromkeys(micro.BOARDS, 0.5)}
    )
    head, *lines = (line for line in text.splitlines() if not line.startswith("| ---"))
    assert len(lines) == 2 * len(micro.BOARDS)
    assert all(line.count("|") == head.count("|") for line in lines)


def test_micro_measures_nothing_of_what_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["micro", "--shared", str(folder / "none")]) == 0
    assert "micro is not measured" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["sped"], "there is no table 'sped'; there are speed, "),
        (["speed", "--scheme", "int8"], "--scheme would change nothing of speed; it is for accuracy, "),
        (["calls", "--no-frontend"], "--no-frontend would change nothing of calls; it is for speed"),
        (["accuracy", "--limit", "0"], "'0' is not a whole number of at least 1"),
        (["accuracy", "--limit", "two"], "'two' is not a whole number of at least 1"),
        (["floats", "--quantizer", "/no/python"], "--quantizer /no/python: there is no such program"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(arguments)
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("python -m benchmarks: error: ") and why in last


def test_an_unknown_scheme_is_refused_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["real", "accuracy", "--scheme", "int9"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m benchmarks: error: scheme 'int9' does not exist")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["speed", "--only", "zzz"], "speed is not measured: --only fits none of mobilenet_v1_1.0_224, "),
        (["calls", "--only", "kws"], "has no kws_ref_model.tflite; name another folder with --shared"),
        (["accuracy", "--only", "zzz"], "accuracy is not measured: --only fits none of digits"),
        (["recovery"], "has no models with photos; see --shared"),
        (["reconstruction", "--only", "zzz"], "reconstruction is not measured: --only fits none of digits"),
        (["floats", "--only", "zzz"], "floats is not measured: --only fits none of digits"),
    ],
)
def test_what_is_not_measured_says_why(
    arguments: list[str], why: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main([*arguments, "--shared", str(folder)]) == 0
    found = capsys.readouterr()
    assert why in found.err
    assert not found.out


def test_help_names_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"  {name} " in text and table.sentence in text for name, table in program.TABLES.items())
