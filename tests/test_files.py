"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tflite2q import files
from tflite2q.errors import UsageError


def test_a_file_appears_with_ordinary_rights(tmp_path: Path) -> None:
    files.write(tmp_path / "x", b"content")
    assert (tmp_path / "x").read_bytes() == b"content"
    (tmp_path / "other").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), files.replacing(target, force=True) as temporary:
        temporary.write_bytes(b"half")
        assert target.read_bytes() == b"old"
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_the_temporary_file_has_the_same_ending(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "x.so") as temporary:
        assert temporary.suffix == ".so"
        assert temporary.parent == tmp_path
        temporary.touch()


@pytest.mark.parametrize("name", ["x", "folder", "nowhere/x"])
def test_refusals_name_the_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=name):
        files.write(tmp_path / name, b"")


def test_devices_are_written_directly() -> None:
    files.write("/dev/null", b"content")
    with pytest.raises(UsageError, match="/dev/full: cannot be written: No space left on device"):
        files.write("/dev/full", b"content")


def test_of_a_link_the_file_that_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "link").symlink_to("x")
    with pytest.raises(UsageError, match="link: exists already"):
        files.write(tmp_path / "link", b"new")
    files.write(tmp_path / "link", b"new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "x").read_bytes() == b"new"


@pytest.mark.parametrize("force", [False, True])
def test_a_link_to_nothing_is_refused(tmp_path: Path, force: bool) -> None:
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(UsageError, match="link: is a link to nothing, which does not exist"):
        files.write(tmp_path / "link", b"new", force=force)


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = files.owner().partition("-")[2]
    left = f".x.tflite2q-{ended.pid}-{mine}.so"
    kept = [
        f".x.tflite2q-{os.getppid()}-{mine}.so",
        f".y.tflite2q-{ended.pid}-{mine}.so",
        ".x.notes.so",
        f".x.{ended.pid}.so",
    ]
    for name in (left, *kept):
        (tmp_path / name).touch()
    files.write(tmp_path / "x.so", b"content")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "x.so"])
    files.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([kept[0], *kept[2:], "x.so"])


def test_what_processes_of_another_machine_or_container_have_is_left_to_them(tmp_path: Path) -> None:
    """Those have processes of the same numbers: this one's may be that of the one that works there."""
    number = files.owner().partition("-")[0]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f".x.tflite2q-{each}-0123abcd.so" for each in (number, ended.pid)]
    for name in names:
        (tmp_path / name).touch()
    files.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    with files.replacing(tmp_path / "x.so") as temporary:
        assert temporary.name not in names
        temporary.touch()
    for name in names:
        os.utime(tmp_path / name, (1, 1))  # long ago
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["x.so"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="no name spaces")
def test_containers_are_told_apart(root: Path) -> None:
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", sys.executable, "-c"]
    said = "from tflite2q import files; print(files.owner().partition('-')[2])"
    done = subprocess.run([*command, said], capture_output=True, text=True, check=False, cwd=root)
    if done.returncode:
        pytest.skip(f"no containers here: {done.stderr}")
    assert done.stdout.strip() != files.owner().partition("-")[2]


@pytest.mark.parametrize("name", ["x" * 247 + ".tflite", "\u00e4" * 127, "x." + "y" * 253, "m"])
def test_names_of_any_length_that_a_file_may_have(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    files.write(target, b"content")
    assert target.read_bytes() == b"content" and os.listdir(tmp_path) == [name]
    with files.replacing(target, force=True) as temporary:
        temporary.touch()
        mine = files.owner().partition("-")[2]
        number = files.owner().partition("-")[0]
        gone = temporary.name.replace(f"-{number}-{mine}", f"-{2**22 + 1}-{mine}")
    assert gone != temporary.name
    (tmp_path / gone).touch()
    files.write(target, b"again", force=True)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_has_ended_is_not_alive_before_its_parent_asks() -> None:
    """The parent of what a kill orphaned may ask late, and in containers never."""
    child = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.DEVNULL)
    assert files.alive(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}").exists() and not files.alive(child.pid)
    child.wait()
    assert not files.alive(child.pid) and files.alive(os.getpid())


def test_outputs_are_neither_inputs_nor_each_other(tmp_path: Path) -> None:
    for name in ("model", "data"):
        (tmp_path / name).touch()
    (tmp_path / "hard").hardlink_to(tmp_path / "model")
    (tmp_path / "soft").symlink_to("data")
    (tmp_path / "folder").mkdir()
    inputs = [tmp_path / "model", tmp_path / "data", None, "-"]

    def refuse(**outputs: str) -> None:
        files.refuse_outputs({f"--{k}": tmp_path / v for k, v in outputs.items()}, inputs, force=True)

    refuse(output="a", lib="b")
    with pytest.raises(UsageError, match=r"--output .*hard: is the input .*model; give another name"):
        refuse(output="hard")
    with pytest.raises(UsageError, match=r"--json .*soft: is the input .*data"):
        refuse(output="a", json="soft")
    with pytest.raises(UsageError, match=r"--lib .*: --output names the same file"):
        refuse(output="a", lib="folder/../a")
    files.refuse_outputs({"--output": "/dev/null", "--lib": "/dev/null", "--json": "-"}, inputs, force=True)


def test_of_outputs_that_exist_only_the_named_one_needs_no_force(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    files.refuse_outputs({"--json": tmp_path / "x"}, [], False, "--json")
    with pytest.raises(UsageError, match="exists already"):
        files.refuse_outputs({"--output": tmp_path / "x"}, [], False, "--json")
