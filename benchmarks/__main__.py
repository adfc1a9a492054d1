"""`python -m benchmarks`: measures, prints tables, and with --write keeps the results for the documents."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import arm_tables, kept, layout, roofline_tables, tables
from benchmarks.models import ROOT, SHARED, SPEED, Labelled, Model, Sampled, labelled, sampled
from tflite2q.errors import Tflite2qError

PROGRAM = "python -m benchmarks"
M = TypeVar("M", bound=Model | Sampled)


@dataclass(frozen=True)
class Table:
    """What is in a table, how its result is rendered (None: its module does it), and the options that change it, beside
    --shared and --only.  Tables that take what not every machine has are measured only if they are `named`."""

    sentence: str
    render: Callable[[kept.Result], str] | None
    options: tuple[str, ...]
    named: bool = False


TABLES = {
    "speed": Table("times of models beside LiteRT's", tables.speed, ("quick", "no_frontend")),
    "accuracy": Table("accuracy under each scheme", tables.accuracy, ("scheme", "limit")),
    "schemes": Table("times under each scheme beside LiteRT's", tables.schemes, ("scheme", "quick")),
    "recovery": Table("what each way of recovering accuracy does", tables.recovery, ("scheme", "limit")),
    "floats": Table("float models quantized here and by ai-edge-quantizer", tables.floats, ("quantizer", "limit")),
    "real": Table("times with float32 activations beside LiteRT's", tables.real, ("scheme", "quick")),
    "sequences": Table("times of recurrent layers and attention beside LiteRT's", tables.real, ("quick",)),
    "calls": Table("what a call costs beside the code it runs", tables.calls, ("quick",)),
    "roofline": Table("how near layers come to what the processor can do", roofline_tables.roofline, ("quick",)),
    "start": Table("what comes before the first result", tables.start, ("quick",)),
    "reconstruction": Table(
        "accuracy with and without reconstruction", tables.reconstruction, ("scheme", "way", "limit")
    ),
    "arm": Table("instructions on emulated Arm processors, if named", arm_tables.arm, ("processor",), named=True),
    "micro": Table("instructions on emulated microcontrollers, if named; never kept", None, (), named=True),
}
ACCURATE = ("accuracy", "recovery", "reconstruction")  # what compares wherever it was measured
TIMED = ("speed", "real", "sequences", "calls", "roofline", "start", "arm")  # of models without samples


def main(arguments: list[str]) -> int:
    try:
        return _main(_options(arguments))
    except Tflite2qError as error:
        _report(f"{PROGRAM}: error: {error}")
        return 1


def _main(options: argparse.Namespace) -> int:
    for what in _asked(options):
        render = TABLES[what].render
        if render is None:
            _micro(options)
            continue
        result = _timed(what, options) if what in TIMED else _judged(what, options)
        if result is None:
            continue
        if options.only or options.scheme or options.way or options.processor:
            result = kept.joined(what, result, anywhere=what in ACCURATE)
        print(json.dumps(result, indent=1) if options.json else layout.text(render(result)), flush=True)
        if options.write:
            _report(f"wrote {kept.write(what, result).relative_to(ROOT)}")
    if options.write:
        subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py")], check=True)
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """What is asked for, checked.  Ends the program with an error where it makes no sense."""
    lines = "\n".join(f"  {name:<15} {table.sentence}" for name, table in TABLES.items())
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Measures, prints tables, and with --write keeps the results for the documents.",
        epilog=f"tables:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="*", metavar="TABLE", help="tables to measure; all but arm and micro if none")
    parser.add_argument("--shared", type=Path, default=SHARED, metavar="FOLDER", help="has models/ and images/")
    only = "only {}, once or more; kept results of others stay"
    parser.add_argument("--only", action="append", metavar="TEXT", help=only.format("models with TEXT in their name"))
    parser.add_argument("--scheme", action="append", help=only.format("this scheme"))
    parser.add_argument("--way", action="append", help=only.format("this way of reconstruction, such as hessian"))
    parser.add_argument(
        "--processor", action="append", metavar="TEXT", help=only.format("Arm processors with TEXT in their name")
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N samples of each model")
    parser.add_argument("--quantizer", metavar="PYTHON", help="the Python of an environment with ai-edge-quantizer")
    parser.add_argument("--quick", action="store_true", help="fewer runs: figures to look at, not to publish")
    parser.add_argument("--no-frontend", action="store_true", help="leave out TVM's own TFLite frontend")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--write", action="store_true", help="keep the results and renew the documents' tables")
    options = parser.parse_args(arguments)
    if unknown := [what for what in options.what if what not in TABLES]:
        parser.error(f"there is no table {unknown[0]!r}; there are {', '.join(TABLES)}")
    asked = _asked(options)
    for name in sorted({option for table in TABLES.values() for option in table.options}):
        able = [what for what, table in TABLES.items() if name in table.options]
        if getattr(options, name) and not set(able) & set(asked):
            option, measured = f"--{name.replace('_', '-')}", ", ".join(asked)
            parser.error(f"{option} would change nothing of {measured}; it is for {', '.join(able)}")
    if options.quantizer is not None and shutil.which(options.quantizer) is None:
        parser.error(f"--quantizer {options.quantizer}: there is no such program")
    _check_schemes(options.scheme or ())
    return options


def _asked(options: argparse.Namespace) -> list[str]:
    """The tables to measure."""
    return options.what or [what for what, table in TABLES.items() if not table.named]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _check_schemes(names: Sequence[str]) -> None:
    """Raise SchemeError for the first that does not exist, before anything is measured."""
    from tflite2q.rewrites import scheme

    for name in names:
        scheme.find(name)


def _wanted(name: str, options: argparse.Namespace) -> bool:
    return not options.only or any(part in name for part in options.only)


def _models(what: str, options: argparse.Namespace) -> list[Model]:
    """The models of a table without samples, as far as they are there; says so if none is."""
    folder, wanted = options.shared / "models", [model for model in SPEED if _wanted(model.name, options)]
    found = [model for model in wanted if model.path(folder).exists()]
    if not wanted:
        _report(f"{what} is not measured: --only fits none of {', '.join(model.name for model in SPEED)}")
    elif not found:
        files = ", ".join(model.file for model in wanted)
        _report(f"{what} is not measured: {folder} has no {files}; name another folder with --shared")
    return found


def _micro(options: argparse.Namespace) -> None:
    from benchmarks import micro

    found = micro.measure(options.shared / "models", lambda name: _wanted(name, options))
    if not found["rows"]:
        _report(f"micro is not measured: {options.shared / 'models'} has none of its models, or --only fits none")
        return
    print(json.dumps(found, indent=1) if options.json else micro.text(found), flush=True)


def _timed(what: str, options: argparse.Namespace) -> dict[str, Any] | None:
    from benchmarks import arm, calls, real, roofline, sequences, speed, start

    folder = options.shared / "models"
    if what == "sequences":
        names = [name for name in sequences.NAMES if _wanted(name, options)]
        if not names:
            _report(f"{what} is not measured: --only fits none of {', '.join(sequences.NAMES)}")
        return sequences.measure(names, folder, options.quick, _report) if names else None
    models = _models(what, options)
    if not models:
        return None
    if what == "real":
        return real.measure(models, options.scheme or real.SCHEMES, folder, options.quick, _report)
    if what == "calls":
        return calls.measure(models, folder, options.quick, _report)
    if what == "roofline":
        return roofline.measure(models, folder, options.quick, _report)
    if what == "arm":
        return arm.measure(models, folder, options.processor or [""], _report)
    if what == "start":
        return start.measure(models, folder, options.quick, _report)
    return speed.measure(models, folder, options.quick, not options.no_frontend, _report)


def _judged(what: str, options: argparse.Namespace) -> dict[str, Any] | None:
    from benchmarks import accuracy, floats, reconstruction, recovery, schemes
    from tflite2q.rewrites import scheme

    if what == "reconstruction":
        every = _fitting(what, sampled(options.shared), options)
        chosen = options.scheme or reconstruction.SCHEMES
        return reconstruction.measure(every, chosen, options.limit, _report, options.way or ()) if every else None
    known = labelled(options.shared)
    if what == "recovery":
        known = tuple(model for model in known if model.data.is_dir())  # the digits lose too little to recover
    if what == "floats":
        folder = options.shared / "models"
        others = [m for m in SPEED if m.name in floats.OTHERS and m.path(folder).exists()]
        every_kind: list[Labelled | Model] = [*known, *others]
        both = _fitting(what, every_kind, options)
        return floats.measure(both, folder, options.quantizer, options.limit, _report) if both else None
    models = _fitting(what, known, options)
    if not models:
        return None
    if what == "schemes":
        return schemes.measure(models, options.scheme or scheme.shipped(), options.quick, _report)
    if what == "recovery":
        return recovery.measure(models, options.scheme or recovery.SCHEMES, options.limit, _report)
    return accuracy.measure(models, options.scheme or scheme.shipped(), options.limit, _report)


def _fitting(what: str, known: Sequence[M], options: argparse.Namespace) -> list[M]:
    """Those of `known` models that are wanted; says so if none is."""
    found = [model for model in known if _wanted(model.name, options)]
    if not found:
        names = ", ".join(model.name for model in known)
        why = f"--only fits none of {names}" if known else f"{options.shared} has no models with photos; see --shared"
        _report(f"{what} is not measured: {why}")
    return found


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
