"""A search on a Dask cluster finds what it finds here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tflite2q
from tflite2q.errors import UsageError

distributed = pytest.importorskip("distributed")

# Dask's own warnings are not ours.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

Cli = Callable[..., Any]


def test_a_cluster_measures_what_this_machine_measures(
    cli: Cli, digits: Path, digits_data: tuple[Path, Path], tmp_path: Path
) -> None:
    from distributed import LocalCluster

    arguments = ("search", digits, "--data", digits_data[0], "--labels", digits_data[1], "--limit", 40,
                 "--max-top1-drop", 3, "--seed", 1)  # fmt: skip
    here, there = tmp_path / "here.toml", tmp_path / "there.toml"
    assert cli(*arguments, "-o", here, "--jobs", 1).code == 0
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None,
        local_directory=str(tmp_path),
    ) as cluster:  # fmt: skip
        done = cli(*arguments, "-o", there, "--dask", cluster.scheduler_address)
        assert done.code == 0, done.err
        from_python = tflite2q.search(
            digits, digits_data[0], digits_data[1], limit=40, max_drop=3, seed=1, crew=_crew(cluster)
        )
    assert there.read_bytes() == here.read_bytes() == from_python.text.encode()


def _crew(cluster: Any) -> Any:
    from tflite2q.batch.connection import Connection

    return Connection(cluster.scheduler_address)


def test_no_cluster_is_an_error() -> None:
    from tflite2q.batch.connection import Connection

    with pytest.raises(UsageError, match="no scheduler answers there"):
        Connection("tcp://127.0.0.1:1")
