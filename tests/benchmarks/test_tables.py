"""Tables of results: every figure is computed from the recorded ones."""

from __future__ import annotations

from pathlib import Path

from benchmarks import contenders, environment, kept, layout, tables


def speed_result() -> kept.Result:
    def row(model: str, dtype: str, threads: int, ours: float) -> dict[str, object]:
        return {
            "model": model,
            "dtype": dtype,
            "threads": threads,
            "macs": 300_000_000,
            "litert_original_ms": 9.0,
            "litert_int8_ms": 4.0 if dtype == "uint8" else 9.0,
            "ours_original_ms": 3.5,
            "ours_int8_ms": ours,
            "vnni_ms": 4.0 if dtype == "uint8" else None,
            "frontend_ms": 180.0 if dtype == "uint8" else None,
            "peak": 300.0,
        }

    rows = [row("big", "uint8", 1, 3.0), row("small", "int8", 1, 4.5), row("big", "uint8", 2, 2.0)]
    where = {
        "date": "2026-01-02",
        "processor": "a processor",
        "cores": 2,
        "system": "Linux",
        "python": "3.11",
        "versions": {"numpy": "2.0"},
        "commit": "abc",
        "load": 0.1,
    }
    return {"schema_version": 1, "environment": where, "rows": rows}


def test_a_speed_table_holds_times_ratios_rate_and_efficiency() -> None:
    lines = tables.speed(speed_result()).splitlines()
    (big, big_two) = (line for line in lines if line.startswith("| `big`"))
    # 9 / 3, 4 / 3, 3.5 / 3; 0.3 G MAC in 3 ms are 100 a second, in 4 ms 75, a quarter of 300
    assert big.endswith("| 9.00 | 4.00 | 3.50 | 3.00 | 180.00 | 3.00 | 1.33 | 1.17 | 100 | 4.00 | 2.25 | 25% |")
    assert "| 4.50 | 2.00 |" in big_two
    (small,) = (line for line in lines if line.startswith("| `small`"))
    assert "| 4.50 | - | 2.00 | 2.00 |" in small
    assert small.endswith("| 67 | - | 2.00 | 22% |")  # no matrix unit: what it reaches is what the vectors reach
    assert lines[0] == ("Measured on a processor, 2 cores, Linux, Python 3.11, numpy 2.0; commit abc, 2026-01-02.")


def test_geometric_means_are_over_the_models_they_name() -> None:
    text = tables.speed(speed_result())
    one_thread = text[: text.index("2 threads")]
    assert "| LiteRT original / tflite2q int8 | 1, uint8 | 3.00 |" in one_thread
    assert "| LiteRT int8 / tflite2q int8 | 2, all | 1.63 |" in one_thread  # sqrt(4/3 * 2) = 1.633
    assert "| TVM's frontend / tflite2q original | 1, all it imports | 51.43 |" in one_thread


def test_the_summary_has_one_line_a_model() -> None:
    lines = [line for line in tables.speed_summary(speed_result()).splitlines() if line.startswith("| `")]
    assert lines == ["| `big` (uint8) | 9.00 | 4.00 | 3.00 | 3.00 |", "| `small` (int8) | 9.00 | - | 4.50 | 2.00 |"]


def test_accuracy_tables_show_what_changed_and_why_nothing_did() -> None:
    found = {
        "model": "digits",
        "scheme": "int8",
        "samples": 200,
        "top1": [0.985, 0.98],
        "top5": [1.0, 1.0],
        "agreement": 0.995,
        "size": [1000, 1200],
        "channels": [3, 250],
        "problem": None,
    }
    same = {**found, "scheme": "asymmetric-uint8", "problem": "unchanged"}
    result = {"environment": speed_result()["environment"], "rows": [found, same]}
    text = tables.accuracy(result)
    assert "| `int8` | 98.5 → 98.0 % | 100.0 → 100.0 % | 99.5 % | 3 of 250 | 1000 → 1200 |" in text
    assert "| `asymmetric-uint8` | unchanged | - | - | - | - |" in text
    summary = tables.accuracy_summary(result)
    assert "| as imported | 98.5 % |" in summary
    assert "| `asymmetric-uint8` | unchanged |" in summary


def test_text_has_the_tables_cells_in_columns() -> None:
    text = layout.text("Title\n\n| a | bb |\n| --- | ---: |\n| `long name` | 1 |\n")
    assert text == "Title\n\na          bb\nlong name   1\n"


def test_medians_take_turns() -> None:
    turns: list[str] = []

    def contender(name: str, ms: float) -> contenders.Times:
        def times(runs: int) -> list[float]:
            turns.append(name)
            return [ms] * runs

        return times

    found = contenders.medians({"a": contender("a", 1.0), "b": contender("b", 2.0)}, rounds=2, round_ms=10)
    assert found == {"a": 1.0, "b": 2.0}
    assert turns == ["a", "b"] * 3


def test_the_environment_names_machine_and_versions() -> None:
    here = environment.here()
    assert here.cores >= 1
    assert "numpy" in here.versions
    assert here.commit in here.sentence()


def test_rows_measured_again_replace_those_kept(tmp_path: Path) -> None:
    where = speed_result()["environment"]
    before = {"environment": where, "rows": [{"model": "m", "scheme": s, "ms": 1.0} for s in ("a", "b")]}
    kept.write("schemes", before, tmp_path)
    new = {"environment": where, "rows": [{"model": "m", "scheme": "b", "ms": 2.0}]}
    assert [row["ms"] for row in kept.joined("schemes", new, tmp_path)["rows"]] == [1.0, 2.0]
    elsewhere = {**new, "environment": {**where, "processor": "another"}}
    assert [row["ms"] for row in kept.joined("schemes", elsewhere, tmp_path)["rows"]] == [2.0]


def test_all_rows_of_a_model_measured_again_replace_all_kept_ones(tmp_path: Path) -> None:
    where = speed_result()["environment"]
    before = [{"model": m, "kind": kind, "ms": 1.0} for m in ("m", "n") for kind in ("a", "b")]
    kept.write("roofline", {"environment": where, "rows": before}, tmp_path)
    new = {"environment": where, "rows": [{"model": "m", "kind": kind, "ms": 2.0} for kind in ("b", "c")]}
    found = kept.joined("roofline", new, tmp_path)["rows"]
    assert [(row["model"], row["kind"], row["ms"]) for row in found] == [
        ("m", "b", 2.0), ("m", "c", 2.0), ("n", "a", 1.0), ("n", "b", 1.0)
    ]  # fmt: skip


def test_ratios_of_real_models_and_their_mean_by_scheme() -> None:
    rows = [
        {"model": "big", "scheme": "float32", "litert_ms": 9.0, "ours_ms": 3.0},
        {"model": "small", "scheme": "float32", "litert_ms": 4.0, "ours_ms": 3.0},
        {"model": "big", "scheme": "dynamic-range", "litert_ms": 2.0, "ours_ms": 4.0},
    ]
    text = tables.real({**speed_result(), "rows": rows})
    assert "| `big` | `float32` | 9.00 | 3.00 | 3.00 |" in text
    assert "| geometric mean of 2 | `float32` |  |  | 2.00 |" in text  # sqrt(3 * 4/3)
    assert "| geometric mean of 1 | `dynamic-range` |  |  | 0.50 |" in text


def reconstruction_result(processor: str, *rows: dict[str, object]) -> kept.Result:
    empty = {
        "samples": 4,
        "top1": None,
        "low": 0.0,
        "high": 0.0,
        "error": None,
        "size": 9,
        "zipped": 8,
        "problem": None,
    }
    where = {**speed_result()["environment"], "processor": processor}
    return {"environment": where, "rows": [{"model": "m", **empty, **row} for row in rows]}


def test_rows_of_accuracy_stay_when_others_are_measured_elsewhere_and_say_so(tmp_path: Path) -> None:
    old = {"option": "none", "agreement": 0.5}
    before = reconstruction_result("an old one", {**old, "scheme": "a"}, {**old, "scheme": "b"})
    kept.write("reconstruction", before, tmp_path)
    again = {"scheme": "b", "option": "none", "agreement": 0.75, "original": 0.25}
    shaken = {"scheme": "as imported", "option": "moved", "agreement": None, "original": 0.875, "size": 0, "zipped": 0}
    new = kept.joined("reconstruction", reconstruction_result("a new one", again, shaken), tmp_path, anywhere=True)
    lines = tables.reconstruction(new).splitlines()
    assert lines[0].startswith("Measured on a new one, ")
    assert lines[2].startswith("Rows with a mark were measured on another machine or commit: ¹ an old one, ")
    assert "| `a`¹ | none | - | - | 50.0 % | - | - | 9 | 8 |" in lines
    assert "| `b` | none | - | - | 75.0 % | 25.0 % | - | 9 | 8 |" in lines
    assert "| `as imported` | moved | - | - | - | 87.5 % | - | - | - |" in lines
    assert tables.measured_on(new).endswith("commit abc, 2026-01-02.\n")
    assert " Some rows: an old one, 2 cores" in tables.measured_on(new)
    kept.write("reconstruction", new, tmp_path)  # a third place: the first rows still name the first
    third = kept.joined("reconstruction", reconstruction_result("a third", shaken), tmp_path, anywhere=True)
    assert [row["measured"].split(",")[0] for row in third["rows"]] == ["an old one", "a new one", "a third"]
