"""Instructions of whole models, ours and LiteRT's: the same in every process, by the kernels the processor has."""

from __future__ import annotations

from pathlib import Path

import pytest

import tflite2q
from benchmarks import arm, counting, emulator

pytestmark = pytest.mark.aarch64


def inference(machine: arm.Machine, plugin: Path, processor: arm.Processor, kind: str, file: Path) -> counting.Counts:
    blocks, printed = counting.between_marks(plugin, machine.command(processor, kind, [file]))
    return arm.inference(blocks, int(printed))


@pytest.mark.parametrize("processor", arm.PROCESSORS, ids=lambda each: each.target)
@pytest.mark.parametrize("kind", ["ours", "litert"])
def test_counts_are_the_same_in_two_processes(
    digits: Path, tmp_path: Path, kind: str, processor: arm.Processor
) -> None:
    try:
        plugin = counting.plugin(tmp_path)
        machine = arm.Machine(emulator.prepared(), emulator.litert(), tmp_path)
    except emulator.Unavailable as error:
        pytest.skip(str(error))
    converted = tflite2q.convert(digits, "int8")
    file = tmp_path / ("model.so" if kind == "ours" else "model.tflite")
    if kind == "ours":
        tflite2q.compile(converted, processor.target).save(file)
    else:
        converted.save(file)
    first, second = (inference(machine, plugin, processor, kind, file) for _ in range(2))
    assert abs(first.all - second.all) <= arm.STEADY * first.all
    assert first.others <= arm.STEADY * first.all  # pools of threads rest
    # Products of the best kind that the processor has.
    assert (first.matrix > 0) == ("i8mm" in processor.features)
    assert (first.dot > 0) <= ("asimddp" in processor.features)
    assert first.matrix + first.dot + first.widening > 0
