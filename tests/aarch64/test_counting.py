"""The counter of instructions, on programs whose instructions are known because they are written here as numbers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import counting
from benchmarks.emulator import Unavailable

pytestmark = [pytest.mark.aarch64, pytest.mark.aarch64_quick]

BASE, HEADERS = 0x400000, 64 + 56
MARK = (0xD2800FA8, 0xD2800060, 0xD4000001)  # mov x8, 125 (sched_get_priority_max); mov x0, 3; svc 0
EXIT = (0xD2800BA8, 0xD2800000, 0xD4000001)  # mov x8, 93; mov x0, 0; svc 0
NOP = 0xD503201F

PRODUCTS = {
    "matrix": (0x4E82A420, 0x6E82A420, 0x4E82AC20),  # smmla, ummla, usmmla v0.4s, v1.16b, v2.16b
    "dot": (0x4E829420, 0x2E829420, 0x4F82E020, 0x6F82E820, 0x4E829C20, 0x4F82F020, 0x4F02F020),
    # smlal, umlal2, smlsl, smull, umull2, then smlal, umull by element
    "widening": (0x0E228020, 0x6E628020, 0x0E22A020, 0x0E22C020, 0x6E62C020, 0x0F422020, 0x2F42A020),
}
NO_PRODUCTS = (
    0x4EA28420,  # add v0.4s, v1.4s, v2.4s
    0x4EA29420,  # mla v0.4s, v1.4s, v2.4s
    0x4E22CC20,  # fmla v0.4s, v1.4s, v2.4s
    0x0E228420,  # add v0.8b, v1.8b, v2.8b
    0x4F828020,  # mul v0.4s, v1.4s, v2.s[0]
    0x4EA2A420,  # smaxp v0.4s, v1.4s, v2.4s
)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return counting.plugin(tmp_path_factory.mktemp("counter"))
    except Unavailable as error:
        pytest.skip(str(error))


def program(path: Path, instructions: Sequence[int]) -> Path:
    """A static executable of just these instructions (ELF, one segment)."""
    code = struct.pack(f"<{len(instructions)}I", *instructions)
    size = HEADERS + len(code)
    ident = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, BASE + HEADERS, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 0x1000)
    path.write_bytes(header + segment + code)
    path.chmod(0o755)
    return path


def counted(plugin: Path, path: Path, *blocks: Sequence[int]) -> list[counting.Counts]:
    """What the counter finds between marks around `blocks`, less the instructions of the marks."""
    whole = [*MARK]
    for block in blocks:
        whole += [*block, *MARK]
    found, printed = counting.between_marks(plugin, ["-cpu", "max", str(program(path, [*whole, *EXIT]))])
    assert printed == ""
    return [each - counting.Counts(len(MARK), 0, 0, 0, 0) for each in found]


def test_every_instruction_of_a_loop_counts_each_time(plugin: Path, tmp_path: Path) -> None:
    rounds = 10_000
    # mov x1, rounds; then nop; subs x1, x1, 1; b.ne back to the nop
    loop = (0xD2800001 | rounds << 5, NOP, 0xF1000421, 0x54FFFFC1)
    empty, looped, once = counted(plugin, tmp_path / "loop", (), loop, (NOP,) * 7)
    assert empty == counting.Counts(0, 0, 0, 0, 0)
    assert looped == counting.Counts(1 + 3 * rounds, 0, 0, 0, 0)
    assert once == counting.Counts(7, 0, 0, 0, 0)


def test_products_count_by_their_kind(plugin: Path, tmp_path: Path) -> None:
    found = counted(plugin, tmp_path / "products", *PRODUCTS.values(), NO_PRODUCTS)
    expected = [{kind: len(codes)} for kind, codes in PRODUCTS.items()] + [{}]
    for each, kinds in zip(found, expected, strict=True):
        assert {kind: getattr(each, kind) for kind in PRODUCTS if getattr(each, kind)} == kinds
    assert [each.own for each in found] == [*map(len, PRODUCTS.values()), len(NO_PRODUCTS)]


def test_a_program_that_fails_is_an_error(plugin: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="left with"):
        counted(plugin, tmp_path / "fails", (0,))  # udf: not an instruction
