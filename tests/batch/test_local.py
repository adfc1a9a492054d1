"""Keepers end when they are told to, whatever they are at."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tflite2q.batch import local

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


CRAMPED = """
import resource, sys
from tflite2q.batch import cache, cluster
from tflite2q.batch.records import Settings
content = bytes(2000)
sys.dont_write_bytecode = True  # Python would write as far as the limit, and believe in it afterwards
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
print(cluster.perform(content, "m.tflite", Settings("int8", ""), {}, 9.0, None, cache.version(True)))
"""


def test_a_worker_of_a_cluster_whose_disk_is_full_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", CRAMPED], capture_output=True, text=True, check=True)
    assert "'state': 'not written'" in done.stdout
    assert "cannot be written on the worker" in done.stdout
    assert "File too large" in done.stdout
