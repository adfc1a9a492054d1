"""`python -m benchmarks`: measure, print the tables, and with --write keep them for the documents."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import arm_tables, kept, layout, roofline_tables, tables
from benchmarks.models import ROOT, SHARED, SPEED, labelled, sampled

RENDER = {
    "speed": tables.speed,
    "accuracy": tables.accuracy,
    "schemes": tables.schemes,
    "recovery": tables.recovery,
    "floats": tables.floats,
    "real": tables.real,
    "calls": tables.calls,
    "roofline": roofline_tables.roofline,
    "start": tables.start,
    "reconstruction": tables.reconstruction,
    "arm": arm_tables.arm,
}
# Those that take what not every machine has are measured if they are named.
BY_NAME = ("arm",)

UNLABELLED = ("speed", "real", "calls", "roofline", "start", "arm")


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    if options.what == ["micro"]:
        from benchmarks import micro

        found = micro.measure()
        print(json.dumps(found, indent=1) if options.json else micro.text(found), flush=True)
        return 0
    for what in options.what or [each for each in RENDER if each not in BY_NAME]:
        result = _measure_speed(what, options) if what in UNLABELLED else _measure_labelled(what, options)
        if result is None:
            continue
        if options.only or options.scheme or options.way or options.processor:
            result = kept.joined(what, result)
        print(json.dumps(result, indent=1) if options.json else layout.text(RENDER[what](result)), flush=True)
        if options.write:
            _report(f"wrote {kept.write(what, result).relative_to(ROOT)}")
    if options.write:
        subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py")], check=True)
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "what", nargs="*", choices=[[], *RENDER, "micro"], help="which tables (default: all but arm and micro)"
    )
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with models/ and images/")
    parser.add_argument(
        "--only", action="append", help="only models whose name contains this; kept results of others stay"
    )
    parser.add_argument("--scheme", action="append", help="only this scheme; kept results of others stay")
    parser.add_argument(
        "--way", action="append", help='only this way of reconstruction, such as "hessian"; kept results of others stay'
    )
    parser.add_argument(
        "--processor", action="append", help="only Arm processors whose name contains this; kept results of others stay"
    )
    parser.add_argument("--limit", type=int, help="samples of each model for accuracy")
    parser.add_argument("--quantizer", metavar="PYTHON", help="the Python of an environment with ai-edge-quantizer")
    parser.add_argument("--quick", action="store_true", help="fewer runs: figures to look at, not to publish")
    parser.add_argument("--no-frontend", action="store_true", help="leave out TVM's own TFLite frontend")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--write", action="store_true", help="keep the results and renew the documents' tables")
    return parser.parse_args(arguments)


def _wanted(name: str, options: argparse.Namespace) -> bool:
    return not options.only or any(part in name for part in options.only)


def _measure_speed(what: str, options: argparse.Namespace) -> dict[str, Any] | None:
    from benchmarks import arm, calls, real, roofline, speed, start

    folder = options.shared / "models"
    models = [m for m in SPEED if _wanted(m.name, options) and m.path(folder).exists()]
    if not models:
        _report(f"{what} is not measured: {folder} holds none of the models")
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


def _measure_labelled(what: str, options: argparse.Namespace) -> dict[str, Any] | None:
    from benchmarks import accuracy, floats, reconstruction, recovery, schemes
    from tflite2q.rewrites import scheme

    if what == "reconstruction":
        every = [m for m in sampled(options.shared) if _wanted(m.name, options)]
        chosen = options.scheme or reconstruction.SCHEMES
        return reconstruction.measure(every, chosen, options.limit, _report, options.way or ())
    models = [m for m in labelled(options.shared) if _wanted(m.name, options)]
    if not models:
        _report(f"{what} is not measured: no model fits --only")
        return None
    if what == "schemes":
        return schemes.measure(models, options.scheme or scheme.shipped(), options.quick, _report)
    if what == "floats":
        return floats.measure(models, options.shared / "models", options.quantizer, options.limit, _report)
    if what == "recovery":
        models = [m for m in models if m.data.is_dir()]  # photos; the digits lose too little to recover
        return recovery.measure(models, options.scheme or recovery.SCHEMES, options.limit, _report)
    return accuracy.measure(models, options.scheme or scheme.shipped(), options.limit, _report)


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
