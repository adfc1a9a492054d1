"""Sources, outputs, manifests, data and reports in object stores: what a folder of this machine would give."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tflite2q.batch import cache, places, plan
from tflite2q.batch.plan import Asked
from tflite2q.errors import UsageError

fsspec = pytest.importorskip("fsspec")

Cli = Callable[..., Any]
INT8 = Asked(schemes=("int8",))


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty store in this process."""
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    found = fsspec.filesystem("memory")
    found.store.clear()
    found.pseudo_dirs[:] = [""]
    yield found
    found.store.clear()


def put(system: Any, **files: bytes) -> None:
    for name, content in files.items():
        system.pipe_file(f"/{name.replace('__', '/')}.tflite", content)


def stems(found: list[plan.Job]) -> list[str]:
    return [job.stem for job in found]


def tree(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def stored(system: Any, root: str) -> dict[str, bytes]:
    return {path.removeprefix(f"/{root}/"): system.cat_file(path) for path in system.find(f"/{root}")}


def test_a_store_is_searched_as_a_folder_is(memory: Any) -> None:
    put(memory, b__b=b"", b__a=b"", b__sub__a=b"", b__out__z=b"", **{"b__.hidden__x": b"", "b__.y": b""})
    memory.pipe_file("/b/n.md", b"")
    found = plan.jobs(["memory://b/"], None, Asked(schemes=("int8", "int16x8")), "memory://b/out")
    assert stems(found) == [f"{n}.{s}" for n in ("a", "b", "sub/a") for s in ("int8", "int16x8")]
    assert stems(plan.jobs(["memory://b/sub/a.tflite"], None, INT8, "memory://b")) == ["a.int8"]
    assert stems(plan.jobs(["memory://b", "memory:///b/a.tflite"], None, INT8, "memory://o"))[0] == "a.int8"


@pytest.mark.parametrize(
    ("sources", "out", "message"),
    [
        (["memory://x", "memory://y"], "memory://out", "both would become a.int8.tflite"),
        (["memory://x"], "memory:///x/", "is the output folder too"),
        (["memory://z/a.tflite", "memory://z/a.int8.tflite"], "memory://z", "is the input memory://z/a.int8.tflite"),
        (["memory://missing"], "out", "memory://missing: does not exist"),
        (["memory://x/none.tflite"], "out", "does not exist"),
        (["memory://n"], "out", "there is no .tflite file"),
        (["nosuch://x"], "out", "nosuch://x: cannot be opened: Protocol not known"),
        (["memory://x/a.tflite"], "nosuch://out", "nosuch://out: cannot be opened"),
    ],
)
def test_names_are_refused_by_the_same_rules(memory: Any, sources: list[str], out: str, message: str) -> None:
    put(memory, x__a=b"", y__a=b"", z__a=b"", **{"z__a.int8": b""})
    memory.pipe_file("/n/readme", b"")
    with pytest.raises(UsageError, match=message):
        plan.jobs(sources, None, INT8, out)


def test_a_name_that_leads_out_of_its_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "listed", lambda url: ["../a.tflite"])
    with pytest.raises(UsageError, match="leads out of its folder"):
        plan.jobs(["memory://x"], None, INT8, "memory://out")


def test_file_urls_are_folders_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tflite").touch()
    url = f"file://{tmp_path}/in"
    assert stems(plan.jobs([url, str(tmp_path / "in" / "a.tflite")], None, INT8, tmp_path / "out")) == ["a.int8"]
    with pytest.raises(UsageError, match="is the output folder too"):
        plan.jobs([url], None, INT8, tmp_path / "in")
    assert not places.is_url(url) and places.identity(url) == places.identity(str(tmp_path / "in"))


def test_the_same_bytes_and_names_as_locally(
    cli: Cli, memory: Any, digits: Path, digits_data: tuple[Path, Path], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    (models / "sub").mkdir(parents=True)
    shutil.copy(digits, models / "a.tflite")
    (models / "sub" / "broken.tflite").write_bytes(b"damaged")
    shutil.copy(digits_data[0], tmp_path / "samples.npz")
    (tmp_path / "gates.toml").write_text("min_agreement = 0.5\n", encoding="utf-8")
    (tmp_path / "m.toml").write_text(
        "[[models]]\npath = 'models'\nscheme = 'int8'\ndata = 'samples.npz'\ngates = 'gates.toml'\nlimit = 3\n"
    )
    for name in ("models/a.tflite", "models/sub/broken.tflite", "samples.npz", "gates.toml", "m.toml"):
        memory.pipe_file(f"/b/{name}", (tmp_path / name).read_bytes())
    here = cli("batch", "--manifest", tmp_path / "m.toml", "-o", tmp_path / "out", "--html", tmp_path / "out/i.html")
    reports = ("--html", "memory://b/out/i.html", "--json", "memory://b/s.json", "--markdown", tmp_path / "s.md")
    there = cli("batch", "--manifest", "memory://b/m.toml", "-o", "memory://b/out", *reports)
    assert here.code == there.code == 3, there.err
    assert stored(memory, "b/out") == tree(tmp_path / "out")
    document = json.loads(memory.cat_file("/b/s.json"))
    assert document["jobs"][0]["outputs"][0] == "memory://b/out/a.int8.tflite"
    assert document["jobs"][0]["source"] == "memory://b/models/a.tflite"

    # What is missing is put back from the cache in the store; what is foreign is not replaced.
    memory.rm_file("/b/out/a.int8.tflite")
    again = cli("batch", "--manifest", "memory://b/m.toml", "-o", "memory://b/out", "--json", "-")
    assert [job["cached"] for job in json.loads(again.out)["jobs"]] == [True, True]
    assert stored(memory, "b/out") == tree(tmp_path / "out")
    memory.pipe_file("/b/out/a.int8.tflite", b"precious")
    refused = cli("batch", "--manifest", "memory://b/m.toml", "-o", "memory://b/out")
    assert refused.code == 2 and "memory://b/out/a.int8.tflite: exists" in refused.err
    memory.pipe_file("/b/m", memory.cat_file("/b/m.toml"))
    report = cli("batch", "--manifest", "memory://b/m", "-o", "memory://b/out", "--json", "memory://b/m")
    assert report.code == 2 and "is the input" in report.err


def test_csv_folders_and_schemes_are_fetched(memory: Any, tmp_path: Path) -> None:
    from contextlib import ExitStack

    for name, content in (("l.csv", b"p/a.png,cat\nmissing.png,dog\n"), ("p/a.png", b"1"), ("p/b.png", b"2")):
        memory.pipe_file(f"/d/{name}", content)
    with ExitStack() as stack:
        fetch = places.Fetched(stack)
        table, folder = Path(fetch("memory://d/l.csv")), Path(fetch("memory://d/p"))
        assert tree(table.parent) == {"l.csv": b"p/a.png,cat\nmissing.png,dog\n", "p/a.png": b"1"}
        assert folder.name == "p" and tree(folder) == {"a.png": b"1", "b.png": b"2"}
        assert fetch("memory://d/p") == str(folder) and fetch.urls == ["memory://d/l.csv", "memory://d/p"]
        assert fetch(str(tmp_path)) == str(tmp_path)
        with pytest.raises(UsageError, match=r"memory://d/x\.npy: does not exist"):
            fetch("memory://d/x.npy")
    assert not table.exists()


@pytest.mark.parametrize(
    ("base", "path", "expected"),
    [
        ("s3://b/x", "../m/a.tflite", "s3://b/m/a.tflite"),
        ("s3://b", "a.tflite", "s3://b/a.tflite"),
        ("s3://b", "gs://c/a", "gs://c/a"),
        ("s3://b", "file:///c/a", "/c/a"),
        ("/x", "s3://b/a", "s3://b/a"),
        ("/x", "a", "/x/a"),
        ("", "a", "a"),
    ],
)
def test_paths_in_a_manifest(base: str, path: str, expected: str) -> None:
    assert places.joined(base, path) == expected


def test_what_is_missing_is_named(cli: Cli, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    done = cli("batch", digits, "--scheme", "int8", "-o", "s3://bucket/out")
    assert done.code == 2 and done.err.endswith("s3://bucket/out: needs fsspec; pip install 'tflite2q[stores]'\n")


def test_a_store_that_cannot_be_reached_is_named(
    cli: Cli, memory: Any, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(Exception):
        """As botocore's errors, which are no OSError."""

    def lost(*_: object, **__: object) -> None:
        raise Lost("no credentials\nhere")

    put(memory, x__a=digits.read_bytes(), x__b=b"")
    monkeypatch.setattr(type(memory), "find", lost)
    for arguments in (("memory://x", "-o", "out"), (digits, "-o", "memory://x")):
        done = cli("batch", *arguments, "--scheme", "int8")
        assert done.code == 2 and done.err.count("\n") == 1, done.err
        assert "memory://x" in done.err and "Lost: no credentials here; check" in done.err


def test_models_that_cannot_be_read_stop_no_other(cli: Cli, memory: Any, digits: Path, monkeypatch: Any) -> None:
    put(memory, x__a=digits.read_bytes(), x__b=b"")
    read = type(memory).cat_file

    def cat_file(self: Any, path: str, *args: Any, **kwargs: Any) -> bytes:
        if path.endswith("x/b.tflite"):
            raise RuntimeError("slow down")
        return bytes(read(self, path, *args, **kwargs))

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    done = cli("batch", "memory://x", "--scheme", "int8", "-o", "memory://out", "--json", "-")
    assert done.code == 3
    states = {job["model"]: (job["state"], job["reason"]) for job in json.loads(done.out)["jobs"]}
    assert states["a.tflite"] == ("converted", "") and "RuntimeError: slow down" in states["b.tflite"][1]


@pytest.mark.parametrize("whole", [True, False], ids=["object", "file"])
def test_what_is_written_appears_whole(tmp_path: Path, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of files is written beside the place and renamed; an object store gets an object in one request."""
    from fsspec.implementations.local import LocalFileSystem

    class Shelf(LocalFileSystem):  # type: ignore[misc]
        protocol = "shelf"
        async_impl = whole

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(super()._strip_protocol(path.removeprefix("shelf://")))

    fsspec.register_implementation("shelf", Shelf, clobber=True)
    (tmp_path / "b").mkdir()
    store = places.Store(f"shelf://{tmp_path}/b")
    store.write("a", b"1")
    assert store.digest("a") == places.digest(b"1") and tree(tmp_path) == {"b/a": b"1"}
    if not whole:
        store.write("deep/a", b"2")
        assert tree(tmp_path) == {"b/a": b"1", "b/deep/a": b"2"}
    fresh = places.Store(f"shelf://{tmp_path}/b")
    assert fresh.has("a") and fresh.read("a") == b"1"
    fresh.remove("a")
    assert not fresh.has("a") and not (tmp_path / "b" / "a").exists()


class Bucket:
    """As the system of an object store with one bucket, some objects of which come only two at a time."""

    async_impl = True

    def __init__(self, *names: str) -> None:
        self.names, self.two = names, threading.Barrier(2, timeout=20)

    def invalidate_cache(self) -> None:
        pass

    def exists(self, path: str) -> bool:
        return path in ("bucket", *self.names)

    def find(self, path: str) -> list[str]:
        return [name for name in self.names if name.startswith(path)]

    def cat_file(self, path: str) -> bytes:
        self.two.wait()
        return path.encode()

    def unstrip_protocol(self, path: str) -> str:
        return f"s3://{path}"


def test_a_bucket_that_is_not_there_is_an_error_before_any_work(
    cli: Cli, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_opened", lambda url: (Bucket(), url.removeprefix("s3://").rstrip("/")))
    places.of("s3://bucket/out").make()
    done = cli("batch", digits, "--scheme", "int8", "-o", "s3://none/out")
    assert done.code == 2 and done.err.count("\n") == 1
    assert "s3://none/out: cannot be made or reached: there is no bucket none; check" in done.err


def test_what_is_there_is_read_several_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    system = Bucket("bucket/out/a", "bucket/out/b")
    monkeypatch.setattr(Bucket, "exists", lambda self, path: True)
    monkeypatch.setattr(places, "_opened", lambda url: (system, "bucket/out"))
    store = places.Store("s3://bucket/out")
    store.look(["a", "b", "missing"])
    system.two.abort()  # nothing is read again
    assert store.digest("a") == places.digest(b"bucket/out/a") and store.digest("missing") is None
