"""Where tensors lie in the arena: a plan made at compile time, the best of several orders of placing them.

Two tensors that are needed at the same time may not overlap, but for one case: the result of a step may overlap the
operand that is read there for the last time, if it begins so many bytes before it (`Step.gaps`) that nothing is
overwritten that is still to be read.  Scratch memory is a tensor that lives for one step.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tflite2q.micro.program import ALIGNMENT, POINTER, Program

ROUNDS = 60  # of random orders
MOST_PLACED = 60_000  # tensors that all orders together place: a bound on the time taken


@dataclass(frozen=True)
class Item:
    """A tensor or scratch memory: when it is alive, from the step that makes it to the last that reads it."""

    name: str
    bytes: int
    alignment: int
    first: int
    last: int
    scratch: bool = False


@dataclass(frozen=True)
class Plan:
    """Offsets of tensors and of each step's scratch (by `scratch_name`), bytes in all, and bytes that each step
    needs at least, by itself.  `inputs` and `outputs` are the offsets of the model's own, None where the caller has
    them.
    """

    offsets: Mapping[str, int]
    bytes: int
    items: tuple[Item, ...]
    needs: tuple[int, ...]
    inputs: tuple[int, ...] | None = None
    outputs: tuple[int, ...] | None = None

    @property
    def bound(self) -> int:
        """What no plan goes below."""
        return max(self.needs, default=0)

    @property
    def peak(self) -> int:
        """The step that needs the most."""
        return self.needs.index(self.bound) if self.needs else 0


@dataclass(frozen=True)
class Block:
    """A tensor or scratch memory in an arena: where it lies, and from which layer to which (by number) it is needed."""

    name: str
    offset: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Layout:
    """The arena of a model on a microcontroller: its bytes, the layers in their order, and what lies in it."""

    target: str
    bytes: int
    layers: tuple[str, ...]
    blocks: tuple[Block, ...]


def layout(program: Program, plan: Plan, target: str) -> Layout:
    """A plan as a picture shows it."""
    layers = tuple(step.layer for step in program.steps)
    blocks = (
        Block(i.name, plan.offsets[i.name], i.bytes, i.first, min(i.last, max(len(layers) - 1, 0))) for i in plan.items
    )
    return Layout(target, plan.bytes, layers, tuple(blocks))


def scratch_name(step: int) -> str:
    return f"scratch of step {step}"


def copy_name(output: int) -> str:
    """The name of an output that is a copy of what lies elsewhere."""
    return f"output {output}"


def items_of(program: Program, whole: bool = False) -> list[Item]:
    """What has to be placed.  Unless the arena holds the whole, an output's buffer and the model's inputs are the
    caller's."""
    outside = {port.source for port in program.outputs if not whole}
    known = {buffer.name: buffer for buffer in program.buffers if buffer.name not in outside}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, step in enumerate(program.steps):
        for name in step.writes:
            first.setdefault(name, index)
        for name in (*step.reads, *step.writes):
            last[name] = index
    items = [Item(n, b.bytes, b.alignment, first[n], last[n]) for n, b in known.items() if n in first and b.bytes]
    for index, step in enumerate(program.steps):
        if step.scratch:
            alignment = POINTER if step.pointers else ALIGNMENT
            items.append(Item(scratch_name(index), step.scratch, alignment, index, index, True))
    return _with_ports(program, items, last) if whole else items


def _with_ports(program: Program, items: Sequence[Item], last: Mapping[str, int]) -> list[Item]:
    """Inputs from before the first step, outputs until after the last, beside the other items."""
    end = len(program.steps)  # after all steps: no result may take the place of an output that the last one reads
    kept = {port.source for port in program.outputs}
    ports = [Item(p.name, p.bytes, p.alignment, 0, last.get(p.name, 0)) for p in program.inputs if p.bytes]
    found = [replace(item, last=end) if item.name in kept else item for item in [*ports, *items]]
    copied = [port.source not in {item.name for item in items} for port in program.outputs]
    return found + [
        Item(copy_name(number), port.bytes, port.alignment, max(end - 1, 0), end)
        for number, port in enumerate(program.outputs)
        if copied[number] and port.bytes
    ]


def gaps_of(program: Program, items: Sequence[Item]) -> dict[tuple[str, str], int]:
    """By (operand, result): where they may overlap, how many bytes before the operand the result begins at least."""
    by_name = {item.name: item for item in items}
    gaps: dict[tuple[str, str], int] = {}
    for index, step in enumerate(program.steps):
        for name in step.reads:
            gap, item = step.gap(name), by_name.get(name)
            if item is None or item.last != index or gap is None or len(step.writes) != 1:
                continue
            result = by_name.get(step.writes[0])
            if result is not None and result.first == index:
                unit = max(item.alignment, result.alignment)
                gaps[name, result.name] = -(-gap // unit) * unit
    return gaps


def plan(program: Program, whole: bool = False) -> Plan:
    """Places everything, the model's inputs and outputs too if the arena holds the `whole`; deterministic."""
    found = _plan(program, items_of(program, whole))
    if not whole:
        return found
    inputs = tuple(found.offsets.get(port.name, 0) for port in program.inputs)
    outputs = tuple(
        found.offsets.get(copy_name(number), found.offsets.get(port.source, 0))
        for number, port in enumerate(program.outputs)
    )
    return replace(found, inputs=inputs, outputs=outputs)


def _plan(program: Program, items: list[Item]) -> Plan:
    gaps = gaps_of(program, items)
    needs = _needs(program, items, gaps)
    bound = max(needs, default=0)
    if not items:
        return Plan({}, 0, (), needs)
    best, least = dict[str, int](), sys.maxsize
    for order in _orders(items):
        offsets = _placed(order, gaps)
        size = max(offsets[item.name] + item.bytes for item in items)
        if size < least:
            best, least = offsets, size
        if least <= bound:
            break
    return Plan(best, -(-least // ALIGNMENT) * ALIGNMENT, tuple(items), needs)


def _orders(items: list[Item]) -> list[list[Item]]:
    """By size, by time, by how long they live; then random changes of the first."""
    by_size = sorted(items, key=lambda item: -item.bytes)
    orders = [
        by_size,
        sorted(items, key=lambda item: (item.first, -item.bytes)),
        sorted(items, key=lambda item: (-item.last, -item.bytes)),
        sorted(items, key=lambda item: (item.first - item.last, -item.bytes)),
        sorted(items, key=lambda item: -item.bytes * (item.last - item.first + 1)),
    ]
    shuffled = random.Random(0)
    for _ in range(min(ROUNDS, MOST_PLACED // max(len(items), 1))):
        orders.append(sorted(items, key=lambda item: -item.bytes * shuffled.uniform(0.3, 1.0)))
    return orders


def _placed(order: Sequence[Item], gaps: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Each item at the place that makes the arena grow least, next to one that is placed already."""
    offsets: dict[str, int] = {}
    done: list[Item] = []
    low = high = 0
    for item in order:
        rivals = [other for other in done if other.first <= item.last and item.first <= other.last]
        spots = {low}
        for other in rivals:
            at = offsets[other.name]
            spots |= {at + other.bytes, at - item.bytes}
            if (other.name, item.name) in gaps:
                spots.add(at - gaps[other.name, item.name])
            if (item.name, other.name) in gaps:
                spots.add(at + gaps[item.name, other.name])
        _, _, best = min(
            (max(high, place + item.bytes) - min(low, place), abs(place), place)
            for spot in spots
            for place in {-(-spot // item.alignment) * item.alignment, spot // item.alignment * item.alignment}
            if all(_apart(item, place, other, offsets[other.name], gaps) for other in rivals)
        )
        offsets[item.name] = best
        done.append(item)
        low, high = min(low, best), max(high, best + item.bytes)
    unit = max(item.alignment for item in order)
    start = low // unit * unit
    return {name: at - start for name, at in offsets.items()}


def _apart(a: Item, at: int, b: Item, bt: int, gaps: Mapping[tuple[str, str], int]) -> bool:
    """Whether two items that are alive together may lie there."""
    if at + a.bytes <= bt or bt + b.bytes <= at:
        return True
    if (b.name, a.name) in gaps and at + gaps[b.name, a.name] <= bt:
        return True
    return (a.name, b.name) in gaps and bt + gaps[a.name, b.name] <= at


def _needs(program: Program, items: Sequence[Item], gaps: Mapping[tuple[str, str], int]) -> tuple[int, ...]:
    """Bytes of everything alive at each step, less what its result may overlap."""
    needs = []
    for index, step in enumerate(program.steps):
        alive = [item for item in items if item.first <= index <= item.last]
        need = sum(item.bytes for item in alive)
        sizes = {item.name: item.bytes for item in alive}
        saved = [
            sizes[name] + sizes[y] - max(sizes[y], gaps[name, y] + sizes[name])
            for y in step.writes
            for name in set(step.reads)
            if (name, y) in gaps and name in sizes and y in sizes
        ]
        needs.append(need - max([0, *saved]))
    return tuple(needs)
