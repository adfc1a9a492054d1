"""Peaks and memories of the processor: what is measured, never how fast it is."""

from __future__ import annotations

from pathlib import Path

import levels
import pytest

from benchmarks import memory, peak
from tflite2q.kernels.x86 import amx
from tflite2q.kernels.x86.isa import AVX2
from tflite2q.lower.target import resolve, tvm_target

NATIVE = tvm_target(resolve("native"))


def described(folder: Path, *caches: dict[str, str]) -> Path:
    """Caches as Linux describes them."""
    for number, files in enumerate(caches):
        place = folder / f"index{number}"
        place.mkdir(parents=True)
        for name, text in files.items():
            (place / name).write_text(f"{text}\n")
    return folder


def test_caches_are_those_of_data_that_the_system_names(tmp_path: Path) -> None:
    folder = described(
        tmp_path,
        {"type": "Data", "level": "1", "size": "48K"},
        {"type": "Instruction", "level": "1", "size": "64K"},
        {"type": "Unified", "level": "3", "size": "491520K"},
        {"type": "Unified", "level": "2", "size": "2048K"},
    )
    assert memory.caches(folder) == (48 << 10, 2048 << 10, 480 << 20)


def test_where_the_system_names_no_caches_they_are_typical_ones(tmp_path: Path) -> None:
    assert memory.caches(tmp_path / "none") == memory.TYPICAL
    half = described(tmp_path, {"type": "Data", "level": "1"}, {"type": "Unified", "level": "2", "size": ""})
    assert memory.caches(half) == memory.TYPICAL


@pytest.mark.parametrize("sizes", [memory.TYPICAL, (48 << 10, 2 << 20, 480 << 20), (192 << 10, 256 << 10), (1 << 15,)])
def test_each_memory_is_measured_where_no_nearer_one_holds_it_all(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 1 << 17)  # pages, and bytes of a page
    found = memory.working(sizes)
    assert len(found) == len(sizes) + 1
    for below, size, held in zip((0, *sizes), (*sizes, memory.MOST), found, strict=True):
        assert below < held <= size


def test_every_memory_is_measured() -> None:
    found = memory.measured(NATIVE, 8, sizes=(1 << 14, 1 << 16), most=1 << 18)
    assert [(each.name, each.size) for each in found] == [
        ("first cache", 1 << 14), ("second cache", 1 << 16), ("memory", None)
    ]  # fmt: skip
    assert all(rate > 0 for each in found for rate in (each.read, each.store, each.copy))
    assert [each.holds(1 << 15) for each in found] == [False, True, True]


@pytest.mark.isa
def test_the_peak_of_vectors_is_measured() -> None:
    isa = peak.level(NATIVE)
    if isa is None:
        levels.skip("avx2")
    assert peak.peak(isa, NATIVE) > 0
    assert peak.peak(AVX2, NATIVE) > 0  # several instructions a product, whose operands come from memory


@pytest.mark.isa
def test_the_peak_of_the_matrix_unit_is_measured() -> None:
    if amx.lacks(NATIVE) is not None:
        levels.skip("amx")
    assert peak.matrix_peak(NATIVE) > 0


def test_a_peak_is_of_the_unit_that_can_do_the_products() -> None:
    both, one = peak.Peaks(10.0, 80.0), peak.Peaks(10.0, None)
    assert (both.of(True), both.of(False), one.of(True), one.of(False)) == (80.0, 10.0, 10.0, 10.0)


def test_peak_prints_what_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    isa = peak.level(NATIVE)
    if isa is None:
        with pytest.raises(SystemExit, match="only x86 processors with AVX2 or later"):
            peak.main()
        return
    peak.main()
    lines = capsys.readouterr().out.splitlines()
    units = [isa.name] + ([] if amx.lacks(NATIVE) else [amx.NAME])
    assert [line.split(":")[0] for line in lines] == units
    assert all(line.endswith(" G MAC/s on one core") for line in lines)
