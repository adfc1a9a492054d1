"""`compare --emulate`: code for microcontrollers beside the other engines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tflite2q import compare, convert
from tflite2q.cli import tflite2q
from tflite2q.errors import TargetError
from tflite2q.micro import boards, emulator

DIGITS = Path(__file__).parent.parent.parent / "models" / "digits_uint8.tflite"
NEEDS_BOARD = pytest.mark.skipif(boards.missing() is not None, reason=str(boards.missing()))


def test_the_option_lists_the_boards() -> None:
    (option,) = (p for p in tflite2q.get_command(None, "compare").params if p.name == "emulate")
    assert tuple(option.type.choices) == boards.EMULATED


def test_a_missing_tool_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TargetError, match=r"cortex-m4 cannot be emulated: arm-none-eabi-gcc is not installed \(Debian"):
        compare(DIGITS, DIGITS, emulate="cortex-m4")
    with pytest.raises(TargetError, match="no emulated board for 'esp32s3'"):
        compare(DIGITS, DIGITS, emulate="esp32s3")


@NEEDS_BOARD
@pytest.mark.micro
@pytest.mark.micro_quick
def test_the_board_equals_the_reference_and_counts(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    options = ["--emulate", "cortex-m4", "--limit", "5", "--no-speed", "--json", str(path)]
    result = CliRunner().invoke(tflite2q, ["compare", str(DIGITS), "--scheme", "int8", *options])
    assert result.exit_code == 0, result.output
    rows = [row for row in json.loads(path.read_text())["engines"] if row["engine"] == "emulated"]
    assert [(row["model"], row["samples"]) for row in rows] == [("original", 5), ("converted", 5)]
    for row in rows:
        assert (row["kernel_agreement"], row["kernel_step_error"]) == (1.0, 0.0)
        assert 100_000 < row["instructions"] < 1_000_000
        assert f"{row['instructions']:,}" in result.output


@NEEDS_BOARD
@pytest.mark.micro
def test_a_program_that_dies_is_an_error_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = convert(DIGITS, "int8").graph
    with emulator.Session(graph, "cortex-m3", by="c") as session:
        session._child.kill()
        kind = graph[graph.inputs[0]].type
        with pytest.raises(TargetError, match="ended"):
            session.start([np.zeros(kind.shape, kind.dtype)])
            session.finish()
