"""Counted instructions: one inference out of blocks of some, and the tables."""

from __future__ import annotations

import pytest

from benchmarks import arm, arm_tables, environment
from benchmarks.counting import Counts


def counts(own: int, others: int = 0, dot: int = 0) -> Counts:
    return Counts(own, others, 0, dot, 0)


def test_an_inference_is_what_twice_as_many_take_more() -> None:
    # A mark takes 7, an inference 100 of this thread and 5 of others, 40 of them dot products; shares of four.
    one, two = counts(407, 20, 160), counts(807, 40, 320)
    assert arm.inference([one, two, one, two], 4) == counts(100, 5, 40)


def test_counts_that_differ_are_refused() -> None:
    with pytest.raises(SystemExit, match="something else ran"):
        arm.inference([counts(1007), counts(2007), counts(1007), counts(2010)], 1)


def row(model: str, dtype: str, ours: int, processor: str = "A") -> dict[str, object]:
    return {
        "model": model, "dtype": dtype, "processor": processor, "litert_original": 90_000_000,
        "litert_int8": 40_000_000 if dtype == "uint8" else 90_000_000, "ours": ours,
        "litert_products": [0, 5_000_000, 0], "products": [2_000_000, 0, 30_000],
    }  # fmt: skip


def test_a_table_for_each_processor_holds_millions_and_ratios() -> None:
    here = {**vars(environment.here()), "commit": "abc"}
    rows = [row("big", "uint8", 30_000_000), row("small", "int8", 45_000_000), row("big", "uint8", 20_000_000, "B")]
    text = arm_tables.arm({"environment": here, "rows": rows})
    first, second = text.split("B, millions of instructions")
    assert "A, millions of instructions:" in first
    products = "5.00 dot | 2.00 matrix, 0.030 widening |"
    assert f"| `big` (uint8) | 90.00 | 40.00 | 30.00 | 3.00 | 1.33 | {products}" in first
    assert f"| `small` (int8) | - | 90.00 | 45.00 | - | 2.00 | {products}" in first
    assert "| geometric mean of 1, uint8 |  |  |  | 3.00 |" in first
    assert "| geometric mean of 2 |  |  |  |  | 1.63 |" in first  # sqrt(4/3 * 2)
    assert "| `big` (uint8) | 90.00 | 40.00 | 20.00 | 4.50 | 2.00 |" in second


def test_each_processor_says_what_it_is() -> None:
    for processor in arm.PROCESSORS:
        lines = processor.cpuinfo().splitlines()
        assert f"CPU part\t: {processor.part}" in lines
        assert ("asimddp" in lines[2]) == (processor.cpu not in ("cortex-a53", "cortex-a72"))
        assert ("i8mm" in lines[2].split()) == processor.cpu.startswith("max")
