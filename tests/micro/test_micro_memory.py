"""Plans of the arena: nothing that is needed is overwritten, by a definition of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from networks import Net

from tflite2q import convert, load
from tflite2q.errors import LimitError
from tflite2q.lower.targets import Micro, micro
from tflite2q.micro import library, memory, steps
from tflite2q.micro.program import Buffer, Port, Program, Step

DIGITS = Path(__file__).parent.parent.parent / "models" / "digits_uint8.tflite"


def chain(sizes: list[int], gaps: list[int | None], scratch: int = 0) -> Program:
    """t0 is the input; each step makes t(k + 1) of t(k)."""
    made = [Buffer(f"t{k}", size) for k, size in enumerate(sizes[1:], 1)]
    calls = tuple(
        Step(f"l{k}", "q.op", "f();", (f"t{k}",), (f"t{k + 1}",), scratch, (gap,)) for k, gap in enumerate(gaps)
    )
    ends = [Port(name, "int8", (1,), 1, None, None, name) for name in ("t0", f"t{len(gaps)}")]
    return Program("m", "m", "plain", calls, tuple(made), (ends[0],), (ends[1],))


def test_the_result_takes_the_operands_place_where_the_step_allows() -> None:
    apart = memory.plan(chain([9, 100, 100, 1], [None, None, None]))
    over = memory.plan(chain([9, 100, 100, 1], [None, 0, None]))
    shifted = memory.plan(chain([9, 100, 100, 1], [None, 20, None]))
    assert (apart.bytes, over.bytes, shifted.bytes) == (200, 100, 120)
    assert all(plan.bytes >= plan.bound for plan in (apart, over, shifted))


def test_scratch_lives_beside_operand_and_result() -> None:
    assert memory.plan(chain([9, 100, 100, 1], [None, 0, None], scratch=40)).bytes == 140


@pytest.mark.parametrize("seed", range(20))
def test_plans_of_random_chains_are_valid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(3, 12))
    gaps = [None if rng.random() < 0.3 else int(rng.integers(0, 200)) for _ in range(count)]
    program = chain(rng.integers(1, 500, count + 1).tolist(), gaps, int(rng.integers(0, 50)))
    plan = memory.plan(program)
    for a in plan.items:
        for b in plan.items:
            if a.name >= b.name or a.last < b.first or b.last < a.first:
                continue
            at, bt = plan.offsets[a.name], plan.offsets[b.name]
            apart = at + a.bytes <= bt or bt + b.bytes <= at
            pair = (a, b) if a.first < b.first else (b, a)
            gap = program.steps[pair[1].first].gap(pair[0].name) if pair[0].last == pair[1].first else None
            shifted = gap is not None and plan.offsets[pair[1].name] + gap <= plan.offsets[pair[0].name]
            assert apart or shifted, (a, b)
    assert all(plan.offsets[i.name] >= 0 and plan.offsets[i.name] + i.bytes <= plan.bytes for i in plan.items)


def test_what_does_not_fit_names_the_layer() -> None:
    target = micro("cortex-m4")
    assert target is not None
    made = library.make(convert(load(DIGITS), "int8").graph, "digits", target)
    with pytest.raises(LimitError, match=r"q\.\w+ .* needs most, and no plan takes fewer"):
        library.check_fits(made, 100, None)
    with pytest.raises(LimitError, match="is the first that does not fit"):
        library.check_fits(made, None, 100)
    library.check_fits(made, 1 << 20, 1 << 20)


def test_names_of_functions_are_identifiers() -> None:
    assert [steps.identifier(stem) for stem in ("kws", "my-model.v2", "2nd")] == ["kws", "my_model_v2", "m2nd"]


def test_scratch_that_holds_pointers_is_aligned_to_them() -> None:
    """On machines of 64 bits, where processors with Helium are simulated."""
    places = []
    for side in range(3, 9):
        net = Net("int8")
        first = net.conv(net.input("x", (1, side, side, 3), (0.02, 0)), "first", 3, (0.1, 0))
        deep = net.depthwise(first, "deep", (0.2, 3))
        graph = net.graph(net.add(first, net.conv(deep, "last", 3, (0.1, 0)), "sum", (0.2, 0)))
        made = library.make(graph, "model", Micro("host", "this machine", "mve"))
        places += [
            made.plan.offsets[memory.scratch_name(index)]
            for index, step in enumerate(made.program.steps)
            if step.layer == "deep"
        ]
    assert len(places) == 6
    assert all(place % 8 == 0 for place in places), places
