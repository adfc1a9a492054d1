"""What op classes declare is known elsewhere: roles, contracts, options of the format, names of operands."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tflite2q.dialect.op import CONTRACTS, Builtin, Named, Op, Operand
from tflite2q.dialect.ops import BY_BUILTIN, OPS, check
from tflite2q.dialect.ops.conv import Conv2D
from tflite2q.dialect.ops.movement import Split
from tflite2q.dialect.ops.others import ABSORBED, REFUSED
from tflite2q.errors import InvalidGraph
from tflite2q.flatbuffer.names import enum_names, option_fields
from tflite2q.lower.contracts import contract_of


def altered(cls: type[Op], **facts: Any) -> type[Op]:
    return type(cls.__name__, (cls,), facts)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"operands": (Operand("x", "activations"),)}, "unknown role 'activations'"),
        ({"operands": (Operand("x"), Operand("x"))}, "two operands have the same name"),
        ({"contract": "conv_2d"}, "unknown contract 'conv_2d'"),
        ({"builtins": (Builtin("CONV_2D"), Builtin("CONV_2D"))}, "already stands for CONV_2D"),
    ],
)
def test_a_class_that_misspells_a_fact_is_refused(facts: dict[str, Any], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        check([altered(Conv2D, **facts)])


def test_two_classes_cannot_share_a_name() -> None:
    with pytest.raises(TypeError, match=r"two ops are called q\.conv2d"):
        check([Conv2D, altered(Conv2D, builtins=())])


def test_every_contract_is_named_by_an_op_and_built_by_the_lowering() -> None:
    assert contract_of is not None  # its module refuses to be imported if it builds others than CONTRACTS
    assert {op.contract for op in OPS if op.contract is not None} == set(CONTRACTS)


def test_every_attribute_is_an_option_of_one_of_its_operators() -> None:
    for op in (op for op in OPS if op.builtins and not any(builtin.custom for builtin in op.builtins)):
        known = {name for builtin in op.builtins if builtin.options for name in option_fields(builtin.options)}
        told = {f.metadata["option"] for f in op.attributes() if f.metadata["option"] is not None}
        assert told <= known, f"{op.mnemonic}: {sorted(told - known)} are not options of the format"


def asked(op: type[Op]) -> set[str]:
    """Names of operands that methods of `op`, inherited ones included, ask for literally."""
    names: set[str] = set()
    for name, _ in inspect.getmembers(op, inspect.isfunction):
        method = getattr(op, name)
        if name.startswith("__") or not method.__module__.startswith("tflite2q.dialect.ops"):
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(method)))):
            key = None
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
                key = node.slice if node.value.id in ("ins", "spans") else None
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 1:
                key = node.args[0] if node.func.attr in ("get", "every", "reads") else None
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                names.add(key.value)
    return names


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.mnemonic)
def test_ops_ask_for_operands_that_they_declare(op: type[Op]) -> None:
    declared = {slot.name for slot in op.operands}
    if op is Split:
        kinds = (Split(inputs=("a", "b"), outputs=("y",), kind=kind) for kind in ("split", "split_v"))
        declared = {slot.name for split in kinds for slot in split.slots}
    assert asked(op) <= declared


def test_operands_by_name() -> None:
    op = Conv2D(inputs=("x", "w"), outputs=("y",))
    ins = Named(op, ("image", None))
    assert ins["x"] == "image" and list(ins) == ["image", None]
    assert ins.get("weights") is None and ins.get("bias") is None
    assert ins.every("x") == ["image"] and op.reads("weights") == "w"
    with pytest.raises(InvalidGraph, match="operand weights is missing"):
        ins["weights"]
    with pytest.raises(KeyError, match=r"q\.conv2d has no operand 'filters'"):
        ins["filters"]


def test_every_operator_of_the_schema_is_read_or_refused_with_a_reason() -> None:
    read = {name for name, (_, builtin) in BY_BUILTIN.items() if not builtin.custom}
    known = set(enum_names("BuiltinOperator").values())
    groups = (read, set(ABSORBED), set(REFUSED))
    assert known <= set.union(*groups)
    assert sum(map(len, groups)) == len(set.union(*groups)), "an operator is read and refused"
    assert set.union(*groups) == known


def test_the_changelog_has_the_number_of_operators() -> None:
    path = Path(__file__).parents[2] / "CHANGELOG.md"
    found = re.search(r"- (\d+) TFLite operators are read", path.read_text("utf-8"))
    assert found is not None and int(found[1]) == len(BY_BUILTIN) + len(ABSORBED)
