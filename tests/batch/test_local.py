"""Keepers end when they are told to, whatever they are at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tflite2q.batch import local, work
from tflite2q.batch.plan import Asked
from tflite2q.batch.records import CONVERTED, UNWRITTEN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("code", ["import time; time.sleep(60)", "import sys; sys.stdin.read()"])
def test_a_keeper_that_does_not_listen_yet_is_ended(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "PARTING", 0.2)
    keeper = local.Keeper()
    keeper._process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )
    number, began = keeper._process.pid, time.monotonic()
    keeper.close()
    assert time.monotonic() - began < 20  # 60 where it is waited for
    assert not os.path.exists(Path("/proc") / str(number))
    assert keeper._started() is None


def test_a_job_whose_keeper_is_killed_is_done_again(digits: Path, tmp_path: Path) -> None:
    (settings,) = Asked(schemes=("int8",)).settings()
    engine = local.Local(1, local.Limits(100, 1 << 30))
    try:
        for number in range(3):
            folder = tmp_path / str(number)
            folder.mkdir()
            if number == 1:  # while it waits
                process = engine._keepers[0]._process
                assert process is not None
                process.kill()
                process.wait()
            asked = engine.submit(folder, "m.tflite", digits.read_bytes(), settings)
            if number == 2:  # while it works, before or after some files are there
                process = engine._keepers[0]._process
                assert process is not None
                while not (folder / "out" / ".tflite").exists() and not asked.done():
                    time.sleep(0.001)
                process.kill()
            assert asked.result(100).outcome.state == CONVERTED
            assert sorted(os.listdir(folder / "out")) == [".json", ".tflite"]
    finally:
        engine.close()


def test_a_job_whose_files_are_lost_ends_alone(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when somebody clears the folder."""
    (settings,) = Asked(schemes=("int8",)).settings()
    engine = local.Local(1, local.Limits(100, 1 << 30))
    monkeypatch.setattr(local.work, "RESULT", "never")
    try:
        done = engine.submit(tmp_path, "m.tflite", digits.read_bytes(), settings).result(100)
    finally:
        engine.close()
    assert done.outcome.state == UNWRITTEN and "run the same command again" in done.outcome.reason


@pytest.mark.parametrize("name", ["data", "labels", "calibrate", "a.tflite"])
def test_a_model_may_have_any_name(digits: Path, digits_data: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    data, labels = map(str, digits_data)
    (settings,) = Asked(schemes=("int8",), data=data, labels=labels, calibrate=data).settings()
    work.prepare(tmp_path, name, digits.read_bytes(), settings)
    job = json.loads((tmp_path / "job.json").read_text())
    told = job["settings"]
    for path in (told["calibrate"], told["compare"]["data"], told["compare"]["labels"]):
        assert (tmp_path / "in" / path).is_file()
    assert (tmp_path / "in" / name).read_bytes() == digits.read_bytes()


CRAMPED = """
import resource, sys
from tflite2q.batch import cluster
from tflite2q.batch.records import Settings
content = bytes(2000)
sys.dont_write_bytecode = True  # Python would write as far as the limit, and believe in it afterwards
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
print(cluster.perform(content, "m.tflite", Settings("int8", ""), 9.0, None))
"""


def test_a_worker_of_a_cluster_whose_disk_is_full_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", CRAMPED], capture_output=True, text=True, check=True)
    assert "'state': 'not written'" in done.stdout
    assert "cannot be written on the worker" in done.stdout
    assert "File too large" in done.stdout
