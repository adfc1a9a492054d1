"""Golden texts: a graph with everything in it, and texts that must be refused, each with the message it must give.

A file of invalid texts holds cases separated by `// -----`, each headed by `// error: MESSAGE`.  `--update-golden`
writes the messages anew.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tflite2q.dialect.graph import Graph, Signature, verify
from tflite2q.dialect.ops.conv import Conv2D
from tflite2q.dialect.ops.dense import Dense
from tflite2q.dialect.ops.eltwise import Add
from tflite2q.dialect.ops.shape import Reshape
from tflite2q.dialect.ops.softmax import Softmax
from tflite2q.dialect.ops.state import AssignVariable, ReadVariable
from tflite2q.dialect.text import parse_graph, print_graph
from tflite2q.dialect.types import Constant, Quantization, Resource, TensorType, Value
from tflite2q.errors import InvalidGraph, UnsupportedError
from tflite2q.flatbuffer.reader import load

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
DIALECT = Path(__file__).parents[2] / "tflite2q" / "dialect"
SEPARATOR = "// -----\n"
HEAD = "// error: "


def everything() -> Graph:
    """A graph with one of each part of the text form."""
    uint8 = Quantization.per_tensor(1 / 128, 128)
    bits = np.random.default_rng(0).integers(-128, 128, (2, 3, 3, 1), dtype=np.int8)
    values = (
        Value("image", TensorType((1, 4, 4, 1), "uint8", uint8), shape_signature=(-1, 4, 4, 1)),
        Value("state;0", TensorType((1, 2), "uint8", Quantization.per_tensor(0.1, 3)), variable=True),
        Value(
            "memory",
            TensorType((1, 2), "uint8", uint8),
            variable=True,
            resource=Resource("a container", "shared/name", Constant(np.array([[128, 7]], np.uint8))),
        ),
        Value("held", TensorType((1, 2), "uint8", uint8)),
        Value(
            "conv/weights",
            TensorType((2, 3, 3, 1), "int8", Quantization.per_channel([0.25, 0.1], 0)),
            Constant(bits.astype(np.int8)),
        ),
        Value("conv/bias", TensorType((2,), "int32"), Constant(np.array([-7, 2**31 - 1], np.int32))),
        Value(
            "dense/weights", TensorType((2, 8), "uint8", uint8), Constant(np.arange(16, dtype=np.uint8).reshape(2, 8))
        ),
        Value("factors", TensorType((3,), "float32"), Constant(np.array([0.1, -0.0, 1e-45], np.float32))),
        Value("chosen", TensorType((2,), "bool"), Constant(np.array([True, False]))),
        Value("nothing", TensorType((0, 3), "int64"), Constant(np.zeros((0, 3), np.int64))),
        Value("one", TensorType((), "int16"), Constant(np.array(-5, np.int16))),
        Value("conv", TensorType((1, 2, 2, 2), "uint8", uint8)),
        Value("rows", TensorType((1, 8), "uint8", uint8)),
        Value("logits", TensorType((1, 2), "uint8", uint8)),
        Value("sum:0", TensorType((1, 2), "uint8", uint8)),
        Value("scores", TensorType((1, 2), "uint8", Quantization.per_tensor(1 / 256, 0))),
    )
    weights = Value("w8", TensorType((2, 3, 3, 1), "uint8", uint8), Constant(bits.view(np.uint8)))
    ops = (
        Conv2D(
            inputs=("image", "w8", "conv/bias"),
            outputs=("conv",),
            stride_h=2,
            stride_w=2,
            activation="RELU6",
            version=3,
        ),
        Reshape(inputs=("conv", None), outputs=("rows",), new_shape=(1, -1), kind="reshape"),
        Dense(inputs=("rows", "dense/weights", None), outputs=("logits",), rescale="float32"),
        ReadVariable(inputs=("memory",), outputs=("held",)),
        AssignVariable(inputs=("memory", "logits"), outputs=()),
        Add(inputs=("logits", "state;0"), outputs=("sum:0",), subtract=True),
        Softmax(
            inputs=("sum:0",),
            outputs=("scores",),
            beta=0.1,
            intermediates=(Value("hidden", TensorType((), "int8", uint8.per_tensor(0.5, 0))),),
        ),
    )
    return Graph(
        inputs=("image",),
        outputs=("scores", "sum:0"),
        values=(*values, weights),
        ops=ops,
        name="main",
        description='One of each part of a graph.\n"Quoted" and ünquoted',
        signatures=(
            Signature("serving_default", (("image", "image"), ("an image", "image")), (("scores", "scores"),)),
        ),
        metadata=(("min_runtime_version", b"1.5.0\0\0\0"),),
        files=(("labels.txt", b"zero\none\n"),),
    )


@pytest.mark.parametrize("constants", ["full", "elided"])
def test_everything(constants, golden: Callable[[str, str], None]) -> None:
    graph = verify(everything())
    golden(f"text/everything.{constants}.graph", print_graph(graph, constants))


def test_the_digits_model(digits: Path, golden: Callable[[str, str], None]) -> None:
    golden("text/digits_uint8.elided.graph", print_graph(load(digits), "elided"))


def test_everything_is_parsed_from_the_golden_file() -> None:
    assert parse_graph((GOLDEN / "everything.full.graph").read_text(encoding="utf-8")) == everything()


def test_the_layout_of_the_text_is_free() -> None:
    text = print_graph(everything())
    assert parse_graph(re.sub(r"  //[^\n]*|\s+", " ", text)) == everything()
    assert parse_graph(text.replace(",", " , ").replace("{", "\n{ // comment\n")) == everything()


@pytest.mark.parametrize("name", ["invalid_syntax.txt", "invalid_graphs.txt"])
def test_invalid_texts_give_their_message(name: str, golden: Callable[[str, str], None]) -> None:
    cases = (GOLDEN / name).read_text(encoding="utf-8").split(SEPARATOR)
    golden(f"text/{name}", SEPARATOR.join(_with_message(case) for case in cases))


def _with_message(case: str) -> str:
    """The case headed by the message it gives."""
    text = case.split("\n", 1)[1]
    with pytest.raises(InvalidGraph) as caught:
        verify(parse_graph(text))
    return f"{HEAD}{caught.value}\n{text}"


@pytest.mark.parametrize("module", ["graph", "op", "types", "window", "parser", "lexer"])
def test_every_rule_of_the_dialect_has_a_failing_example(module: str) -> None:
    cases = "".join(path.read_text(encoding="utf-8") for path in GOLDEN.glob("invalid_*.txt"))
    given = [line.removeprefix(HEAD) for line in cases.splitlines() if line.startswith(HEAD)]
    needs_code = ("is missing", "has no quantization", "is quantized per channel", "zero points")
    missing = [
        pattern
        for pattern in _messages(DIALECT / f"{module}.py")
        if not any(re.search(pattern, message) for message in given)
        and not any(re.escape(rule) in pattern for rule in needs_code)
    ]
    assert not missing


def _messages(path: Path) -> list[str]:
    """Regular expressions of the messages a module raises as InvalidGraph."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    texts = [
        call.args[-1]
        for call in calls
        if call.args
        and ast.unparse(call.func) in ("InvalidGraph", "self.fail")
        and not isinstance(call.args[-1], ast.Call)
    ]
    return [_pattern(text) for text in texts if isinstance(text, (ast.Constant, ast.JoinedStr))]


def _pattern(text: ast.expr) -> str:
    if isinstance(text, ast.Constant):
        return re.escape(str(text.value))
    assert isinstance(text, ast.JoinedStr)
    return "".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*" for part in text.values)


def test_rules_that_only_code_can_break() -> None:
    per_channel = TensorType((2,), "int8", Quantization.per_channel([0.5, 0.25], 0))
    with pytest.raises(InvalidGraph, match="quantized per channel"):
        _ = per_channel.scale
    with pytest.raises(InvalidGraph, match="quantized per channel"):
        _ = per_channel.zero_point
    with pytest.raises(InvalidGraph, match="has no quantization parameters"):
        _ = TensorType((2,), "int8").scale
    with pytest.raises(UnsupportedError, match="'x' is known only at run time"):
        _ = Value("x", per_channel).data
    for scale in (0.1, -1.0, 0.0, float("inf"), float("nan")):  # 0.1 is no float32
        with pytest.raises(InvalidGraph, match="positive, finite float32"):
            Quantization((scale,), (0,))
    with pytest.raises(InvalidGraph, match="1 scales with 2 zero points"):
        Quantization((0.5,), (0, 0))
