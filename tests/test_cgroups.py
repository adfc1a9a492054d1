"""What control groups grant, on trees as Linux shows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tflite2q import cgroups, limits
from tflite2q.batch import local

GB = 1 << 30
Files = dict[str, str]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroups, "PLACE", tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path


def lay(tree: Path, membership: str, files: Files) -> None:
    (tree / "membership").write_text(membership)
    for name, content in files.items():
        path = tree / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


SLURM = {
    "memory.max": "max", "slurm/memory.max": str(4 * GB), "slurm/memory.current": str(3 * GB),
    "slurm/memory.stat": f"anon 5\ninactive_file {2 * GB}\n", "slurm/job/memory.max": "max",
    "slurm/job/memory.current": "7", "slurm/job/cpu.max": "150000 100000", "slurm/cpu.max": "max 100000",
}  # fmt: skip
OLD = {
    "memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": str(9 * GB),
    "memory/a/b/memory.limit_in_bytes": str(2 * GB), "memory/a/b/memory.usage_in_bytes": str(GB),
    "memory/a/b/memory.stat": "inactive_file 7\ntotal_inactive_file 24", "cpu/a/cpu.cfs_quota_us": "200000",
    "cpu/a/cpu.cfs_period_us": "50000", "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
}  # fmt: skip
CONTAINER = {"memory/memory.limit_in_bytes": str(GB), "memory/memory.usage_in_bytes": "24"}


@pytest.mark.parametrize(
    ("membership", "files", "memory", "free", "processors"),
    [
        ("0::/slurm/job\n", SLURM, 4 * GB, 3 * GB, 2),
        ("5:cpu,cpuacct:/a\n4:memory:/a/b\n0::/\n", OLD, 2 * GB, GB + 24, 4),
        ("4:memory:/docker/0123\n", CONTAINER, GB, GB - 24, 99),  # its own group is the outermost that it sees
        ("0::/../../x\n", {"memory.max": str(GB), "memory.current": str(2 * GB)}, GB, 0, 99),
        ("0::/\n", {"memory.max": "nonsense", "cpu.max": "1"}, None, None, 99),
        ("0::/\n", {}, None, None, 99),
    ],
)
def test_what_groups_grant(
    tree: Path, monkeypatch: pytest.MonkeyPatch, membership: str, files: Files, memory: int | None, free: int | None,
    processors: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(99)), raising=False)
    lay(tree, membership, files)
    assert cgroups.memory() == memory
    assert cgroups.free_memory() == free
    assert cgroups.processors() == processors
    assert limits.machine_memory() <= (memory or 1 << 60)


def test_a_share_is_of_what_the_groups_leave(tree: Path) -> None:
    lay(tree, "0::/slurm/job\n", SLURM)
    assert local.fair_memory(2) == int(0.9 * 3 * GB / 2)
    lay(tree, "0::/slurm/job\n", {"slurm/memory.current": str(9 * GB)})
    assert local.fair_memory(2) == local.LEAST
    (tree / "membership").unlink()
    assert cgroups.memory() is None and local.fair_memory(1) > local.LEAST
