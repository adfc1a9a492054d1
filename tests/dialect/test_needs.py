"""A graph says what it needs, and what needs too much is refused before it is spent."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from networks import Net
from surroundings import ROOT

from tflite2q import limits
from tflite2q.dialect import needs
from tflite2q.dialect.graph import Graph
from tflite2q.errors import UnsupportedError, UsageError
from tflite2q.execution import reference, runtime
from tflite2q.flatbuffer import reader, writer
from tflite2q.rewrites import convert, scheme


def network(side: int = 64) -> Graph:
    net = Net("uint8")
    x = net.input("x", (1, side, side, 8), (0.05, 128))
    return net.graph(net.conv(net.conv(x, "a", 16, (0.1, 128), size=3), "b", 8, (0.1, 128)))


def test_a_run_takes_no_more_than_the_graph_says() -> None:
    code = (
        "import sys; import numpy as np; from tflite2q.flatbuffer.reader import load;"
        "from tflite2q.execution import reference\n"
        "status = lambda: int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]) * 1024\n"
        "graph = load(sys.argv[1]); x = np.zeros((1, 512, 512, 8), np.uint8); before = status()\n"
        "reference.run(graph, x); print(status() - before)"
    )
    graph = network(512)
    path = Path(str(ROOT), "build", "needs.tflite")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(writer.write(graph))
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, cwd=ROOT)
    path.unlink()
    taken, said = int(done.stdout), needs.of_run(graph)
    assert taken < said < 8 * taken


@pytest.mark.parametrize("stage", ["run", "compile", "convert", "read"])
def test_each_stage_is_refused_in_one_line(stage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    graph = network()
    path = tmp_path / "model.tflite"
    path.write_bytes(writer.write(graph))
    stages = {
        "run": lambda: reference.run(graph, np.zeros((1, 64, 64, 8), np.uint8)),
        "compile": lambda: runtime.compile(graph),
        "convert": lambda: convert(graph, scheme.find("int8")),
        "read": lambda: reader.load(path),
    }
    monkeypatch.setenv(limits.MAX_MEMORY, "0.000001")
    with pytest.raises(UnsupportedError, match=r"needs .* of memory, more than .*; see TFLITE2Q_MAX_MEMORY"):
        stages[stage]()


def test_the_default_is_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(limits.MAX_MEMORY, raising=False)
    assert limits.memory() == limits.machine_memory() > 1 << 28
    monkeypatch.setenv(limits.MAX_MEMORY, "2.5")
    assert limits.memory() == 5 << 29


@pytest.mark.parametrize("given", ["much", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(limits.MAX_MEMORY, given)
    with pytest.raises(UsageError, match="TFLITE2Q_MAX_MEMORY"):
        limits.memory()


def test_the_limit_of_a_command_ends_with_it(cli, digits: Path) -> None:  # type: ignore[no-untyped-def]
    before = resource.getrlimit(resource.RLIMIT_DATA)
    refused = cli("inspect", digits, "--max-memory", "0.00001")
    assert refused.code == 3
    assert refused.err.count("\n") == 1
    assert cli("inspect", digits).code == 0
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
