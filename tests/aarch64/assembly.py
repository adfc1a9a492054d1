"""Reads the assembly that LLVM makes for 64-bit Arm: loops, products, vector instructions."""

from __future__ import annotations

import re
from typing import Any

import plans

from tflite2q.kernels.contracts import Contract
from tflite2q.lower.target import resolve, tvm_target

PRODUCT = re.compile(r"(sdot|udot|usdot|sudot|smmla|ummla|usmmla|smlal2?|umlal2?|smull2?(?=\s+v))\b")
LABEL = re.compile(r"(\.LBB\w+|[A-Za-z_]\w*):")
BRANCH = re.compile(r"(?:b|b\.\w+|cbn?z|tbn?z)\b.*?(\.LBB\w+)")
VECTOR_REGISTER = re.compile(r"\b[bhsdqv]\d+\b")
STACK = re.compile(r"\[sp\b")


def assembly(kernel: Any, contract: Contract, target: str) -> str:
    """What `target` runs for `contract`, computed by `kernel`."""
    made = tvm_target(resolve(target))
    refused = plans.refusal(kernel, contract, made)
    assert refused is None, refused
    return plans.assembly(plans.built(kernel, contract, made), made)


def instructions(text: str) -> list[str]:
    """Instructions and labels, in order; directives and comments are dropped."""
    lines = (line.split("//")[0].strip() for line in text.splitlines())
    return [line for line in lines if LABEL.match(line) or (line and not line.startswith((".", "#")))]


def inner_loops(text: str) -> list[list[str]]:
    """The instructions of each loop around products (smlal, sdot, smmla, ...) that contains no such loop itself.

    A loop is what lies between a label and the branch back to it.
    """
    lines = instructions(text)
    labels = {match.group(1): i for i, line in enumerate(lines) if (match := LABEL.match(line))}
    branches = [(i, match.group(1)) for i, line in enumerate(lines) if (match := BRANCH.match(line))]
    spans = [(labels[to], i) for i, to in branches if labels.get(to, i) < i]
    spans = [(a, b) for a, b in spans if any(map(PRODUCT.match, lines[a:b]))]
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [[line for line in lines[a : b + 1] if not LABEL.match(line)] for a, b in inner]


def products(loop: list[str]) -> list[str]:
    """Names of the instructions that multiply and accumulate."""
    return [line.split()[0].removesuffix("2") for line in loop if PRODUCT.match(line)]


def vector_work(loop: list[str]) -> int:
    """Number of instructions that use vector registers; a load or store counts once for each register it moves."""
    count = 0
    for line in loop:
        name, _, operands = line.partition("\t") if "\t" in line else line.partition(" ")
        if not VECTOR_REGISTER.search(operands):
            continue
        moves = re.match(r"(ld|st)", name)
        moved = operands.split("[x")[0].split("[sp")[0] if moves else ""
        count += len(VECTOR_REGISTER.findall(moved)) if moves else 1
    return count


def on_the_stack(loop: list[str]) -> list[str]:
    return [line for line in loop if STACK.search(line)]
