"""Tables of measured results, made from the JSON files in benchmarks/results and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks import kept
from benchmarks.environment import Environment
from benchmarks.kept import Result, Row
from benchmarks.layout import MISSING, markdown, ms, percent, ratio

UNCHANGED = "unchanged"
TVM_HEAD = "TVM's frontend"


def speed(result: Result) -> str:
    """All figures, a table for each number of threads."""
    parts = [measured_on(result)]
    for threads in sorted({row["threads"] for row in result["rows"]}):
        rows = [row for row in result["rows"] if row["threads"] == threads]
        parts.append(f"{_threads(threads)}:\n\n{markdown(SPEED_HEAD, [_speed_cells(row) for row in rows])}")
        parts.append(markdown(("geometric mean", "models", "ratio"), _means(rows)))
    return "\n".join(parts)


def speed_summary(result: Result) -> str:
    """One line a model: what conversion and compilation gain together, with one thread."""
    rows = [row for row in result["rows"] if row["threads"] == 1]
    head = ("model", "LiteRT, original", "LiteRT, converted", "tflite2q, converted", "gain")
    cells = [
        (
            f"`{row['model']}` ({row['dtype']})",
            ms(row["litert_original_ms"]),
            ms(row["litert_int8_ms"]) if row["dtype"] == "uint8" else MISSING,
            ms(row["ours_int8_ms"]),
            ratio(row["litert_original_ms"], row["ours_int8_ms"]),
        )
        for row in rows
    ]
    return f"Milliseconds, one thread. {measured_on(result)}\n{markdown(head, cells)}"


def accuracy(result: Result) -> str:
    """Every scheme on every labelled model."""
    parts = []
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["model"] == model]
        samples = max(row["samples"] for row in rows)
        parts.append(f"`{model}`, {samples} labelled samples:\n\n{markdown(ACCURACY_HEAD, map(_accuracy_cells, rows))}")
    return "\n".join(parts)


def accuracy_summary(result: Result) -> str:
    """Top-1 of every scheme, one column a model."""
    models = list(dict.fromkeys(row["model"] for row in result["rows"]))
    by_key = {(row["model"], row["scheme"]): row for row in result["rows"]}
    original = {row["model"]: row["top1"][0] for row in result["rows"] if not row["problem"]}
    cells = [("as imported", *(percent(original[model]) for model in models))]
    for name in dict.fromkeys(row["scheme"] for row in result["rows"]):
        cells.append((f"`{name}`", *(_short(by_key[model, name]) for model in models)))
    samples = {row["model"]: row["samples"] for row in result["rows"] if not row["problem"]}
    return markdown(("top-1", *(f"`{model}` ({samples[model]} samples)" for model in models)), cells)


def schemes(result: Result) -> str:
    """Times of every scheme on every labelled model, beside accuracy and size where `accuracy` was measured."""
    about = {(row["model"], row["scheme"]): row for row in kept.rows("accuracy")}
    parts = [f"Times. {measured_on(result)}"]
    if about:
        parts.append(f"Accuracy and size, the same on every machine. {measured_on(kept.read('accuracy'))}")
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["model"] == model]
        rows.sort(key=lambda row: (row["scheme"] != ORIGINAL, row["scheme"]))
        found = [row for row in about.values() if row["model"] == model and not row["problem"]]
        samples = f", {found[0]['samples']} labelled samples" if found else ""
        cells = [_scheme_cells(row, about.get((model, row["scheme"])), found) for row in rows]
        parts.append(f"`{model}`{samples}:\n\n{markdown(SCHEMES_HEAD, cells)}")
    return "\n".join(parts)


def recovery(result: Result) -> str:
    """What each way of recovering accuracy does, for each scheme."""
    parts = []
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["model"] == model]
        top1, samples = rows[0]["top1"][0], rows[0]["samples"]
        cells = [
            (
                f"`{row['scheme']}`",
                row["option"],
                percent(row["top1"][1]),
                percent(row["agreement"]),
                f"{row['distance']:.3f}",
            )
            for row in rows
        ]
        parts.append(
            f"`{model}`, {samples} labelled samples, top-1 as imported {percent(top1)}:\n\n"
            f"{markdown(RECOVERY_HEAD, cells)}"
        )
    return "\n".join(parts)


def reconstruction(result: Result) -> str:
    """Accuracy of schemes with and without reconstruction, on samples that no conversion saw."""
    places = measured_at(result)
    parts = [f"Measured on {places[0]}\n"]
    if len(places) > 1:
        others = "; ".join(f"{mark(number)} {place.rstrip('.')}" for number, place in enumerate(places) if number)
        parts.append(f"Rows with a mark were measured on another machine or commit: {others}.\n")
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["model"] == model and not row["problem"]]
        if not rows:
            continue
        cells = [
            (
                f"`{row['scheme']}`{mark(places.index(row.get('measured') or places[0]))}",
                row["option"],
                *_answers(row),
                *(MISSING if row.get(key) is None else percent(row[key]) for key in ("agreement", "original")),
                MISSING if row["error"] is None else f"{row['error']:.4f}",
                *(str(row[key] or MISSING) for key in ("size", "zipped")),
            )
            for row in rows
        ]
        labelled = [row["top1"] for row in rows if row["top1"] is not None]
        base = f"; `int8` has {percent(labelled[0][0])}" if labelled else ""
        parts.append(
            f"`{model}`, {rows[0]['samples']} samples, each held out once{base}:\n\n"
            f"{markdown(RECONSTRUCTION_HEAD, cells)}"
        )
    return "\n".join(parts)


def mark(number: int) -> str:
    """A raised number as a mark of a row; none for 0."""
    return "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(number)) if number else ""


def _answers(row: Row) -> tuple[str, str]:
    """The share of right answers, and the interval of its distance from int8's."""
    if row["top1"] is None:
        return MISSING, MISSING
    return percent(row["top1"][1]), f"{_points(row['low'])} to {_points(row['high'])}"


def _points(share: float) -> str:
    return f"{share * 100:+.1f}"


def floats(result: Result) -> str:
    """Float models quantized here and by another tool, from the same file and samples."""
    parts = [measured_on(result)]
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["model"] == model]
        cells = [
            (
                f"`{row['scheme']}`",
                row["option"],
                *([row["problem"], MISSING, MISSING, MISSING] if row["problem"] else _float_cells(row)),
            )
            for row in rows
        ]
        parts.append(f"`{model}`, {rows[0]['samples']} samples:\n\n{markdown(FLOATS_HEAD, cells)}")
    return "\n".join(parts)


def real(result: Result) -> str:
    """Conversions whose activations are float32, by LiteRT and by compiled code."""
    rows: Sequence[Row] = result["rows"]
    schemes = list(dict.fromkeys(row["scheme"] for row in rows))
    cells = [
        (f"`{row['model']}`", f"`{row['scheme']}`", ms(row["litert_ms"]), ms(row["ours_ms"]),
         ratio(row["litert_ms"], row["ours_ms"]))
        for row in rows
    ]  # fmt: skip
    for scheme in schemes:
        ratios = [row["litert_ms"] / row["ours_ms"] for row in rows if row["scheme"] == scheme]
        cells.append((f"geometric mean of {len(ratios)}", f"`{scheme}`", "", "", geometric_mean(ratios)))
    return f"{measured_on(result)}\n{markdown(REAL_HEAD, cells)}"


def calls(result: Result) -> str:
    """What a call costs beside its code, and samples a second with one worker and two."""
    cells = [
        (
            f"`{row['model']}`",
            str(row["bytes"]),
            *(f"{row[key]:.1f}" for key in ("code_us", "run_us", "out_us", "bound_us", "litert_us")),
            ratio(row["litert_us"], row["run_us"]),
            ratio(row["map_two"], row["map_one"]),
            ratio(row["batch_two"], row["batch_one"]),
            ratio(row["batch_one"], 1e6 / row["run_us"]),
        )
        for row in result["rows"]
    ]
    return f"{measured_on(result)}\n{markdown(CALLS_HEAD, cells)}"


def start(result: Result) -> str:
    """What comes before the first result."""
    cells = [
        (
            f"`{row['model']}`",
            f"{row['cold_s']:.1f}",
            f"{row['cached_s']:.2f}",
            f"{row['load_s'] * 1e3:.1f}",
            f"{row['bytes'] / 1e6:.2f}",
        )
        for row in result["rows"]
    ]
    imported = f"`import tflite2q` takes {result['import_s'] * 1e3:.0f} ms.\n"
    return f"{measured_on(result)}\n{imported}\n{markdown(START_HEAD, cells)}"


def _float_cells(row: Row) -> list[str]:
    return [
        MISSING if row["top1"] is None else percent(row["top1"]),
        percent(row["agreement"]),
        "equal" if row["sqnr"] is None else f"{row['sqnr']:.1f} dB",
        str(row["size"]),
    ]


def measured_on(result: Result) -> str:
    first, *others = measured_at(result)
    return f"Measured on {first}{' Some rows: ' if others else ''}{'; '.join(others)}\n"


def measured_at(result: Result) -> list[str]:
    """Where the result was measured, then where kept rows were that name another place."""
    here = Environment(**result["environment"]).sentence()
    return list(dict.fromkeys([here, *(row.get("measured") or here for row in result["rows"])]))


SPEED_HEAD = (
    "model",
    "LiteRT, original",
    "LiteRT, int8",
    "tflite2q, original",
    "tflite2q, int8",
    TVM_HEAD,
    "LiteRT original / tflite2q int8",
    "LiteRT int8 / tflite2q int8",
    "tflite2q original / int8",
    "G MAC/s",
    "tflite2q, int8, without AMX",
    "LiteRT original / that",
    "that, of VNNI peak",
)
ORIGINAL = "as imported"
SCHEMES_HEAD = ("scheme", "top-1", "same answer", "bytes", "tflite2q, ms", "LiteRT, ms")
REAL_HEAD = ("model", "scheme", "LiteRT, ms", "tflite2q, ms", "LiteRT / tflite2q")
START_HEAD = ("model", "first output, s", "the same from the cache, s", "library loaded, ms", "library, MB")
CALLS_HEAD = (
    "model, int8",
    "bytes in and out",
    "code, us",
    "`run`",
    "`run(out=)`",
    "bound",
    "LiteRT",
    "LiteRT over `run`",
    "`map`, two workers over one",
    "batch, two workers over one",
    "batch over `run`",
)
FLOATS_HEAD = ("scheme", "made by", "top-1", "same answer", "signal to noise", "bytes")
RECOVERY_HEAD = ("scheme", "recovery", "top-1", "same answer", "output error")
RECONSTRUCTION_HEAD = (
    "scheme",
    "reconstruct",
    "top-1",
    "95 %: points from int8",
    "same answer as int8",
    "as the original",
    "squared error",
    "bytes",
    "zipped",
)
ACCURACY_HEAD = ("scheme", "top-1", "top-5", "same answer", "channels rescaled", "bytes")


def _speed_cells(row: Row) -> tuple[str, ...]:
    ours = row["ours_int8_ms"]
    vnni = row.get("vnni_ms") or ours
    efficiency = row["macs"] / vnni / 1e6 / row["peak"] if row["peak"] else None
    return (
        f"`{row['model']}` ({row['dtype']})",
        ms(row["litert_original_ms"]),
        ms(row["litert_int8_ms"]),
        ms(row["ours_original_ms"]),
        ms(ours),
        ms(row["frontend_ms"]),
        ratio(row["litert_original_ms"], ours),
        ratio(row["litert_int8_ms"], ours),
        ratio(row["ours_original_ms"], ours),
        f"{row['macs'] / ours / 1e6:.0f}",
        ms(row.get("vnni_ms")),
        ratio(row["litert_original_ms"], vnni),
        MISSING if efficiency is None else f"{efficiency:.0%}",
    )


def _means(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    legacy = [row for row in rows if row["dtype"] == "uint8"]
    imported = [row for row in rows if row["frontend_ms"]]
    both = [row for row in rows if row.get("vnni_ms")]
    legacy_both = [row for row in both if row["dtype"] == "uint8"]
    kinds: tuple[tuple[str, str, Sequence[Row], str, str], ...] = (
        ("LiteRT original / tflite2q int8", "uint8", legacy, "litert_original_ms", "ours_int8_ms"),
        ("LiteRT int8 / tflite2q int8", "all", rows, "litert_int8_ms", "ours_int8_ms"),
        ("LiteRT original / LiteRT int8", "uint8", legacy, "litert_original_ms", "litert_int8_ms"),
        ("tflite2q original / tflite2q int8", "uint8", legacy, "ours_original_ms", "ours_int8_ms"),
        ("LiteRT original / tflite2q int8 without AMX", "uint8", legacy_both, "litert_original_ms", "vnni_ms"),
        ("LiteRT int8 / tflite2q int8 without AMX", "all", both, "litert_int8_ms", "vnni_ms"),
        (f"{TVM_HEAD} / tflite2q original", "all it imports", imported, "frontend_ms", "ours_original_ms"),
    )
    return [
        (name, f"{len(chosen)}, {which}", geometric_mean([row[above] / row[below] for row in chosen]))
        for name, which, chosen, above, below in kinds
        if chosen
    ]


def geometric_mean(ratios: Sequence[float]) -> str:
    return f"{math.exp(math.fsum(map(math.log, ratios)) / len(ratios)):.2f}"


def _accuracy_cells(row: Row) -> tuple[str, ...]:
    if row["problem"]:
        return f"`{row['scheme']}`", row["problem"], *(MISSING,) * 4
    rescaled, channels = row["channels"]
    return (
        f"`{row['scheme']}`",
        _change(*row["top1"]),
        _change(*row["top5"]),
        percent(row["agreement"]),
        f"{rescaled} of {channels}",
        f"{row['size'][0]} → {row['size'][1] or MISSING}",
    )


def _scheme_cells(row: Row, about: Row | None, measured: Sequence[Row]) -> tuple[str, ...]:
    """`about` is the accuracy of the same model and scheme, `measured` are those of the model under all schemes."""
    if row["problem"]:
        return f"`{row['scheme']}`", row["problem"], *(MISSING,) * 4
    name, of_accuracy = f"`{row['scheme']}`", (MISSING,) * 3
    if row["scheme"] == ORIGINAL:
        name = ORIGINAL
        if measured:
            of_accuracy = (percent(measured[0]["top1"][0]), MISSING, str(measured[0]["size"][0]))
    elif about is not None and not about["problem"]:
        of_accuracy = (percent(about["top1"][1]), percent(about["agreement"]), str(about["size"][1] or MISSING))
    return name, *of_accuracy, ms(row["ours_ms"]), ms(row["litert_ms"])


def _short(row: Row) -> str:
    """Top-1 of a conversion, or a word where there is none."""
    if row["problem"]:
        return UNCHANGED if row["problem"] == UNCHANGED else MISSING
    return percent(row["top1"][1])


def _threads(count: int) -> str:
    return f"{'One thread' if count == 1 else f'{count} threads'}, milliseconds"


def _change(before: float, after: float) -> str:
    return f"{before * 100:.1f} → {percent(after)}"
