"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
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
