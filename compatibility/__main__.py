"""`python -m compatibility FOLDER ...`: examine every .tflite file of the folders, one line each, and a summary.

Exit code 0 if nothing is wrong or crashed (refusals that say why are no fault), 1 if something is, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from compatibility import levels, page, table
from compatibility.examine import ROOT, Settings, examine, size
from compatibility.records import CRASH, WRONG, Row, count
from tflite2q.rewrites import scheme

PHOTOS = ROOT.parent / "shared" / "images"
RESULTS = ROOT / "build" / "compatibility.json"


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    files = [file for file in dict.fromkeys(_files(options.folders)) if _wanted(file[1], options.only)]
    if not files:
        print(f"no .tflite file in {', '.join(map(str, options.folders))} to examine", file=sys.stderr)
        return 2
    schemes = tuple(options.scheme or scheme.shipped())
    photos = options.photos if options.photos.is_dir() else None
    settings = Settings(
        options.time, int(options.memory * 2**30), tuple(options.level or levels.here()), schemes, photos
    )
    kept = page.kept(options.kept, settings) if options.kept else []
    rows = joined(kept, _examine_all(files, settings, options.jobs))
    print(table.summary(rows))
    _write(options.json, json.dumps(page.record(rows, settings, options.folders), indent=1) + "\n")
    if options.page:
        _write(options.page, page.render(rows, settings, options.folders))
    found = count(rows)
    return 1 if found[WRONG] or found[CRASH] else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m compatibility", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="folders, searched recursively, or single files")
    parser.add_argument("--files", default="", help="the same in one text: a path, or several between spaces")
    parser.add_argument("--time", type=_positive, default=600.0, help="seconds for a file (default 600)")
    parser.add_argument("--memory", type=_positive, default=6.0, help="GiB of resident memory for a file (default 6)")
    parser.add_argument("--jobs", type=int, default=2, help="files at once (default 2)")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of photos for models that take images")
    parser.add_argument("--scheme", action="append", help="only this scheme; may be repeated")
    parser.add_argument("--level", action="append", help="only this target; may be repeated")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where all checks go (default build/)")
    parser.add_argument("--only", action="append", help="only files whose name contains this; may be repeated")
    parser.add_argument("--kept", type=Path, help="JSON of an earlier run of the same code; other files keep its rows")
    parser.add_argument("--page", type=Path, help="write the results as a page of Markdown, too")
    options = parser.parse_args(arguments)
    options.folders += paths(options.files)
    if not options.folders:
        parser.error("no folder is given; with make, FILES=FOLDER")
    for folder in options.folders:
        if not folder.exists():
            parser.error(f"{folder}: no such file or folder")
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    return options


def paths(text: str) -> list[Path]:
    """The paths that a text lists between spaces, with quotes as in a shell; one path if there is one of that name."""
    if not text.strip():
        return []
    return [Path(text)] if Path(text).exists() else [Path(word) for word in shlex.split(text)]


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def _files(folders: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """(path, name) of each .tflite file; names begin with the folder's own."""
    for folder in folders:
        whole = folder.resolve()
        if whole.is_file():
            yield whole, whole.name
        for path in sorted(p for p in whole.rglob("*") if p.suffix.lower() == ".tflite" and not p.is_dir()):
            yield path, f"{whole.name}/{path.relative_to(whole)}"


def _wanted(name: str, parts: Sequence[str] | None) -> bool:
    return not parts or any(part in name for part in parts)


def joined(kept: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Rows of an earlier run, with the new ones in the places of those of the same files."""
    by_name = {row.name: row for row in new}
    found = [by_name.pop(row.name, row) for row in kept]
    return [*found, *by_name.values()]


def _examine_all(files: Sequence[tuple[Path, str]], settings: Settings, jobs: int) -> list[Row]:
    """A row for each file, in the order of the files; lines are printed as they are ready.  Large files come first."""
    stop = threading.Event()
    order = sorted(files, key=lambda file: -size(file[0]))
    with ThreadPoolExecutor(jobs) as pool:
        try:
            waiting = {file: pool.submit(examine, *file, settings, stop) for file in order}
            for done in as_completed(waiting.values()):
                print(table.line(done.result()), flush=True)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [waiting[file].result() for file in files]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
